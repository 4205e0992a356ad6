//! One attached tunnel: what the sidecar asks for is done in the pod until the tunnel ends.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tpdocker_protocol::addr::{Listener, Port, Scope, Target, Transport};
use tpdocker_protocol::control::PortFailure;
use tpdocker_protocol::errno::Errno;
use tpdocker_tunnel::{Closed, Event, Events, Tunnel};

use crate::dial;
use crate::handover::Handover;
use crate::letterbox::Letterbox;
use crate::listeners::Listeners;
use crate::ping::{self, PingSockets};
use crate::pod;
use crate::status::Status;
use crate::udp::{IDLE_TIMEOUT, UdpSockets};

/// Serves `tunnel` until it ends. It counts as attached once the sidecar has told its ports: a carrier that was admitted
/// may have nobody at its other end. Ports of the app are closed after that, since nobody is there to answer on them, unless
/// they are the [`Handover`]'s by then.
///
/// Where a letter brings the original back soon, who calls after the end of a tunnel waits, and the pod stays as ready as
/// it was.
pub(crate) async fn run(tunnel: Tunnel, mut events: Events, pod: Pod) -> Closed {
    let Pod { status, handover, letterbox, control_port } = pod;
    let own_addresses = pod::interface_addresses().unwrap_or_else(|error| {
        tracing::warn!("{error}");
        Vec::new()
    });
    let tcp = handover.stop_waiting().unwrap_or_else(|| Listeners::new(Arc::clone(&handover)));
    tcp.follow(Some(tunnel.clone()));
    let udp = UdpSockets::new(tunnel.clone());
    let mut ports = Ports { tcp, udp, control_port, own_addresses };
    let mut pings = PingSockets::new(tunnel.clone());
    let mut sweep = tokio::time::interval(ping::IDLE_TIMEOUT / 4);
    loop {
        tokio::select! {
            event = events.next() => match event {
                None => break,
                Some(Event::Open(pending)) => match pending.target() {
                    Target::Dial(remote) if ports.stands_in(Transport::Tcp, remote.0) => {
                        tracing::debug!("connection to {}: the app itself, which does not listen there", remote.0);
                        pending.refuse(Errno::ECONNREFUSED);
                    }
                    _ => drop(tokio::spawn(dial::answer(pending))),
                },
                Some(Event::Datagram(datagram)) if ports.stands_in(Transport::Udp, datagram.remote.0) => {
                    tunnel.send_datagram_failed(datagram.app, datagram.remote, Errno::ECONNREFUSED);
                }
                Some(Event::Datagram(datagram)) => ports.udp.send(&datagram),
                Some(Event::Echo(echo)) => pings.send(&echo),
                Some(Event::Listen(_)) if handover.has_begun() => (),
                Some(Event::Listen(wanted)) => {
                    let (bound, failed) = ports.listen(&wanted).await;
                    status.attached(bound.clone(), failed.clone());
                    tunnel.listening(bound, failed);
                }
                Some(
                    event @ (Event::DatagramFailed { .. } | Event::EchoFailed { .. } | Event::Listening { .. }),
                ) => {
                    tracing::warn!("a sidecar said what only a proxy says: {event:?}");
                }
            },
            _ = sweep.tick() => {
                ports.udp.sweep(IDLE_TIMEOUT);
                pings.sweep(ping::IDLE_TIMEOUT);
            }
        }
    }
    ports.tcp.follow(None);
    if handover.has_begun() {
        handover.keep(ports.tcp);
    } else if letterbox.is_worth_waiting_for() {
        handover.wait(ports.tcp);
        status.waits();
    } else {
        status.detached();
        ports.listen(&[]).await;
    }
    tunnel.closed().await
}

/// What the tunnels of a proxy have in common.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) status: Arc<Status>,
    pub(crate) handover: Arc<Handover>,
    pub(crate) letterbox: Arc<Letterbox>,
    pub(crate) control_port: u16,
}

#[derive(Debug)]
struct Ports {
    tcp: Listeners,
    udp: UdpSockets,
    control_port: u16,
    own_addresses: Vec<IpAddr>,
}

impl Ports {
    /// Whether `remote` is a socket of this process, at an address of the pod. The app asks only for what it does not
    /// listen on itself: in the pod nobody would listen there, so nobody is to answer.
    fn stands_in(&self, transport: Transport, remote: SocketAddr) -> bool {
        let (ip, port) = (remote.ip().to_canonical(), remote.port());
        if !(ip.is_loopback() || ip.is_unspecified() || self.own_addresses.contains(&ip)) {
            return false;
        }
        match transport {
            Transport::Tcp => port == self.control_port || self.tcp.has(SocketAddr::new(ip, port)),
            Transport::Udp => self.udp.has(SocketAddr::new(ip, port)),
        }
    }

    /// Opens and closes ports until they are `wanted`, and says which are open at the pod's addresses and what cannot be
    /// opened.
    async fn listen(&mut self, wanted: &[Listener]) -> (Vec<Port>, Vec<PortFailure>) {
        let wanted: Vec<Listener> = wanted.iter().copied().filter(|it| !is_covered(*it, wanted)).collect();
        let wants = |transport| {
            let wanted = &wanted;
            move |number, scope| wanted.contains(&Listener { port: Port { transport, number }, scope })
        };
        self.tcp.retain(wants(Transport::Tcp)).await;
        self.udp.retain(wants(Transport::Udp)).await;
        let (mut bound, mut failed) = (Vec::new(), Vec::<PortFailure>::new());
        for listener in &wanted {
            let Listener { port, scope } = *listener;
            match self.open(port, scope) {
                Ok(()) if !scope.is_public() || bound.contains(&port) => (),
                Ok(()) => bound.push(port),
                Err(error) if is_absent(&error) && speaks_ipv4_too(port, &wanted) => {
                    tracing::debug!("port {port} is not opened for IPv6, which the pod does not have");
                }
                Err(error) => {
                    let message = self.explain(port, &error);
                    tracing::warn!("cannot open port {port} in the pod: {message}");
                    if failed.iter().all(|failure| failure.port != port) {
                        failed.push(PortFailure { port, message });
                    }
                }
            }
        }
        // Half of a port is none.
        bound.retain(|port| failed.iter().all(|failure| failure.port != *port));
        (bound, failed)
    }

    fn open(&mut self, port: Port, scope: Scope) -> io::Result<()> {
        match port.transport {
            Transport::Tcp if port.number == self.control_port => Err(ErrorKind::AddrInUse.into()),
            Transport::Tcp => self.tcp.open(port.number, scope),
            Transport::Udp => self.udp.open(port.number, scope),
        }
    }

    fn explain(&self, port: Port, error: &io::Error) -> String {
        match error.kind() {
            ErrorKind::PermissionDenied => {
                "permission denied: the pod's security context does not allow ports below 1024".to_owned()
            }
            ErrorKind::AddrInUse if port == (Port { transport: Transport::Tcp, number: self.control_port }) => {
                "the proxy itself listens on this port of the pod's loopback".to_owned()
            }
            ErrorKind::AddrInUse => "address in use by another container of the pod".to_owned(),
            _ if is_absent(error) => "the pod has no IPv6".to_owned(),
            _ => error.to_string(),
        }
    }
}

/// Whether another one includes it. The app can have both only by sharing the port (`SO_REUSEPORT`), and then any of its
/// sockets may be given a connection.
fn is_covered(listener: Listener, all: &[Listener]) -> bool {
    let wider = match listener.scope {
        Scope::LoopbackV4 => Scope::AnyV4,
        Scope::LoopbackV6 => Scope::AnyV6,
        Scope::AnyV4 | Scope::AnyV6 => return false,
    };
    all.contains(&Listener { scope: wider, ..listener })
}

fn speaks_ipv4_too(port: Port, wanted: &[Listener]) -> bool {
    wanted.iter().any(|other| other.port == port && matches!(other.scope, Scope::AnyV4 | Scope::LoopbackV4))
}

/// The kernel or this namespace has no IPv6.
fn is_absent(error: &io::Error) -> bool {
    let family = nix::errno::Errno::EAFNOSUPPORT as i32;
    error.kind() == ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(family)
}
