//! The pod's files, as the proxy sends them on a control connection of their own.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tpdocker_protocol::control::ProxyRequest;
use tpdocker_protocol::files::{FilesEvent, FilesRequest};
use tpdocker_tunnel::messages::Messages;

use super::control::ControlClient;
use super::error::{ClusterError, ProtocolError};

/// A connection that carries files.
#[derive(Debug)]
pub struct FilesFeed<S> {
    messages: Messages<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> ControlClient<S> {
    /// Asks for files; the connection carries nothing else from here on.
    pub async fn files(self, request: FilesRequest) -> Result<FilesFeed<S>, ClusterError> {
        let mut messages = self.messages;
        messages.send(&ProxyRequest::Files(request)).await?;
        Ok(FilesFeed { messages })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> FilesFeed<S> {
    /// What comes next. The content of a [`FilesEvent::Node`] has to be taken with [`Self::content`] before this is
    /// called again.
    pub async fn event(&mut self) -> Result<FilesEvent, ClusterError> {
        Ok(self.messages.receive().await?.ok_or(ProtocolError::Closed)?)
    }

    /// Some of a file's content, at most `left` bytes of it.
    pub async fn content(&mut self, left: u64) -> Result<Bytes, ClusterError> {
        Ok(self.messages.receive_raw(usize::try_from(left).unwrap_or(usize::MAX)).await?)
    }
}
