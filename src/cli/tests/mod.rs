//! Command lines that people type, and the traps of other tools' parsers.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::{Failure, Request, Surroundings, parse};
use crate::error::{Code, Explain as _};
use crate::settings::{Command, RunSettings, Settings};

mod commands;
mod grammar;
mod values;

fn surroundings() -> Surroundings<'static> {
    Surroundings {
        env: &|name| (name == "FROM_HOST").then(|| "host's".to_owned()),
        read: &|path: &Path| match path.to_str() {
            Some("/home/dev/dir/app.env") => Ok(ENV_FILE.to_vec()),
            Some("/home/dev/dir/bad.env") => Ok(b"GOOD=1\nbad name=2\n".to_vec()),
            _ => Err(io::ErrorKind::NotFound.into()),
        },
        cwd: PathBuf::from("/home/dev/dir"),
    }
}

const ENV_FILE: &[u8] = b"\xEF\xBB\xBFFIRST=1\r\n# a comment\n\n  INDENTED=yes \nQUOTED=\"a b\"\nEMPTY=\nEQUALS=a=b\n\
    FROM_HOST\nABSENT\nOVER=file\n\tHASH=a # b";

fn settings(args: &[&str]) -> Settings {
    match parse(args.iter().map(OsString::from), &surroundings()) {
        Ok(Request::Act(settings)) => *settings,
        other => panic!("{args:?}: {other:?}"),
    }
}

/// `tpdocker run --swap s` with `args`.
fn run(args: &[&str]) -> RunSettings {
    let args = [&["tpdocker", "run", "--swap", "s"], args].concat();
    match settings(&args).command {
        Command::Run(run) => *run,
        other => panic!("{other:?}"),
    }
}

fn failure(args: &[&str]) -> Failure {
    match parse(args.iter().map(OsString::from), &surroundings()) {
        Err(failure) => failure,
        Ok(request) => panic!("{args:?}: {request:?}"),
    }
}

/// The message, its causes and the hint of what is wrong with `tpdocker run --swap s` and `args`.
fn wrong(args: &[&str]) -> String {
    let error = failure(&[&["tpdocker", "run", "--swap", "s"], args].concat()).error;
    assert_eq!(error.code(), Code::Usage);
    let hint = error.hint().unwrap_or_default();
    format!("{} | {hint}", crate::error::Error::from(error).chain().join(": "))
}

fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
