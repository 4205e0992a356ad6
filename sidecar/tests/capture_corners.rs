//! What the ruleset's description promises beyond the common ways of an app: in real network namespaces.

#[expect(dead_code, reason = "each program of tests uses a part")]
mod support;

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use support::{
    APP4, APP6, CLUSTER4, CLUSTER6, Lab, Namespace, PATIENCE, PEER4, cluster,
    relay::{self, Relay},
    skip,
};
use tpdocker_protocol::addr::{AppAddr, ClusterAddr};
use tpdocker_sidecar::capture::{Capture, CaptureConfig, Ipv6};

fn greeting(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn set_sysctl(namespace: &Namespace, name: &'static str, value: &'static str) {
    namespace.run(move || std::fs::write(format!("/proc/sys/net/{name}"), value).unwrap());
}

/// Every frame that the app's namespace sends, neighbour discovery and all.
fn tap(lab: &Lab) -> Socket {
    // ETH_P_ALL
    let all = Protocol::from(i32::from(3_u16.to_be()));
    let socket = lab.peer.run(move || Socket::new(Domain::PACKET, Type::RAW, Some(all)).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Waits until the tap sees an IP packet of which this is true.
fn wait_for(tap: &mut Socket, what: &str, wanted: impl Fn(&[u8]) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    let mut buffer = vec![0; 1 << 16];
    while Instant::now() < deadline {
        match tap.read(&mut buffer) {
            Ok(length) if wanted(buffer.get(14..length).unwrap_or_default()) => return,
            Ok(_) => {}
            // A socket with a time-out is not restarted after the process was stopped or frozen (signal(7)).
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("never seen: {what}");
}

#[test]
fn the_app_reaches_itself_at_its_own_addresses_with_a_sidecar_and_without() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    let relay = Relay::start(&lab.app, CaptureConfig::default());
    let talk = || {
        for address in [APP4, APP6, "127.0.0.1", "::1"] {
            lab.app.run(move || {
                let listener = TcpListener::bind((address, 0)).unwrap();
                let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let (mut server, from) = listener.accept().unwrap();
                assert_eq!(from.ip().to_string(), address, "the app's own address is the source");
                client.write_all(b"to itself").unwrap();
                let mut buffer = [0; 9];
                server.read_exact(&mut buffer).unwrap();
                let [one, other] = [(); 2].map(|()| UdpSocket::bind((address, 0)).unwrap());
                other.set_read_timeout(Some(PATIENCE)).unwrap();
                one.send_to(b"datagram", other.local_addr().unwrap()).unwrap();
                assert_eq!(other.recv_from(&mut buffer).unwrap(), (8, one.local_addr().unwrap()));
            });
        }
    };
    talk();
    assert!(relay.syns.lock().unwrap().is_empty());
    // The rules stay.
    drop(relay);
    talk();
}

#[test]
fn a_dual_stack_socket_that_asks_for_ipv4_is_captured_as_ipv4() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    let relay = Relay::start(&lab.app, CaptureConfig::default());
    let SocketAddr::V4(to) = cluster(CLUSTER4, relay::ACCEPTED, 80) else { panic!("an IPv4 address") };
    let mapped = SocketAddr::from((to.ip().to_ipv6_mapped(), to.port()));
    lab.app.run(move || {
        let stream = TcpStream::connect(mapped).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), mapped);
        assert!(greeting(stream).ends_with(&to.to_string()));
        let socket = UdpSocket::bind("[::]:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let resolver = SocketAddr::from((Ipv4Addr::new(10, 96, 0, 10).to_ipv6_mapped(), 53));
        socket.send_to(b"question", resolver).unwrap();
        assert_eq!(socket.recv_from(&mut [0; 16]).unwrap(), (8, resolver));
    });
    assert_eq!(relay.syns_to(to.into()), 1);
}

#[test]
fn a_socket_that_chose_its_own_address_and_port_keeps_them() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    let _relay = Relay::start(&lab.app, CaptureConfig::default());
    for (address, prefix) in [(APP4, CLUSTER4), (APP6, CLUSTER6)] {
        let to = cluster(prefix, relay::ACCEPTED, 80);
        lab.app.run(move || {
            let own = SocketAddr::new(address.parse().unwrap(), 4321);
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
            socket.bind(&own.into()).unwrap();
            socket.connect(&to.into()).unwrap();
            let stream = TcpStream::from(socket);
            assert_eq!((stream.local_addr().unwrap(), stream.peer_addr().unwrap()), (own, to));
            assert_eq!(greeting(stream), format!("{own} {to}"));
        });
    }
}

#[test]
fn a_syn_with_congestion_notification_or_fast_open_is_held_like_any_other() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    // SYN, ECE and CWR: RFC 3168.
    set_sysctl(&lab.app, "ipv4/tcp_ecn", "1");
    let relay = Relay::start(&lab.app, CaptureConfig::default());
    for prefix in [CLUSTER4, CLUSTER6] {
        let to = cluster(prefix, relay::ACCEPTED, 80);
        lab.app.run(move || assert!(greeting(TcpStream::connect(to).unwrap()).ends_with(&to.to_string())));
        let refused = cluster(prefix, relay::REFUSED, 80);
        let error = lab.app.run(move || TcpStream::connect(refused).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        // RFC 7413; with this option `connect` answers at once and the SYN goes with the first bytes.
        lab.app.run(move || {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
            setsockopt(&socket, sockopt::TcpFastOpenConnect, &true).unwrap();
            socket.connect(&to.into()).unwrap();
            let mut stream = TcpStream::from(socket);
            stream.write_all(b"GET /").unwrap();
            let mut text = [0; 8];
            stream.read_exact(&mut text).unwrap();
        });
        assert_eq!(relay.syns_to(to), 2);
    }
}

#[test]
fn tcp_segments_that_belong_to_no_connection_stay_in_the_namespace() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    let mut sniffer = lab.sniff();
    let relay = Relay::start(&lab.app, CaptureConfig::default());
    // Nothing, FIN, RST, PSH, ACK, SYN+ACK, FIN+PSH+URG, and everything.
    for flags in [0, 1, 4, 8, 16, 18, 41, 0xff_u8] {
        lab.app.run(move || {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP)).unwrap();
            let segment = [3, 232, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 255, 255, 0, 0, 0, 0];
            for to in [cluster(CLUSTER4, relay::ACCEPTED, 0), SocketAddr::new(PEER4.parse().unwrap(), 0)] {
                let sent = socket.send_to(&segment, &SockAddr::from(to));
                // The kernel tells a sender whose packet a rule drops.
                assert!(sent.is_ok() || sent.unwrap_err().kind() == ErrorKind::PermissionDenied, "{flags:#x}");
            }
        });
    }
    lab.barrier();
    assert_eq!(sniffer.packets(), Vec::<Vec<u8>>::new());
    assert!(relay.syns.lock().unwrap().is_empty(), "none of them is a SYN");
}

#[test]
fn multicast_and_broadcast_stay_in_the_namespace() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    let mut sniffer = lab.sniff();
    let _relay = Relay::start(&lab.app, CaptureConfig::default());
    lab.app.run(|| {
        let v4 = UdpSocket::bind("0.0.0.0:0").unwrap();
        v4.set_broadcast(true).unwrap();
        // Multicast DNS, link-local name resolution, the whole link, and the network of the interface.
        for to in ["224.0.0.251:5353", "224.0.0.252:5355", "255.255.255.255:67", "172.31.9.255:137"] {
            v4.send_to(b"anybody?", to).unwrap();
        }
        // Joining sends IGMP.
        v4.join_multicast_v4(&Ipv4Addr::new(239, 1, 2, 3), &APP4.parse().unwrap()).unwrap();
        let v6 = UdpSocket::bind("[::]:0").unwrap();
        let to = SocketAddrV6::new("ff02::fb".parse().unwrap(), 5353, 0, index("v0"));
        v6.send_to(b"anybody?", to).unwrap();
    });
    lab.barrier();
    assert_eq!(sniffer.packets(), Vec::<Vec<u8>>::new());
}

/// Of an interface of the calling thread's namespace.
fn index(interface: &str) -> u32 {
    nix::net::if_::if_nametoindex(interface).unwrap()
}

#[test]
fn ipv6_neighbours_are_found_and_multicast_groups_are_told_to_the_link() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    let _relay = Relay::start(&lab.app, CaptureConfig::default());
    let mut tap = tap(&lab);
    // Without its neighbour's hardware address the app cannot answer who connects: RFC 4861.
    lab.app.ip("-6 neigh flush dev v0");
    let listener = lab.app.run(|| TcpListener::bind(("::", 8080)).unwrap());
    lab.peer.run(|| TcpStream::connect((APP6, 8080)).unwrap());
    listener.accept().unwrap();
    // RFC 3810: a report has a hop-by-hop header of eight bytes.
    let group: Ipv6Addr = "ff15::77".parse().unwrap();
    let joined = lab.app.run(move || {
        let socket = UdpSocket::bind("[::]:0").unwrap();
        socket.join_multicast_v6(&group, index("v0")).unwrap();
        socket
    });
    wait_for(&mut tap, "a report of the group", |packet| {
        packet.len() > 72
            && packet[6] == 0
            && packet[48] == 143
            && packet.windows(16).any(|window| window == group.octets())
    });
    drop(joined);
}

#[test]
fn an_answer_for_an_address_that_the_app_no_longer_has_is_dropped() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    let mut sniffer = lab.sniff();
    lab.app.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let Capture { injector, .. } = Capture::install(&CaptureConfig::default()).unwrap();
            for (gone, prefix) in [("172.31.9.77", CLUSTER4), ("fd00:9::77", CLUSTER6)] {
                let app = AppAddr(SocketAddr::new(gone.parse().unwrap(), 1234));
                let sent = injector.udp_reply(app, ClusterAddr(cluster(prefix, 10, 53)), b"late");
                // The kernel tells a sender whose packet a rule drops.
                assert!(sent.is_ok() || sent.unwrap_err().kind() == ErrorKind::PermissionDenied);
            }
        });
    });
    lab.barrier();
    assert_eq!(sniffer.packets(), Vec::<Vec<u8>>::new());
}

#[test]
fn where_the_engine_has_switched_ipv6_off_ipv4_is_captured_all_the_same() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    for interface in ["ipv6/conf/all/disable_ipv6", "ipv6/conf/lo/disable_ipv6"] {
        set_sysctl(&lab.app, interface, "1");
    }
    let relay = Relay::start(&lab.app, CaptureConfig::default());
    assert_eq!(relay.rules.ipv6(), Ipv6::Rejected);
    lab.app.run(|| {
        let to = cluster(CLUSTER4, relay::ACCEPTED, 80);
        assert!(greeting(TcpStream::connect(to).unwrap()).ends_with(&to.to_string()));
        let start = Instant::now();
        TcpStream::connect(cluster(CLUSTER6, relay::ACCEPTED, 80)).unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(1), "said at once");
    });
}

#[test]
fn a_connection_goes_on_while_the_bypass_networks_change() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    let relay = Relay::start(&lab.app, CaptureConfig::default());
    let to = cluster(CLUSTER4, relay::ACCEPTED, 80);
    let (stream, relay) = lab.app.run(move || {
        let mut relay = relay;
        let stream = TcpStream::connect(to).unwrap();
        relay.rules.set_bypass(&["172.31.9.0/24".parse().unwrap()]).unwrap();
        (stream, relay)
    });
    // Its flow was redirected under the rules before.
    assert_eq!(greeting(stream).split_once(' ').map(|(_, remote)| remote.to_owned()), Some(to.to_string()));
    drop(relay);
}
