//! The pod's loopback in a real network namespace: what the app finds at its own.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tpdocker_sidecar::capture::{Addresses, CaptureConfig};

use crate::support::relay::{self, POD4, Relay, SIBLING};
use crate::support::{APP4, CLUSTER4, Lab, Namespace, PATIENCE, cluster, skip};

const LOOPBACK: [IpAddr; 3] =
    [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::new(127, 3, 2, 1)), IpAddr::V6(Ipv6Addr::LOCALHOST)];
/// Where nobody listens, here and in the pod.
const NOBODY: u16 = 9;
/// What the kernel itself says comes within this time, on a busy machine too.
const AT_ONCE: Duration = Duration::from_millis(700);

/// The greeting of whoever accepts.
fn call(to: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(to)?;
    assert_eq!(stream.peer_addr()?, to);
    let mut greeting = String::new();
    stream.read_to_string(&mut greeting)?;
    Ok(greeting)
}

fn refused(to: SocketAddr) {
    let start = Instant::now();
    assert_eq!(call(to).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{to}");
    assert!(start.elapsed() < AT_ONCE, "{to} took {:?}", start.elapsed());
}

/// Sends one datagram and returns the answer.
fn ask(socket: &UdpSocket, to: SocketAddr) -> std::io::Result<SocketAddr> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(b"question", to)?;
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer)?;
    assert_eq!(&buffer[..length], b"question");
    Ok(from)
}

/// A server of the app that greets with its name.
fn server(namespace: &Namespace, address: SocketAddr, name: &'static str) -> SocketAddr {
    let listener = namespace.run(move || TcpListener::bind(address).unwrap());
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            connection.unwrap().write_all(name.as_bytes()).unwrap();
        }
    });
    address
}

#[test]
fn the_pods_other_containers_answer_where_the_app_does_not_listen() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    let relay = Relay::start(&lab.app, CaptureConfig::default());
    for ip in LOOPBACK {
        let (to, nobody) = (SocketAddr::new(ip, SIBLING), SocketAddr::new(ip, NOBODY));
        lab.app.run(move || {
            assert!(call(to).unwrap().ends_with(&to.to_string()));
            refused(nobody);
        });
        assert_eq!((relay.syns_to(to), relay.syns_to(nobody)), (1, 1));
    }
}

#[test]
fn the_apps_own_listeners_win_whatever_address_they_have() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    let relay = Relay::start(&lab.app, CaptureConfig::default());
    for (bound, found) in [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.3.2.1"),
        ("[::]", "127.0.0.1"),
        ("[::]", "[::1]"),
        ("[::1]", "[::1]"),
    ] {
        let own = server(&lab.app, format!("{bound}:0").parse().unwrap(), "own");
        let to: SocketAddr = format!("{found}:{}", own.port()).parse().unwrap();
        lab.app.run(move || {
            for _ in 0..3 {
                assert_eq!(call(to).unwrap(), "own", "{bound} at {found}");
            }
        });
    }
    assert!(relay.syns.lock().unwrap().is_empty());
}

#[test]
fn a_listener_that_appears_while_the_pod_is_asked_wins() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    let relay = Relay::start(&lab.app, CaptureConfig::default());
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, relay::LATE));
    let caller = lab.app.spawn(move || call(to));
    let deadline = Instant::now() + PATIENCE;
    while relay.syns_to(to) == 0 {
        assert!(Instant::now() < deadline, "nothing was held");
        std::thread::yield_now();
    }
    server(&lab.app, to, "late");
    assert_eq!(caller.join().unwrap().unwrap(), "late");
}

#[test]
fn a_socket_that_connects_to_itself_does_so_as_ever() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    let relay = Relay::start(&lab.app, CaptureConfig::default());
    lab.app.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let itself = socket.local_addr().unwrap();
        socket.connect(&itself).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.write_all(b"me").unwrap();
        stream.read_exact(&mut [0; 2]).unwrap();
    });
    assert!(relay.syns.lock().unwrap().is_empty());
}

#[test]
fn datagrams_go_to_the_pods_other_containers_unless_the_app_takes_them() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    let _relay = Relay::start(&lab.app, CaptureConfig::default());
    for ip in LOOPBACK {
        lab.app.run(move || {
            let any = SocketAddr::new(
                if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() },
                0,
            );
            let socket = UdpSocket::bind(any).unwrap();
            let sibling = SocketAddr::new(ip, SIBLING);
            for _ in 0..3 {
                assert_eq!(ask(&socket, sibling).unwrap(), sibling);
            }
            // Nobody here and nobody there.
            let connected = UdpSocket::bind(any).unwrap();
            connected.set_read_timeout(Some(PATIENCE)).unwrap();
            connected.connect(SocketAddr::new(ip, NOBODY)).unwrap();
            connected.send(b"anybody?").unwrap();
            assert_eq!(connected.recv(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
            // The app's own socket, in both directions, from the first datagram on.
            let own = UdpSocket::bind(SocketAddr::new(ip, SIBLING)).unwrap();
            own.set_read_timeout(Some(PATIENCE)).unwrap();
            for _ in 0..3 {
                socket.send_to(b"own", sibling).unwrap();
                let (length, from) = own.recv_from(&mut [0; 8]).unwrap();
                assert_eq!((length, from.port()), (3, socket.local_addr().unwrap().port()));
                own.send_to(b"answer", from).unwrap();
                assert_eq!(socket.recv_from(&mut [0; 8]).unwrap(), (6, sibling));
            }
        });
    }
}

#[test]
fn dockers_resolver_and_what_the_sidecar_connects_to_are_left_alone() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    let relay = Relay::start(&lab.app, CaptureConfig::default());
    lab.app.run(|| {
        refused("127.0.0.11:53".parse().unwrap());
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_mark(0x7470_6407).unwrap();
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, SIBLING));
        assert_eq!(socket.connect(&to.into()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
    assert!(relay.syns.lock().unwrap().is_empty());
}

#[test]
fn the_pods_address_is_the_apps_first_and_then_the_pods() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    lab.app.ip(&format!("addr add {POD4}/32 dev lo"));
    let addresses = Addresses { pod: vec![POD4.into()], container: Vec::new() };
    let relay = Relay::start(&lab.app, CaptureConfig { addresses, ..CaptureConfig::default() });
    let own = server(&lab.app, (POD4, 0).into(), "own");
    lab.app.run(move || {
        assert_eq!(call(own).unwrap(), "own");
        let sibling = SocketAddr::from((POD4, SIBLING));
        assert!(call(sibling).unwrap().ends_with(&sibling.to_string()));
        assert_eq!(ask(&UdpSocket::bind("0.0.0.0:0").unwrap(), sibling).unwrap(), sibling);
        // The container's own address is no address of the pod.
        refused(format!("{APP4}:{SIBLING}").parse().unwrap());
    });
    assert_eq!(relay.syns.lock().unwrap()[..], [SocketAddr::from((POD4, SIBLING))]);
}

#[test]
fn answers_to_an_address_that_has_gone_do_not_leave_the_namespace() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    lab.app.ip(&format!("addr add {POD4}/32 dev lo"));
    // Without it Linux itself keeps what comes from 127.0.0.1.
    lab.app.sysctl("ipv4/conf/all/route_localnet", "1");
    let relay = Relay::start(&lab.app, CaptureConfig::default());
    let mut sniffer = lab.sniff();
    let to = cluster(CLUSTER4, relay::SLOW, 80);
    let _connecting = lab.app.run(move || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.bind(&SocketAddr::from((POD4, 0)).into()).unwrap();
        assert!(socket.connect(&to.into()).is_err());
        socket
    });
    let deadline = Instant::now() + PATIENCE;
    let wait_for = |what: &str, happened: &dyn Fn() -> bool| {
        while !happened() {
            assert!(Instant::now() < deadline, "never: {what}");
            std::thread::yield_now();
        }
    };
    wait_for("the SYN is held", &|| relay.syns_to(to) == 1);
    lab.app.ip(&format!("addr del {POD4}/32 dev lo"));
    // State 03, SYN_RECV: the listener has answered.
    let answered = move || {
        std::fs::read_to_string("/proc/thread-self/net/tcp")
            .unwrap()
            .lines()
            .any(|line| line.split_whitespace().nth(3) == Some("03"))
    };
    wait_for("the listener has answered", &|| lab.app.run(answered));
    lab.barrier();
    assert_eq!(sniffer.packets(), Vec::<Vec<u8>>::new());
}

#[test]
fn without_the_sidecar_loopback_is_plain_loopback() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    let sidecar = lab.sidecar_process();
    let own = server(&lab.app, (Ipv4Addr::LOCALHOST, 0).into(), "own");
    let sibling = SocketAddr::from((Ipv4Addr::LOCALHOST, SIBLING));
    lab.app.run(move || assert!(call(sibling).is_ok()));
    let mut sniffer = lab.sniff();
    sidecar.kill();
    lab.app.run(move || {
        refused(sibling);
        assert_eq!(call(own).unwrap(), "own");
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(sibling).unwrap();
        socket.send(b"x").unwrap();
        assert_eq!(socket.recv(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(ask(&UdpSocket::bind("127.0.0.1:0").unwrap(), echo()).unwrap().ip(), Ipv4Addr::LOCALHOST);
    });
    lab.barrier();
    assert_eq!(sniffer.packets(), Vec::<Vec<u8>>::new());
}

/// A socket of the app that answers one datagram.
fn echo() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        socket.send_to(&buffer[..length], from).unwrap();
    });
    address
}
