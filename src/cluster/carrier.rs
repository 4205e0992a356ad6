//! A byte pipe to a port of a pod: port-forward over WebSocket, through the kubeconfig's client.
//!
//! kube has a `Portforwarder`; it sends and flushes every 4 KiB and has no ping, which halves uploads and lets load
//! balancers cut a silent connection. Here one write becomes one message of up to 256 KiB, nothing is flushed until
//! the writer asks for it, and a ping goes out every half minute.
//!
//! The protocol (`v4.channel.k8s.io`): each binary message begins with a channel byte, for one port 0 is data and 1 is
//! the error; each channel opens with a message that repeats the port as a little-endian `u16`.
//! <https://github.com/kubernetes/kubernetes/blob/v1.33.0/pkg/kubelet/cri/streaming/portforward/websocket.go>

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures_util::{Sink, Stream};
use http::Request;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

use super::connect::Cluster;
use super::error::{Cause, ClusterError};

/// The largest message written. The kubelet's reader costs per frame, and gains little beyond this.
pub const MAX_MESSAGE: usize = 256 << 10;
/// Load balancers cut streams that are idle for 60 s and more.
const PING_EVERY: Duration = Duration::from_secs(30);
/// From the request to the protocol switch: API server, kubelet and container runtime take part.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);

const DATA: u8 = 0;
const ERROR: u8 = 1;

type Socket = Pin<Box<dyn Channel>>;

/// What [`PortForward`] needs of a WebSocket.
trait Channel: Stream<Item = Result<Message, SocketError>> + Sink<Message, Error = SocketError> + Send {}

impl<C: Stream<Item = Result<Message, SocketError>> + Sink<Message, Error = SocketError> + Send> Channel for C {}

/// A connection to a port of a pod's loopback. Writes are buffered until flushed; a shutdown closes both directions,
/// since the protocol has no half-close.
pub struct PortForward {
    socket: Socket,
    pod: String,
    port: u16,
    /// What of the last data message has not been read.
    inbound: Bytes,
    /// Which channels have been opened.
    opened: [bool; 2],
    pings: Interval,
    ping_unflushed: bool,
    /// Whoever waits in the writing half, which may be another task.
    writer: Option<Waker>,
    ended: bool,
}

impl Cluster {
    /// Connects to `port` on the loopback of `pod`. That nothing listens there is found out by the first read.
    pub async fn port_forward(&self, pod: &str, port: u16) -> Result<PortForward, ClusterError> {
        let error = |source| ClusterError::Tunnel { pod: pod.to_owned(), port, source };
        let path = format!("/api/v1/namespaces/{}/pods/{pod}/portforward?ports={port}", self.namespace());
        let request = Request::get(path).body(Vec::new()).map_err(|bad| error(Cause::Way(bad.to_string())))?;
        let connection = tokio::time::timeout(OPEN_TIMEOUT, self.client.connect(request))
            .await
            .map_err(|_| error(Cause::Timeout(OPEN_TIMEOUT.as_secs())))?
            .map_err(|refused| error(refused.into()))?;
        Ok(PortForward::new(Box::pin(connection.into_stream()), pod.to_owned(), port, PING_EVERY))
    }
}

// === impl PortForward ===

impl std::fmt::Debug for PortForward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PortForward").field("pod", &self.pod).field("port", &self.port).finish_non_exhaustive()
    }
}

impl PortForward {
    fn new(socket: Socket, pod: String, port: u16, ping_every: Duration) -> Self {
        let mut pings = interval_at(Instant::now() + ping_every, ping_every);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            socket,
            pod,
            port,
            inbound: Bytes::new(),
            opened: [false; 2],
            pings,
            ping_unflushed: false,
            writer: None,
            ended: false,
        }
    }

    fn error(&self, text: impl Into<String>) -> io::Error {
        let source = Cause::Way(text.into());
        io::Error::other(ClusterError::Tunnel { pod: self.pod.clone(), port: self.port, source })
    }

    /// Sends a ping when it is time. A ping that cannot be written now is retried with the next read.
    fn poll_ping(&mut self, cx: &mut Context<'_>) -> Result<(), SocketError> {
        if self.pings.poll_tick(cx).is_ready() {
            self.socket.as_mut().start_send(Message::Ping(Bytes::new()))?;
            self.ping_unflushed = true;
            // Registers the next tick.
            let _pending = self.pings.poll_tick(cx);
        }
        if self.ping_unflushed {
            // The socket keeps one waker for writes, and this flush takes its place.
            let waker = Waker::from(Arc::new(Both(cx.waker().clone(), self.writer.clone())));
            if let Poll::Ready(flushed) = self.socket.as_mut().poll_flush(&mut Context::from_waker(&waker)) {
                self.ping_unflushed = false;
                flushed?;
            }
        }
        Ok(())
    }

    /// Takes a binary message: data, the other end's error, or a channel's opening.
    fn take(&mut self, mut message: Bytes) -> io::Result<()> {
        // Some servers send empty messages to keep a connection alive.
        if message.is_empty() {
            return Ok(());
        }
        let channel = message.get_u8();
        let opened = match channel {
            DATA | ERROR => &mut self.opened[usize::from(channel)],
            other => return Err(self.error(format!("a message on channel {other} of a port-forward with two"))),
        };
        if !std::mem::replace(opened, true) {
            return if message == self.port.to_le_bytes()[..] {
                Ok(())
            } else {
                Err(self.error("a port-forward that opens with another port"))
            };
        }
        if channel == ERROR {
            return Err(self.error(String::from_utf8_lossy(&message).trim()));
        }
        self.inbound = message;
        Ok(())
    }

    fn socket_error(&self, error: SocketError) -> io::Error {
        match error {
            SocketError::Io(io) => io,
            SocketError::ConnectionClosed | SocketError::AlreadyClosed => io::ErrorKind::BrokenPipe.into(),
            other => self.error(other.to_string()),
        }
    }

    /// Remembers who waits to write.
    fn waiting<T>(&mut self, cx: &Context<'_>, poll: Poll<T>) -> Poll<T> {
        self.writer = poll.is_pending().then(|| cx.waker().clone());
        poll
    }
}

impl AsyncBufRead for PortForward {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        while this.inbound.is_empty() && !this.ended {
            if let Err(error) = this.poll_ping(cx) {
                return Poll::Ready(Err(this.socket_error(error)));
            }
            match ready!(this.socket.as_mut().poll_next(cx)) {
                Some(Ok(Message::Binary(message))) => this.take(message)?,
                Some(Ok(Message::Close(_))) | None => this.ended = true,
                // Pings are answered by the socket itself; text is not of this protocol.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(this.socket_error(error))),
            }
        }
        Poll::Ready(Ok(&this.inbound))
    }

    fn consume(self: Pin<&mut Self>, amount: usize) {
        self.get_mut().inbound.advance(amount);
    }
}

impl AsyncRead for PortForward {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let inbound = ready!(self.as_mut().poll_fill_buf(cx))?;
        let amount = inbound.len().min(buffer.remaining());
        buffer.put_slice(&inbound[..amount]);
        self.consume(amount);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PortForward {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let poll = this.socket.as_mut().poll_ready(cx);
        ready!(this.waiting(cx, poll)).map_err(|error| this.socket_error(error))?;
        let amount = bytes.len().min(MAX_MESSAGE);
        let mut message = Vec::with_capacity(1 + amount);
        message.push(DATA);
        message.extend_from_slice(&bytes[..amount]);
        this.socket.as_mut().start_send(Message::Binary(message.into())).map_err(|error| this.socket_error(error))?;
        Poll::Ready(Ok(amount))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = this.socket.as_mut().poll_flush(cx);
        this.waiting(cx, poll).map_err(|error| this.socket_error(error))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = this.socket.as_mut().poll_close(cx);
        this.waiting(cx, poll).map_err(|error| this.socket_error(error))
    }
}

/// Wakes the reading and the writing task.
struct Both(Waker, Option<Waker>);

impl Wake for Both {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.wake_by_ref();
        if let Some(writer) = &self.1 {
            writer.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests;
