//! What the cluster sends to the app: from whose address, to which of its sockets, and while it is being restarted.

mod plane;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use plane::namespace::Namespace;
use plane::{CLUSTER_IP, CONTAINER_IP, Cluster, PATIENCE, POD_IP, Sidecar, ask_and_answer, connected, eventually};
use tpdocker_protocol::addr::{Port, Transport};
use tpdocker_sidecar::capture::MARK_DELIVERY;

const CLUSTER_IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0x10);
const CONTAINER_IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 2);
const WEB: u16 = 8080;
/// Of the app, too.
const OTHER: u16 = 8090;

fn tcp(number: u16) -> Port {
    Port { transport: Transport::Tcp, number }
}

fn listen(sidecar: &Sidecar, ip: impl Into<IpAddr>) -> TcpListener {
    let address = SocketAddr::new(ip.into(), WEB);
    let listener = sidecar.namespace.run(|| TcpListener::bind(address)).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    eventually("somebody connects", || listener.accept().ok())
}

/// Stops listening. A child that another test has just forked holds a copy of the socket until it executes its program,
/// and takes connections into a backlog that nobody sees.
fn leave(app: TcpListener, sidecar: &Sidecar) {
    drop(app);
    eventually("nobody listens", || connect(&sidecar.namespace, CONTAINER_IP).err());
}

fn connect(namespace: &Namespace, ip: impl Into<IpAddr>) -> std::io::Result<TcpStream> {
    let address = SocketAddr::new(ip.into(), WEB);
    let connection = namespace.run(|| TcpStream::connect_timeout(&address, PATIENCE))?;
    connection.set_read_timeout(Some(PATIENCE))?;
    Ok(connection)
}

/// Waits until the port is open in the cluster, with a connection that the app has not yet accepted.
fn opened(cluster: &Cluster, ip: impl Into<IpAddr> + Copy) -> TcpStream {
    eventually("the port is open", || connect(&cluster.namespace, ip).ok())
}

/// Answers the next connection, and returns whom the app took it from, and at which of its addresses.
fn answer(listener: &TcpListener) -> (SocketAddr, SocketAddr) {
    let (mut connection, peer) = accept(listener);
    connection.write_all(b"hello").unwrap();
    (peer, connection.local_addr().unwrap())
}

fn read(mut connection: TcpStream) -> std::io::Result<String> {
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The strictest setting that distributions have.
fn with_reverse_path_filter(sidecar: &Sidecar) {
    sidecar.namespace.run(|| {
        for interface in ["all", "default", "lo", "eth0"] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter"), "1").unwrap();
        }
    });
}

#[test]
fn the_app_sees_the_callers_address_and_its_own() {
    let (sidecar, cluster) = connected();
    with_reverse_path_filter(&sidecar);
    assert_eq!(sidecar.status().own_source, None);
    let app = listen(&sidecar, Ipv4Addr::UNSPECIFIED);
    let caller = opened(&cluster, CLUSTER_IP);
    assert_eq!(answer(&app), (caller.local_addr().unwrap(), (POD_IP, WEB).into()));
    assert_eq!(read(caller).unwrap(), "hello");
}

#[test]
fn a_large_transfer_in_both_directions_keeps_its_bytes() {
    let (sidecar, cluster) = connected();
    with_reverse_path_filter(&sidecar);
    let app = listen(&sidecar, Ipv4Addr::UNSPECIFIED);
    let mut caller = opened(&cluster, CLUSTER_IP);
    let large: Vec<u8> = (0..8_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut connection, _) = accept(&app);
            let mut received = vec![0; large.len()];
            connection.read_exact(&mut received).unwrap();
            connection.write_all(&received).unwrap();
        });
        caller.write_all(&large).unwrap();
        let mut back = vec![0; large.len()];
        caller.read_exact(&mut back).unwrap();
        assert!(back == large);
    });
}

#[test]
fn ipv6_is_no_different() {
    let (sidecar, cluster) = connected();
    sidecar.namespace.ip(&format!("-6 addr add {CONTAINER_IP6}/64 dev eth0 nodad"));
    sidecar.namespace.ip("-6 route add default via fd00:9::1");
    cluster.namespace.ip(&format!("-6 addr add {CLUSTER_IP6}/128 dev lo nodad"));
    sidecar.configure();
    assert_eq!(sidecar.status().own_source, None);
    let app = listen(&sidecar, Ipv6Addr::UNSPECIFIED);
    let caller = opened(&cluster, CLUSTER_IP6);
    assert_eq!(answer(&app), (caller.local_addr().unwrap(), (CONTAINER_IP6, WEB).into()));
    assert_eq!(read(caller).unwrap(), "hello");

    // A dual-stack socket tells IPv4 callers in its own way.
    let caller = opened(&cluster, CLUSTER_IP);
    let (peer, _) = answer(&app);
    assert_eq!(peer.ip(), IpAddr::V6(CLUSTER_IP.to_ipv6_mapped()));
    assert_eq!(read(caller).unwrap(), "hello");
}

#[test]
fn a_caller_that_connects_again_from_the_same_port_is_served() {
    let (sidecar, cluster) = connected();
    let app = listen(&sidecar, Ipv4Addr::UNSPECIFIED);
    drop(opened(&cluster, CLUSTER_IP));
    answer(&app);
    for _ in 0..3 {
        let caller = cluster.namespace.run(|| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            socket.bind(&SocketAddr::from((CLUSTER_IP, 4444)).into()).unwrap();
            // Nothing of it is left when it is closed.
            socket.set_linger(Some(Duration::ZERO)).unwrap();
            socket.connect(&SocketAddr::from((CLUSTER_IP, WEB)).into()).unwrap();
            TcpStream::from(socket)
        });
        let (peer, _) = answer(&app);
        assert_eq!(peer.ip(), IpAddr::V4(CLUSTER_IP));
        assert_eq!(read(caller).unwrap(), "hello");
    }
}

#[test]
fn a_published_port_is_answered_where_the_caller_is() {
    let sidecar = Sidecar::start();
    with_reverse_path_filter(&sidecar);
    let laptop = Namespace::new();
    sidecar.namespace.ip(&format!("link set void0 netns {}", laptop.path()));
    laptop.ip("addr add 172.31.9.1/24 dev void0");
    laptop.ip("addr add 192.168.7.7/32 dev lo");
    laptop.ip("link set void0 up");
    let app = listen(&sidecar, Ipv4Addr::UNSPECIFIED);
    for from in [Ipv4Addr::new(172, 31, 9, 1), Ipv4Addr::new(192, 168, 7, 7)] {
        let caller = laptop.run(|| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
            socket.connect_timeout(&SocketAddr::from((CONTAINER_IP, WEB)).into(), PATIENCE).unwrap();
            TcpStream::from(socket)
        });
        assert_eq!(answer(&app), (caller.local_addr().unwrap(), (CONTAINER_IP, WEB).into()));
        assert_eq!(read(caller).unwrap(), "hello");
    }
}

#[test]
fn an_app_on_loopback_is_reached_from_within_the_pod_only() {
    let (sidecar, cluster) = connected();
    let app = listen(&sidecar, Ipv4Addr::LOCALHOST);
    let sibling = opened(&cluster, Ipv4Addr::LOCALHOST);
    assert_eq!(answer(&app).0.ip(), IpAddr::V4(Ipv4Addr::LOCALHOST));
    assert_eq!(read(sibling).unwrap(), "hello");
    let error = connect(&cluster.namespace, CLUSTER_IP).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(sidecar.status().listening, [], "nobody but its pod sees it");
}

#[test]
fn a_declared_port_holds_its_callers_until_the_app_listens_again() {
    let (sidecar, cluster) = connected();
    sidecar.configure_with(&[tcp(WEB)], PATIENCE);
    let mut app = listen(&sidecar, Ipv4Addr::UNSPECIFIED);
    drop(opened(&cluster, CLUSTER_IP));
    answer(&app);
    for _ in 0..2 {
        // Not declared, so its end shows when the sidecar has looked.
        let other = sidecar.namespace.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, OTHER))).unwrap();
        let call_other = || cluster.namespace.run(|| TcpStream::connect((CLUSTER_IP, OTHER)));
        eventually("the other port is open", || call_other().ok());
        leave(app, &sidecar);
        drop(other);
        // Some come before the sidecar has looked, some after.
        let mut callers = vec![opened(&cluster, CLUSTER_IP)];
        eventually("the other port is closed", || call_other().err());
        callers.push(connect(&cluster.namespace, CLUSTER_IP).unwrap());
        app = listen(&sidecar, Ipv4Addr::UNSPECIFIED);
        for _ in &callers {
            answer(&app);
        }
        for caller in callers {
            assert_eq!(read(caller).unwrap(), "hello");
        }
    }
}

#[test]
fn after_the_time_to_hold_the_port_is_closed_and_who_waited_is_reset() {
    let (sidecar, cluster) = connected();
    let hold = Duration::from_millis(700);
    sidecar.configure_with(&[tcp(WEB)], hold);
    let app = listen(&sidecar, Ipv4Addr::UNSPECIFIED);
    drop(opened(&cluster, CLUSTER_IP));
    answer(&app);
    let left = Instant::now();
    leave(app, &sidecar);
    let waiting = connect(&cluster.namespace, CLUSTER_IP).unwrap();
    assert_eq!(read(waiting).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(left.elapsed() >= hold, "{:?}", left.elapsed());
    eventually("the port is closed", || {
        let error = connect(&cluster.namespace, CLUSTER_IP).err()?;
        (error.kind() == ErrorKind::ConnectionRefused).then_some(())
    });
}

#[test]
fn a_port_that_is_not_declared_closes_with_the_app() {
    let (sidecar, cluster) = connected();
    sidecar.configure_with(&[tcp(WEB + 1)], PATIENCE);
    let app = listen(&sidecar, Ipv4Addr::UNSPECIFIED);
    drop(opened(&cluster, CLUSTER_IP));
    answer(&app);
    let left = Instant::now();
    leave(app, &sidecar);
    eventually("the port is closed", || {
        let error = connect(&cluster.namespace, CLUSTER_IP).err()?;
        (error.kind() == ErrorKind::ConnectionRefused).then_some(())
    });
    assert!(left.elapsed() < PATIENCE / 2, "not held");
}

#[test]
fn a_declared_udp_port_is_served_whatever_its_number() {
    let (sidecar, cluster) = connected();
    let port = Port { transport: Transport::Udp, number: 40_053 };
    sidecar.configure_with(&[port], PATIENCE);
    let app = sidecar.namespace.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port.number))).unwrap();
    let caller = cluster.namespace.run(|| UdpSocket::bind((CLUSTER_IP, 0))).unwrap();
    caller.connect((CLUSTER_IP, port.number)).unwrap();
    ask_and_answer(&caller, &app);
}

#[test]
fn a_new_data_plane_finds_the_rules_of_the_one_before() {
    let (sidecar, cluster) = connected();
    let first = eventually("a data plane", || sidecar.data_plane());
    kill(first, Signal::SIGKILL).unwrap();
    eventually("another one listens", || {
        sidecar.data_plane().filter(|pid| *pid != first)?;
        std::os::unix::net::UnixStream::connect(sidecar.socket()).ok()
    });
    sidecar.configure();
    cluster.pump(&sidecar.socket());
    eventually("attached again", || sidecar.is_healthy().then_some(()));
    assert_eq!(sidecar.status().own_source, None);
    let app = listen(&sidecar, Ipv4Addr::UNSPECIFIED);
    let caller = opened(&cluster, CLUSTER_IP);
    assert_eq!(answer(&app).0, caller.local_addr().unwrap());
}

#[test]
fn where_the_callers_address_cannot_be_had_the_status_says_so_and_the_app_is_reached() {
    let (sidecar, cluster) = connected();
    // Answers with the mark of deliveries are lost.
    sidecar.namespace.ip(&format!("rule add fwmark {MARK_DELIVERY:#x} pref 100 blackhole"));
    sidecar.configure();
    let problem = sidecar.status().own_source.expect("a problem");
    assert!(problem.starts_with("the trial failed"), "{problem}");
    let app = listen(&sidecar, Ipv4Addr::UNSPECIFIED);
    let caller = opened(&cluster, CLUSTER_IP);
    assert_eq!(answer(&app).0.ip(), IpAddr::V4(POD_IP));
    assert_eq!(read(caller).unwrap(), "hello");
}

#[test]
fn the_capabilities_of_a_user_namespace_are_enough() {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "--net"]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "the_app_sees_the_callers_address_and_its_own"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn many_callers_at_once_are_all_answered() {
    const CALLERS: usize = 4;
    const CALLS: usize = 100;
    let (sidecar, cluster) = connected();
    let app = listen(&sidecar, Ipv4Addr::UNSPECIFIED);
    drop(opened(&cluster, CLUSTER_IP));
    answer(&app);
    app.set_nonblocking(false).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut connection, _)) = app.accept() {
            std::thread::spawn(move || {
                let mut request = [0; 4];
                connection.read_exact(&mut request).unwrap();
                connection.write_all(&request).unwrap();
                // The caller ends first.
                connection.read_to_end(&mut Vec::new()).unwrap();
            });
        }
    });
    std::thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                for call in 0..CALLS {
                    let mut caller = connect(&cluster.namespace, CLUSTER_IP).unwrap();
                    caller.write_all(b"call").unwrap();
                    let mut answer = [0; 4];
                    let answered = caller.read_exact(&mut answer);
                    assert!(answered.is_ok(), "{call}: {answered:?} {:?}", caller.local_addr());
                }
            });
        }
    });
}
