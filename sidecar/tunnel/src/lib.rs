//! The tokio driver of the multiplexer: one [`Tunnel`] over one carrier, the same on both ends.

pub mod messages;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tpdocker_protocol::addr::{AppAddr, ClusterAddr, Port, Target};
use tpdocker_protocol::control::PortFailure;
use tpdocker_protocol::errno::Errno;

/// Which end this is; the ends number their streams apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Sidecar,
    Proxy,
}

/// Why a tunnel ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    #[error("the carrier was lost: {0}")]
    Carrier(String),
    #[error("the other end closed the tunnel: {0}")]
    Peer(String),
    #[error("the other end broke the protocol: {0}")]
    Protocol(String),
    #[error("closed here")]
    Local,
}

/// A handle; clones share the tunnel.
#[derive(Debug, Clone)]
pub struct Tunnel {}

/// One UDP datagram of the app (sidecar → proxy) or for the app (proxy → sidecar).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    pub app: AppAddr,
    pub remote: ClusterAddr,
    pub payload: Bytes,
}

/// What the other end asks for or tells.
#[derive(Debug)]
pub enum Event {
    Open(Pending),
    Datagram(Datagram),
    /// ICMP error for an earlier datagram app → remote (ECONNREFUSED = port unreachable, EHOSTUNREACH, ...).
    DatagramFailed {
        app: AppAddr,
        remote: ClusterAddr,
        errno: Errno,
    },
    /// sidecar → proxy: the complete set of ports the app listens on now.
    Listen(Vec<Port>),
    /// proxy → sidecar: the answer to Listen.
    Listening {
        bound: Vec<Port>,
        failed: Vec<PortFailure>,
    },
}

/// The stream of events of one tunnel.
#[derive(Debug)]
pub struct Events {}
impl Events {
    /// `None` once the tunnel has ended and all events were taken.
    pub async fn next(&mut self) -> Option<Event> {
        unimplemented!()
    }
}

/// A stream that the other end wants to open. Dropping it refuses with ECONNABORTED.
#[derive(Debug)]
pub struct Pending {}
impl Pending {
    pub fn target(&self) -> Target {
        unimplemented!()
    }
    pub fn accept(self) -> Stream {
        unimplemented!()
    }
    pub fn refuse(self, _errno: Errno) {
        unimplemented!()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("{0}")]
    Refused(Errno),
    #[error(transparent)]
    Closed(#[from] Closed),
}

impl Tunnel {
    /// Spawns the driver tasks over a carrier; must be called in a tokio runtime.
    pub fn start<C>(_side: Side, _carrier: C) -> (Self, Events)
    where
        C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        unimplemented!()
    }
    /// Opens a stream; waits for the other end's answer. Dropping the future cancels the open at the other end.
    pub async fn open(&self, _target: Target) -> Result<Stream, OpenError> {
        unimplemented!()
    }
    /// Queues a datagram; the oldest queued one is dropped when the queue is full.
    pub fn send_datagram(&self, _datagram: Datagram) {
        unimplemented!()
    }
    pub fn send_datagram_failed(&self, _app: AppAddr, _remote: ClusterAddr, _errno: Errno) {
        unimplemented!()
    }
    pub fn listen(&self, _ports: Vec<Port>) {
        unimplemented!()
    }
    pub fn listening(&self, _bound: Vec<Port>, _failed: Vec<PortFailure>) {
        unimplemented!()
    }
    /// Resolves when the tunnel has ended, and why.
    pub async fn closed(&self) -> Closed {
        unimplemented!()
    }
    /// Ends the tunnel; open streams are reset at both ends.
    pub fn close(&self, _reason: &str) {
        unimplemented!()
    }
}

/// One stream, as chunks. Dropping it without a finish in both directions resets it.
#[derive(Debug)]
pub struct Stream {}

/// Relays between a stream and a socket until both directions have ended: EOF becomes FIN, FIN becomes
/// shutdown(SHUT_WR), a reset of one side becomes a reset of the other (SO_LINGER 0 on the socket).
pub async fn splice(_stream: Stream, _socket: TcpStream) -> SpliceReport {
    unimplemented!()
}

/// How a relayed connection went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpliceReport {
    pub sent: u64,
    pub received: u64,
    pub reset: Option<Errno>,
}
