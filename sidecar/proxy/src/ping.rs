//! The app's pings, sent from the pod.
//!
//! By ping sockets, which need no capability (`SOCK_DGRAM` with `IPPROTO_ICMP`, icmp(7)) but a node that lets the
//! process's group have them: `net.ipv4.ping_group_range` of the pod, which containerd 2 opens for everybody, which a pod
//! may set by itself (it is a safe sysctl of Kubernetes), and which is empty by Linux' default. Where the pod may not
//! ping, the app is told that its ping is prohibited, which is what it is; an invented answer would be worse than none.
//!
//! The kernel gives each of these sockets an identifier of its own, so each identifier of the app has a socket, as in a
//! NAT (RFC 5508).

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdUdpSocket};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tpdocker_protocol::addr::{AppAddr, ClusterAddr};
use tpdocker_protocol::errno::Errno;
use tpdocker_tunnel::{Echo, Tunnel};

use crate::icmp;
use crate::task::OwnedTask;
use crate::udp::LastUse;

/// A socket that was silent for this long is closed. RFC 5508 (REQ-2) forbids less.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_mins(1);
/// Sockets at a time; the idlest makes room for one more. Each `ping` that runs needs one.
const MAX_SOCKETS: usize = 256;
/// Type, code, checksum, identifier, sequence number.
const HEADER: usize = 8;
/// The largest message fits.
const MAX_MESSAGE: usize = 65_535;
/// Messages taken from one socket before the others have their turn.
const BURST: usize = 64;

/// The ping sockets of one tunnel, by the identifier of the app.
#[derive(Debug)]
pub(crate) struct PingSockets {
    tunnel: Tunnel,
    flows: HashMap<AppAddr, PingEnd>,
    /// That the pod may not ping has been said.
    said: bool,
}

/// One socket and the task that receives from it.
#[derive(Debug)]
struct PingEnd {
    /// Tokio has no type for ping sockets; every call that is made is one that they share with UDP's.
    socket: Arc<UdpSocket>,
    last_use: Arc<LastUse>,
    _task: OwnedTask,
}

// === impl PingSockets ===

impl PingSockets {
    pub(crate) fn new(tunnel: Tunnel) -> Self {
        Self { tunnel, flows: HashMap::new(), said: false }
    }

    /// Sends an echo request of the app. Never waits.
    pub(crate) fn send(&mut self, echo: &Echo) {
        let Echo { app, remote, sequence, payload } = echo;
        let sent = self.end_for(*app).and_then(|end| {
            end.last_use.touch();
            let request = if remote.0.is_ipv4() { 8 } else { 128 };
            let [high, low] = sequence.to_be_bytes();
            // The kernel fills in checksum and identifier.
            let message = [&[request, 0, 0, 0, 0, 0, high, low], &payload[..]].concat();
            let send = || SockRef::from(&*end.socket).send_to(&message, &remote.0.into()).map(drop);
            // The first error may be that of an earlier request, which is reported from the queue.
            send().or_else(|error| if error.kind() == io::ErrorKind::WouldBlock { Err(error) } else { send() })
        });
        match sent {
            Ok(()) => (),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tracing::debug!("ping of {} dropped", remote.0.ip());
            }
            Err(error) => {
                if error.kind() == io::ErrorKind::PermissionDenied && !self.said {
                    self.said = true;
                    tracing::warn!("the pod may not ping: its group is not in net.ipv4.ping_group_range");
                }
                tracing::debug!("ping of {}: {error}", remote.0.ip());
                self.tunnel.send_echo_failed(*app, *remote, *sequence, Errno::from_io(&error));
            }
        }
    }

    /// Closes what was idle for `limit`.
    pub(crate) fn sweep(&mut self, limit: Duration) {
        self.flows.retain(|_, end| end.last_use.age() < limit);
    }

    fn end_for(&mut self, app: AppAddr) -> io::Result<&PingEnd> {
        if !self.flows.contains_key(&app) {
            if self.flows.len() >= MAX_SOCKETS
                && let Some(idlest) = self.flows.iter().max_by_key(|(_, end)| end.last_use.age()).map(|(app, _)| *app)
            {
                self.flows.remove(&idlest);
            }
            self.flows.insert(app, PingEnd::start(app, self.tunnel.clone())?);
        }
        self.flows.get(&app).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

// === impl PingEnd ===

impl PingEnd {
    fn start(app: AppAddr, tunnel: Tunnel) -> io::Result<Self> {
        let (protocol, any) = match app.0 {
            SocketAddr::V4(_) => (Protocol::ICMPV4, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))),
            SocketAddr::V6(_) => (Protocol::ICMPV6, SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))),
        };
        let socket = Socket::new(Domain::for_address(app.0), Type::DGRAM.nonblocking(), Some(protocol))?;
        icmp::enable(&socket, app.0.is_ipv6())?;
        // Now and not with the first request, so that what is received has its identifier.
        socket.bind(&any.into())?;
        let socket = Arc::new(UdpSocket::from_std(StdUdpSocket::from(socket))?);
        let last_use = Arc::new(LastUse::default());
        last_use.touch();
        let task = OwnedTask::spawn(receive(Arc::clone(&socket), app, tunnel));
        Ok(Self { socket, last_use, _task: task })
    }
}

async fn receive(socket: Arc<UdpSocket>, app: AppAddr, tunnel: Tunnel) {
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        match socket.ready(Interest::READABLE | Interest::ERROR).await {
            Ok(ready) => {
                if ready.is_error() {
                    report_errors(&socket, app, &tunnel);
                }
                if ready.is_readable() {
                    receive_burst(&socket, app, &tunnel, &mut buffer);
                }
            }
            Err(error) => return tracing::error!("cannot watch a ping socket: {error}"),
        }
        tokio::task::yield_now().await;
    }
}

fn receive_burst(socket: &UdpSocket, app: AppAddr, tunnel: &Tunnel, buffer: &mut [u8]) {
    for _ in 0..BURST {
        match socket.try_recv_from(buffer) {
            Ok((length, peer)) => {
                let Some((sequence, payload)) = reply(&buffer[..length]) else { continue };
                let payload = Bytes::copy_from_slice(payload);
                tunnel.send_echo(Echo { app, remote: without_port(peer), sequence, payload });
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            // An ICMP error, which the queue tells in full.
            Err(_) => report_errors(socket, app, tunnel),
        }
    }
}

/// Sequence number and payload of an echo reply.
fn reply(message: &[u8]) -> Option<(u16, &[u8])> {
    let (header, payload) = message.split_at_checked(HEADER)?;
    [0, 129].contains(&header[0]).then(|| (u16::from_be_bytes([header[6], header[7]]), payload))
}

fn report_errors(socket: &UdpSocket, app: AppAddr, tunnel: &Tunnel) {
    for _ in 0..BURST {
        let mut request = [0; HEADER];
        match socket.try_io(Interest::ERROR, || icmp::take(socket, &mut request)) {
            Ok(None) => (),
            Ok(Some((remote, errno))) => {
                let sequence = u16::from_be_bytes([request[6], request[7]]);
                tunnel.send_echo_failed(app, without_port(remote), sequence, errno);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => return tracing::warn!("cannot read the error queue of a ping socket: {error}"),
        }
    }
}

/// Of a ping socket's peer the kernel gives an identifier as port, which the app must not see.
fn without_port(peer: SocketAddr) -> ClusterAddr {
    ClusterAddr(SocketAddr::new(peer.ip(), 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_echo_reply_is_a_reply() {
        assert_eq!(reply(&[0, 0, 1, 2, 3, 4, 0, 9, b'x']), Some((9, &b"x"[..])));
        assert_eq!(reply(&[129, 0, 1, 2, 3, 4, 1, 0]), Some((256, &b""[..])));
        assert_eq!(reply(&[8, 0, 1, 2, 3, 4, 0, 9]), None);
        assert_eq!(reply(&[0, 0, 1, 2, 3, 4, 0]), None);
    }
}
