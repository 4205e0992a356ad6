//! The app's datagrams, sent from the pod.
//!
//! Each UDP socket of the app has one socket here, as behind a NAT with endpoint-independent mapping (RFC 4787): it is
//! not connected, so one socket of the app can speak to many peers, and a peer may answer from another port. A port
//! that the app listens on has a socket with that very port, and what the app sends from it leaves from it.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tpdocker_protocol::addr::{AppAddr, ClusterAddr, Scope};
use tpdocker_protocol::errno::Errno;
use tpdocker_tunnel::{Datagram, Tunnel};

use crate::icmp;
use crate::listeners::{canonical, scopes_at, socket_for};
use crate::task::OwnedTask;

/// A socket that was silent for this long is closed. RFC 4787 (REQ-5) forbids less than two minutes.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_mins(2);
/// Sockets at a time; the idlest makes room for one more. A resolver that takes a fresh port for every query may make
/// hundreds a second, and each costs a descriptor and some kernel memory.
const MAX_SOCKETS: usize = 4096;
/// The largest UDP payload fits.
const MAX_DATAGRAM: usize = 65_535;
/// Datagrams taken from one socket before the others have their turn.
const RECEIVE_BURST: usize = 64;

/// All UDP sockets of one tunnel.
#[derive(Debug)]
pub(crate) struct UdpSockets {
    tunnel: Tunnel,
    /// By the port that the app listens on.
    listening: BTreeMap<(u16, Scope), UdpEnd>,
    /// By the socket of the app.
    flows: HashMap<AppAddr, UdpEnd>,
    max_flows: usize,
}

/// One socket and the task that receives from it.
#[derive(Debug)]
struct UdpEnd {
    socket: Arc<UdpSocket>,
    last_use: Arc<LastUse>,
    task: OwnedTask,
}

/// Who the app's end of a socket is.
#[derive(Debug, Clone, Copy)]
enum Owner {
    /// One socket of the app.
    Socket(AppAddr),
    /// Whatever of the app listens on this port; told as an unspecified address of the peer's family.
    Port(u16),
}

/// Milliseconds since the process began to use datagrams; written on every one, so not behind a lock.
#[derive(Debug, Default)]
pub(crate) struct LastUse(AtomicU64);

// === impl UdpSockets ===

impl UdpSockets {
    pub(crate) fn new(tunnel: Tunnel) -> Self {
        Self { tunnel, listening: BTreeMap::new(), flows: HashMap::new(), max_flows: MAX_SOCKETS }
    }

    /// Opens a port that the app listens on; one that is open stays as it is.
    pub(crate) fn open(&mut self, port: u16, scope: Scope) -> io::Result<()> {
        if let std::collections::btree_map::Entry::Vacant(slot) = self.listening.entry((port, scope)) {
            let (socket, address) = socket_for(Type::DGRAM, Protocol::UDP, port, scope)?;
            slot.insert(UdpEnd::start(socket, address, Owner::Port(port), self.tunnel.clone())?);
        }
        Ok(())
    }

    /// Whether it is a socket of this process that has this address.
    pub(crate) fn has(&self, address: SocketAddr) -> bool {
        scopes_at(address.ip()).iter().any(|scope| self.listening.contains_key(&(address.port(), *scope)))
    }

    /// Closes the listening ports that `keep` does not name.
    pub(crate) async fn retain(&mut self, keep: impl Fn(u16, Scope) -> bool) {
        for (_, end) in self.listening.extract_if(.., |(port, scope), _| !keep(*port, *scope)) {
            end.task.stop().await;
        }
    }

    /// Sends a datagram of the app. Never waits: a full socket drops, as the network would.
    pub(crate) fn send(&mut self, datagram: &Datagram) {
        let Datagram { app, remote, payload } = datagram;
        let sent = self.end_for(*app, *remote).and_then(|end| {
            end.last_use.touch();
            send_to(&end.socket, remote.0, payload)
        });
        match sent {
            Ok(()) => (),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tracing::debug!("datagram to {} dropped", remote.0);
            }
            Err(error) => {
                tracing::debug!("datagram to {}: {error}", remote.0);
                self.tunnel.send_datagram_failed(*app, *remote, Errno::from_io(&error));
            }
        }
    }

    /// Closes what was idle for `limit`.
    pub(crate) fn sweep(&mut self, limit: Duration) {
        self.flows.retain(|_, end| end.last_use.age() < limit);
    }

    fn end_for(&mut self, app: AppAddr, remote: ClusterAddr) -> io::Result<&UdpEnd> {
        let scope = if remote.0.is_ipv4() { Scope::AnyV4 } else { Scope::AnyV6 };
        if let Some(end) = self.listening.get(&(app.0.port(), scope)) {
            return Ok(end);
        }
        if !self.flows.contains_key(&app) {
            if self.flows.len() >= self.max_flows
                && let Some(idlest) = self.flows.iter().max_by_key(|(_, end)| end.last_use.age()).map(|(app, _)| *app)
            {
                self.flows.remove(&idlest);
            }
            let any: IpAddr = if app.0.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let socket = Socket::new(Domain::for_address(app.0), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
            let end = UdpEnd::start(socket, SocketAddr::new(any, 0), Owner::Socket(app), self.tunnel.clone())?;
            self.flows.insert(app, end);
        }
        self.flows.get(&app).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// The system call itself: tokio would first have to hear from epoll that a fresh socket is writable.
fn send_to(socket: &UdpSocket, remote: SocketAddr, payload: &[u8]) -> io::Result<()> {
    let send = || SockRef::from(socket).send_to(payload, &remote.into()).map(drop);
    // The first error may be an ICMP error of an earlier datagram, which is reported from the queue.
    send().or_else(|error| if error.kind() == io::ErrorKind::WouldBlock { Err(error) } else { send() })
}

// === impl UdpEnd ===

impl UdpEnd {
    fn start(socket: Socket, address: SocketAddr, owner: Owner, tunnel: Tunnel) -> io::Result<Self> {
        icmp::enable(&socket, address.is_ipv6())?;
        socket.bind(&address.into())?;
        let socket = Arc::new(UdpSocket::from_std(socket.into())?);
        let last_use = Arc::new(LastUse::default());
        last_use.touch();
        let task = OwnedTask::spawn(receive(Arc::clone(&socket), owner, tunnel, Arc::clone(&last_use)));
        Ok(Self { socket, last_use, task })
    }
}

impl Owner {
    fn towards(self, remote: ClusterAddr) -> AppAddr {
        match self {
            Self::Socket(app) => app,
            Self::Port(port) if remote.0.is_ipv4() => AppAddr((Ipv4Addr::UNSPECIFIED, port).into()),
            Self::Port(port) => AppAddr((Ipv6Addr::UNSPECIFIED, port).into()),
        }
    }
}

async fn receive(socket: Arc<UdpSocket>, owner: Owner, tunnel: Tunnel, last_use: Arc<LastUse>) {
    loop {
        match socket.ready(Interest::READABLE | Interest::ERROR).await {
            Ok(ready) => {
                if ready.is_error() {
                    report_errors(&socket, owner, &tunnel);
                }
                if ready.is_readable() && receive_burst(&socket, owner, &tunnel) {
                    last_use.touch();
                }
            }
            Err(error) => return tracing::error!("cannot watch a UDP socket: {error}"),
        }
        tokio::task::yield_now().await;
    }
}

fn report_errors(socket: &UdpSocket, owner: Owner, tunnel: &Tunnel) {
    for _ in 0..RECEIVE_BURST {
        // Of the datagram only the address is wanted.
        match socket.try_io(Interest::ERROR, || icmp::take(socket, &mut [0])) {
            Ok(None) => (),
            Ok(Some((remote, errno))) => {
                let remote = canonical(remote);
                tunnel.send_datagram_failed(owner.towards(remote), remote, errno);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => return tracing::warn!("cannot read the error queue of a UDP socket: {error}"),
        }
    }
}

/// Whether anything was received.
fn receive_burst(socket: &UdpSocket, owner: Owner, tunnel: &Tunnel) -> bool {
    thread_local! {
        /// One per thread and not one per socket: thousands of sockets may be open.
        static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_DATAGRAM]);
    }
    let mut received = false;
    for _ in 0..RECEIVE_BURST {
        let datagram = BUFFER.with_borrow_mut(|buffer| {
            let (length, peer) = socket.try_recv_from(buffer)?;
            io::Result::Ok((Bytes::copy_from_slice(&buffer[..length]), peer))
        });
        match datagram {
            Ok((payload, peer)) => {
                received = true;
                let remote = canonical(peer);
                tunnel.send_datagram(Datagram { app: owner.towards(remote), remote, payload });
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // An ICMP error, which the queue tells in full.
            Err(_) => report_errors(socket, owner, tunnel),
        }
    }
    received
}

// === impl LastUse ===

static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

impl LastUse {
    pub(crate) fn touch(&self) {
        let now = u64::try_from(EPOCH.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.store(now, Ordering::Relaxed);
    }

    pub(crate) fn age(&self) -> Duration {
        EPOCH.elapsed().saturating_sub(Duration::from_millis(self.0.load(Ordering::Relaxed)))
    }
}
