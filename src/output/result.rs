//! The result of a command, on stdout: help, a version, a plan, an image's reference.
//!
//! `println!` panics when stdout cannot be written, and a reader that has read enough is the everyday case of it
//! (`tpdocker --help | head -1`).

use std::io::{ErrorKind, Write as _};

use serde::Serialize;

use super::lines::clean;
use crate::error::{Bug, Error, HostError};
use crate::settings::OutputFormat;

/// Writes `text` to stdout as it is. A reader that has gone is no error.
pub fn print(text: &str) -> Result<(), HostError> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(HostError::new("cannot write to standard output", error))
        }
        _ => Ok(()),
    }
}

/// Writes a report: for a person its `text`, in which names that come from elsewhere do not steer the terminal, or for a
/// script one JSON value on a line, which has no control characters.
pub fn report(format: OutputFormat, report: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Error> {
    let printed = match format {
        OutputFormat::Text => clean(&text()),
        OutputFormat::Json => {
            serde_json::to_string(report).map_err(|error| Bug::caused_by("a report is not JSON", error))? + "\n"
        }
    };
    Ok(print(&printed)?)
}
