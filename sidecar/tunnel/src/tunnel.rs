//! The handle of a tunnel.

use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite};
use tpdocker_protocol::addr::{AppAddr, ClusterAddr, Listener, Port, Target};
use tpdocker_protocol::control::PortFailure;
use tpdocker_protocol::errno::Errno;
use tpdocker_protocol::frame::{Datagram, Echo, Side};

use crate::carrier;
use crate::core::{Core, now};
use crate::events::Events;
use crate::open::{OpenError, open};
use crate::stream::Stream;

/// Why a tunnel ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// The carrier ended, failed, or carried nothing for too long.
    #[error("the carrier was lost: {0}")]
    Carrier(String),
    /// The other end said so.
    #[error("the other end closed the tunnel: {0}")]
    Peer(String),
    /// The other end sent what it may not.
    #[error("the other end broke the protocol: {0}")]
    Protocol(String),
    /// [`Tunnel::close`], or every handle was dropped.
    #[error("closed here")]
    Local,
}

/// A handle; clones share the tunnel. The tunnel ends when the last of them and its [`Events`] are dropped.
#[derive(Debug, Clone)]
pub struct Tunnel {
    owner: Arc<Owner>,
}

/// What keeps a tunnel open.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) core: Arc<Core>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.core.update(|state| state.mux.close("nobody uses it any more"));
    }
}

// === impl Tunnel ===

impl Tunnel {
    /// Spawns the driver tasks over a carrier; must be called in a tokio runtime.
    ///
    /// Where the carrier can be taken apart into a reader and a writer, [`Self::start_halves`] is faster: here they
    /// wait for each other.
    pub fn start<C>(side: Side, carrier: C) -> (Self, Events)
    where
        C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (reader, writer) = tokio::io::split(carrier);
        Self::start_halves(side, reader, writer)
    }

    /// Spawns the driver tasks over the two directions of a carrier; must be called in a tokio runtime.
    pub fn start_halves<R, W>(side: Side, reader: R, writer: W) -> (Self, Events)
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let core = Core::new(side);
        tokio::spawn(carrier::read(Arc::clone(&core), reader));
        tokio::spawn(carrier::write(Arc::clone(&core), writer));
        let owner = Arc::new(Owner { core });
        (Self { owner: Arc::clone(&owner) }, Events::new(owner))
    }

    /// Opens a stream; waits for the other end's answer. Dropping the future cancels the open at the other end.
    ///
    /// A sidecar opens [`Target::Dial`], a proxy [`Target::Deliver`]; the other one breaks the protocol. With too
    /// many streams open it is refused with `EADDRNOTAVAIL`, as by a kernel that has run out of ports.
    pub async fn open(&self, target: Target) -> Result<Stream, OpenError> {
        open(&self.owner.core, target).await
    }

    /// Queues a datagram; the oldest queued one is dropped when the queue is full, and this one if it is longer than
    /// UDP allows.
    pub fn send_datagram(&self, datagram: Datagram) {
        self.owner.core.update(|state| state.mux.send_datagram(datagram));
    }

    /// Proxy → sidecar: an ICMP error came back for an earlier datagram.
    pub fn send_datagram_failed(&self, app: AppAddr, remote: ClusterAddr, errno: Errno) {
        self.owner.core.update(|state| state.mux.send_datagram_failed(app, remote, errno));
    }

    /// Queues an echo request or its reply like a datagram.
    pub fn send_echo(&self, echo: Echo) {
        self.owner.core.update(|state| state.mux.send_echo(echo));
    }

    /// Proxy → sidecar: an echo request was not answered but refused.
    pub fn send_echo_failed(&self, app: AppAddr, remote: ClusterAddr, sequence: u16, errno: Errno) {
        self.owner.core.update(|state| state.mux.send_echo_failed(app, remote, sequence, errno));
    }

    /// Sidecar → proxy: the complete set of sockets to listen on in the pod.
    pub fn listen(&self, listeners: Vec<Listener>) {
        self.owner.core.update(|state| state.mux.listen(listeners));
    }

    /// Proxy → sidecar: the answer to [`Self::listen`].
    pub fn listening(&self, bound: Vec<Port>, failed: Vec<PortFailure>) {
        self.owner.core.update(|state| state.mux.listening(bound, failed));
    }

    /// When the last byte came from the other end, or when the tunnel was started.
    pub fn heard(&self) -> Instant {
        self.owner.core.update(|state| state.mux.heard())
    }

    /// Asks the other end for a sign of life; [`Self::heard`] tells whether it came.
    pub fn probe(&self) {
        self.owner.core.update(|state| state.mux.probe(now()));
    }

    /// Resolves when the tunnel has ended, and why.
    pub async fn closed(&self) -> Closed {
        let mut end = self.owner.core.watch_end();
        let ended = end.wait_for(Option::is_some).await.ok().and_then(|closed| closed.clone());
        ended.unwrap_or(Closed::Local)
    }

    /// Ends the tunnel; open streams are reset at both ends.
    pub fn close(&self, reason: &str) {
        self.owner.core.update(|state| state.mux.close(reason));
    }
}
