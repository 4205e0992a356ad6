//! One attached tunnel: what the sidecar asks for is done in the pod until the tunnel ends.

use std::sync::Arc;

use tpdocker_protocol::addr::{Port, Transport};
use tpdocker_protocol::control::PortFailure;
use tpdocker_tunnel::{Closed, Event, Events, Tunnel};

use crate::dial;
use crate::listeners::Listeners;
use crate::status::Status;
use crate::udp::{IDLE_TIMEOUT, UdpSockets};

/// Serves `tunnel` until it ends. It counts as attached once the sidecar has told its ports: a carrier that was admitted
/// may have nobody at its other end. Ports of the app are closed after that: nobody is there to answer on them.
pub(crate) async fn run(tunnel: Tunnel, mut events: Events, status: Arc<Status>, control_port: u16) -> Closed {
    let mut ports = Ports { tcp: Listeners::new(tunnel.clone()), udp: UdpSockets::new(tunnel.clone()), control_port };
    let mut sweep = tokio::time::interval(IDLE_TIMEOUT / 4);
    loop {
        tokio::select! {
            event = events.next() => match event {
                None => break,
                Some(Event::Open(pending)) => drop(tokio::spawn(dial::answer(pending))),
                Some(Event::Datagram(datagram)) => ports.udp.send(&datagram),
                Some(Event::Listen(wanted)) => {
                    let (bound, failed) = ports.listen(&wanted).await;
                    status.attached(bound.clone(), failed.clone());
                    tunnel.listening(bound, failed);
                }
                Some(event @ (Event::DatagramFailed { .. } | Event::Listening { .. })) => {
                    tracing::warn!("a sidecar said what only a proxy says: {event:?}");
                }
            },
            _ = sweep.tick() => ports.udp.sweep(IDLE_TIMEOUT),
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
}

impl Ports {
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
