//! The connection that carries a container's stdin, stdout and stderr.
//!
//! An attach is an HTTP request after which the connection is no longer HTTP. It is spoken here by hand, over a socket of
//! its own, for three things that the client library cannot do: pass a TTY's bytes on as they are (it looks for frames in
//! them and waits for the end of a line), half-close towards the container, and leave the pace to whoever reads.
//! Docker Engine API, "Attach to a container: hijacking"; RFC 9112 for the little HTTP that is needed.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::engine::Engine;
use super::error::EngineError;

/// Longest answer head that is waited for; the engine's have about 200 bytes.
const MAX_HEAD: usize = 16 * 1024;

const HEAD_END: &[u8] = b"\r\n\r\n";

/// An attached container.
#[derive(Debug)]
pub(super) struct Hijacked {
    /// What the container says.
    pub(super) reader: OwnedReadHalf,
    /// What it is told; shutting it down closes its stdin.
    pub(super) writer: OwnedWriteHalf,
    /// What the container said in the same packet as the engine's answer.
    pub(super) early: BytesMut,
}

/// How an attach can fail.
#[derive(Debug, thiserror::Error)]
enum AttachError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the engine answered with something that is not HTTP")]
    Malformed,
    #[error("the engine answered {0}")]
    Refused(String),
}

impl Engine {
    /// Attaches to a container, running or not yet started.
    pub(super) async fn hijack(&self, id: &str, stdin: bool) -> Result<Hijacked, EngineError> {
        self.try_hijack(id, stdin)
            .await
            .map_err(|error| EngineError::Lost { doing: "attaching to the container", source: Box::new(error) })
    }

    async fn try_hijack(&self, id: &str, stdin: bool) -> Result<Hijacked, AttachError> {
        let mut socket = UnixStream::connect(&self.socket).await?;
        let request = format!(
            "POST /v{version}/containers/{id}/attach?stream=1&stdout=1&stderr=1&stdin={stdin} HTTP/1.1\r\n\
             Host: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n",
            version = self.api.client_version(),
            stdin = u8::from(stdin),
        );
        socket.write_all(request.as_bytes()).await?;
        let mut early = BytesMut::new();
        let end = loop {
            if let Some(at) = early.windows(HEAD_END.len()).position(|bytes| bytes == HEAD_END) {
                break at;
            }
            if early.len() > MAX_HEAD || socket.read_buf(&mut early).await? == 0 {
                return Err(AttachError::Malformed);
            }
        };
        let head = early.split_to(end + HEAD_END.len());
        let head = String::from_utf8_lossy(&head);
        let status =
            head.lines().next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).ok_or(AttachError::Malformed)?;
        // 101 to those who ask for an upgrade, 200 from engines that ignore the question.
        if !status.starts_with("101") && !status.starts_with("200") {
            return Err(AttachError::Refused(format!("{status}: {}", String::from_utf8_lossy(&early).trim())));
        }
        let (reader, writer) = socket.into_split();
        Ok(Hijacked { reader, writer, early })
    }
}
