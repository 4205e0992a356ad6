//! The listener behind the redirect: connections of the app whose SYN was accepted.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tpdocker_protocol::addr::{AppAddr, ClusterAddr};

use super::counters::Counters;

/// Connections that wait for `accept`. With 128, the usual value, a burst overflows it and the app's handshake takes a
/// second longer. The kernel caps it at `net.core.somaxconn`, which is 4096 by default.
const BACKLOG: i32 = 4096;
/// Ports to choose the listener's from: above the kernel's usual ephemeral ports (32768–60999, ip(7)), so that no
/// connection of the app has it, and where hardly any server lives: the app could not bind it on all addresses.
const PORTS: std::ops::RangeInclusive<u16> = 64_920..=65_120;

/// The listener; it is bound to loopback addresses only, so nobody outside of the namespace reaches it.
#[derive(Debug)]
pub struct Redirected {
    v4: TcpListener,
    v6: Option<TcpListener>,
    port: u16,
    counters: Arc<Counters>,
}

/// An established connection of the app.
#[derive(Debug)]
pub struct Connection {
    /// Its data.
    pub stream: TcpStream,
    /// The app's socket, as in [`super::HeldSyn`].
    pub app: AppAddr,
    /// What the app connected to, as in [`super::HeldSyn`].
    pub remote: ClusterAddr,
}

impl Redirected {
    /// Listens on a free port of 127.0.0.1 and, unless the namespace has no `::1`, on the same of that.
    pub(super) fn bind(counters: Arc<Counters>) -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for port in PORTS {
            match bind_both(port) {
                Ok((v4, v6)) => return Ok(Self { v4, v6, port, counters }),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn has_ipv6(&self) -> bool {
        self.v6.is_some()
    }

    /// The next connection. Cancel-safe. One that nobody waits for has to be closed: a SYN that was repeated after the
    /// app gave up can come through. Errors are those of accept(2); after EMFILE it is wise to wait before trying again.
    pub async fn accept(&self) -> io::Result<Connection> {
        loop {
            let (stream, peer) = match &self.v6 {
                Some(v6) => tokio::select! {
                    accepted = self.v4.accept() => accepted?,
                    accepted = v6.accept() => accepted?,
                },
                None => self.v4.accept().await?,
            };
            match original_destination(&stream, peer) {
                Ok(remote) if remote != stream.local_addr()? => {
                    return Ok(Connection { stream, app: AppAddr(peer), remote: ClusterAddr(remote) });
                }
                // Somebody in the namespace connected to the listener itself.
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, %peer, "a connection without an original destination"),
            }
            Counters::add(&self.counters.strangers);
        }
    }
}

/// `SO_ORIGINAL_DST`, `IP6T_SO_ORIGINAL_DST`: what connection tracking knows.
fn original_destination(stream: &TcpStream, peer: SocketAddr) -> io::Result<SocketAddr> {
    let socket = SockRef::from(stream);
    let address = if peer.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() }?;
    match address.as_socket() {
        // The kernel does not fill flow label and scope: equal addresses have to be equal.
        Some(SocketAddr::V6(v6)) => Ok(SocketAddr::from((*v6.ip(), v6.port()))),
        Some(v4) => Ok(v4),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn bind_both(port: u16) -> io::Result<(TcpListener, Option<TcpListener>)> {
    let v4 = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    match listen(SocketAddr::from((Ipv6Addr::LOCALHOST, port))) {
        Ok(v6) => Ok((v4, Some(v6))),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        Err(error) => {
            tracing::debug!(%error, "no listener on ::1");
            Ok((v4, None))
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // After a restart connections of the process before may linger on the port.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
