//! Which sockets of the app listen, so that the proxy can listen likewise in the pod.
//!
//! The sidecar shares the app's network namespace, so the kernel's list of sockets tells. For TCP that is every socket
//! in state LISTEN. A UDP socket does not say whether it serves or asks: it counts as listening when it is bound and
//! not connected, *and* its port is not one that the kernel gives to clients (`ip_local_port_range`, ip(7)); otherwise
//! each lookup of a resolver would open a port of the pod for a moment. A UDP server with such a high port counts when
//! it is declared ([`Watch::with_declared`]).
//!
//! A TCP socket bound to 127.0.0.1 or `::1` is seen by the containers of its pod, so it counts with that scope. Other
//! loopback addresses (Docker's resolver is at 127.0.0.11), link-local ones and UDP on loopback do not count: nothing in a
//! pod refers to them. The sidecar's own listeners have to be named ([`Watch::without`]).
//!
//! A socket is known by its inode: an app that stops listening and starts again between two looks has another one.
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
use tpdocker_protocol::addr::{Listener, Port, Scope, Transport};

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
const EPHEMERAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// The kernel's own default.
const USUAL_EPHEMERAL: RangeInclusive<u16> = 32_768..=60_999;

/// Which sockets to look for, and how they are found.
const KINDS: [(Transport, u8, u8, [&str; 2]); 2] = [
    (Transport::Tcp, IPPROTO_TCP, STATE_LISTEN, ["tcp", "tcp6"]),
    (Transport::Udp, IPPROTO_UDP, STATE_CLOSE, ["udp", "udp6"]),
];

/// A socket that listens: what the proxy has to know of it, and its inode.
pub type Sockets = BTreeSet<(Listener, u32)>;

/// The sockets on which the app listens, as they change.
#[derive(Debug)]
pub struct Watch {
    source: Source,
    buffer: Vec<u8>,
    ephemeral: RangeInclusive<u16>,
    declared: BTreeSet<Port>,
    own: Option<RangeInclusive<u16>>,
    ticks: Interval,
    last: Option<Sockets>,
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
    /// Of an IPv6 socket: it does not take IPv4.
    v6_only: bool,
    inode: u32,
}

impl Watch {
    /// Looks every `interval`, in the network namespace of the calling thread, which has to be within a tokio runtime.
    /// One look takes about 0.1 ms, however many connections there are, so every 100 ms is cheap.
    pub fn new(interval: Duration) -> io::Result<Self> {
        let ticks = ticks(interval);
        let ephemeral = parse_range(&fs::read_to_string(EPHEMERAL)?).unwrap_or(USUAL_EPHEMERAL);
        let source = Source::Diagnostics(Socket::open(SockProtocol::NetlinkSockDiag)?);
        let buffer = vec![0; BUFFER];
        let mut watch = Self { source, buffer, ephemeral, declared: BTreeSet::new(), own: None, ticks, last: None };
        if let Err(error) = watch.look() {
            tracing::info!(%error, "the kernel has no socket diagnostics, reading /proc/net instead");
            watch.source = Source::Proc;
        }
        Ok(watch)
    }

    /// Leaves out the sidecar's own listeners, which have these ports of the loopback addresses.
    #[must_use]
    pub fn without(mut self, own: RangeInclusive<u16>) -> Self {
        self.own = Some(own);
        self
    }

    /// Ports that are known to be served: a UDP socket with one of them counts whatever its number.
    pub fn set_declared(&mut self, ports: impl IntoIterator<Item = Port>) {
        self.declared = ports.into_iter().collect();
    }

    /// Looks every `interval` from here on.
    pub fn set_interval(&mut self, interval: Duration) {
        if self.ticks.period() != interval {
            self.ticks = ticks(interval);
        }
    }

    /// The first time what there is, later the next set that differs from the one before. Cancel-safe.
    pub async fn changed(&mut self) -> io::Result<Sockets> {
        loop {
            self.ticks.tick().await;
            let sockets = self.look()?;
            if self.last.as_ref() != Some(&sockets) {
                self.last = Some(sockets.clone());
                return Ok(sockets);
            }
        }
    }

    fn look(&mut self) -> io::Result<Sockets> {
        let bound = match &self.source {
            Source::Diagnostics(socket) => ask(socket, &mut self.buffer)?,
            Source::Proc => read_proc()?,
        };
        let announced = |bound: Bound| {
            let scopes = self.announced(&bound);
            let port = Port { transport: bound.transport, number: bound.port };
            scopes.into_iter().flatten().map(move |scope| (Listener { port, scope }, bound.inode))
        };
        Ok(bound.into_iter().flat_map(announced).collect())
    }

    fn announced(&self, bound: &Bound) -> [Option<Scope>; 2] {
        let port = Port { transport: bound.transport, number: bound.port };
        let client = bound.transport == Transport::Udp && self.ephemeral.contains(&bound.port);
        if bound.port == 0 || (client && !self.declared.contains(&port)) {
            return [None; 2];
        }
        bound.scopes().map(|scope| scope.filter(|scope| scope.is_public() || self.is_apps_loopback(port)))
    }

    fn is_apps_loopback(&self, port: Port) -> bool {
        port.transport == Transport::Tcp && self.own.as_ref().is_none_or(|own| !own.contains(&port.number))
    }
}

impl Bound {
    fn scopes(&self) -> [Option<Scope>; 2] {
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

fn ticks(interval: Duration) -> Interval {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
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
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use proptest::prelude::*;

    use super::*;

    fn watch() -> Watch {
        Watch::new(Duration::from_millis(10)).unwrap()
    }

    fn tcp(number: u16) -> Port {
        Port { transport: Transport::Tcp, number }
    }

    fn has(sockets: &Sockets, port: Port) -> bool {
        sockets.iter().any(|(listener, _)| listener.port == port)
    }

    fn scopes(sockets: &Sockets, port: Port) -> Vec<Scope> {
        sockets.iter().filter(|(listener, _)| listener.port == port).map(|(listener, _)| listener.scope).collect()
    }

    #[tokio::test]
    async fn a_port_appears_when_it_is_listened_on_and_goes_when_it_is_closed() {
        let mut watch = watch();
        let before = watch.changed().await.unwrap();
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = tcp(listener.local_addr().unwrap().port());
        assert!(!has(&before, port));
        // Other tests listen too: wait for what concerns this one.
        while !has(&watch.changed().await.unwrap(), port) {}
        let stream = TcpStream::connect(("127.0.0.1", port.number)).unwrap();
        drop(listener);
        while has(&watch.changed().await.unwrap(), port) {}
        drop(stream);
    }

    #[tokio::test]
    async fn an_app_that_listens_anew_between_two_looks_is_noticed() {
        let mut watch = watch();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp(listener.local_addr().unwrap().port());
        let inode = |sockets: &Sockets| sockets.iter().find(|(it, _)| it.port == port).map(|(_, inode)| *inode);
        let before = inode(&watch.look().unwrap()).unwrap();
        drop(listener);
        let _again = TcpListener::bind(("127.0.0.1", port.number)).unwrap();
        assert!(inode(&watch.look().unwrap()).is_some_and(|inode| inode != before));
    }

    #[tokio::test]
    async fn both_sources_tell_servers_from_clients_and_one_scope_from_the_other() {
        let number = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let v6_only = || {
            let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
            socket.set_only_v6(true).unwrap();
            socket.bind(&std::net::SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into()).unwrap();
            socket.listen(1).unwrap();
            TcpListener::from(socket)
        };
        let bind = |address: &str| TcpListener::bind(address).unwrap();
        let listeners = [
            (bind("0.0.0.0:0"), vec![Scope::AnyV4]),
            (bind("[::]:0"), vec![Scope::AnyV4, Scope::AnyV6]),
            (bind("[::ffff:127.0.0.1]:0"), vec![Scope::LoopbackV4]),
            (bind("127.0.0.1:0"), vec![Scope::LoopbackV4]),
            (bind("[::1]:0"), vec![Scope::LoopbackV6]),
            (bind("127.0.0.11:0"), vec![]),
        ];
        let (own, v6_only) = (bind("127.0.0.1:0"), v6_only());
        let udp = |socket: &UdpSocket| Port { transport: Transport::Udp, number: socket.local_addr().unwrap().port() };
        let below_ephemeral = |ip: &str| (20_000..30_000).find_map(|port| UdpSocket::bind((ip, port)).ok()).unwrap();
        let (client, server) = (UdpSocket::bind("0.0.0.0:0").unwrap(), below_ephemeral("::"));
        let (connected, private) = (below_ephemeral("::"), below_ephemeral("127.0.0.1"));
        connected.connect("[::1]:9").unwrap();

        let by_diagnostics = watch();
        assert!(matches!(by_diagnostics.source, Source::Diagnostics(_)));
        for watch in [by_diagnostics, Watch { source: Source::Proc, ..watch() }] {
            let mut watch = watch.without(number(&own)..=number(&own));
            let sockets = watch.look().unwrap();
            for (listener, expected) in &listeners {
                assert_eq!(scopes(&sockets, tcp(number(listener))), *expected, "{listener:?}");
            }
            assert!(!has(&sockets, tcp(number(&own))));
            let told = matches!(watch.source, Source::Diagnostics(_));
            let expected = if told { vec![Scope::AnyV6] } else { vec![Scope::AnyV4, Scope::AnyV6] };
            assert_eq!(scopes(&sockets, tcp(number(&v6_only))), expected);
            assert!(has(&sockets, udp(&server)));
            for socket in [&client, &connected, &private] {
                assert!(!has(&sockets, udp(socket)), "{socket:?}");
            }
            watch.set_declared([udp(&client)]);
            assert!(has(&watch.look().unwrap(), udp(&client)));
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
        let line =
            format!("  1: {word:08X}:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1");
        let address = [10, 1, 2, 3].into();
        let expected = Bound { transport: Transport::Tcp, address, port: 8080, v6_only: false, inode: 77 };
        assert_eq!(parse_line(&line, Transport::Tcp, STATE_LISTEN), Some(expected));
        assert_eq!(parse_line(&line, Transport::Tcp, STATE_CLOSE), None);
        assert_eq!(parse_range("32768\t60999\n"), Some(32_768..=60_999));
    }
}
