//! The TCP ports that the app listens on, open in the pod: exactly those, and only while it does.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tpdocker_protocol::addr::{ClusterAddr, Target};
use tpdocker_tunnel::{Tunnel, splice};

use crate::task::OwnedTask;

/// Connections that the kernel holds before they are accepted; the kernel lowers it to `net.core.somaxconn`, which
/// is 4096 by default. A burst must not see refusals that the app's own backlog would not have given.
const BACKLOG: i32 = 4096;
/// Pause after a failed accept, which means that descriptors ran out: trying at once would only burn the CPU.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// The open TCP ports.
#[derive(Debug)]
pub(crate) struct Listeners {
    tunnel: Tunnel,
    open: BTreeMap<u16, OwnedTask>,
}

impl Listeners {
    pub(crate) fn new(tunnel: Tunnel) -> Self {
        Self { tunnel, open: BTreeMap::new() }
    }

    /// Opens a port; one that is open stays as it is.
    pub(crate) fn open(&mut self, port: u16) -> io::Result<()> {
        if let std::collections::btree_map::Entry::Vacant(slot) = self.open.entry(port) {
            let listener = listen(port)?;
            slot.insert(OwnedTask::spawn(accept(listener, port, self.tunnel.clone())));
        }
        Ok(())
    }

    /// Whether the app's port is open here.
    pub(crate) fn has(&self, port: u16) -> bool {
        self.open.contains_key(&port)
    }

    /// Closes the ports that `keep` does not name; connections that were accepted live on.
    pub(crate) async fn retain(&mut self, keep: impl Fn(u16) -> bool) {
        for (_, task) in self.open.extract_if(.., |port, _| !keep(*port)) {
            task.stop().await;
        }
    }
}

/// A listener on every address of the pod.
fn listen(port: u16) -> io::Result<TcpListener> {
    let (socket, address) = any_address(Type::STREAM, Protocol::TCP, port)?;
    // Connections of an earlier listener that are in TIME_WAIT do not keep the port.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// A non-blocking socket and the address that means all addresses of the pod: both families where the node has IPv6.
pub(crate) fn any_address(kind: Type, protocol: Protocol, port: u16) -> io::Result<(Socket, SocketAddr)> {
    let dual_stack = || {
        let socket = Socket::new(Domain::IPV6, kind.nonblocking(), Some(protocol))?;
        socket.set_only_v6(false)?;
        // Nodes with `disable_ipv6` have the family but no address of it; port 0 asks without taking anything.
        let probe = Socket::new(Domain::IPV6, kind, Some(protocol))?;
        probe.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into())?;
        io::Result::Ok((socket, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))))
    };
    dual_stack().or_else(|_| {
        let socket = Socket::new(Domain::IPV4, kind.nonblocking(), Some(protocol))?;
        Ok((socket, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))))
    })
}

/// An address as IPv4 when it is one, which a dual-stack socket hides.
pub(crate) fn canonical(address: SocketAddr) -> ClusterAddr {
    ClusterAddr(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

async fn accept(listener: TcpListener, port: u16, tunnel: Tunnel) {
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => {
                tokio::spawn(deliver(tunnel.clone(), port, canonical(peer), socket));
            }
            Err(error) => {
                tracing::warn!("cannot accept on port {port}: {error}");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

async fn deliver(tunnel: Tunnel, port: u16, peer: ClusterAddr, socket: TcpStream) {
    match tunnel.open(Target::Deliver { port, peer }).await {
        Ok(stream) => {
            let report = splice(stream, socket).await;
            tracing::debug!("connection from {} to port {port}: {report:?}", peer.0);
        }
        Err(error) => {
            tracing::debug!("connection from {} to port {port}: {error}", peer.0);
            // The caller sees a reset and not an orderly end: nobody has answered it.
            if let Err(error) = socket.set_zero_linger() {
                tracing::debug!("{} had left: {error}", peer.0);
            }
        }
    }
}
