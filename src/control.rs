//! Control messages over any byte stream: the CLI's side of `tpdocker_protocol::control`.

use std::io;

use bytes::BytesMut;
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tpdocker_protocol::control::{ControlError, decode, encode};

/// Why a conversation ended.
#[derive(Debug, thiserror::Error)]
pub enum ConversationError {
    /// The stream failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The other end said something that is not in the protocol.
    #[error("the other end does not follow the protocol")]
    Protocol(#[from] ControlError),
    /// The other end hung up.
    #[error("the other end closed the connection")]
    Closed,
}

/// One conversation: whole messages, in order.
#[derive(Debug)]
pub struct Conversation<S> {
    stream: S,
    received: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conversation<S> {
    /// Over this stream, from its present position.
    pub fn new(stream: S) -> Self {
        Self { stream, received: BytesMut::new() }
    }

    /// Sends one message.
    pub async fn send<M: Serialize>(&mut self, message: &M) -> Result<(), ConversationError> {
        self.stream.write_all(&encode(message)?).await?;
        Ok(self.stream.flush().await?)
    }

    /// Waits for the next message. Cancel-safe: what has been read stays for the next call.
    pub async fn receive<M: DeserializeOwned>(&mut self) -> Result<M, ConversationError> {
        loop {
            if let Some(message) = decode(&mut self.received)? {
                return Ok(message);
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(ConversationError::Closed);
            }
        }
    }
}
