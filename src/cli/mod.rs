//! What was typed, on its way to [`Settings`].
//!
//! Two parsers share the work. clap reads everything but `run`. What follows `run` is docker's: [`grammar`] takes it
//! apart by pflag's rules with the rows of [`flags`], whose handlers fill a [`draft`]; the values' own grammars are in
//! [`value`]. All of it is a pure function of the arguments and the [`Surroundings`], so every command line that
//! somebody types can be a unit test.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use clap::Parser;

use crate::settings::{OutputFormat, Settings};

mod clap_args;
mod draft;
mod error;
pub mod flags;
mod grammar;
mod help;
mod nearest;
mod run;
#[cfg(test)]
mod tests;
mod value;

pub use error::{UsageError, ValueError};
pub use value::bypass_network;

/// What the command line may look at beside itself.
pub struct Surroundings<'a> {
    /// The CLI's environment, for `-e NAME`.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// Reads a file, for `--env-file`; relative paths are relative to `cwd`.
    pub read: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
    /// Against which relative host paths are made absolute.
    pub cwd: PathBuf,
}

impl Surroundings<'_> {
    /// Those of this process.
    pub fn of_process() -> Result<Surroundings<'static>, UsageError> {
        Ok(Surroundings {
            env: &|name| std::env::var(name).ok(),
            read: &|path| std::fs::read(path),
            cwd: std::env::current_dir().map_err(UsageError::WorkingDirectory)?,
        })
    }

    /// The proxy image of somebody who does not want to type `--proxy-image` each time.
    fn proxy_image(&self) -> Option<String> {
        (self.env)("TPDOCKER_PROXY_IMAGE").filter(|image| !image.is_empty())
    }
}

/// What to do about a command line.
#[derive(Debug)]
pub enum Request {
    /// Carry it out.
    Act(Box<Settings>),
    /// Print this on stdout and exit with 0: help or version.
    Print(String),
}

/// A command line that is wrong, and how its author wants to be told.
#[derive(Debug)]
pub struct Failure {
    /// The format asked for by what was understood.
    pub output: OutputFormat,
    /// What is wrong.
    pub error: UsageError,
}

/// Reads a command line, `argv[0]` included.
pub fn parse(argv: impl IntoIterator<Item = OsString>, around: &Surroundings) -> Result<Request, Failure> {
    let text = |error| Failure { output: OutputFormat::Text, error };
    let argv = utf8(argv).map_err(text)?;
    let (ours, docker) = at_run(&argv);
    let cli = match clap_args::Cli::try_parse_from(ours) {
        Ok(cli) => cli,
        Err(error) if error.exit_code() == 0 => return Ok(Request::Print(error.to_string())),
        Err(error) => {
            return Err(Failure { output: leading_output(ours), error: clap_args::usage_error(&error) });
        }
    };
    match docker {
        Some(args) => run::parse(&cli.globals, args, around),
        None => cli.settings(around).map(|settings| Request::Act(Box::new(settings))).map_err(text),
    }
}

fn utf8(argv: impl IntoIterator<Item = OsString>) -> Result<Vec<String>, UsageError> {
    argv.into_iter()
        .enumerate()
        .map(|(position, arg)| {
            arg.into_string().map_err(|arg| UsageError::NotUtf8 { position, shown: arg.to_string_lossy().into_owned() })
        })
        .collect()
}

/// Splits behind the word `run` where it is the subcommand: clap sees what is in front, docker's grammar the rest.
fn at_run(argv: &[String]) -> (&[String], Option<&[String]>) {
    let mut index = 1;
    while let Some(arg) = argv.get(index) {
        match arg.as_str() {
            "run" => return (&argv[..=index], Some(&argv[index + 1..])),
            "--output" => index += 2,
            flag if flag.starts_with('-') && flag != "--" => index += 1,
            _ => break,
        }
    }
    (argv, None)
}

/// `--output json` in front of what clap refused; its own answer is lost with the error.
fn leading_output(argv: &[String]) -> OutputFormat {
    let json = argv.iter().any(|arg| arg == "--output=json")
        || argv.windows(2).any(|pair| pair[0] == "--output" && pair[1] == "json");
    if json { OutputFormat::Json } else { OutputFormat::Text }
}
