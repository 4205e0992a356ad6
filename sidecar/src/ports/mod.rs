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

mod sockets;

use std::{
    collections::BTreeSet,
    fs, io,
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Interval, MissedTickBehavior};
use tpdocker_protocol::addr::{Listener, Port, Scope, Transport};

pub(crate) use self::sockets::sockets_in;
use self::sockets::{Bound, Source};

const EPHEMERAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// The kernel's own default.
const USUAL_EPHEMERAL: RangeInclusive<u16> = 32_768..=60_999;

/// A socket that listens: what the proxy has to know of it, and its inode.
pub type Sockets = BTreeSet<(Listener, u32)>;

/// TCP ports of the loopback addresses on which the sidecar itself listens. One is added before it is bound, so no look
/// takes it for the app's.
#[derive(Debug, Clone, Default)]
pub struct OwnPorts(Arc<Mutex<BTreeSet<u16>>>);

/// The sockets on which the app listens, as they change.
#[derive(Debug)]
pub struct Watch {
    source: Source,
    ephemeral: RangeInclusive<u16>,
    declared: BTreeSet<Port>,
    own: OwnPorts,
    ticks: Interval,
    last: Option<Sockets>,
}

impl OwnPorts {
    /// These belong to the sidecar, too.
    pub fn add(&self, ports: impl IntoIterator<Item = u16>) {
        self.lock().extend(ports);
    }

    fn has(&self, port: u16) -> bool {
        self.lock().contains(&port)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<u16>> {
        // A set is whole after every operation.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// Looks every `interval`, in the network namespace of the calling thread, which has to be within a tokio runtime.
    /// One look takes about 0.1 ms, however many connections there are, so every 100 ms is cheap.
    pub fn new(interval: Duration) -> io::Result<Self> {
        let ticks = ticks(interval);
        let ephemeral = parse_range(&fs::read_to_string(EPHEMERAL)?).unwrap_or(USUAL_EPHEMERAL);
        let source = Source::open()?;
        Ok(Self { source, ephemeral, declared: BTreeSet::new(), own: OwnPorts::default(), ticks, last: None })
    }

    /// Leaves out the sidecar's own listeners.
    #[must_use]
    pub fn without(mut self, own: OwnPorts) -> Self {
        self.own = own;
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
        let bound = self.source.read()?;
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
        port.transport == Transport::Tcp && !self.own.has(port.number)
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

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};

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
        assert!(matches!(by_diagnostics.source, Source::Diagnostics { .. }));
        for watch in [by_diagnostics, Watch { source: Source::Proc, ..watch() }] {
            let ours = OwnPorts::default();
            ours.add([number(&own)]);
            let mut watch = watch.without(ours);
            let sockets = watch.look().unwrap();
            for (listener, expected) in &listeners {
                assert_eq!(scopes(&sockets, tcp(number(listener))), *expected, "{listener:?}");
            }
            assert!(!has(&sockets, tcp(number(&own))));
            let told = matches!(watch.source, Source::Diagnostics { .. });
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

    #[test]
    fn the_range_of_clients_is_read() {
        assert_eq!(parse_range("32768\t60999\n"), Some(32_768..=60_999));
        assert_eq!(parse_range("32768"), None);
    }
}
