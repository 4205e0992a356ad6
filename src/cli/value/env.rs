//! `-e`, `--env-file` and `--label`.

use std::path::Path;

use super::Applied;
use crate::cli::Surroundings;
use crate::cli::draft::{Draft, EnvEntry};
use crate::cli::error::ValueError;

/// Labels under this prefix are how sessions find their own objects again.
const OUR_LABELS: &str = "tpdocker.dev/";

/// `NAME=VALUE`, or `NAME` for the value of the CLI's own environment.
pub(in crate::cli) fn env(draft: &mut Draft, value: &str, around: &Surroundings) -> Applied {
    let entry = match value.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (value.to_owned(), (around.env)(value)),
    };
    check(&entry)?;
    draft.env.push(entry);
    Ok(())
}

/// Docker's format: `NAME=VALUE` a line, `#` comments, leading white space ignored; quotes and everything else of the
/// value kept as they are. A name alone takes the CLI's value, and is left out when there is none.
pub(in crate::cli) fn env_file(draft: &mut Draft, value: &str, around: &Surroundings) -> Applied {
    let path = around.cwd.join(Path::new(value));
    let bytes = (around.read)(&path).map_err(|source| ValueError::File { path: path.display().to_string(), source })?;
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let at = |text: &str| ValueError::grammar(format!("line {}: {text}", number + 1));
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = std::str::from_utf8(line).map_err(|_| at("not valid UTF-8"))?.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (line, (around.env)(line)),
        };
        if name.is_empty() {
            return Err(at("there is no variable name in front of the ="));
        }
        if name.contains(char::is_whitespace) {
            return Err(at("a variable's name has no white space in it"));
        }
        let entry = (name.to_owned(), value);
        check(&entry).map_err(|_| at("a NUL byte cannot be in an environment"))?;
        if entry.1.is_some() {
            draft.env_of_files.push(entry);
        }
    }
    Ok(())
}

/// `NAME=VALUE`, or `NAME` for an empty value.
pub(in crate::cli) fn label(draft: &mut Draft, value: &str, _: &Surroundings) -> Applied {
    let (name, value) = value.split_once('=').unwrap_or((value, ""));
    if name.is_empty() {
        return Err(ValueError::grammar("a label has a name"));
    }
    if name.starts_with(OUR_LABELS) {
        return Err(ValueError::grammar(format!("labels under {OUR_LABELS} are tpdocker's own")));
    }
    draft.app.labels.insert(name.to_owned(), value.to_owned());
    Ok(())
}

fn check((name, value): &EnvEntry) -> Applied {
    if name.is_empty() {
        return Err(ValueError::grammar("a variable has a name"));
    }
    if name.contains('\0') || value.as_ref().is_some_and(|value| value.contains('\0')) {
        return Err(ValueError::grammar("a NUL byte cannot be in an environment"));
    }
    Ok(())
}
