//! Datagrams through a proxy.

mod support;

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use support::{PATIENCE, Proxy, app, event, listen, udp};
use tokio::net::UdpSocket;
use tokio::time::timeout;
use tpdocker_protocol::addr::{AppAddr, ClusterAddr};
use tpdocker_protocol::errno::Errno;
use tpdocker_tunnel::{Datagram, Event, Events, Tunnel};

async fn server() -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap()
}

fn send(tunnel: &Tunnel, app: AppAddr, remote: SocketAddr, payload: &'static [u8]) {
    tunnel.send_datagram(Datagram { app, remote: ClusterAddr(remote), payload: Bytes::from_static(payload) });
}

async fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let (length, peer) = timeout(PATIENCE, socket.recv_from(&mut buffer)).await.expect("a datagram").unwrap();
    (buffer[..length].to_vec(), peer)
}

async fn datagram(events: &mut Events) -> Datagram {
    match event(events).await {
        Event::Datagram(datagram) => datagram,
        other => panic!("not a datagram: {other:?}"),
    }
}

#[tokio::test]
async fn one_socket_of_the_app_speaks_to_two_peers_from_one_port() {
    let proxy = Proxy::start(Vec::new()).await;
    let (tunnel, mut events) = proxy.attach().await;
    let (one, two) = (server().await, server().await);
    let mut sources = Vec::new();
    for server in [&one, &two] {
        let address = server.local_addr().unwrap();
        send(&tunnel, app(4000), address, b"question");
        let (payload, source) = receive(server).await;
        assert_eq!(payload, b"question");
        server.send_to(b"answer", source).await.unwrap();
        let answer = datagram(&mut events).await;
        assert_eq!((answer.app, answer.remote.0, &answer.payload[..]), (app(4000), address, &b"answer"[..]));
        sources.push(source);
    }
    assert_eq!(sources[0], sources[1]);
    send(&tunnel, app(4001), one.local_addr().unwrap(), b"");
    let (payload, source) = receive(&one).await;
    assert!(payload.is_empty(), "an empty datagram is one, too");
    assert_ne!(source, sources[0], "another socket of the app is another one here");
}

#[tokio::test]
async fn the_largest_datagram_goes_both_ways() {
    let proxy = Proxy::start(Vec::new()).await;
    let (tunnel, mut events) = proxy.attach().await;
    let server = server().await;
    let payload = Bytes::from(vec![b'x'; 65_503]);
    let remote = ClusterAddr(server.local_addr().unwrap());
    tunnel.send_datagram(Datagram { app: app(4000), remote, payload: payload.clone() });
    let (received, source) = receive(&server).await;
    assert_eq!(received, payload);
    server.send_to(&received, source).await.unwrap();
    assert_eq!(datagram(&mut events).await.payload, payload);
}

#[tokio::test]
async fn an_unreachable_port_is_told_with_its_peer_and_the_socket_lives_on() {
    let proxy = Proxy::start(Vec::new()).await;
    let (tunnel, mut events) = proxy.attach().await;
    let closed = server().await.local_addr().unwrap();
    send(&tunnel, app(4000), closed, b"anybody?");
    match event(&mut events).await {
        Event::DatagramFailed { app: from, remote, errno } => {
            assert_eq!((from, remote.0, errno), (app(4000), closed, Errno::ECONNREFUSED));
        }
        other => panic!("not a failure: {other:?}"),
    }
    let server = server().await;
    send(&tunnel, app(4000), server.local_addr().unwrap(), b"question");
    assert_eq!(receive(&server).await.0, b"question");
}

#[tokio::test]
async fn an_address_without_a_route_is_told_at_once() {
    let proxy = Proxy::start(Vec::new()).await;
    let (tunnel, mut events) = proxy.attach().await;
    let remote: SocketAddr = "255.255.255.255:9".parse().unwrap();
    send(&tunnel, app(4000), remote, b"all");
    match event(&mut events).await {
        Event::DatagramFailed { remote: failed, errno, .. } => {
            assert_eq!(
                (failed.0, errno),
                (remote, Errno::EACCES),
                "broadcast needs a permission that nobody asked for"
            );
        }
        other => panic!("not a failure: {other:?}"),
    }
}

#[tokio::test]
async fn a_udp_port_of_the_app_receives_and_answers_from_the_same_port() {
    let proxy = Proxy::start(Vec::new()).await;
    let (tunnel, mut events) = proxy.attach().await;
    let port = server().await.local_addr().unwrap().port();
    assert_eq!(listen(&tunnel, &mut events, &[udp(port)]).await, (vec![udp(port)], Vec::new()));
    let caller = server().await;
    caller.connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    caller.send(b"question").await.unwrap();
    let question = datagram(&mut events).await;
    assert_eq!(question.app, AppAddr((Ipv4Addr::UNSPECIFIED, port).into()));
    assert_eq!(question.remote.0, caller.local_addr().unwrap());
    send(&tunnel, app(port), question.remote.0, b"answer");
    // Only the right source passes a connected socket.
    assert_eq!(receive(&caller).await.0, b"answer");

    listen(&tunnel, &mut events, &[]).await;
    caller.send(b"question").await.unwrap();
    let closed = timeout(PATIENCE, caller.recv(&mut [0])).await.expect("an error");
    assert_eq!(closed.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}
