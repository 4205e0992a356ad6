//! The TCP ports that the app listens on, open in the pod: exactly those, on the same addresses, and as long as the
//! sidecar says.
//!
//! A dual-stack socket of the app is two here, one a family: a node without IPv6 then lacks the one and has the other, as
//! the app in the pod would.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tpdocker_protocol::addr::{ClusterAddr, Scope, Target};
use tpdocker_tunnel::{OpenError, Stream, Talk, Tunnel, splice_heard};

use crate::handover::Handover;
use crate::task::OwnedTask;
use crate::{parting, relay};

/// Connections that the kernel holds before they are accepted; the kernel lowers it to `net.core.somaxconn`, which
/// is 4096 by default. A burst must not see refusals that the app's own backlog would not have given.
const BACKLOG: i32 = 4096;
/// Pause after a failed accept, which means that descriptors ran out: trying at once would only burn the CPU.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// `Listeners` --the tunnel to use--> connections
type CurrentTunnel = watch::Receiver<Option<Tunnel>>;

/// The open TCP ports. They may outlive a tunnel.
#[derive(Debug)]
pub(crate) struct Listeners {
    /// The tunnel of the moment; who called in between waits for the next one.
    tunnel_tx: watch::Sender<Option<Tunnel>>,
    handover: Arc<Handover>,
    open: BTreeMap<(u16, Scope), OwnedTask>,
}

impl Listeners {
    pub(crate) fn new(handover: Arc<Handover>) -> Self {
        Self { tunnel_tx: watch::Sender::default(), handover, open: BTreeMap::new() }
    }

    /// From now on connections go through this tunnel, or through none.
    pub(crate) fn follow(&self, tunnel: Option<Tunnel>) {
        self.tunnel_tx.send_replace(tunnel);
    }

    /// Opens a port; one that is open stays as it is.
    pub(crate) fn open(&mut self, port: u16, scope: Scope) -> io::Result<()> {
        if let std::collections::btree_map::Entry::Vacant(slot) = self.open.entry((port, scope)) {
            let listener = listen(port, scope)?;
            slot.insert(OwnedTask::spawn(accept(
                listener,
                port,
                self.tunnel_tx.subscribe(),
                Arc::clone(&self.handover),
            )));
        }
        Ok(())
    }

    /// Whether it is a socket of this process that has this address.
    pub(crate) fn has(&self, address: SocketAddr) -> bool {
        scopes_at(address.ip()).iter().any(|scope| self.open.contains_key(&(address.port(), *scope)))
    }

    /// Closes the ports that `keep` does not name; connections that were accepted live on.
    pub(crate) async fn retain(&mut self, keep: impl Fn(u16, Scope) -> bool) {
        for (_, task) in self.open.extract_if(.., |(port, scope), _| !keep(*port, *scope)) {
            task.stop().await;
        }
    }
}

fn listen(port: u16, scope: Scope) -> io::Result<TcpListener> {
    let (socket, address) = socket_for(Type::STREAM, Protocol::TCP, port, scope)?;
    // Connections of an earlier listener that are in TIME_WAIT do not keep the port.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// The scopes of sockets that a connection to this address of the pod would reach.
pub(crate) fn scopes_at(ip: IpAddr) -> &'static [Scope] {
    let inside = ip.is_loopback() || ip.is_unspecified();
    match (ip.is_ipv4(), inside) {
        (true, true) => &[Scope::AnyV4, Scope::LoopbackV4],
        (true, false) => &[Scope::AnyV4],
        (false, true) => &[Scope::AnyV6, Scope::LoopbackV6],
        (false, false) => &[Scope::AnyV6],
    }
}

/// A non-blocking socket of one family, and the address of the pod that it is to be bound to.
pub(crate) fn socket_for(kind: Type, protocol: Protocol, port: u16, scope: Scope) -> io::Result<(Socket, SocketAddr)> {
    let ip: IpAddr = match scope {
        Scope::AnyV4 => Ipv4Addr::UNSPECIFIED.into(),
        Scope::AnyV6 => Ipv6Addr::UNSPECIFIED.into(),
        Scope::LoopbackV4 => Ipv4Addr::LOCALHOST.into(),
        Scope::LoopbackV6 => Ipv6Addr::LOCALHOST.into(),
    };
    let address = SocketAddr::new(ip, port);
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking(), Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok((socket, address))
}

/// An address as IPv4 when it is one, however it was written.
pub(crate) fn canonical(address: SocketAddr) -> ClusterAddr {
    ClusterAddr(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

async fn accept(listener: TcpListener, port: u16, tunnel_rx: CurrentTunnel, handover: Arc<Handover>) {
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => {
                handover.called();
                tokio::spawn(deliver(tunnel_rx.clone(), Arc::clone(&handover), port, canonical(peer), socket));
            }
            Err(error) => {
                tracing::warn!("cannot accept on port {port}: {error}");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

async fn deliver(
    mut tunnel_rx: CurrentTunnel,
    handover: Arc<Handover>,
    port: u16,
    peer: ClusterAddr,
    mut socket: TcpStream,
) {
    let _counted = handover.counted();
    let stream = loop {
        tokio::select! {
            biased;
            // Whoever still waits for the app is the original's, unless the app comes back before.
            () = handover.begun() => match handover.pass_on(port, socket).await {
                Some(back) => socket = back,
                None => return,
            },
            opened = open(&mut tunnel_rx, Target::Deliver { port, peer }) => break opened,
        }
    };
    match stream {
        Ok(stream) => {
            let talk = Talk::default();
            let mut splicing = pin!(splice_heard(stream, &socket, &talk));
            let report = tokio::select! {
                report = &mut splicing => report,
                () = parting::over(&talk, handover.leaving()) => {
                    // An end for the caller, and for the app, which ends its side in turn.
                    talk.end();
                    parting::end(&socket);
                    splicing.await
                }
            };
            tracing::debug!("connection from {} to port {port}: {report:?}", peer.0);
        }
        Err(why) => {
            tracing::debug!("connection from {} to port {port}: {why}", peer.0);
            // The caller sees a reset and not an orderly end: nobody has answered it.
            relay::reset(&socket);
        }
    }
}

/// Opens a stream through the tunnel of the moment. When that ends before there was an answer, the app has not been
/// asked, or has heard nothing: the next one is tried. Fails when there will be none.
async fn open(tunnel_rx: &mut CurrentTunnel, target: Target) -> Result<Stream, String> {
    loop {
        let Some(tunnel) = tunnel_rx.wait_for(Option::is_some).await.map_err(|_| "no tunnel any more")?.clone() else {
            continue;
        };
        match tunnel.open(target).await {
            Ok(stream) => return Ok(stream),
            Err(OpenError::Refused(errno)) => return Err(errno.to_string()),
            // Its session tells in a moment what comes after it.
            Err(OpenError::Closed(_)) => tunnel_rx.changed().await.map_err(|_| "the tunnel has ended")?,
        }
    }
}
