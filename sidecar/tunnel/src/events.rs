//! What the other end asks for or tells.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use tpdocker_protocol::addr::{AppAddr, ClusterAddr, Listener, Port};
use tpdocker_protocol::control::PortFailure;
use tpdocker_protocol::errno::Errno;
use tpdocker_protocol::frame::{Datagram, Echo};
use tpdocker_protocol::mux;

use crate::open::Pending;
use crate::tunnel::Owner;

/// What the other end asks for or tells.
#[derive(Debug)]
pub enum Event {
    /// A stream is offered.
    Open(Pending),
    /// A datagram came; when nobody asks for events the oldest ones are dropped.
    Datagram(Datagram),
    /// ICMP error for an earlier datagram app → remote.
    DatagramFailed {
        /// The app's socket.
        app: AppAddr,
        /// Whom the datagram was for.
        remote: ClusterAddr,
        /// `ECONNREFUSED` = port unreachable, `EHOSTUNREACH`, ...
        errno: Errno,
    },
    /// An echo request of the app, or the reply to it.
    Echo(Echo),
    /// proxy → sidecar: an echo request was not answered but refused.
    EchoFailed {
        /// Who asked; its port is the echo's identifier.
        app: AppAddr,
        /// Who was asked.
        remote: ClusterAddr,
        /// Which request.
        sequence: u16,
        /// Why.
        errno: Errno,
    },
    /// sidecar → proxy: the complete set of sockets to listen on in the pod.
    Listen(Vec<Listener>),
    /// proxy → sidecar: the answer to Listen.
    Listening {
        /// Ports bound in the pod.
        bound: Vec<Port>,
        /// Ports that could not be.
        failed: Vec<PortFailure>,
    },
}

/// The stream of events of one tunnel. Once dropped, streams that the other end opens are refused with
/// `ECONNABORTED`.
#[derive(Debug)]
pub struct Events {
    owner: Arc<Owner>,
}

impl Events {
    pub(crate) fn new(owner: Arc<Owner>) -> Self {
        Self { owner }
    }

    /// `None` once the tunnel has ended and all events were taken. Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        let core = &self.owner.core;
        let event = poll_fn(|context| {
            core.update(|state| match state.mux.poll_event() {
                Some(event) => Poll::Ready(Some(event)),
                None if state.mux.ended().is_some() => Poll::Ready(None),
                None => {
                    state.wait_for_event(context);
                    Poll::Pending
                }
            })
        });
        Some(match event.await? {
            mux::Event::Offered { stream, target } => Event::Open(Pending::new(core, stream, target)),
            mux::Event::Datagram(datagram) => Event::Datagram(datagram),
            mux::Event::DatagramFailed { app, remote, errno } => Event::DatagramFailed { app, remote, errno },
            mux::Event::Echo(echo) => Event::Echo(echo),
            mux::Event::EchoFailed { app, remote, sequence, errno } => {
                Event::EchoFailed { app, remote, sequence, errno }
            }
            mux::Event::Listen(listeners) => Event::Listen(listeners),
            mux::Event::Listening { bound, failed } => Event::Listening { bound, failed },
        })
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.owner.core.update(super::core::State::drop_events);
    }
}
