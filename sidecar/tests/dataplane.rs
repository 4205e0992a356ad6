//! The data plane with everything real: kernel rules, two namespaces, a proxy. The app is this test's own sockets.

mod plane;
#[path = "dataplane/pod.rs"]
mod pod;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use plane::namespace::Namespace;
use plane::{CLUSTER_IP, CONTAINER_IP, Cluster, PATIENCE, Sidecar, ask_and_answer, connected, eventually};
use socket2::{Domain, Socket, Type};
use tpdocker_protocol::addr::{Port, Transport};
use tpdocker_protocol::control::{SidecarConfig, SidecarReply, SidecarRequest};

/// Answers each of `count` connections with what it received, and who it came from.
fn echo(namespace: &Namespace, address: SocketAddr, count: usize) -> SocketAddr {
    let listener = namespace.run(|| TcpListener::bind(address)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming().take(count) {
            let mut connection = connection.unwrap();
            let mut request = Vec::new();
            connection.read_to_end(&mut request).unwrap();
            connection.write_all(&request).unwrap();
        }
    });
    address
}

/// Sends `request`, ends, and reads the whole answer.
fn call(namespace: &Namespace, address: SocketAddr, request: &[u8]) -> std::io::Result<Vec<u8>> {
    namespace.run(|| {
        let mut connection = TcpStream::connect_timeout(&address, PATIENCE)?;
        assert_eq!(connection.peer_addr()?, address);
        connection.set_read_timeout(Some(PATIENCE))?;
        connection.write_all(request)?;
        connection.shutdown(Shutdown::Write)?;
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer)?;
        Ok(answer)
    })
}

fn udp(namespace: &Namespace, ip: Ipv4Addr) -> UdpSocket {
    let socket = namespace.run(|| UdpSocket::bind((ip, 0))).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn cluster(port: u16) -> SocketAddr {
    (CLUSTER_IP, port).into()
}

#[test]
fn the_app_reaches_what_only_the_cluster_has() {
    let (sidecar, cluster_end) = connected();
    // CAP_NET_ADMIN and CAP_NET_RAW: what every test of this file runs with.
    let data_plane = eventually("a data plane", || sidecar.data_plane());
    let status = std::fs::read_to_string(format!("/proc/{data_plane}/status")).unwrap();
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        let value = status.lines().find_map(|line| line.strip_prefix(&format!("{set}:\t"))).unwrap();
        assert_eq!(u64::from_str_radix(value, 16).unwrap(), 1 << 12 | 1 << 13, "{set}");
    }
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    let server = echo(&cluster_end.namespace, cluster(0), 2);
    assert_eq!(call(&sidecar.namespace, server, b"hello").unwrap(), b"hello");
    let large: Vec<u8> = (0..4_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    assert!(call(&sidecar.namespace, server, &large).unwrap() == large, "4 MB come back as they went");
}

/// A connection from a port of the app's own choice.
fn connect_from(namespace: &Namespace, port: u16, to: SocketAddr) -> TcpStream {
    namespace.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into()).unwrap();
        socket.connect_timeout(&to.into(), PATIENCE).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.into()
    })
}

/// The kernel gives the same port to connections with different destinations: many at a time, one after another
/// within the two minutes of connection tracking's `TIME_WAIT`, and more of them than there are listeners.
#[test]
fn connections_from_one_port_to_many_destinations_are_kept_apart() {
    const PORT: u16 = 40_000;
    let (sidecar, cluster_end) = connected();
    let servers: Vec<_> = (0..12).map(|_| echo(&cluster_end.namespace, cluster(0), 2)).collect();
    for round in 0..2 {
        let connections: Vec<_> =
            servers.iter().map(|server| (connect_from(&sidecar.namespace, PORT, *server), *server)).collect();
        for (mut connection, server) in connections {
            assert_eq!((connection.local_addr().unwrap().port(), connection.peer_addr().unwrap()), (PORT, server));
            let request = format!("{round} for {server}");
            connection.write_all(request.as_bytes()).unwrap();
            connection.shutdown(Shutdown::Write).unwrap();
            let mut answer = String::new();
            connection.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, request);
            // At once, by a reset: the port is free for the next round.
            socket2::SockRef::from(&connection).set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
}

#[test]
fn the_app_is_refused_where_the_cluster_refuses() {
    let (sidecar, _cluster) = connected();
    let error = call(&sidecar.namespace, cluster(9), b"").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    // The cluster has no way there, while the container has its default route.
    let error = call(&sidecar.namespace, "192.0.2.1:80".parse().unwrap(), b"").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NetworkUnreachable);
}

#[test]
fn datagrams_go_to_the_cluster_and_come_back_from_where_they_went() {
    let (sidecar, cluster_end) = connected();
    let server = udp(&cluster_end.namespace, CLUSTER_IP);
    let app = udp(&sidecar.namespace, Ipv4Addr::UNSPECIFIED);
    let mut buffer = [0; 64];
    app.send_to(b"question", server.local_addr().unwrap()).unwrap();
    let (length, peer) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"question");
    server.send_to(b"answer", peer).unwrap();
    let (length, peer) = app.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], peer), (&b"answer"[..], server.local_addr().unwrap()));

    let connected = udp(&sidecar.namespace, Ipv4Addr::UNSPECIFIED);
    connected.connect(cluster(9)).unwrap();
    connected.send(b"anybody?").unwrap();
    assert_eq!(connected.recv(&mut buffer).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn what_the_app_listens_on_is_open_in_the_cluster_and_nothing_else() {
    let (sidecar, cluster_end) = connected();
    let app = echo(&sidecar.namespace, (Ipv4Addr::UNSPECIFIED, 8080).into(), 2);
    eventually("the port is open", || call(&cluster_end.namespace, cluster(app.port()), b"in").ok())
        .eq(b"in")
        .then_some(())
        .expect("the app's own answer");
    assert_eq!(sidecar.status().listening, [Port { transport: Transport::Tcp, number: 8080 }]);
    // The second connection ends the app's listener.
    call(&cluster_end.namespace, cluster(app.port()), b"in").unwrap();
    eventually("the port is closed", || {
        let error = call(&cluster_end.namespace, cluster(app.port()), b"in").err()?;
        (error.kind() == ErrorKind::ConnectionRefused).then_some(())
    });
}

#[test]
fn an_app_that_listens_on_the_containers_address_only_is_reached() {
    let (sidecar, cluster_end) = connected();
    let app = echo(&sidecar.namespace, (CONTAINER_IP, 8081).into(), 1);
    let answer = eventually("the port is open", || call(&cluster_end.namespace, cluster(app.port()), b"in").ok());
    assert_eq!(answer, b"in");
}

#[test]
fn a_datagram_from_the_cluster_reaches_the_apps_port_and_is_answered_from_it() {
    let (sidecar, cluster_end) = connected();
    let app = sidecar.namespace.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 5353))).unwrap();
    let caller = udp(&cluster_end.namespace, CLUSTER_IP);
    caller.connect(cluster(5353)).unwrap();
    eventually("the port is open", || {
        sidecar.status().listening.contains(&Port { transport: Transport::Udp, number: 5353 }).then_some(())
    });
    ask_and_answer(&caller, &app);
}

#[test]
fn the_pods_files_are_written_in_place_and_a_bad_network_changes_nothing() {
    let sidecar = Sidecar::start();
    let bad = SidecarConfig { resolv_conf: Some(String::new()), bypass: vec!["10/8".into()], ..Default::default() };
    match sidecar.ask(&SidecarRequest::Configure(bad)) {
        SidecarReply::Error { message } => assert!(message.contains("\"10/8\""), "{message}"),
        other => panic!("not an error: {other:?}"),
    }
    assert_eq!(sidecar.file("resolv.conf"), "nameserver 127.0.0.11\n");
    assert!(!sidecar.status().configured);
    sidecar.configure();
    sidecar.configure();
    assert!(sidecar.file("resolv.conf").starts_with("search staging.svc"));
    assert_eq!(sidecar.file("hosts").matches("10.0.0.1 alias").count(), 1);
    assert!(sidecar.status().configured && !sidecar.is_healthy(), "configured, but not attached");
}

#[test]
fn a_connection_waits_for_the_tunnel() {
    let (sidecar, cluster_end) = (Sidecar::start(), Cluster::start());
    let server = echo(&cluster_end.namespace, cluster(0), 1);
    std::thread::scope(|scope| {
        let app = scope.spawn(|| call(&sidecar.namespace, server, b"early"));
        eventually("the SYN is held", || (held_syns(&sidecar.namespace) > 0).then_some(()));
        assert!(!app.is_finished(), "held, neither refused nor leaked");
        cluster_end.pump(&sidecar.socket());
        assert_eq!(app.join().unwrap().unwrap(), b"early");
    });
}

#[test]
fn without_a_capability_the_cli_is_told_so_and_what_to_do() {
    for capabilities in ["+net_admin", "+net_raw"] {
        let sidecar = Sidecar::start_with(capabilities);
        for request in [SidecarRequest::Configure(SidecarConfig::default()), SidecarRequest::Watch] {
            match sidecar.ask(&request) {
                SidecarReply::CannotCapture { message, cure: Some(_) } => {
                    assert!(message.contains("the capabilities NET_ADMIN and NET_RAW"), "{message}");
                    assert!(message.contains("Operation not permitted"), "the kernel's answer: {message}");
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(!sidecar.is_healthy());
    }
}

#[test]
fn without_a_tunnel_the_host_is_unreachable_in_the_end() {
    let sidecar = Sidecar::start();
    let error = call(&sidecar.namespace, cluster(80), b"").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HostUnreachable);
}

#[test]
fn a_dead_data_plane_refuses_at_once_and_a_new_one_takes_over() {
    let (mut sidecar, cluster_end) = connected();
    let server = echo(&cluster_end.namespace, cluster(0), 1);
    let first = eventually("a data plane", || sidecar.data_plane());
    // Stopped like this the holder cannot start another one in the middle of the look.
    sidecar.hold_still(true);
    kill(first, Signal::SIGKILL).unwrap();
    eventually("it is dead", || is_gone(first).then_some(()));
    let asked = Instant::now();
    let error = call(&sidecar.namespace, server, b"").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert!(asked.elapsed() < Duration::from_secs(1), "at once");
    sidecar.hold_still(false);

    eventually("another data plane", || sidecar.data_plane().filter(|pid| *pid != first));
    eventually("it listens", || std::os::unix::net::UnixStream::connect(sidecar.socket()).ok());
    assert!(!sidecar.status().configured, "the CLI is told to configure it anew");
    sidecar.configure();
    cluster_end.pump(&sidecar.socket());
    eventually("attached again", || sidecar.is_healthy().then_some(()));
    assert_eq!(call(&sidecar.namespace, server, b"again").unwrap(), b"again");
    assert!(sidecar.stop().success(), "the holder ends when asked");
}

/// Packets in queue 0 that have no verdict yet: the third column of the kernel's list of queues.
fn held_syns(namespace: &Namespace) -> usize {
    let queues = namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/netfilter/nfnetlink_queue")).unwrap();
    let queue =
        queues.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|columns| columns[0] == "0");
    queue.map_or(0, |columns| columns[2].parse().unwrap())
}

/// Dead, or a zombie whose threads have ended, too: until then its descriptors, the queue among them, are open.
fn is_gone(pid: nix::unistd::Pid) -> bool {
    let zombie = std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "));
    zombie && std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count) <= 1
}
