//! The engine's health check: one question to the running data plane.
//!
//! Compose starts the app when the sidecar is *healthy* (`depends_on: {condition: service_healthy}`), so healthy means
//! that the app's very first connection works: captured, with the pod's files, and with a proxy at the other end.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use bytes::BytesMut;
use tpdocker_protocol::contract::SIDECAR_CONTROL;
use tpdocker_protocol::control::{self, ControlError, SidecarReply, SidecarRequest, SidecarStatus};

/// The data plane answers from memory.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Why the sidecar is not healthy.
#[derive(Debug, thiserror::Error)]
pub enum Unhealthy {
    /// Nobody answers.
    #[error("the data plane does not answer")]
    Io(#[from] std::io::Error),
    /// The answer is none.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// An answer to something else.
    #[error("the data plane gave another answer: {0:?}")]
    Answer(SidecarReply),
    /// It runs, but the app could not work yet.
    #[error("not ready: {0:?}")]
    Status(SidecarStatus),
}

/// Asks the data plane behind `socket`.
pub fn check(socket: &Path) -> Result<(), Unhealthy> {
    match ask(socket)? {
        SidecarReply::Status(status) if status.capture.is_some() && status.configured && status.attached => Ok(()),
        SidecarReply::Status(status) => Err(Unhealthy::Status(status)),
        other => Err(Unhealthy::Answer(other)),
    }
}

fn ask(socket: &Path) -> Result<SidecarReply, Unhealthy> {
    let mut connection = UnixStream::connect(socket)?;
    connection.set_read_timeout(Some(TIMEOUT))?;
    connection.set_write_timeout(Some(TIMEOUT))?;
    connection.write_all(&[SIDECAR_CONTROL])?;
    connection.write_all(&control::encode(&SidecarRequest::Watch)?)?;
    let mut received = BytesMut::new();
    let mut chunk = [0; 4096];
    loop {
        let length = connection.read(&mut chunk)?;
        if length == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        received.extend_from_slice(&chunk[..length]);
        if let Some(reply) = control::decode(&mut received)? {
            return Ok(reply);
        }
    }
}
