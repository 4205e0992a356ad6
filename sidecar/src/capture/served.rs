//! Whether a socket of the namespace would get a packet that stays in it.
//!
//! Asked at the moment at which the packet is held, by socket diagnostics (`sock_diag(7)`): a request for exactly one
//! socket makes the kernel look as it does for an arriving packet, wildcard addresses, dual-stack sockets,
//! `SO_REUSEPORT` and connections that are being made included. That is one `sendto` and one `recv`, which wait for
//! nobody, about 2 µs together, and only for packets to an address of the namespace.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
};

use nix::{errno::Errno as OsErrno, sys::socket::SockProtocol};
use tpdocker_protocol::addr::Transport;

use super::{
    netlink::{self, REQUEST, Socket},
    queue::LOOPBACK,
};

/// `SOCK_DIAG_BY_FAMILY`
const BY_FAMILY: u16 = 20;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
/// `INET_DIAG_NOCOOKIE`, twice
const NO_COOKIE: [u8; 8] = [0xff; 8];
/// An answer is a `struct inet_diag_msg` of 72 bytes and a few small attributes.
const BUFFER: usize = 4096;

/// Asks the kernel about sockets of the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Served {
    socket: Socket,
}

impl Served {
    /// `Ok(None)` if the kernel cannot tell (it has no `tcp_diag` or `udp_diag`), which its errors do not: it says that
    /// there is no such socket. So it is asked about two that there are.
    pub(crate) fn open() -> io::Result<Option<Self>> {
        let served = Self { socket: Socket::open(SockProtocol::NetlinkSockDiag)? };
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let (tcp, udp) = (TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?);
        let works = served.look_up(Transport::Tcp, any, tcp.local_addr()?)?
            && served.look_up(Transport::Udp, any, udp.local_addr()?)?;
        Ok(works.then_some(served))
    }

    /// Whether there is a socket for a packet that goes `from` there `to` an address of the namespace.
    pub(crate) fn look_up(&self, transport: Transport, from: SocketAddr, to: SocketAddr) -> io::Result<bool> {
        self.socket.send(&request(transport, from, to))?;
        let mut buffer = [0; BUFFER];
        answer(self.socket.recv(&mut buffer)?)
    }
}

/// `struct inet_diag_req_v2`. For TCP "source" is this end's; for UDP it is the other one's, "for historical reasons"
/// as `net/ipv4/udp_diag.c` says.
fn request(transport: Transport, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let (protocol, source, destination) = match transport {
        Transport::Tcp => (IPPROTO_TCP, to, from),
        Transport::Udp => (IPPROTO_UDP, from, to),
    };
    let mut out = Vec::new();
    netlink::put_message(&mut out, BY_FAMILY, REQUEST, 0, |out| {
        out.extend([if to.is_ipv4() { AF_INET } else { AF_INET6 }, protocol, 0, 0]);
        out.extend(u32::MAX.to_ne_bytes());
        for port in [source.port(), destination.port()] {
            out.extend(port.to_be_bytes());
        }
        for address in [source.ip(), destination.ip()] {
            put_address(out, address);
        }
        out.extend(LOOPBACK.to_ne_bytes());
        out.extend(NO_COOKIE);
    });
    out
}

fn put_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => out.extend([&v4.octets()[..], &[0; 12]].concat()),
        IpAddr::V6(v6) => out.extend(v6.octets()),
    }
}

/// A socket's description, or ENOENT.
fn answer(datagram: &[u8]) -> io::Result<bool> {
    let message = netlink::messages(datagram).next().ok_or(io::ErrorKind::InvalidData)?;
    match (message.kind, message.error()) {
        (BY_FAMILY, _) => Ok(true),
        (netlink::ERROR, Some(error)) if error.raw_os_error() == Some(OsErrno::ENOENT as i32) => Ok(false),
        (netlink::ERROR, Some(error)) => Err(error),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use proptest::prelude::*;

    use super::*;

    fn served() -> Served {
        Served::open().unwrap().expect("this kernel has socket diagnostics")
    }

    #[test]
    fn listeners_are_found_at_every_address_that_they_have_and_only_there() {
        let served = served();
        let from = |ip: IpAddr| SocketAddr::new(ip, 9);
        let v4 = |last| IpAddr::from([127, 0, 0, last]);
        let v6 = IpAddr::from(Ipv6Addr::LOCALHOST);
        for (bound, found, missed) in [
            ("0.0.0.0:0", vec![v4(1), v4(2)], vec![v6]),
            ("127.0.0.2:0", vec![v4(2)], vec![v4(1), v6]),
            ("[::]:0", vec![v4(1), v6], vec![]),
            ("[::1]:0", vec![v6], vec![v4(1)]),
        ] {
            let (tcp, udp) = (TcpListener::bind(bound).unwrap(), UdpSocket::bind(bound).unwrap());
            let ports = [
                (Transport::Tcp, tcp.local_addr().unwrap().port()),
                (Transport::Udp, udp.local_addr().unwrap().port()),
            ];
            for (transport, port) in ports {
                let look_up = |ip| served.look_up(transport, from(ip), SocketAddr::new(ip, port)).unwrap();
                assert!(found.iter().all(|ip| look_up(*ip)), "{transport:?} {bound}");
                assert!(!missed.iter().any(|ip| look_up(*ip)), "{transport:?} {bound}");
            }
        }
    }

    #[test]
    fn a_udp_socket_that_is_connected_to_somebody_else_gets_nothing() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect("127.0.0.1:9").unwrap();
        let to = socket.local_addr().unwrap();
        let served = served();
        assert!(served.look_up(Transport::Udp, "127.0.0.1:9".parse().unwrap(), to).unwrap());
        assert!(!served.look_up(Transport::Udp, "127.0.0.1:10".parse().unwrap(), to).unwrap());
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = answer(&bytes);
        }
    }
}
