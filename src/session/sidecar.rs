//! The CLI's side of the sidecar's Unix socket: configuration, and the carrier's bytes.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::Instant;
use tpdocker_protocol::contract::{SIDECAR_CARRIER, SIDECAR_CONTROL, SIDECAR_HOST_PORT};
use tpdocker_protocol::control::{SidecarConfig, SidecarReply, SidecarRequest, SidecarStatus};
use tpdocker_protocol::files::FilesSwap;
use tpdocker_tunnel::messages::{MessageError, Messages};

use crate::error::{Code, Explain};

/// How long a sidecar may take from its start until it listens: its data plane programs a few netlink messages.
const LISTENS_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks for the socket. A bind-mounted directory of a virtual machine raises no inotify events, so looking
/// is what works everywhere.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The sidecar does not do its part.
#[derive(Debug, thiserror::Error)]
pub enum SidecarError {
    /// Nobody listens on the socket.
    #[error("the sidecar does not listen on {}", path.display())]
    Absent {
        /// Of the socket.
        path: PathBuf,
        /// The last error.
        source: io::Error,
    },
    /// It hung up or spoke nonsense.
    #[error("the conversation with the sidecar failed")]
    Conversation(#[from] MessageError),
    /// The kernel, or the engine, does not let it.
    #[error("the sidecar cannot capture the container's traffic: {message}")]
    CannotCapture {
        /// Why.
        message: String,
        /// What to do about it.
        cure: Option<String>,
    },
    /// It cannot do what was asked.
    #[error("the sidecar failed: {0}")]
    Failed(String),
}

impl Explain for SidecarError {
    fn code(&self) -> Code {
        match self {
            Self::CannotCapture { .. } => Code::Engine,
            Self::Absent { .. } | Self::Conversation(_) | Self::Failed(_) => Code::Tunnel,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Absent { .. } | Self::Conversation(_) => {
                Some("docker logs $(docker ps -aqf label=tpdocker.dev/role=sidecar | head -1)".into())
            }
            Self::CannotCapture { cure, .. } => cure.clone(),
            Self::Failed(_) => None,
        }
    }
}

/// Connects and says what the connection is for.
async fn connect(socket: &Path, purpose: u8) -> Result<UnixStream, SidecarError> {
    let began = Instant::now();
    loop {
        let failed = match UnixStream::connect(socket).await {
            Ok(mut stream) => {
                stream.write_all(&[purpose]).await.map_err(MessageError::from)?;
                return Ok(stream);
            }
            Err(error) => error,
        };
        let not_yet = matches!(failed.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused);
        if !not_yet || began.elapsed() > LISTENS_WITHIN {
            return Err(SidecarError::Absent { path: socket.to_owned(), source: failed });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits until the sidecar listens.
pub async fn wait_listening(socket: &Path) -> Result<(), SidecarError> {
    connect(socket, SIDECAR_CONTROL).await.map(drop)
}

/// A connection whose bytes the sidecar takes for those of a carrier.
pub async fn carrier(socket: &Path) -> Result<UnixStream, SidecarError> {
    connect(socket, SIDECAR_CARRIER).await
}

/// A connection that waits until the app connects to one of the laptop's ports.
pub async fn host_port(socket: &Path) -> Result<UnixStream, SidecarError> {
    connect(socket, SIDECAR_HOST_PORT).await
}

/// A conversation with the sidecar's data plane.
#[derive(Debug)]
pub struct Sidecar {
    messages: Messages<UnixStream>,
}

impl Sidecar {
    /// Waits until the sidecar listens.
    pub async fn connect(socket: &Path) -> Result<Self, SidecarError> {
        Ok(Self { messages: Messages::new(connect(socket, SIDECAR_CONTROL).await?) })
    }

    /// Has the pod's files written and the rules set.
    pub async fn configure(&mut self, config: SidecarConfig) -> Result<(), SidecarError> {
        self.messages.send(&SidecarRequest::Configure(config)).await?;
        match self.reply().await? {
            SidecarReply::Configured => Ok(()),
            _ => Err(out_of_turn()),
        }
    }

    /// Has a new version of a volume put in force.
    pub async fn swap_files(&mut self, swap: FilesSwap) -> Result<(), SidecarError> {
        self.messages.send(&SidecarRequest::SwapFiles(swap)).await?;
        match self.reply().await? {
            SidecarReply::Swapped => Ok(()),
            _ => Err(out_of_turn()),
        }
    }

    /// Begins to watch; [`Self::status`] gives one state after the other from here on.
    pub async fn watch(&mut self) -> Result<(), SidecarError> {
        Ok(self.messages.send(&SidecarRequest::Watch).await?)
    }

    /// The next state. Cancel-safe.
    pub async fn status(&mut self) -> Result<SidecarStatus, SidecarError> {
        match self.reply().await? {
            SidecarReply::Status(status) => Ok(status),
            _ => Err(out_of_turn()),
        }
    }

    /// What it answers, unless that it cannot.
    async fn reply(&mut self) -> Result<SidecarReply, SidecarError> {
        match self.messages.receive().await? {
            None => Err(SidecarError::Failed("it closed the connection".into())),
            Some(SidecarReply::Error { message }) => Err(SidecarError::Failed(message)),
            Some(SidecarReply::CannotCapture { message, cure }) => Err(SidecarError::CannotCapture { message, cure }),
            Some(reply) => Ok(reply),
        }
    }
}

fn out_of_turn() -> SidecarError {
    SidecarError::Failed("answered out of turn".into())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn a_sidecar_that_cannot_capture_is_the_engines_failure_and_tells_the_cure() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let sidecar = async {
            let (mut connection, _) = listener.accept().await.unwrap();
            assert_eq!(connection.read_u8().await.unwrap(), SIDECAR_CONTROL);
            let mut messages = Messages::new(connection);
            messages.receive::<SidecarRequest>().await.unwrap();
            let (message, cure) = ("the kernel lacks redirection".to_owned(), Some("modprobe".to_owned()));
            messages.send(&SidecarReply::CannotCapture { message, cure }).await.unwrap();
        };
        let configure = async { Sidecar::connect(&socket).await.unwrap().configure(SidecarConfig::default()).await };
        let (error, ()) = tokio::join!(configure, sidecar);
        let error = error.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the sidecar cannot capture the container's traffic: the kernel lacks redirection"
        );
        assert_eq!((error.code(), error.hint().as_deref()), (Code::Engine, Some("modprobe")));
    }
}
