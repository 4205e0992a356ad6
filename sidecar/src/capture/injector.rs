//! The way back for what is not TCP: packets "from" the cluster, put in by raw sockets (raw(7)).
//!
//! They are marked so that connection tracking leaves them alone (see [`super::rules`]). The kernel routes them to the
//! app's address through `lo`, which takes 64 KiB in one packet and passes reverse path filtering since the packet
//! keeps its route.

use std::{io, net::SocketAddr, sync::Arc};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tpdocker_protocol::{
    addr::{AppAddr, ClusterAddr},
    errno::Errno,
};

use super::{packet, rules::MARK_INJECTED};

/// `IPPROTO_RAW`: what is written starts with its IP header.
const IPPROTO_RAW: i32 = 255;

/// Injects. Cheap to clone; calls never block.
#[derive(Debug, Clone)]
pub struct Injector {
    sockets: Arc<Sockets>,
}

#[derive(Debug)]
struct Sockets {
    v4: Socket,
    /// `None`: the kernel has no IPv6, so there is no app that speaks it.
    v6: Option<Socket>,
}

impl Injector {
    pub(super) fn open(ipv6: bool) -> io::Result<Self> {
        let v6 = if ipv6 { Some(raw(Domain::IPV6)?) } else { None };
        Ok(Self { sockets: Arc::new(Sockets { v4: raw(Domain::IPV4)?, v6 }) })
    }

    /// A datagram from `remote` to the app's socket. An error means that this datagram is lost, as on any network.
    pub fn udp_reply(&self, app: AppAddr, remote: ClusterAddr, payload: &[u8]) -> io::Result<()> {
        self.send(app.0, &packet::udp(remote.0, app.0, payload).map_err(invalid)?)
    }

    /// Tells the app's connected UDP socket that its datagram to `remote` failed: ECONNREFUSED, EHOSTUNREACH,
    /// ENETUNREACH, or EPERM and EACCES. For other errors ICMP has no word, and nothing is sent.
    pub fn unreachable(&self, app: AppAddr, remote: ClusterAddr, errno: Errno) -> io::Result<()> {
        match packet::unreachable(app.0, remote.0, errno).map_err(invalid)? {
            Some(packet) => self.send(app.0, &packet),
            None => Ok(()),
        }
    }

    /// The reply of `remote` to an echo request of the app, whose port is the identifier.
    pub fn echo_reply(&self, app: AppAddr, remote: ClusterAddr, sequence: u16, payload: &[u8]) -> io::Result<()> {
        self.send(app.0, &packet::echo_reply(app.0, remote.0, sequence, payload).map_err(invalid)?)
    }

    /// Tells the app that an echo request of its failed: `ping` prints what the error is. For errors for which ICMP has
    /// no word nothing is sent.
    pub fn echo_failed(&self, app: AppAddr, remote: ClusterAddr, sequence: u16, errno: Errno) -> io::Result<()> {
        match packet::echo_failed(app.0, remote.0, sequence, errno).map_err(invalid)? {
            Some(packet) => self.send(app.0, &packet),
            None => Ok(()),
        }
    }

    fn send(&self, app: SocketAddr, packet: &[u8]) -> io::Result<()> {
        let (socket, mut to) = match app {
            SocketAddr::V4(_) => (&self.sockets.v4, app),
            SocketAddr::V6(_) => (self.sockets.v6.as_ref().ok_or(io::ErrorKind::Unsupported)?, app),
        };
        // A raw socket's port is a protocol.
        to.set_port(0);
        socket.send_to(packet, &SockAddr::from(to)).map(drop)
    }
}

fn raw(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(IPPROTO_RAW)))?;
    socket.set_nonblocking(true)?;
    socket.set_mark(MARK_INJECTED)?;
    Ok(socket)
}

fn invalid(error: packet::Unwritable) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}
