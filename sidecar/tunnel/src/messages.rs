//! Control messages over an async byte pipe: the framing of [`tpdocker_protocol::control`] with the I/O added.
//!
//! The proxy and the sidecar answer the CLI in the same way, one on an admitted TCP connection, the other on its Unix
//! socket. A receive that is dropped half-way loses nothing, so both can watch a status and the connection at once.

use bytes::{Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tpdocker_protocol::control::{self, ControlError};

/// Why a control connection ended early.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// The bytes are not those of a known message, or the message is too large.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The pipe broke.
    #[error("the control connection broke")]
    Io(#[from] std::io::Error),
    /// The pipe ended inside a message.
    #[error("the control connection ended inside a message")]
    Truncated,
}

/// One control connection.
#[derive(Debug)]
pub struct Messages<S> {
    pipe: S,
    received: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Messages<S> {
    /// Messages over `pipe`.
    pub fn new(pipe: S) -> Self {
        Self { pipe, received: BytesMut::new() }
    }

    /// The next message, or `None` when the other end is done. Cancel-safe.
    pub async fn receive<M: DeserializeOwned>(&mut self) -> Result<Option<M>, MessageError> {
        loop {
            if let Some(message) = control::decode(&mut self.received)? {
                return Ok(Some(message));
            }
            if self.pipe.read_buf(&mut self.received).await? == 0 {
                return if self.received.is_empty() { Ok(None) } else { Err(MessageError::Truncated) };
            }
        }
    }

    /// Some of the raw bytes that stand between two messages: at least one and at most `most`. Cancel-safe.
    pub async fn receive_raw(&mut self, most: usize) -> Result<Bytes, MessageError> {
        if self.received.is_empty() && self.pipe.read_buf(&mut self.received).await? == 0 {
            return Err(MessageError::Truncated);
        }
        let length = self.received.len().min(most);
        Ok(self.received.split_to(length).freeze())
    }

    /// Sends raw bytes between two messages; whoever receives knows from the message before how many they are.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> Result<(), MessageError> {
        Ok(self.pipe.write_all(bytes).await?)
    }

    /// Sends one message.
    pub async fn send<M: Serialize>(&mut self, message: &M) -> Result<(), MessageError> {
        self.pipe.write_all(&control::encode(message)?).await?;
        self.pipe.flush().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tpdocker_protocol::control::ProxyRequest;

    #[tokio::test]
    async fn a_message_that_dribbles_in_is_received_whole_and_a_torn_one_is_an_error() {
        let (near, mut far) = tokio::io::duplex(1024);
        let mut messages = Messages::new(near);
        let bytes = control::encode(&ProxyRequest::Watch).unwrap();
        let dribble = async {
            for byte in &bytes {
                far.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            far.write_all(&bytes[..3]).await.unwrap();
            drop(far);
        };
        let (first, ()) = tokio::join!(messages.receive::<ProxyRequest>(), dribble);
        assert_eq!(first.unwrap(), Some(ProxyRequest::Watch));
        assert!(matches!(messages.receive::<ProxyRequest>().await, Err(MessageError::Truncated)));
    }

    #[tokio::test]
    async fn raw_bytes_between_two_messages_are_received_as_they_are() {
        let (near, far) = tokio::io::duplex(64);
        let (mut near, mut far) = (Messages::new(near), Messages::new(far));
        let content: Vec<u8> = (0..=255).cycle().take(1000).collect();
        let sending = async {
            far.send(&ProxyRequest::Watch).await.unwrap();
            far.send_raw(&content).await.unwrap();
            far.send(&ProxyRequest::Describe).await.unwrap();
        };
        let receiving = async {
            assert_eq!(near.receive().await.unwrap(), Some(ProxyRequest::Watch));
            let mut received = Vec::new();
            while received.len() < content.len() {
                received.extend_from_slice(&near.receive_raw(content.len() - received.len()).await.unwrap());
            }
            assert_eq!(received, content);
            assert_eq!(near.receive().await.unwrap(), Some(ProxyRequest::Describe));
        };
        tokio::join!(sending, receiving);
    }
}
