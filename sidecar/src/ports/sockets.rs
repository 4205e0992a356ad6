//! The bound sockets of the namespace, as the kernel tells them.
//!
//! It is asked by socket diagnostics (`sock_diag(7)`), which walks listening sockets only; where it lacks them `/proc/net`
//! has to be read, which lists every connection (`proc_pid_net(5)`).

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use nix::sys::socket::SockProtocol;
use tpdocker_protocol::addr::{Scope, Transport};

use crate::capture::netlink::{self, DUMP, REQUEST, Socket};

/// `SOCK_DIAG_BY_FAMILY`
const BY_FAMILY: u16 = 20;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
/// `TCP_LISTEN`
const STATE_LISTEN: u8 = 10;
/// `TCP_CLOSE`: of a UDP socket that is not connected.
const STATE_CLOSE: u8 = 7;
/// `struct inet_diag_sockid` in a request: anything.
const ANY_SOCKET: [u8; 48] = [0; 48];
/// `struct inet_diag_msg`, after which attributes follow.
const DIAG_MESSAGE: usize = 72;
/// `INET_DIAG_SKV6ONLY`: of an IPv6 socket, one byte.
const V6_ONLY: u16 = 11;
/// A dump comes in pieces of at most this size.
const BUFFER: usize = 64 << 10;

/// Which sockets to look for, and how they are found.
const KINDS: [(Transport, u8, u8, [&str; 2]); 2] = [
    (Transport::Tcp, IPPROTO_TCP, STATE_LISTEN, ["tcp", "tcp6"]),
    (Transport::Udp, IPPROTO_UDP, STATE_CLOSE, ["udp", "udp6"]),
];

/// How the kernel tells.
#[derive(Debug)]
pub(super) enum Source {
    Diagnostics { socket: Socket, buffer: Vec<u8> },
    Proc,
}

/// A bound socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) transport: Transport,
    address: IpAddr,
    pub(super) port: u16,
    /// Of an IPv6 socket: it does not take IPv4.
    v6_only: bool,
    pub(super) inode: u32,
}

impl Source {
    /// The better one that works.
    pub(super) fn open() -> io::Result<Self> {
        let socket = Socket::open(SockProtocol::NetlinkSockDiag)?;
        let mut source = Self::Diagnostics { socket, buffer: vec![0; BUFFER] };
        if let Err(error) = source.read() {
            tracing::info!(%error, "the kernel has no socket diagnostics, reading /proc/net instead");
            source = Self::Proc;
        }
        Ok(source)
    }

    /// TCP sockets that listen, and UDP sockets that are not connected.
    pub(super) fn read(&mut self) -> io::Result<Vec<Bound>> {
        match self {
            Self::Diagnostics { socket, buffer } => ask(socket, buffer),
            Self::Proc => read_proc(),
        }
    }
}

impl Bound {
    pub(super) fn scopes(&self) -> [Option<Scope>; 2] {
        let scope = match self.address.to_canonical() {
            IpAddr::V6(ip) if ip.is_unspecified() && !self.v6_only => return [Some(Scope::AnyV6), Some(Scope::AnyV4)],
            IpAddr::V6(Ipv6Addr::LOCALHOST) => Some(Scope::LoopbackV6),
            IpAddr::V6(ip) => (!ip.is_unicast_link_local() && !ip.is_multicast()).then_some(Scope::AnyV6),
            IpAddr::V4(Ipv4Addr::LOCALHOST) => Some(Scope::LoopbackV4),
            IpAddr::V4(ip) => (!ip.is_loopback() && !ip.is_multicast()).then_some(Scope::AnyV4),
        };
        [scope, None]
    }
}

// === socket diagnostics ===

fn ask(socket: &Socket, buffer: &mut [u8]) -> io::Result<Vec<Bound>> {
    let mut bound = Vec::new();
    for (transport, protocol, state, _) in KINDS {
        for family in [AF_INET, AF_INET6] {
            socket.send(&request(family, protocol, state))?;
            while !read_piece(socket.recv(buffer)?, transport, &mut bound)? {}
        }
    }
    Ok(bound)
}

/// `struct inet_diag_req_v2`
fn request(family: u8, protocol: u8, state: u8) -> Vec<u8> {
    let mut out = Vec::new();
    netlink::put_message(&mut out, BY_FAMILY, REQUEST | DUMP, 0, |out| {
        out.extend([family, protocol, 0, 0]);
        out.extend((1_u32 << state).to_ne_bytes());
        out.extend(ANY_SOCKET);
    });
    out
}

/// True if it was the last one.
fn read_piece(datagram: &[u8], transport: Transport, bound: &mut Vec<Bound>) -> io::Result<bool> {
    for message in netlink::messages(datagram) {
        match message.kind {
            netlink::DONE => return Ok(true),
            netlink::ERROR => return message.error().map_or(Ok(true), Err),
            BY_FAMILY => bound.extend(socket_of(message.body, transport)),
            _ => {}
        }
    }
    Ok(false)
}

/// `struct inet_diag_msg`; connected sockets are left out.
fn socket_of(body: &[u8], transport: Transport) -> Option<Bound> {
    let family = *body.first()?;
    let [port, peer_port] =
        [body.get(4..6)?, body.get(6..8)?].map(|bytes| bytes.try_into().map_or(0, u16::from_be_bytes));
    let address: [u8; 16] = *body.get(8..)?.first_chunk()?;
    let address = match family {
        AF_INET => Ipv4Addr::from(*address.first_chunk()?).into(),
        _ => Ipv6Addr::from(address).into(),
    };
    let inode = u32::from_ne_bytes(*body.get(DIAG_MESSAGE - 4..)?.first_chunk()?);
    let v6_only = netlink::attributes(&body[DIAG_MESSAGE..]).any(|(kind, value)| kind == V6_ONLY && value == [1]);
    (peer_port == 0).then_some(Bound { transport, address, port, v6_only, inode })
}

/// How many sockets a datagram of anybody tells of: for the fuzz target.
pub(crate) fn sockets_in(datagram: &[u8]) -> usize {
    let mut bound = Vec::new();
    let _whatever = read_piece(datagram, Transport::Tcp, &mut bound);
    bound.len()
}

// === /proc ===

fn read_proc() -> io::Result<Vec<Bound>> {
    let mut bound = Vec::new();
    for (transport, _, state, tables) in KINDS {
        for table in tables {
            match fs::read_to_string(format!("/proc/thread-self/net/{table}")) {
                Ok(text) => bound.extend(text.lines().filter_map(|line| parse_line(line, transport, state))),
                // Without IPv6 there is no such table.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(bound)
}

/// `  0: 0100007F:1F90 00000000:0000 0A … uid timeout inode`: addresses in 32-bit words of host byte order. Whether an
/// IPv6 socket takes IPv4 as well is not told; most do.
fn parse_line(line: &str, transport: Transport, state: u8) -> Option<Bound> {
    let mut columns = line.split_whitespace().skip(1);
    let (address, port) = columns.next()?.split_once(':')?;
    let (_, peer_port) = columns.next()?.split_once(':')?;
    if u8::from_str_radix(columns.next()?, 16).ok()? != state || peer_port != "0000" {
        return None;
    }
    let mut octets = Vec::with_capacity(16);
    for word in address.as_bytes().chunks(8) {
        octets.extend(u32::from_str_radix(str::from_utf8(word).ok()?, 16).ok()?.to_ne_bytes());
    }
    let address = match octets.len() {
        4 => Ipv4Addr::from(*octets.first_chunk()?).into(),
        16 => Ipv6Addr::from(*octets.first_chunk()?).into(),
        _ => return None,
    };
    // Behind the state: queues, timer, retransmissions, uid, timeout.
    let inode = columns.nth(5)?.parse().ok()?;
    Some(Bound { transport, address, port: u16::from_str_radix(port, 16).ok()?, v6_only: false, inode })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn garbage_of_either_source_is_no_socket_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), line in ".{0,80}") {
            let _ = read_piece(&bytes, Transport::Tcp, &mut Vec::new());
            socket_of(&bytes, Transport::Udp);
            parse_line(&line, Transport::Tcp, STATE_LISTEN);
        }
    }

    #[test]
    fn a_line_of_proc_is_read() {
        let word = u32::from_ne_bytes([10, 1, 2, 3]);
        let line =
            format!("  1: {word:08X}:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1");
        let address = [10, 1, 2, 3].into();
        let expected = Bound { transport: Transport::Tcp, address, port: 8080, v6_only: false, inode: 77 };
        assert_eq!(parse_line(&line, Transport::Tcp, STATE_LISTEN), Some(expected));
        assert_eq!(parse_line(&line, Transport::Tcp, STATE_CLOSE), None);
    }
}
