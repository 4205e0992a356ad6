//! Which ports the app listens on, so that the proxy can listen on the same in the pod.
//!
//! The sidecar shares the app's network namespace, so the kernel's list of sockets tells. For TCP that is every socket
//! in state LISTEN. A UDP socket does not say whether it serves or asks: it counts as listening when it is bound and
//! not connected, *and* its port is not one that the kernel gives to clients (`ip_local_port_range`, ip(7)); otherwise
//! each lookup of a resolver would open a port of the pod for a moment. A UDP server with such a high port counts when
//! it is declared ([`Watch::with_declared`]).
//!
//! Sockets bound to a loopback address are the app's private matter, here as in the pod. The sidecar's own listeners
//! are bound to loopback and so not counted either.
//!
//! The kernel is asked by socket diagnostics (`sock_diag(7)`), which walks listening sockets only; where it lacks them
//! `/proc/net` has to be read, which lists every connection (`proc_pid_net(5)`).

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    time::Duration,
};

use nix::sys::socket::SockProtocol;
use tokio::time::{Interval, MissedTickBehavior};
use tpdocker_protocol::addr::{Port, Transport};

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
/// A dump comes in pieces of at most this size.
const BUFFER: usize = 64 << 10;
const EPHEMERAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// The kernel's own default.
const USUAL_EPHEMERAL: RangeInclusive<u16> = 32_768..=60_999;

/// Which sockets to look for, and how they are found.
const KINDS: [(Transport, u8, u8, [&str; 2]); 2] = [
    (Transport::Tcp, IPPROTO_TCP, STATE_LISTEN, ["tcp", "tcp6"]),
    (Transport::Udp, IPPROTO_UDP, STATE_CLOSE, ["udp", "udp6"]),
];

/// The ports on which the app listens, as they change.
#[derive(Debug)]
pub struct Watch {
    source: Source,
    buffer: Vec<u8>,
    ephemeral: RangeInclusive<u16>,
    declared: BTreeSet<Port>,
    ticks: Interval,
    last: Option<BTreeSet<Port>>,
}

#[derive(Debug)]
enum Source {
    Diagnostics(Socket),
    Proc,
}

/// A bound socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bound {
    transport: Transport,
    address: IpAddr,
    port: u16,
}

impl Watch {
    /// Looks every `interval`, in the network namespace of the calling thread, which has to be within a tokio runtime.
    /// One look takes about 0.1 ms, however many connections there are, so every 100 ms is cheap.
    pub fn new(interval: Duration) -> io::Result<Self> {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ephemeral = parse_range(&fs::read_to_string(EPHEMERAL)?).unwrap_or(USUAL_EPHEMERAL);
        let source = Source::Diagnostics(Socket::open(SockProtocol::NetlinkSockDiag)?);
        let buffer = vec![0; BUFFER];
        let mut watch = Self { source, buffer, ephemeral, declared: BTreeSet::new(), ticks, last: None };
        if let Err(error) = watch.look() {
            tracing::info!(%error, "the kernel has no socket diagnostics, reading /proc/net instead");
            watch.source = Source::Proc;
        }
        Ok(watch)
    }

    /// Ports that are known to be served: with them a UDP socket counts whatever its number.
    #[must_use]
    pub fn with_declared(mut self, ports: impl IntoIterator<Item = Port>) -> Self {
        self.declared.extend(ports);
        self
    }

    /// The first time what there is, later the next set that differs from the one before. Cancel-safe.
    pub async fn changed(&mut self) -> io::Result<BTreeSet<Port>> {
        loop {
            self.ticks.tick().await;
            let ports = self.look()?;
            if self.last.as_ref() != Some(&ports) {
                self.last = Some(ports.clone());
                return Ok(ports);
            }
        }
    }

    fn look(&mut self) -> io::Result<BTreeSet<Port>> {
        let bound = match &self.source {
            Source::Diagnostics(socket) => ask(socket, &mut self.buffer)?,
            Source::Proc => read_proc()?,
        };
        Ok(bound.into_iter().filter_map(|bound| self.announced(bound)).collect())
    }

    fn announced(&self, bound: Bound) -> Option<Port> {
        let port = Port { transport: bound.transport, number: bound.port };
        let client = bound.transport == Transport::Udp && self.ephemeral.contains(&bound.port);
        let counts = bound.port != 0 && !bound.address.to_canonical().is_loopback();
        (counts && (!client || self.declared.contains(&port))).then_some(port)
    }
}

fn parse_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_whitespace().map(str::parse);
    Some(numbers.next()?.ok()?..=numbers.next()?.ok()?)
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
    (peer_port == 0).then_some(Bound { transport, address, port })
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

/// `  0: 0100007F:1F90 00000000:0000 0A …`: addresses in 32-bit words of host byte order.
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
    Some(Bound { transport, address, port: u16::from_str_radix(port, 16).ok()? })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use proptest::prelude::*;

    use super::*;

    fn watch() -> Watch {
        Watch::new(Duration::from_millis(10)).unwrap()
    }

    fn tcp(number: u16) -> Port {
        Port { transport: Transport::Tcp, number }
    }

    #[tokio::test]
    async fn a_port_appears_when_it_is_listened_on_and_goes_when_it_is_closed() {
        let mut watch = watch();
        let before = watch.changed().await.unwrap();
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = tcp(listener.local_addr().unwrap().port());
        assert!(!before.contains(&port));
        // Other tests listen too: wait for what concerns this one.
        while !watch.changed().await.unwrap().contains(&port) {}
        let stream = TcpStream::connect(("127.0.0.1", port.number)).unwrap();
        drop(listener);
        while watch.changed().await.unwrap().contains(&port) {}
        drop(stream);
    }

    #[tokio::test]
    async fn both_sources_tell_servers_from_clients_and_from_private_sockets() {
        let public = [TcpListener::bind("0.0.0.0:0").unwrap(), TcpListener::bind("[::]:0").unwrap()];
        let private = [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("[::1]:0").unwrap()];
        let number = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let udp = |socket: &UdpSocket| Port { transport: Transport::Udp, number: socket.local_addr().unwrap().port() };
        let below_ephemeral = || (20_000..30_000).find_map(|port| UdpSocket::bind(("::", port)).ok()).unwrap();
        let (client, server, connected) = (UdpSocket::bind("0.0.0.0:0").unwrap(), below_ephemeral(), below_ephemeral());
        connected.connect("[::1]:9").unwrap();

        let by_diagnostics = watch();
        assert!(matches!(by_diagnostics.source, Source::Diagnostics(_)));
        for mut watch in [by_diagnostics, Watch { source: Source::Proc, ..watch() }] {
            let ports = watch.look().unwrap();
            assert!(public.iter().all(|listener| ports.contains(&tcp(number(listener)))));
            assert!(!private.iter().any(|listener| ports.contains(&tcp(number(listener)))));
            assert!(ports.contains(&udp(&server)));
            assert!(!ports.contains(&udp(&client)));
            assert!(!ports.contains(&udp(&connected)));
            assert!(watch.with_declared([udp(&client)]).look().unwrap().contains(&udp(&client)));
        }
    }

    proptest! {
        #[test]
        fn garbage_of_either_source_is_no_socket_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), line in ".{0,80}") {
            let _ = read_piece(&bytes, Transport::Tcp, &mut Vec::new());
            socket_of(&bytes, Transport::Udp);
            parse_line(&line, Transport::Tcp, STATE_LISTEN);
            parse_range(&line);
        }
    }

    #[test]
    fn a_line_of_proc_is_read() {
        let word = u32::from_ne_bytes([10, 1, 2, 3]);
        let line = format!("  1: {word:08X}:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0");
        let expected = Bound { transport: Transport::Tcp, address: [10, 1, 2, 3].into(), port: 8080 };
        assert_eq!(parse_line(&line, Transport::Tcp, STATE_LISTEN), Some(expected));
        assert_eq!(parse_line(&line, Transport::Tcp, STATE_CLOSE), None);
        assert_eq!(parse_range("32768\t60999\n"), Some(32_768..=60_999));
    }
}
