//! What of the laptop stays in reach of the app: siblings by name, and the laptop's ports.

mod plane;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;

use plane::{CLUSTER_IP, PATIENCE, Sidecar, connected, eventually};
use tpdocker_protocol::contract::{HOST_PORT_CONNECTED, HOST_PORT_REFUSED, SIDECAR_HOST_PORT};
use tpdocker_protocol::control::{Sibling, SidecarConfig, SidecarReply, SidecarRequest};

const NAMESERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(CLUSTER_IP), 53);
const SIBLING: Ipv4Addr = Ipv4Addr::new(172, 31, 9, 7);

fn configure(sidecar: &Sidecar, config: SidecarConfig) -> SidecarReply {
    sidecar.ask(&SidecarRequest::Configure(config))
}

fn with_sibling() -> SidecarConfig {
    SidecarConfig {
        resolv_conf: Some("search staging.svc.cluster.local\nnameserver 10.96.0.10\n".into()),
        siblings: vec![Sibling { names: vec!["db".into()], addresses: vec![SIBLING.into()] }],
        ..SidecarConfig::default()
    }
}

/// A question for the A records of `name`.
fn question(name: &str) -> Vec<u8> {
    let mut message = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len().try_into().unwrap());
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// Whether `answer` is the sidecar's to `question`, with the sibling's address.
fn is_siblings(answer: &[u8], question: &[u8]) -> bool {
    answer[..2] == question[..2] && answer[2] & 0x80 != 0 && answer.ends_with(&SIBLING.octets())
}

#[test]
fn siblings_are_answered_without_the_cluster_and_all_else_by_the_cluster() {
    let (sidecar, cluster) = connected();
    let nameserver = cluster.namespace.run(|| UdpSocket::bind(NAMESERVER)).unwrap();
    let app = sidecar.namespace.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).unwrap();
    for socket in [&nameserver, &app] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    assert_eq!(configure(&sidecar, with_sibling()), SidecarReply::Configured);
    // A resolver that connects its socket hears from nobody else.
    app.connect(NAMESERVER).unwrap();
    let mut buffer = [0; 512];
    for name in ["db", "DB.staging.svc.cluster.local"] {
        app.send(&question(name)).unwrap();
        let length = app.recv(&mut buffer).unwrap();
        assert!(is_siblings(&buffer[..length], &question(name)), "{name}: {:?}", &buffer[..length]);
    }
    app.send(&question("thing1")).unwrap();
    let (length, from) = nameserver.recv_from(&mut buffer).unwrap();
    assert_eq!(buffer[..length], question("thing1"), "the cluster's nameserver was asked for nothing else");
    nameserver.send_to(b"from the cluster", from).unwrap();
    let length = app.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"from the cluster");

    // A sibling that is gone is the cluster's name again.
    assert_eq!(configure(&sidecar, SidecarConfig { siblings: Vec::new(), ..with_sibling() }), SidecarReply::Configured);
    app.send(&question("db")).unwrap();
    let (length, _) = nameserver.recv_from(&mut buffer).unwrap();
    assert_eq!(buffer[..length], question("db"));
}

#[test]
fn over_tcp_each_question_of_a_connection_finds_who_knows() {
    let framed = |message: &[u8]| {
        let length = u16::try_from(message.len()).unwrap().to_be_bytes();
        [&length, message].concat()
    };
    let read = |stream: &mut TcpStream| {
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut message).unwrap();
        message
    };
    let (sidecar, cluster) = connected();
    assert_eq!(configure(&sidecar, with_sibling()), SidecarReply::Configured);
    let nameserver = cluster.namespace.run(|| TcpListener::bind(NAMESERVER)).unwrap();
    let server = std::thread::spawn(move || {
        let (mut connection, _) = nameserver.accept().unwrap();
        let asked = read(&mut connection);
        connection.write_all(&framed(b"from the cluster")).unwrap();
        let mut rest = Vec::new();
        connection.read_to_end(&mut rest).unwrap();
        (asked, rest)
    });
    let mut app = sidecar.namespace.run(|| TcpStream::connect(NAMESERVER)).unwrap();
    app.set_read_timeout(Some(PATIENCE)).unwrap();
    let first = framed(&question("db.staging.svc.cluster.local"));
    // Byte by byte: a stream has no message boundaries.
    for byte in first.chunks(1) {
        app.write_all(byte).unwrap();
    }
    assert!(is_siblings(&read(&mut app), &question("db")));
    app.write_all(&[framed(&question("thing1")), framed(&question("db"))].concat()).unwrap();
    let both = [read(&mut app), read(&mut app)];
    assert!(both.iter().any(|answer| is_siblings(answer, &question("db"))), "{both:?}");
    assert!(both.iter().any(|answer| answer == b"from the cluster"), "{both:?}");
    app.shutdown(Shutdown::Write).unwrap();
    assert_eq!(app.read(&mut [0]).unwrap(), 0, "the cluster's end has come through");
    assert_eq!(server.join().unwrap(), (question("thing1"), Vec::new()));
}

/// The CLI's end: waits for an app and says what came of it.
fn laptop(sidecar: &Sidecar) -> UnixStream {
    let mut waiting = UnixStream::connect(sidecar.socket()).unwrap();
    waiting.set_read_timeout(Some(PATIENCE)).unwrap();
    waiting.write_all(&[SIDECAR_HOST_PORT]).unwrap();
    waiting
}

fn port_of(laptop: &mut UnixStream) -> u16 {
    let mut port = [0; 2];
    laptop.read_exact(&mut port).unwrap();
    u16::from_be_bytes(port)
}

fn with_ports(ports: &[u16]) -> SidecarConfig {
    SidecarConfig { host_ports: ports.to_vec(), ..SidecarConfig::default() }
}

#[test]
fn a_port_of_the_containers_localhost_leads_to_the_laptop() {
    let sidecar = Sidecar::start();
    assert_eq!(configure(&sidecar, with_ports(&[9000, 80])), SidecarReply::Configured);
    // One that a dead CLI has left behind is passed over.
    drop(laptop(&sidecar));
    for (address, port) in [(Ipv4Addr::LOCALHOST.into(), 9000), (std::net::IpAddr::from(Ipv6Addr::LOCALHOST), 80)] {
        let mut laptop = laptop(&sidecar);
        let mut app = sidecar.namespace.run(|| TcpStream::connect((address, port))).unwrap();
        app.set_read_timeout(Some(PATIENCE)).unwrap();
        app.write_all(b"breakpoint?").unwrap();
        assert_eq!(port_of(&mut laptop), port);
        laptop.write_all(&[HOST_PORT_CONNECTED]).unwrap();
        let mut said = [0; 11];
        laptop.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"breakpoint?");
        laptop.write_all(b"no").unwrap();
        laptop.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        app.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "no");
        // The other direction is still open.
        app.write_all(b"bye").unwrap();
        app.shutdown(Shutdown::Write).unwrap();
        answer.clear();
        laptop.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "bye");
    }
    assert_eq!(sidecar.status().listening, [], "the cluster is not told of the sidecar's own listeners");
}

#[test]
fn where_nobody_listens_on_the_laptop_the_app_is_reset_and_an_undeclared_port_is_refused() {
    let sidecar = Sidecar::start();
    assert_eq!(configure(&sidecar, with_ports(&[9000])), SidecarReply::Configured);
    let mut laptop = laptop(&sidecar);
    let mut app = sidecar.namespace.run(|| TcpStream::connect((Ipv4Addr::LOCALHOST, 9000))).unwrap();
    app.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(port_of(&mut laptop), 9000);
    laptop.write_all(&[HOST_PORT_REFUSED]).unwrap();
    assert_eq!(app.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);

    assert_eq!(configure(&sidecar, with_ports(&[9001])), SidecarReply::Configured);
    eventually("the old port is closed", || {
        let refused = sidecar.namespace.run(|| TcpStream::connect((Ipv4Addr::LOCALHOST, 9000))).err()?;
        (refused.kind() == ErrorKind::ConnectionRefused).then_some(())
    });
    let taken = sidecar.namespace.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 9002))).unwrap();
    match configure(&sidecar, with_ports(&[9001, 9002])) {
        SidecarReply::Error { message } => assert!(message.contains("port 9002"), "{message}"),
        other => panic!("not an error: {other:?}"),
    }
    drop(taken);
}

#[test]
fn a_port_that_leads_to_the_laptop_is_open_in_the_container_and_nowhere_in_the_pod() {
    let (sidecar, cluster) = connected();
    assert_eq!(configure(&sidecar, with_ports(&[9000])), SidecarReply::Configured);
    // Both ports are looked for together: once the app's is open in the pod, the other one would be.
    let _app = sidecar.namespace.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080))).unwrap();
    eventually("the app's port is open in the pod", || {
        cluster.namespace.run(|| TcpStream::connect((CLUSTER_IP, 8080))).ok()
    });
    for address in [CLUSTER_IP.into(), std::net::IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let refused = cluster.namespace.run(|| TcpStream::connect((address, 9000))).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{address}");
    }
}
