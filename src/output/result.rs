//! The result of a command, on stdout: help, a version, a plan, an image's reference.
//!
//! `println!` panics when stdout cannot be written, and a reader that has read enough is the everyday case of it
//! (`tpdocker --help | head -1`).

use std::io::{ErrorKind, Write as _};

use crate::error::HostError;

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
