//! The capture in real network namespaces: what apps see, and what the wire sees.

mod support;

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use nix::errno::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use support::{
    APP4, APP6, CLUSTER4, CLUSTER6, Lab, PATIENCE, PEER4, PEER6, cluster,
    relay::{self, Relay},
    skip,
};
use tpdocker_sidecar::capture::{Capture, CaptureConfig, CaptureError, Echo, Ipv6};

/// A refusal that the kernel gives at once comes within this time, on a busy machine too; a SYN that is lost takes a
/// second.
const AT_ONCE: Duration = Duration::from_millis(700);

/// The role of [`Lab::sidecar_process`].
#[test]
#[ignore = "a helper process of other tests"]
fn sidecar_process() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    // CAP_NET_ADMIN and CAP_NET_RAW
    assert_eq!(u64::from_str_radix(effective, 16).unwrap(), 1 << 12 | 1 << 13);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let Capture { captured, redirected, injector, .. } = Capture::install(&CaptureConfig::default()).unwrap();
        println!("{}", relay::READY);
        relay::serve(captured, redirected, injector, Arc::default()).await.unwrap();
    });
}

/// `connect()` as a blocking app does it: its error, or the greeting.
fn connect(to: SocketAddr) -> Result<(String, TcpStream), Errno> {
    let mut stream = TcpStream::connect(to).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap()))?;
    let mut greeting = String::new();
    stream.read_to_string(&mut greeting).unwrap();
    Ok((greeting, stream))
}

/// As an event loop does it: start, wait until writable, read `SO_ERROR`.
fn connect_without_blocking(to: SocketAddr) -> Result<(), Errno> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    assert_eq!(socket.connect(&to.into()).unwrap_err().raw_os_error(), Some(Errno::EINPROGRESS as i32));
    let mut fds = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&socket), nix::poll::PollFlags::POLLOUT)];
    assert_eq!(nix::poll::poll(&mut fds, 10_000_u16), Ok(1));
    match socket.take_error().unwrap() {
        Some(error) => Err(Errno::from_raw(error.raw_os_error().unwrap())),
        None => Ok(()),
    }
}

fn udp(bind: &str) -> UdpSocket {
    let socket = UdpSocket::bind((bind, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

#[test]
fn connect_succeeds_with_the_peer_that_the_app_asked_for() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    let relay = Relay::start(&lab.app, CaptureConfig::default());
    assert!(["nft queue", "xt NFQUEUE"].contains(&relay.rules.kind()));
    assert_eq!(relay.rules.ipv6(), Ipv6::Captured);
    for prefix in [CLUSTER4, CLUSTER6] {
        let to = cluster(prefix, relay::ACCEPTED, 80);
        lab.app.run(move || {
            let (greeting, stream) = connect(to).unwrap();
            assert_eq!(stream.peer_addr().unwrap(), to);
            assert_eq!(greeting, format!("{} {to}", stream.local_addr().unwrap()));
            assert_eq!(connect_without_blocking(to), Ok(()));
        });
        assert_eq!(relay.syns_to(to), 2);
    }
}

#[test]
fn connect_fails_with_the_error_of_the_cluster() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    let _relay = Relay::start(&lab.app, CaptureConfig::default());
    for (prefix, prohibited) in [(CLUSTER4, Errno::EHOSTUNREACH), (CLUSTER6, Errno::EACCES)] {
        for (last, errno) in [
            (relay::REFUSED, Errno::ECONNREFUSED),
            (relay::HOST_UNREACHABLE, Errno::EHOSTUNREACH),
            (relay::NET_UNREACHABLE, Errno::ENETUNREACH),
            (relay::PROHIBITED, prohibited),
            (relay::FORGOTTEN, Errno::EHOSTUNREACH),
        ] {
            let to = cluster(prefix, last, 80);
            lab.app.run(move || {
                let start = Instant::now();
                assert_eq!(connect(to).map(|(greeting, _)| greeting), Err(errno), "{to}");
                assert!(start.elapsed() < AT_ONCE, "{to} took {:?}", start.elapsed());
                assert_eq!(connect_without_blocking(to), Err(errno), "{to}");
            });
        }
    }
}

#[test]
fn silence_of_the_cluster_is_silence_for_the_app() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    let mut sniffer = lab.sniff();
    let relay = Relay::start(&lab.app, CaptureConfig::default());
    let to = cluster(CLUSTER4, relay::SILENT, 80);
    let error = lab.app.run(move || TcpStream::connect_timeout(&to, Duration::from_millis(1500)).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    // The first, and its repetition after a second, which is a new question to the cluster.
    assert_eq!(relay.syns_to(to), 2);
    lab.barrier();
    assert_eq!(sniffer.packets(), Vec::<Vec<u8>>::new());
}

#[test]
fn a_slow_dial_holds_one_syn_however_often_it_is_repeated() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    let relay = Relay::start(&lab.app, CaptureConfig::default());
    let [to4, to6] = [CLUSTER4, CLUSTER6].map(|prefix| cluster(prefix, relay::SLOW, 80));
    let slow = |to| lab.app.spawn(move || connect(to).unwrap().0);
    for (to, thread) in [(to4, slow(to4)), (to6, slow(to6))] {
        assert!(thread.join().unwrap().ends_with(&to.to_string()));
        assert_eq!(relay.syns_to(to), 1);
    }
    // Linux does not repeat a SYN that is still in a queue of the host; others do, as here by hand.
    let repeated = cluster(CLUSTER4, relay::SLOW, 80);
    lab.app.run(move || {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP)).unwrap();
        // From port 1000 to 80, sequence number 1, flags SYN.
        let syn = [3, 232, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 255, 255, 0, 0, 0, 0];
        for _ in 0..3 {
            socket.send_to(&syn, &SockAddr::from(SocketAddr::new(repeated.ip(), 0))).unwrap();
        }
    });
    let deadline = Instant::now() + PATIENCE;
    while relay.counters.repeated_syns.load(Ordering::Relaxed) < 2 || relay.syns_to(repeated) < 2 {
        assert!(Instant::now() < deadline, "repeated SYNs were not recognized");
        std::thread::yield_now();
    }
    assert_eq!(relay.syns_to(repeated), 2);
}

#[test]
fn one_udp_socket_talks_to_several_peers_again_and_again_and_nothing_leaks() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    let mut sniffer = lab.sniff();
    let _relay = Relay::start(&lab.app, CaptureConfig::default());
    for (bind, prefix) in [("0.0.0.0", CLUSTER4), ("::", CLUSTER6)] {
        lab.app.run(move || {
            let socket = udp(bind);
            // Three rounds: an answer must not make the next question look like an answer itself.
            for round in 0..3_u8 {
                for to in [cluster(prefix, 10, 53), cluster(prefix, 11, 5353)] {
                    socket.send_to(&[round], to).unwrap();
                    let mut buffer = [0; 10];
                    assert_eq!(socket.recv_from(&mut buffer).unwrap(), (1, to));
                    assert_eq!(buffer[0], round);
                }
            }
        });
    }
    lab.barrier();
    assert_eq!(sniffer.packets(), Vec::<Vec<u8>>::new());
}

#[test]
fn datagrams_of_sixty_kibibytes_go_both_ways() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    let relay = Relay::start(&lab.app, CaptureConfig::default());
    for (bind, prefix) in [("0.0.0.0", CLUSTER4), ("::", CLUSTER6)] {
        lab.app.run(move || {
            let socket = udp(bind);
            let payload: Vec<u8> = (0..60 << 10).map(|i: u32| i.to_le_bytes()[0]).collect();
            socket.send_to(&payload, cluster(prefix, 10, 53)).unwrap();
            let mut buffer = vec![0; 1 << 16];
            let (length, _) = socket.recv_from(&mut buffer).unwrap();
            assert!(buffer[..length] == payload);
        });
    }
    assert_eq!(relay.counters.unreadable.load(Ordering::Relaxed), 0);
}

#[test]
fn a_connected_udp_socket_learns_that_nobody_listens() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    let _relay = Relay::start(&lab.app, CaptureConfig::default());
    for (bind, prefix) in [("0.0.0.0", CLUSTER4), ("::", CLUSTER6)] {
        lab.app.run(move || {
            let socket = udp(bind);
            socket.connect(cluster(prefix, relay::PORT_UNREACHABLE, 99)).unwrap();
            socket.send(b"x").unwrap();
            assert_eq!(socket.recv(&mut [0; 10]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        });
    }
}

#[test]
fn with_two_capabilities_it_works_and_when_it_is_killed_the_kernel_refuses_at_once() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    let sidecar = lab.sidecar_process();
    for prefix in [CLUSTER4, CLUSTER6] {
        let to = cluster(prefix, relay::ACCEPTED, 80);
        lab.app.run(move || assert!(connect(to).unwrap().0.ends_with(&to.to_string())));
    }
    let bind = ["0.0.0.0", "::"];
    lab.app.run(move || {
        let socket = udp(bind[0]);
        socket.send_to(b"x", cluster(CLUSTER4, 10, 53)).unwrap();
        socket.recv(&mut [0; 10]).unwrap();
    });
    let mut sniffer = lab.sniff();
    sidecar.kill();
    for (bind, prefix) in bind.into_iter().zip([CLUSTER4, CLUSTER6]) {
        lab.app.run(move || {
            let start = Instant::now();
            let refused = connect(cluster(prefix, relay::ACCEPTED, 80)).map(|(greeting, _)| greeting);
            assert_eq!(refused, Err(Errno::ECONNREFUSED));
            assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
            udp(bind).send_to(b"x", cluster(prefix, 10, 53)).unwrap();
        });
    }
    lab.barrier();
    assert_eq!(sniffer.packets(), Vec::<Vec<u8>>::new());
}

#[test]
fn ping_and_other_protocols_stay_in_the_namespace() {
    if skip() {
        return;
    }
    for echo in [Echo::Drop, Echo::Refuse] {
        let lab = Lab::new();
        let mut sniffer = lab.sniff();
        let _relay = Relay::start(&lab.app, CaptureConfig { echo, ..CaptureConfig::default() });
        // ICMP echo request, ICMP timestamp request, SCTP, and a protocol of nobody.
        for (protocol, packet) in
            [(1, [8, 0, 0xf7, 0xff, 0, 0, 0, 0]), (1, [13, 0, 0, 0, 0, 0, 0, 0]), (132, [0; 8]), (253, [0; 8])]
        {
            lab.app.run(move || {
                let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(protocol))).unwrap();
                for to in [cluster(CLUSTER4, 77, 0), SocketAddr::new(PEER4.parse().unwrap(), 0)] {
                    let sent = socket.send_to(&packet, &SockAddr::from(to));
                    // The kernel tells a sender whose packet a rule drops.
                    assert!(sent.is_ok() || sent.unwrap_err().kind() == ErrorKind::PermissionDenied);
                }
            });
        }
        lab.app.run(|| {
            let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).unwrap();
            for to in [cluster(CLUSTER6, 77, 0), SocketAddr::new(PEER6.parse().unwrap(), 0)] {
                let sent = socket.send_to(&[128, 0, 0, 0, 0, 0, 0, 0], &SockAddr::from(to));
                assert!(sent.is_ok() || sent.unwrap_err().kind() == ErrorKind::PermissionDenied);
            }
        });
        lab.barrier();
        assert_eq!(sniffer.packets(), Vec::<Vec<u8>>::new());
    }
}

#[test]
fn connections_that_come_in_are_answered_directly() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    let relay = Relay::start(&lab.app, CaptureConfig::default());
    for (address, any) in [(APP4, "0.0.0.0"), (APP6, "::")] {
        let listener = lab.app.run(move || TcpListener::bind((any, 8080)).unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(&vec![7; 100_000]).unwrap();
        });
        let datagrams = lab.app.run(move || UdpSocket::bind((any, 5353)).unwrap());
        lab.peer.run(move || {
            let mut stream = TcpStream::connect((address, 8080)).unwrap();
            stream.write_all(b"ping").unwrap();
            let mut answer = Vec::new();
            assert_eq!(stream.read_to_end(&mut answer).unwrap(), 100_000);
            // A closed port refuses as ever.
            assert_eq!(TcpStream::connect((address, 8081)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        });
        server.join().unwrap();
        let echo = std::thread::spawn(move || {
            let (_, from) = datagrams.recv_from(&mut [0; 10]).unwrap();
            datagrams.send_to(b"pong", from).unwrap();
        });
        lab.peer.run(move || {
            let socket = udp(any);
            socket.send_to(b"ping", (address, 5353)).unwrap();
            assert_eq!(socket.recv(&mut [0; 10]).unwrap(), 4);
        });
        echo.join().unwrap();
    }
    assert!(relay.syns.lock().unwrap().is_empty());
}

#[test]
fn bypass_networks_are_reached_directly_and_can_be_changed() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    let listeners = lab.peer.run(|| [PEER4, PEER6].map(|address| TcpListener::bind((address, 80)).unwrap()));
    let bypass = ["172.31.9.0/24", "fd00:9::/64"].map(|text| text.parse().unwrap());
    let mut relay = Relay::start(&lab.app, CaptureConfig { bypass: bypass.to_vec(), ..CaptureConfig::default() });
    for (listener, address) in listeners.iter().zip([PEER4, PEER6]) {
        let stream = lab.app.run(move || TcpStream::connect((address, 80)).unwrap());
        let (_, from) = listener.accept().unwrap();
        assert_eq!(from, stream.local_addr().unwrap());
    }
    assert!(relay.syns.lock().unwrap().is_empty());
    // The last octets of the peer's addresses are the relay's "accepted".
    let mut rules = lab.app.run(move || {
        relay.rules.set_bypass(&[]).unwrap();
        relay
    });
    lab.app.run(|| assert!(connect((PEER4.parse::<std::net::IpAddr>().unwrap(), 80).into()).is_ok()));
    assert_eq!(rules.syns.lock().unwrap().len(), 1);
    let too_many = lab.app.run(move || {
        let many = vec!["10.0.0.0/8".parse().unwrap(); 257];
        matches!(rules.rules.set_bypass(&many), Err(CaptureError::TooManyBypass(257)))
    });
    assert!(too_many);
}

#[test]
fn installing_again_replaces_the_rules_and_a_second_owner_is_refused() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    let to = cluster(CLUSTER4, relay::ACCEPTED, 80);
    for _ in 0..3 {
        let relay = Relay::start(&lab.app, CaptureConfig::default());
        lab.app.run(move || assert!(connect(to).is_ok()));
        assert_eq!(relay.syns_to(to), 1);
    }
    let _relay = Relay::start(&lab.app, CaptureConfig::default());
    let second = lab.app.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { Capture::install(&CaptureConfig::default()).map(drop) })
    });
    assert!(matches!(second, Err(CaptureError::QueueTaken(_))), "{second:?}");
}

#[test]
fn nobody_outside_reaches_the_listeners_and_nobody_inside_fools_them() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    let relay = Relay::start(&lab.app, CaptureConfig::default());
    let ports = lab.app.run(|| {
        let open = |port: &u16| TcpStream::connect(("127.0.0.1", *port)).is_ok();
        (64_900..=65_130).filter(open).collect::<Vec<u16>>()
    });
    assert!(!ports.is_empty());
    let strangers = 2 * ports.len() as u64;
    let inside = ports.clone();
    lab.app.run(move || {
        for (port, address) in inside.iter().flat_map(|port| [(*port, "127.0.0.1"), (*port, "::1")]) {
            let mut stream = TcpStream::connect((address, port)).unwrap();
            assert_eq!(stream.read(&mut [0; 10]).unwrap_or(0), 0, "a greeting for a stranger");
        }
    });
    assert!(relay.counters.strangers.load(Ordering::Relaxed) >= strangers);
    lab.peer.run(move || {
        for (port, address) in ports.iter().flat_map(|port| [(*port, APP4), (*port, APP6)]) {
            assert_eq!(TcpStream::connect((address, port)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
    });
}

#[test]
fn a_connection_older_than_the_rules_is_cut_off() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    let listener = lab.peer.run(|| TcpListener::bind((PEER4, 80)).unwrap());
    let mut stream = lab.app.run(|| TcpStream::connect((PEER4, 80)).unwrap());
    let (mut accepted, _) = listener.accept().unwrap();
    let mut sniffer = lab.sniff();
    let _relay = Relay::start(&lab.app, CaptureConfig::default());
    stream.write_all(b"secret").unwrap();
    lab.barrier();
    assert_eq!(sniffer.packets(), Vec::<Vec<u8>>::new());
    accepted.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert_eq!(accepted.read(&mut [0; 10]).unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn ipv6_without_a_loopback_address_is_refused_at_once() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    lab.app.ip("addr del ::1/128 dev lo");
    let mut sniffer = lab.sniff();
    let relay = Relay::start(&lab.app, CaptureConfig::default());
    assert_eq!(relay.rules.ipv6(), Ipv6::Rejected);
    lab.app.run(|| {
        let start = Instant::now();
        let refused = connect(cluster(CLUSTER6, relay::ACCEPTED, 80)).map(|(greeting, _)| greeting);
        assert_eq!(refused, Err(Errno::ECONNREFUSED));
        assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
        let socket = udp("::");
        socket.connect(cluster(CLUSTER6, 10, 53)).unwrap();
        // The kernel tells a sender whose datagram a rule rejects.
        assert_eq!(socket.send(b"x").unwrap_err().kind(), ErrorKind::PermissionDenied);
        assert!(connect(cluster(CLUSTER4, relay::ACCEPTED, 80)).is_ok());
    });
    lab.barrier();
    assert_eq!(sniffer.packets(), Vec::<Vec<u8>>::new());
}

#[test]
fn a_syn_that_was_on_its_way_before_the_rules_is_refused_and_not_sent() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    let bypass = vec!["10.96.0.0/16".parse().unwrap()];
    let mut relay = Relay::start(&lab.app, CaptureConfig { bypass, ..CaptureConfig::default() });
    let to = cluster(CLUSTER4, relay::ACCEPTED, 80);
    let mut sniffer = lab.sniff();
    // The peer does not forward, so the SYN is repeated after a second; connection tracking knows the flow by then.
    let connecting = lab.app.spawn(move || connect(to).map(|(greeting, _)| greeting));
    let deadline = Instant::now() + PATIENCE;
    while sniffer.packets().is_empty() {
        assert!(Instant::now() < deadline, "no SYN on the wire");
        std::thread::yield_now();
    }
    let relay = lab.app.run(move || {
        relay.rules.set_bypass(&[]).unwrap();
        relay
    });
    assert_eq!(connecting.join().unwrap(), Err(Errno::ECONNREFUSED));
    assert_eq!(relay.syns_to(to), 1);
    lab.barrier();
    assert_eq!(sniffer.packets(), Vec::<Vec<u8>>::new());
}
