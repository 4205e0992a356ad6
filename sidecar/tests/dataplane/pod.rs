//! What the pod is to its containers: its address, its loopback, its pings.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tpdocker_protocol::control::{SidecarConfig, SidecarReply, SidecarRequest};

use crate::plane::namespace::Namespace;
use crate::plane::{CLUSTER_IP, CONTAINER_IP, Cluster, PATIENCE, POD_IP, Sidecar, connected, eventually};
use crate::{call, cluster, echo, udp};

/// The laptop, next to the container and beyond.
const LAPTOP_IP: Ipv4Addr = Ipv4Addr::new(172, 31, 9, 1);
const FAR_IP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);

/// The other end of the container's network.
fn laptop(sidecar: &Sidecar) -> Namespace {
    let laptop = Namespace::new();
    sidecar.namespace.ip(&format!("link set void0 netns {}", laptop.path()));
    laptop.ip(&format!("addr add {LAPTOP_IP}/24 dev void0"));
    laptop.ip("link set void0 up");
    laptop.ip(&format!("addr add {FAR_IP}/32 dev lo"));
    laptop
}

fn configure(sidecar: &Sidecar, pod: &[IpAddr], bypass: &[&str]) {
    let bypass = bypass.iter().map(|text| (*text).to_owned()).collect();
    let config = SidecarConfig { pod_ips: pod.to_vec(), bypass, ..SidecarConfig::default() };
    assert_eq!(sidecar.ask(&SidecarRequest::Configure(config)), SidecarReply::Configured);
}

/// The address from which the namespace would speak to `to`.
fn source(namespace: &Namespace, to: impl Into<SocketAddr>) -> Option<IpAddr> {
    let to = to.into();
    namespace.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
        socket.connect(to).ok()?;
        socket.local_addr().ok().map(|address| address.ip())
    })
}

fn addresses(namespace: &Namespace) -> Vec<IpAddr> {
    let list = || {
        let interfaces = nix::ifaddrs::getifaddrs().unwrap();
        interfaces.filter_map(|each| Some(IpAddr::V4(each.address?.as_sockaddr_in()?.ip()))).collect()
    };
    namespace.run(list)
}

#[test]
fn the_app_has_the_pods_address_towards_the_cluster_and_the_containers_towards_neighbours() {
    let (sidecar, cluster_end) = connected();
    let server = echo(&cluster_end.namespace, cluster(0), 1);
    let own = sidecar.namespace.run(|| {
        let stream = TcpStream::connect(server).unwrap();
        stream.local_addr().unwrap().ip()
    });
    assert_eq!(own, POD_IP);
    assert!(addresses(&sidecar.namespace).contains(&POD_IP.into()));
    assert_eq!(source(&sidecar.namespace, cluster(53)), Some(POD_IP.into()));
    assert_eq!(source(&sidecar.namespace, (LAPTOP_IP, 53)), Some(CONTAINER_IP.into()));

    configure(&sidecar, &[POD_IP.into()], &["198.51.100.0/24"]);
    assert_eq!(source(&sidecar.namespace, (FAR_IP, 53)), Some(CONTAINER_IP.into()));
    assert_eq!(source(&sidecar.namespace, cluster(53)), Some(POD_IP.into()));
}

#[test]
fn datagrams_from_the_pods_address_are_answered() {
    let (sidecar, cluster_end) = connected();
    let server = udp(&cluster_end.namespace, CLUSTER_IP);
    let app = udp(&sidecar.namespace, POD_IP);
    app.send_to(b"question", server.local_addr().unwrap()).unwrap();
    let (_, peer) = server.recv_from(&mut [0; 64]).unwrap();
    server.send_to(b"answer", peer).unwrap();
    assert_eq!(app.recv_from(&mut [0; 64]).unwrap(), (6, server.local_addr().unwrap()));
}

#[test]
fn an_app_that_is_bound_to_the_pods_address_is_reached_from_the_cluster_and_by_published_ports() {
    let (sidecar, cluster_end) = connected();
    let laptop = laptop(&sidecar);
    let app = echo(&sidecar.namespace, (POD_IP, 8082).into(), 3);
    let answer = eventually("the port is open", || call(&cluster_end.namespace, cluster(app.port()), b"in").ok());
    assert_eq!(answer, b"in");
    // A published port is translated to the container's address by the engine.
    assert_eq!(call(&laptop, (CONTAINER_IP, app.port()).into(), b"near").unwrap(), b"near");
    let far = laptop.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((FAR_IP, 0)).into()).unwrap();
        socket.connect(&SocketAddr::from((CONTAINER_IP, app.port())).into()).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.write_all(b"far").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    });
    assert_eq!(far, b"far");
}

#[test]
fn published_udp_ports_answer_from_the_address_that_was_asked() {
    let (sidecar, _cluster_end) = connected();
    configure(&sidecar, &[POD_IP.into()], &["203.0.113.0/24"]);
    let laptop = laptop(&sidecar);
    laptop.ip("addr add 203.0.113.9/32 dev lo");
    let app = udp(&sidecar.namespace, Ipv4Addr::UNSPECIFIED);
    let port = app.local_addr().unwrap().port();
    // A neighbour, somebody behind the default route, and somebody in a bypass network.
    for ip in [LAPTOP_IP, FAR_IP, Ipv4Addr::new(203, 0, 113, 9)] {
        let caller = udp(&laptop, ip);
        caller.connect((CONTAINER_IP, port)).unwrap();
        for _ in 0..2 {
            caller.send(b"question").unwrap();
            let (_, from) = app.recv_from(&mut [0; 64]).unwrap();
            assert_eq!(from, caller.local_addr().unwrap());
            app.send_to(b"answer", from).unwrap();
            // Connected: it hears only whom it asked.
            assert_eq!(caller.recv(&mut [0; 64]).unwrap(), 6, "asked from {ip}");
        }
    }
}

#[test]
fn another_pod_has_another_address_and_the_engines_networks_may_change() {
    let (sidecar, cluster_end) = connected();
    let bound_to_the_former = echo(&sidecar.namespace, (POD_IP, 8084).into(), 1);
    let next = Ipv4Addr::new(10, 244, 0, 8);
    configure(&sidecar, &[next.into()], &["198.51.100.0/24"]);
    assert_eq!(addresses(&sidecar.namespace)[..3], [Ipv4Addr::LOCALHOST, next, POD_IP].map(IpAddr::from));
    let port = bound_to_the_former.port();
    let answer = eventually("the port is open", || call(&cluster_end.namespace, cluster(port), b"in").ok());
    assert_eq!(answer, b"in");
    assert_eq!(source(&sidecar.namespace, cluster(53)), Some(next.into()));

    // The container joins a network that gets the default route, and leaves the old one.
    sidecar.namespace.ip("link add eth1 type veth peer name void1");
    sidecar.namespace.ip("addr add 172.30.0.5/16 dev eth1");
    sidecar.namespace.ip("link set eth1 up");
    sidecar.namespace.ip("link set void1 up");
    sidecar.namespace.ip("route replace default via 172.30.0.1");
    let new_source = Some(IpAddr::from([172, 30, 0, 5]));
    eventually("the bypass network follows", || (source(&sidecar.namespace, (FAR_IP, 53)) == new_source).then_some(()));
    sidecar.namespace.ip("link del eth0");
    sidecar.namespace.ip(&format!("addr del {next}/32 dev lo"));
    eventually("the pod's address is back", || {
        (source(&sidecar.namespace, cluster(53)) == Some(next.into())).then_some(())
    });
    configure(&sidecar, &[], &[]);
    assert_eq!(source(&sidecar.namespace, cluster(53)), new_source);
}

#[test]
fn a_network_that_leads_nowhere_is_no_hindrance() {
    let (sidecar, cluster_end) = connected();
    let server = echo(&cluster_end.namespace, cluster(0), 1);
    configure(&sidecar, &[], &[]);
    // As in a Docker network made with `--internal`.
    sidecar.namespace.ip("route del default");
    assert_eq!(source(&sidecar.namespace, server), None);
    configure(&sidecar, &[POD_IP.into()], &[]);
    assert_eq!(source(&sidecar.namespace, server), Some(POD_IP.into()));
    assert_eq!(call(&sidecar.namespace, server, b"hello").unwrap(), b"hello");
}

#[test]
fn the_pods_address_outlives_the_data_plane() {
    let (sidecar, _cluster_end) = connected();
    let first = eventually("a data plane", || sidecar.data_plane());
    nix::sys::signal::kill(first, nix::sys::signal::Signal::SIGKILL).unwrap();
    eventually("another data plane", || sidecar.data_plane().filter(|pid| *pid != first));
    assert_eq!(source(&sidecar.namespace, cluster(53)), Some(POD_IP.into()));
    eventually("it listens", || std::os::unix::net::UnixStream::connect(sidecar.socket()).ok());
    sidecar.configure();
    assert_eq!(source(&sidecar.namespace, cluster(53)), Some(POD_IP.into()));
}

#[test]
fn a_pod_with_ipv6_gives_the_app_both_addresses() {
    let (sidecar, cluster_end) = connected();
    let pod: IpAddr = "fd00:244::7".parse().unwrap();
    let server: SocketAddr = "[fd00:96::10]:0".parse().unwrap();
    cluster_end.namespace.ip("addr add fd00:96::10/128 dev lo");
    sidecar.namespace.ip("addr add fd00:9::2/64 dev eth0 nodad");
    sidecar.namespace.ip("-6 route add default via fd00:9::1");
    // What is there already is left as it is: the routes would not be listed twice.
    for _ in 0..2 {
        configure(&sidecar, &[POD_IP.into(), pod], &["fd00:55::/64"]);
        assert_eq!(sidecar.namespace.run(|| lines(&["-6", "route", "show", "proto", "116"])), 3);
        assert_eq!(sidecar.namespace.run(|| lines(&["-4", "route", "show", "proto", "116"])), 2);
    }
    let server = echo(&cluster_end.namespace, server, 1);
    let own = sidecar.namespace.run(|| TcpStream::connect(server).unwrap().local_addr().unwrap().ip());
    assert_eq!(own, pod);
    assert_eq!(source(&sidecar.namespace, cluster(53)), Some(POD_IP.into()));
    cluster_end.namespace.run(|| std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647")).unwrap();
    assert_eq!(ping(&sidecar.namespace, "fd00:96::10".parse().unwrap(), 7, 1), [129, 0, 0, 7, 0, 1, b'x']);
    // The proxy's end has no way there.
    assert_eq!(ping(&sidecar.namespace, "fd00:97::1".parse().unwrap(), 8, 1)[..2], [1, 0]);
    let bypassed = sidecar.namespace.run(|| {
        let socket = UdpSocket::bind("[::]:0").unwrap();
        socket.connect("[fd00:55::1]:53").unwrap();
        socket.local_addr().unwrap().ip()
    });
    assert_eq!(bypassed, "fd00:9::2".parse::<IpAddr>().unwrap());
}

/// How many lines `ip` prints.
fn lines(arguments: &[&str]) -> usize {
    let output = std::process::Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().count()
}

/// Another container of the pod.
fn sibling(cluster_end: &Cluster, ip: impl Into<IpAddr>, count: usize) -> SocketAddr {
    echo(&cluster_end.namespace, SocketAddr::new(ip.into(), 0), count)
}

#[test]
fn other_containers_of_the_pod_answer_on_its_loopback_and_at_its_address() {
    let (sidecar, cluster_end) = connected();
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), std::net::Ipv6Addr::LOCALHOST.into(), POD_IP.into()] {
        let sibling = sibling(&cluster_end, ip, 1);
        assert_eq!(call(&sidecar.namespace, sibling, b"hello").unwrap(), b"hello");
        // The app's own listener wins.
        let own = sidecar.namespace.run(|| TcpListener::bind(sibling)).unwrap();
        let caller = sidecar.namespace.run(|| TcpStream::connect(sibling)).unwrap();
        assert_eq!(own.accept().unwrap().1, caller.local_addr().unwrap());
    }
    let server = udp(&cluster_end.namespace, Ipv4Addr::LOCALHOST);
    let app = udp(&sidecar.namespace, Ipv4Addr::UNSPECIFIED);
    app.send_to(b"question", server.local_addr().unwrap()).unwrap();
    let (_, peer) = server.recv_from(&mut [0; 64]).unwrap();
    server.send_to(b"answer", peer).unwrap();
    assert_eq!(app.recv_from(&mut [0; 64]).unwrap(), (6, server.local_addr().unwrap()));
}

#[test]
fn nobody_on_the_pods_loopback_is_a_refusal_and_the_proxy_is_nobody() {
    let (sidecar, cluster_end) = connected();
    let refused = |to: SocketAddr| {
        let error = call(&sidecar.namespace, to, b"").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}");
    };
    refused((Ipv4Addr::LOCALHOST, 9).into());
    refused((POD_IP, 9).into());
    refused(cluster_end.address);
    let app = udp(&sidecar.namespace, Ipv4Addr::LOCALHOST);
    app.connect((Ipv4Addr::LOCALHOST, 9)).unwrap();
    app.send(b"anybody?").unwrap();
    assert_eq!(app.recv(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionRefused);

    // What the proxy has open for the app is not there for the app, once it has stopped to listen.
    let own = sidecar.namespace.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8083))).unwrap();
    eventually("the port is open", || {
        cluster_end.namespace.run(|| TcpStream::connect((Ipv4Addr::LOCALHOST, 8083))).ok()
    });
    drop(own);
    refused((Ipv4Addr::LOCALHOST, 8083).into());
    refused((POD_IP, 8083).into());
}

#[test]
fn without_a_tunnel_nobody_is_on_the_pods_loopback() {
    let sidecar = Sidecar::start();
    let asked = Instant::now();
    let error = call(&sidecar.namespace, (Ipv4Addr::LOCALHOST, 9).into(), b"").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert!(asked.elapsed() > Duration::from_secs(5), "held while a tunnel may come");
}

#[test]
fn ping_is_answered_by_who_is_asked_or_refused_with_the_reason() {
    let (sidecar, cluster_end) = connected();
    let allow = |range: &'static str| {
        cluster_end.namespace.run(|| std::fs::write("/proc/sys/net/ipv4/ping_group_range", range)).unwrap();
    };
    // The identifier, 7, comes back, and so do sequence number and payload.
    allow("0 2147483647");
    assert_eq!(ping(&sidecar.namespace, CLUSTER_IP.into(), 7, 1), [0, 0, 0, 7, 0, 1, b'x']);
    assert_eq!(ping(&sidecar.namespace, CLUSTER_IP.into(), 7, 2), [0, 0, 0, 7, 0, 2, b'x']);
    // The cluster has no way there.
    let unreachable = ping(&sidecar.namespace, [192, 0, 2, 1].into(), 8, 1);
    assert_eq!(unreachable[..2], [3, 0]);
    // Linux' own default: "packet filtered", as `ping` says it.
    allow("1 0");
    assert_eq!(ping(&sidecar.namespace, CLUSTER_IP.into(), 9, 1)[..2], [3, 13]);
}

/// Type and code of the answer, then what follows its checksum.
fn ping(namespace: &Namespace, to: IpAddr, identifier: u8, sequence: u8) -> Vec<u8> {
    namespace.run(|| {
        let (domain, protocol, request, header) = match to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 20),
            // A raw socket of IPv6 does not see the IP header, but neighbour discovery.
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 0),
        };
        let mut socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut message = [request, 0, 0, 0, 0, identifier, 0, sequence, b'x', 0];
        let sum: u16 = message.chunks(2).map(|word| u16::from_be_bytes([word[0], word[1]])).sum();
        message[2..4].copy_from_slice(&(!sum).to_be_bytes());
        socket.send_to(&message[..9], &SockAddr::from(SocketAddr::from((to, 0)))).unwrap();
        let mut buffer = [0; 256];
        loop {
            let length = socket.read(&mut buffer).expect("an answer to the ping");
            let message = &buffer[header..length];
            if [0, 3, 129, 1].contains(&message[0]) {
                return [&message[..2], &message[4..]].concat();
            }
        }
    })
}
