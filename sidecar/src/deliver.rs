//! What the cluster sends, handed to the app.
//!
//! A connection that finds nobody listening is not refused at once when the app is being restarted: it waits
//! ([`crate::hold`]), and is handed over when the app listens again.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use nix::sys::socket::SockaddrIn6;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout_at;
use tpdocker_protocol::addr::{AppAddr, Target};
use tpdocker_protocol::errno::Errno;
use tpdocker_tunnel::{Pending, splice};

use crate::callers::Callers;
use crate::hold::Hold;

/// Connections that wait for the app at a time; one more is refused. A second of a busy service, and a tenth of the
/// streams that a tunnel may have open.
const MAX_HELD: usize = 1536;

/// The way to the app.
#[derive(Debug)]
pub(crate) struct Delivery {
    callers: Callers,
    hold_rx: watch::Receiver<Hold>,
    places: Arc<Semaphore>,
}

impl Delivery {
    pub(crate) fn new(callers: Callers, hold_rx: watch::Receiver<Hold>) -> Self {
        Self { callers, hold_rx, places: Arc::new(Semaphore::new(MAX_HELD)) }
    }

    /// Finds out whether the app can see its callers' addresses, and says why not.
    pub(crate) async fn trial(&self) -> Option<String> {
        let addresses = own_addresses();
        self.callers.trial(&addresses).await
    }

    /// Connects somebody in the cluster with the app.
    pub(crate) async fn connection(&self, pending: Pending) {
        let Target::Deliver { port, peer } = pending.target() else {
            tracing::warn!("a proxy asked a sidecar to dial");
            pending.refuse(Errno::EPERM);
            return;
        };
        let reached = tokio::select! {
            reached = self.reach(port, peer.0) => reached,
            () = pending.cancelled() => return tracing::debug!("{} gave up its connection to port {port}", peer.0),
        };
        match reached {
            Ok(socket) => {
                let report = splice(pending.accept(), socket).await;
                tracing::debug!("connection from {} to port {port}: {report:?}", peer.0);
            }
            Err(errno) => {
                tracing::debug!("connection from {} to port {port}: {errno}", peer.0);
                pending.refuse(errno);
            }
        }
    }

    async fn reach(&self, port: u16, caller: SocketAddr) -> Result<TcpStream, Errno> {
        let arrived = Instant::now();
        let mut hold_rx = self.hold_rx.clone();
        let mut place = None;
        loop {
            // What changes from here on may be the app that listens again.
            hold_rx.mark_unchanged();
            match self.connect(port, caller).await {
                Err(Errno::ECONNREFUSED) => (),
                reached => return reached,
            }
            let deadline = hold_rx.borrow().deadline(port, arrived).ok_or(Errno::ECONNREFUSED)?;
            if place.is_none() {
                place = Some(self.places.try_acquire().map_err(|_| Errno::ECONNREFUSED)?);
                tracing::debug!("the connection from {caller} waits for the app to listen on port {port}");
            }
            match timeout_at(deadline.into(), hold_rx.changed()).await {
                Ok(Ok(())) => (),
                Ok(Err(_)) | Err(_) => return Err(Errno::ECONNREFUSED),
            }
        }
    }

    /// The app may listen on one address only, so all are tried that the caller could mean. All of them are this
    /// machine's, where a refusal comes at once.
    async fn connect(&self, port: u16, caller: SocketAddr) -> Result<TcpStream, Errno> {
        for ip in candidates(caller.ip().to_canonical(), &own_addresses()) {
            match self.callers.connect(caller, SocketAddr::new(ip, port)).await {
                Ok(socket) => return Ok(socket),
                Err(error) if is_elsewhere(error.kind()) => (),
                Err(error) => return Err(Errno::from_io(&error)),
            }
        }
        Err(Errno::ECONNREFUSED)
    }
}

/// Where a caller of the pod arrives: at its loopback from within the pod, else at an address of the caller's family. A
/// namespace without one (no IPv6, say) has its loopback left.
fn candidates(caller: IpAddr, own: &[IpAddr]) -> Vec<IpAddr> {
    let [v4, v6] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let loopback = if caller.is_ipv4() { v4 } else { v6 };
    let same: Vec<_> = own.iter().copied().filter(|ip| ip.is_ipv4() == caller.is_ipv4()).collect();
    match (caller.is_loopback(), same.is_empty()) {
        (true, _) => vec![loopback],
        (false, false) => same,
        (false, true) => vec![loopback, if caller.is_ipv4() { v6 } else { v4 }],
    }
}

/// Nobody listens on this address, or the namespace does not have it.
fn is_elsewhere(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionRefused
            | ErrorKind::AddrNotAvailable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::HostUnreachable
    )
}

/// The socket of the app that is meant by an address of the tunnel: the proxy does not know the addresses of this
/// namespace, and names a port that the app listens on with an unspecified one.
pub(crate) fn resolve(app: AppAddr) -> AppAddr {
    if !app.0.ip().is_unspecified() {
        return app;
    }
    let v4 = app.0.is_ipv4();
    let loopback = if v4 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    let ip = own_addresses().into_iter().find(|ip| ip.is_ipv4() == v4).unwrap_or(loopback);
    AppAddr(SocketAddr::new(ip, app.0.port()))
}

/// Addresses of the namespace's interfaces, without loopback and without link-local ones, which mean nothing without
/// their interface. Those of the loopback interface come first: they are the pod's, put there for the app to have.
pub(crate) fn own_addresses() -> Vec<IpAddr> {
    let interfaces = match nix::ifaddrs::getifaddrs() {
        Ok(interfaces) => interfaces,
        Err(errno) => {
            tracing::warn!("cannot list the namespace's addresses: {errno}");
            return Vec::new();
        }
    };
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        let v6 =
            address.as_sockaddr_in6().map(SockaddrIn6::ip).filter(|ip| !ip.is_unicast_link_local()).map(IpAddr::V6);
        let ip = v4.or(v6).filter(|ip| !ip.is_loopback())?;
        Some((interface.interface_name != "lo", ip))
    };
    let mut addresses: Vec<_> = interfaces.filter_map(address).collect();
    // Stable: otherwise in the kernel's order.
    addresses.sort_by_key(|(elsewhere, _)| *elsewhere);
    addresses.into_iter().map(|(_, ip)| ip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_arrives_at_an_address_that_it_could_have_meant() {
        let [pod, container, v6]: [IpAddr; 3] = ["10.244.0.7", "172.17.0.2", "fd00::7"].map(|ip| ip.parse().unwrap());
        let [localhost, localhost6]: [IpAddr; 2] = ["127.0.0.1", "::1"].map(|ip| ip.parse().unwrap());
        let caller = |ip: &str| ip.parse().unwrap();
        assert_eq!(candidates(caller("10.244.0.5"), &[pod, container, v6]), [pod, container]);
        assert_eq!(candidates(caller("fd00::5"), &[pod, container, v6]), [v6]);
        assert_eq!(candidates(caller("fd00::5"), &[pod]), [localhost6, localhost]);
        assert_eq!(candidates(localhost, &[pod, v6]), [localhost]);
        assert_eq!(candidates(localhost6, &[pod]), [localhost6]);
    }
}
