//! The CLI's half of a conversation with the proxy: admission, then either a carrier's bytes or [`ControlClient`]'s
//! requests. Generic over the stream, so that it runs over any carrier.

use std::net::IpAddr;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tpdocker_protocol::admission::{AdmissionError, Challenge, Role};
use tpdocker_protocol::control::{PodView, ProxyReply, ProxyRequest, ProxyStatus};
use tpdocker_protocol::letter::Letter;
use tpdocker_tunnel::messages::{MessageError, Messages};

use super::carrier::PortForward;
use super::connect::Cluster;
use super::error::{ClusterError, ProtocolError};

/// The proxy answers at once; the rest is the network's.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// A container counts as running a moment before its program listens.
const START_PATIENCE: Duration = Duration::from_secs(5);
const START_RETRY: Duration = Duration::from_millis(50);

/// Who connects to a proxy.
#[derive(Clone, Copy)]
pub struct Identity<'a> {
    /// The session's key; its public half is in the pod's spec.
    pub key: &'a SigningKey,
    /// The session's id.
    pub session: &'a str,
}

impl std::fmt::Debug for Identity<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("session", &self.session).finish_non_exhaustive()
    }
}

/// Requests to the proxy over an admitted connection.
#[derive(Debug)]
pub struct ControlClient<S> {
    pub(super) messages: Messages<S>,
}

// === impl Cluster ===

impl Cluster {
    /// A connection to the proxy, admitted for `role`. Waits for a program that is just starting.
    pub async fn dial(
        &self,
        pod: &str,
        port: u16,
        identity: Identity<'_>,
        role: Role,
    ) -> Result<PortForward, ClusterError> {
        let deadline = tokio::time::Instant::now() + START_PATIENCE;
        loop {
            let mut stream = self.port_forward(pod, port).await?;
            match admit(&mut stream, identity.key, role, identity.session).await {
                Ok(()) => return Ok(stream),
                Err(error) if is_starting(&error) && tokio::time::Instant::now() < deadline => {
                    tracing::debug!(%error, "the proxy does not listen yet");
                    tokio::time::sleep(START_RETRY).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Nothing listened: the runtime's error, or a connection that ended before the first byte.
fn is_starting(error: &ClusterError) -> bool {
    match error {
        ClusterError::Tunnel { source, .. } => source.status().is_none(),
        ClusterError::Protocol(ProtocolError::Closed) => true,
        _ => false,
    }
}

/// The client's half of [`tpdocker_protocol::admission`].
pub async fn admit<S>(stream: &mut S, key: &SigningKey, role: Role, session: &str) -> Result<(), ClusterError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    answer_in_time(async {
        let mut challenge = [0; Challenge::LEN];
        stream.read_exact(&mut challenge).await.map_err(broken)?;
        let challenge = Challenge::decode(&challenge).map_err(ProtocolError::from)?;
        stream.write_all(&challenge.answer(key, role, session).encode()).await.map_err(broken)?;
        stream.flush().await.map_err(broken)?;
        let length = stream.read_u8().await.map_err(broken)?;
        if length == 0 {
            return Ok(());
        }
        let mut reason = vec![0; usize::from(length)];
        stream.read_exact(&mut reason).await.map_err(broken)?;
        let reason = String::from_utf8_lossy(&reason).into_owned();
        Err(ProtocolError::from(AdmissionError::Refused(reason)).into())
    })
    .await
}

// === impl ControlClient ===

impl<S: AsyncRead + AsyncWrite + Unpin> ControlClient<S> {
    /// Speaks on an admitted connection.
    pub fn new(stream: S) -> Self {
        Self { messages: Messages::new(stream) }
    }

    /// What the swapped container would see.
    pub async fn describe(&mut self) -> Result<PodView, ClusterError> {
        match self.ask(ProxyRequest::Describe).await? {
            ProxyReply::Pod(pod) => Ok(pod),
            other => Err(unexpected(other)),
        }
    }

    /// Asks for the proxy's status, which [`Self::status`] gives from here on.
    pub async fn watch(&mut self) -> Result<(), ClusterError> {
        Ok(self.messages.send(&ProxyRequest::Watch).await?)
    }

    /// The proxy's status: at once after [`Self::watch`], and again at each change. Cancel-safe.
    pub async fn status(&mut self) -> Result<ProxyStatus, ClusterError> {
        match self.reply().await? {
            ProxyReply::Status(status) => Ok(status),
            other => Err(unexpected(other)),
        }
    }

    /// Has the proxy hold new connections, and pass them on to one of the pods in `to` when there is one.
    pub async fn hand_over(&mut self, to: Vec<IpAddr>) -> Result<(), ClusterError> {
        match self.ask(ProxyRequest::HandOver { to }).await? {
            ProxyReply::HandedOver => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// Leaves a letter with the proxy; from here on this connection is its client's.
    pub async fn keep(&mut self, letter: Letter) -> Result<(), ClusterError> {
        match self.ask(ProxyRequest::Keep(Box::new(letter))).await? {
            ProxyReply::Kept => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// Why the proxy could not post its letter at the moment.
    pub async fn try_letter(&mut self) -> Result<Option<String>, ClusterError> {
        match self.ask(ProxyRequest::Try).await? {
            ProxyReply::Tried { failed } => Ok(failed),
            other => Err(unexpected(other)),
        }
    }

    /// Says that the client is there.
    pub async fn there(&mut self) -> Result<(), ClusterError> {
        match self.ask(ProxyRequest::There).await? {
            ProxyReply::Heard => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    async fn ask(&mut self, request: ProxyRequest) -> Result<ProxyReply, ClusterError> {
        answer_in_time(async {
            self.messages.send(&request).await?;
            self.reply().await
        })
        .await
    }

    async fn reply(&mut self) -> Result<ProxyReply, ClusterError> {
        Ok(self.messages.receive().await?.ok_or(ProtocolError::Closed)?)
    }
}

fn unexpected(reply: ProxyReply) -> ClusterError {
    let text = match reply {
        ProxyReply::Error { message } => message,
        ProxyReply::Pod(_) => "a description that nobody asked for".into(),
        ProxyReply::HandedOver => "an end that nobody asked for".into(),
        ProxyReply::Kept | ProxyReply::Tried { .. } | ProxyReply::Heard => {
            "news of a letter that nobody asked for".into()
        }
        ProxyReply::Status(_) => "a status that nobody asked for".into(),
    };
    ProtocolError::Unexpected(text).into()
}

async fn answer_in_time<T>(answer: impl Future<Output = Result<T, ClusterError>>) -> Result<T, ClusterError> {
    match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(ProtocolError::Timeout(ANSWER_TIMEOUT.as_secs()).into()),
    }
}

/// A carrier puts its own error into the `io::Error`; it says more.
fn broken(error: std::io::Error) -> ClusterError {
    if error.kind() == std::io::ErrorKind::UnexpectedEof {
        return ProtocolError::Closed.into();
    }
    error.downcast::<ClusterError>().unwrap_or_else(|error| ProtocolError::Io(error).into())
}

impl From<MessageError> for ClusterError {
    fn from(error: MessageError) -> Self {
        match error {
            MessageError::Control(error) => ProtocolError::Control(error).into(),
            MessageError::Io(error) => broken(error),
            MessageError::Truncated => ProtocolError::Closed.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::DuplexStream;
    use tpdocker_protocol::admission::Answer;

    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    /// The proxy's half, by the protocol crate.
    async fn doorkeeper(mut stream: DuplexStream, key: SigningKey) -> (DuplexStream, Result<Role, AdmissionError>) {
        let challenge = Challenge::new([9; 32]);
        stream.write_all(&challenge.encode()).await.unwrap();
        let mut answer = [0; Answer::LEN];
        stream.read_exact(&mut answer).await.unwrap();
        let verdict = challenge.verify(&Answer::decode(&answer), &key.verifying_key(), "s1");
        let outcome = match &verdict {
            Ok(_) => vec![0],
            Err(error) => {
                let text = error.to_string();
                [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
            }
        };
        stream.write_all(&outcome).await.unwrap();
        (stream, verdict)
    }

    #[tokio::test]
    async fn the_sessions_key_is_admitted_and_then_described() {
        let (mut near, far) = tokio::io::duplex(1 << 16);
        let proxy = tokio::spawn(async move {
            let (far, verdict) = doorkeeper(far, key()).await;
            assert_eq!(verdict, Ok(Role::Control));
            let mut far = Messages::new(far);
            assert_eq!(far.receive::<ProxyRequest>().await.unwrap(), Some(ProxyRequest::Describe));
            let pod = PodView { hostname: "servicename-0".into(), ..PodView::default() };
            far.send(&ProxyReply::Pod(pod)).await.unwrap();
        });
        admit(&mut near, &key(), Role::Control, "s1").await.unwrap();
        assert_eq!(ControlClient::new(near).describe().await.unwrap().hostname, "servicename-0");
        proxy.await.unwrap();
    }

    #[tokio::test]
    async fn another_key_is_refused_with_the_proxys_reason() {
        let (mut near, far) = tokio::io::duplex(1 << 16);
        let proxy = tokio::spawn(doorkeeper(far, SigningKey::from_bytes(&[8; 32])));
        let error = admit(&mut near, &key(), Role::Tunnel, "s1").await.unwrap_err();
        let ClusterError::Protocol(ProtocolError::Admission(AdmissionError::Refused(reason))) = error else {
            panic!("{error:?}")
        };
        assert_eq!(reason, "the signature does not belong to this session");
        proxy.await.unwrap().1.unwrap_err();
    }

    #[tokio::test]
    async fn a_proxy_that_hangs_up_is_told_from_one_that_refuses() {
        let (mut near, far) = tokio::io::duplex(64);
        drop(far);
        let error = admit(&mut near, &key(), Role::Tunnel, "s1").await.unwrap_err();
        assert!(matches!(error, ClusterError::Protocol(ProtocolError::Closed)), "{error:?}");
    }
}
