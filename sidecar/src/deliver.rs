//! What the cluster sends, handed to the app.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::sys::socket::SockaddrIn6;
use tokio::net::TcpStream;
use tpdocker_protocol::addr::{AppAddr, Target};
use tpdocker_protocol::errno::Errno;
use tpdocker_tunnel::{Pending, splice};

/// Connects somebody in the cluster with the app.
pub(crate) async fn connection(pending: Pending) {
    let Target::Deliver { port, peer } = pending.target() else {
        tracing::warn!("a proxy asked a sidecar to dial");
        pending.refuse(Errno::EPERM);
        return;
    };
    match connect(port).await {
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

/// The app may listen on one address only, so all of the namespace are tried, the likeliest first. All of them are
/// this machine's, where a refusal comes at once.
async fn connect(port: u16) -> Result<TcpStream, Errno> {
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    for ip in loopback.into_iter().chain(own_addresses()) {
        match TcpStream::connect(SocketAddr::new(ip, port)).await {
            Ok(socket) => return Ok(socket),
            Err(error) if is_elsewhere(error.kind()) => (),
            Err(error) => return Err(Errno::from_io(&error)),
        }
    }
    Err(Errno::ECONNREFUSED)
}

/// Nobody listens on this address, or the namespace does not have it (no IPv6, for example).
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

/// Addresses of the namespace's interfaces, in the kernel's order, without loopback and without link-local ones, which
/// mean nothing without their interface.
fn own_addresses() -> Vec<IpAddr> {
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
        v4.or(v6).filter(|ip| !ip.is_loopback())
    };
    interfaces.filter_map(address).collect()
}
