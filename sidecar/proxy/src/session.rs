//! One attached tunnel: what the sidecar asks for is done in the pod until the tunnel ends.

use std::sync::Arc;

use std::net::{IpAddr, SocketAddr};

use tpdocker_protocol::addr::{Port, Target, Transport};
use tpdocker_protocol::control::PortFailure;
use tpdocker_protocol::errno::Errno;
use tpdocker_tunnel::{Closed, Event, Events, Tunnel};

use crate::dial;
use crate::listeners::Listeners;
use crate::ping::{self, PingSockets};
use crate::pod;
use crate::status::Status;
use crate::udp::{IDLE_TIMEOUT, UdpSockets};

/// Serves `tunnel` until it ends. It counts as attached once the sidecar has told its ports: a carrier that was admitted
/// may have nobody at its other end. Ports of the app are closed after that: nobody is there to answer on them.
pub(crate) async fn run(tunnel: Tunnel, mut events: Events, status: Arc<Status>, control_port: u16) -> Closed {
    let own_addresses = pod::interface_addresses().unwrap_or_else(|error| {
        tracing::warn!("{error}");
        Vec::new()
    });
    let (tcp, udp) = (Listeners::new(tunnel.clone()), UdpSockets::new(tunnel.clone()));
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
    status.detached();
    ports.listen(&[]).await;
    tunnel.closed().await
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
            Transport::Tcp => port == self.control_port || self.tcp.has(port),
            Transport::Udp => self.udp.has(port),
        }
    }

    /// Opens and closes ports until they are `wanted`, and says which are and which cannot be.
    async fn listen(&mut self, wanted: &[Port]) -> (Vec<Port>, Vec<PortFailure>) {
        let wants = |transport| move |number| wanted.contains(&Port { transport, number });
        self.tcp.retain(wants(Transport::Tcp)).await;
        self.udp.retain(wants(Transport::Udp)).await;
        let (mut bound, mut failed) = (Vec::new(), Vec::new());
        for &port in wanted {
            match self.open(port) {
                Ok(()) => bound.push(port),
                Err(message) => {
                    tracing::warn!("cannot open port {port} in the pod: {message}");
                    failed.push(PortFailure { port, message });
                }
            }
        }
        (bound, failed)
    }

    fn open(&mut self, port: Port) -> Result<(), String> {
        let opened = match port.transport {
            Transport::Tcp if port.number == self.control_port => {
                return Err("the proxy itself listens on this port of the pod's loopback".to_owned());
            }
            Transport::Tcp => self.tcp.open(port.number),
            Transport::Udp => self.udp.open(port.number),
        };
        opened.map_err(|error| match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                "permission denied: the pod's security context does not allow ports below 1024".to_owned()
            }
            std::io::ErrorKind::AddrInUse => "address in use by another container of the pod".to_owned(),
            _ => error.to_string(),
        })
    }
}
