//! The listeners behind the redirect: connections of the app whose SYN was accepted.
//!
//! To connection tracking a redirected connection is the pair of the app's port and the listener's, whatever the app
//! connected to. The kernel hands out ports per destination, so two connections to different ones often have the same,
//! and each stays known for two minutes after its end (`nf_conntrack_tcp_timeout_time_wait`). With one listener the
//! kernel then changes the app's port in the listener's eyes, and runs out of ports at some 500 connections a second.
//! So there are several listeners; the redirect takes the first whose pair is free.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tpdocker_protocol::addr::{AppAddr, ClusterAddr};

use super::counters::Counters;

/// Connections that wait for `accept`. With 128, the usual value, a burst overflows it and the app's handshake takes a
/// second longer. The kernel caps it at `net.core.somaxconn`, which is 4096 by default.
const BACKLOG: i32 = 4096;
/// Listeners per address family: 28,000 ports for clients, eight times, in two minutes are 1,900 connections a second
/// whose port is not changed; a single destination takes 470, in the pod as well.
const LISTENERS: u16 = 8;
/// Ports to choose the listeners' from: above the kernel's usual ephemeral ports (32768–60999, ip(7)), so that no
/// connection of the app has it, and where hardly any server lives: the app could not bind it on all addresses.
const PORTS: RangeInclusive<u16> = 64_920..=65_119;

/// The listeners; they are bound to loopback addresses only, so nobody outside of the namespace reaches them.
#[derive(Debug)]
pub struct Redirected {
    listeners: Vec<TcpListener>,
    /// Which of them is asked first: not always the same, or a busy one would starve the others.
    first: AtomicUsize,
    ports: RangeInclusive<u16>,
    has_ipv6: bool,
    counters: Arc<Counters>,
}

/// An established connection of the app.
#[derive(Debug)]
pub struct Connection {
    /// Its data.
    pub stream: TcpStream,
    /// The app's socket. Its port may be another than in [`super::HeldSyn`]: see the module's description.
    pub app: AppAddr,
    /// What the app connected to, as in [`super::HeldSyn`].
    pub remote: ClusterAddr,
}

impl Redirected {
    /// Listens on free ports of 127.0.0.1 and, unless the namespace has no `::1`, on the same of that.
    pub(super) fn bind(counters: Arc<Counters>) -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for port in PORTS.step_by(LISTENERS.into()) {
            let ports = port..=port + (LISTENERS - 1);
            match bind_all(&ports) {
                Ok((listeners, has_ipv6)) => {
                    return Ok(Self { listeners, first: AtomicUsize::new(0), ports, has_ipv6, counters });
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    pub(super) fn ports(&self) -> RangeInclusive<u16> {
        self.ports.clone()
    }

    pub(super) fn has_ipv6(&self) -> bool {
        self.has_ipv6
    }

    /// The next connection. Cancel-safe. One that nobody waits for has to be closed: a SYN that was repeated after the
    /// app gave up can come through. Errors are those of accept(2); after EMFILE it is wise to wait before trying again.
    pub async fn accept(&self) -> io::Result<Connection> {
        loop {
            let (stream, peer) = poll_fn(|context| self.poll_accept(context)).await?;
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

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        let (before, from) = self.listeners.split_at(self.first.load(Ordering::Relaxed));
        for listener in from.iter().chain(before) {
            if let Poll::Ready(accepted) = listener.poll_accept(context) {
                self.first.store((self.first.load(Ordering::Relaxed) + 1) % self.listeners.len(), Ordering::Relaxed);
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
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

/// All listeners, and whether there are some of IPv6 among them.
fn bind_all(ports: &RangeInclusive<u16>) -> io::Result<(Vec<TcpListener>, bool)> {
    let all = |ip: IpAddr| ports.clone().map(|port| listen(SocketAddr::new(ip, port))).collect::<io::Result<Vec<_>>>();
    let mut listeners = all(Ipv4Addr::LOCALHOST.into())?;
    match all(Ipv6Addr::LOCALHOST.into()) {
        Ok(v6) => {
            listeners.extend(v6);
            Ok((listeners, true))
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        Err(error) => {
            tracing::debug!(%error, "no listener on ::1");
            Ok((listeners, false))
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
