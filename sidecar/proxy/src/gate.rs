//! Admission: the proxy's side of [`tpdocker_protocol::admission`] on a fresh connection.

use std::time::Duration;

use ed25519_dalek::VerifyingKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tpdocker_protocol::admission::{AdmissionError, Answer, Challenge, Role};

/// Time for the whole handshake. The answer needs one round trip through the API server; whoever takes longer than
/// this is not a CLI, and must not hold one of the few places.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a connection was turned away.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GateError {
    #[error("no answer within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Timeout,
    #[error("the connection broke during the handshake")]
    Io(#[from] std::io::Error),
    #[error("no random number for the challenge")]
    Random(#[from] getrandom::Error),
    #[error(transparent)]
    Refused(#[from] AdmissionError),
}

/// Finds out what `connection` is for. A wrong answer is told the reason before this returns it.
pub(crate) async fn admit(connection: &mut TcpStream, key: &VerifyingKey, session: &str) -> Result<Role, GateError> {
    timeout(HANDSHAKE_TIMEOUT, handshake(connection, key, session)).await.map_err(|_| GateError::Timeout)?
}

async fn handshake(connection: &mut TcpStream, key: &VerifyingKey, session: &str) -> Result<Role, GateError> {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce)?;
    let challenge = Challenge::new(nonce);
    connection.write_all(&challenge.encode()).await?;
    let mut answer = [0; Answer::LEN];
    connection.read_exact(&mut answer).await?;
    match challenge.verify(&Answer::decode(&answer), key, session) {
        Ok(role) => {
            connection.write_all(&[0]).await?;
            Ok(role)
        }
        Err(refusal) => {
            connection.write_all(&outcome(&refusal)).await?;
            connection.shutdown().await?;
            Err(refusal.into())
        }
    }
}

/// A refusal on the wire: its length in one byte and the text.
fn outcome(refusal: &AdmissionError) -> Vec<u8> {
    let mut reason = refusal.to_string();
    reason.truncate(reason.floor_char_boundary(usize::from(u8::MAX)));
    let length = u8::try_from(reason.len()).unwrap_or(u8::MAX);
    [&[length], reason.as_bytes()].concat()
}
