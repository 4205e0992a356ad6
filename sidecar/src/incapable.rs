//! What is left of a data plane that cannot capture: it tells why, to whoever asks.
//!
//! A container that merely restarted would leave the CLI with a socket on which nobody answers, and a person with a log
//! to look for. After a while this ends like any failed data plane, and the holder tries anew: somebody may have loaded
//! the missing module.

use std::error::Error;
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout, timeout_at};
use tpdocker_protocol::contract::SIDECAR_CONTROL;
use tpdocker_protocol::control::{SidecarReply, SidecarRequest};
use tpdocker_tunnel::messages::{MessageError, Messages};

use crate::capture::CaptureError;
use crate::control;

/// Before the next try, where only somebody from outside can change the answer.
const TELL_FOR: Duration = Duration::from_secs(30);
/// Where it may be an older data plane that is still ending.
const TELL_BRIEFLY: Duration = Duration::from_millis(200);
/// The CLI asks as soon as it is connected.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers every request on `socket` with what `error` says, for a while.
pub async fn tell(socket: &Path, error: &CaptureError) -> io::Result<()> {
    let listener = control::bind(socket)?;
    let reply = SidecarReply::CannotCapture { message: chain(error), cure: error.cure() };
    let brief = matches!(error, CaptureError::QueueTaken(_));
    let end = Instant::now() + if brief { TELL_BRIEFLY } else { TELL_FOR };
    while let Ok(accepted) = timeout_at(end, listener.accept()).await {
        let (connection, _) = accepted?;
        let reply = reply.clone();
        tokio::spawn(async move {
            match timeout(QUESTION_TIMEOUT, answer(connection, &reply)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::info!("connection of the CLI: {error}"),
                Err(_) => tracing::info!("a connection of the CLI asks nothing"),
            }
        });
    }
    Ok(())
}

async fn answer(mut connection: UnixStream, reply: &SidecarReply) -> Result<(), MessageError> {
    // Carriers are hung up on.
    if connection.read_u8().await? == SIDECAR_CONTROL {
        let mut messages = Messages::new(connection);
        while messages.receive::<SidecarRequest>().await?.is_some() {
            messages.send(reply).await?;
        }
    }
    Ok(())
}

/// `error: its cause: the cause's cause`, each once.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
