//! Connections through a proxy, both ways.

mod support;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use support::{PATIENCE, Proxy, dial, event, free_port, listen, pair, status, tcp, watch};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tpdocker_protocol::addr::{Listener, Scope, Target};
use tpdocker_protocol::errno::Errno;
use tpdocker_tunnel::{Closed, Event, Events, OpenError, Pending, splice};

async fn delivery(events: &mut Events) -> Pending {
    match event(events).await {
        Event::Open(pending) => pending,
        other => panic!("not a connection: {other:?}"),
    }
}

fn pod(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

#[tokio::test]
async fn a_dial_reaches_a_server_and_each_direction_ends_by_itself() {
    let proxy = Proxy::start(Vec::new()).await;
    let (tunnel, _events) = proxy.attach().await;
    let server = TcpListener::bind(pod(0)).await.unwrap();
    let (app, accepted) = tokio::join!(dial(&tunnel, server.local_addr().unwrap()), server.accept());
    let (mut app, (mut served, _)) = (app.unwrap(), accepted.unwrap());

    app.write_all(b"request").await.unwrap();
    app.shutdown().await.unwrap();
    let mut request = String::new();
    timeout(PATIENCE, served.read_to_string(&mut request)).await.expect("FIN arrives").unwrap();
    assert_eq!(request, "request");
    served.write_all(b"answer after the end of the request").await.unwrap();
    drop(served);
    let mut answer = String::new();
    timeout(PATIENCE, app.read_to_string(&mut answer)).await.expect("FIN arrives").unwrap();
    assert_eq!(answer, "answer after the end of the request");
}

#[tokio::test]
async fn a_dial_to_a_closed_port_is_refused_with_the_kernels_own_error() {
    let proxy = Proxy::start(Vec::new()).await;
    let (tunnel, _events) = proxy.attach().await;
    let refused = dial(&tunnel, pod(free_port().await)).await.unwrap_err();
    assert_eq!(refused, OpenError::Refused(Errno::ECONNREFUSED));
    let network = dial(&tunnel, "255.255.255.255:80".parse().unwrap()).await.unwrap_err();
    assert_eq!(network, OpenError::Refused(Errno::ENETUNREACH));
}

#[tokio::test]
async fn a_connection_to_an_open_port_is_delivered_with_its_peer() {
    let proxy = Proxy::start(Vec::new()).await;
    let (tunnel, mut events) = proxy.attach().await;
    let port = free_port().await;
    assert_eq!(listen(&tunnel, &mut events, &[tcp(port)]).await, (vec![tcp(port)], Vec::new()));

    let mut caller = TcpStream::connect(pod(port)).await.unwrap();
    let pending = delivery(&mut events).await;
    let Target::Deliver { port: to, peer } = pending.target() else { panic!("not a delivery") };
    assert_eq!((to, peer.0), (port, caller.local_addr().unwrap()));
    let (mut app, sidecar) = pair().await;
    tokio::spawn(splice(pending.accept(), sidecar));
    caller.write_all(b"ping").await.unwrap();
    let mut received = [0; 4];
    app.read_exact(&mut received).await.unwrap();
    app.write_all(b"pong").await.unwrap();
    caller.read_exact(&mut received).await.unwrap();
    assert_eq!(&received, b"pong");

    // The app stops listening: the port is closed, the connection lives on.
    listen(&tunnel, &mut events, &[]).await;
    assert_eq!(TcpStream::connect(pod(port)).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    app.write_all(b"more").await.unwrap();
    caller.read_exact(&mut received).await.unwrap();
    assert_eq!(&received, b"more");

    // And listens again.
    assert_eq!(listen(&tunnel, &mut events, &[tcp(port)]).await.0, [tcp(port)]);
    TcpStream::connect(pod(port)).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_the_app_refuses_is_reset() {
    let proxy = Proxy::start(Vec::new()).await;
    let (tunnel, mut events) = proxy.attach().await;
    let port = free_port().await;
    listen(&tunnel, &mut events, &[tcp(port)]).await;
    let mut caller = TcpStream::connect(pod(port)).await.unwrap();
    delivery(&mut events).await.refuse(Errno::ECONNREFUSED);
    let end = timeout(PATIENCE, caller.read(&mut [0])).await.expect("an end");
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_port_is_open_on_the_addresses_that_the_app_listens_on_and_on_no_others() {
    let proxy = Proxy::start(Vec::new()).await;
    let (tunnel, mut events) = proxy.attach().await;
    let port = free_port().await;
    let listener = |scope| Listener { port: tcp(port), scope };
    // All of 127.0.0.0/8 is this machine's: 127.0.0.2 stands for the pod's own address.
    let addresses: [SocketAddr; 3] = [
        (Ipv4Addr::LOCALHOST, port).into(),
        (Ipv4Addr::new(127, 0, 0, 2), port).into(),
        (Ipv6Addr::LOCALHOST, port).into(),
    ];
    for (scopes, open, public) in [
        (vec![Scope::LoopbackV4], vec![0], false),
        (vec![Scope::LoopbackV4, Scope::AnyV4], vec![0, 1], true),
        (vec![Scope::AnyV6], vec![2], true),
        (vec![Scope::LoopbackV6, Scope::LoopbackV4], vec![0, 2], false),
    ] {
        let asked = scopes.iter().copied().map(listener).collect();
        let answer = support::listen_on(&tunnel, &mut events, asked).await;
        assert_eq!(answer, (if public { vec![tcp(port)] } else { Vec::new() }, Vec::new()), "{scopes:?}");
        for (index, address) in addresses.iter().enumerate() {
            let connected = TcpStream::connect(address).await.is_ok();
            assert_eq!(connected, open.contains(&index), "{scopes:?}: {address}");
            if connected {
                delivery(&mut events).await;
            }
        }
    }
}

#[tokio::test]
async fn a_port_that_a_sibling_holds_and_the_proxys_own_are_reported() {
    let proxy = Proxy::start(Vec::new()).await;
    let mut watch = watch(&proxy).await;
    let (tunnel, mut events) = proxy.attach().await;
    let sibling = TcpListener::bind(pod(0)).await.unwrap();
    let (taken, own, good) = (sibling.local_addr().unwrap().port(), proxy.address.port(), free_port().await);
    let (bound, failed) = listen(&tunnel, &mut events, &[tcp(taken), tcp(own), tcp(good)]).await;
    assert_eq!(bound, [tcp(good)]);
    let failures: Vec<_> = failed.iter().map(|failure| (failure.port, failure.message.as_str())).collect();
    assert_eq!(
        failures,
        [
            (tcp(taken), "address in use by another container of the pod"),
            (tcp(own), "the proxy itself listens on this port of the pod's loopback"),
        ]
    );
    status(&mut watch, |status| status.failed == failed && status.bound == [tcp(good)]).await;
}

#[tokio::test]
async fn the_pod_is_ready_when_the_app_listens_on_the_declared_ports() {
    let declared = free_port().await;
    let proxy = Proxy::start(vec![tcp(declared), support::udp(declared)]).await;
    let (tunnel, mut events) = proxy.attach().await;
    listen(&tunnel, &mut events, &[tcp(free_port().await)]).await;
    assert!(!proxy.ready().await);
    listen(&tunnel, &mut events, &[tcp(declared)]).await;
    assert!(proxy.ready().await);
    listen(&tunnel, &mut events, &[]).await;
    assert!(!proxy.ready().await);
}

#[tokio::test]
async fn a_newer_tunnel_replaces_the_older_one_and_gets_its_ports() {
    let proxy = Proxy::start(Vec::new()).await;
    let (older, mut older_events) = proxy.attach().await;
    let port = free_port().await;
    listen(&older, &mut older_events, &[tcp(port)]).await;
    let (newer, mut newer_events) = proxy.attach().await;
    let end = timeout(PATIENCE, older.closed()).await.expect("the older tunnel ends");
    assert_eq!(end, Closed::Peer("replaced by a newer tunnel".to_owned()));
    assert_eq!(listen(&newer, &mut newer_events, &[tcp(port)]).await.0, [tcp(port)]);
    let _caller = TcpStream::connect(pod(port)).await.unwrap();
    delivery(&mut newer_events).await;
}

#[tokio::test]
async fn a_lost_tunnel_closes_the_ports() {
    let proxy = Proxy::start(Vec::new()).await;
    let mut watch = watch(&proxy).await;
    let (tunnel, mut events) = proxy.attach().await;
    let port = free_port().await;
    listen(&tunnel, &mut events, &[tcp(port)]).await;
    status(&mut watch, |status| status.bound == [tcp(port)]).await;
    tunnel.close("enough");
    status(&mut watch, |status| !status.attached).await;
    let refused = async {
        while TcpStream::connect(pod(port)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, refused).await.expect("the port closes");
}

#[tokio::test]
async fn a_proxy_that_stops_says_so() {
    let proxy = Proxy::start(Vec::new()).await;
    let (tunnel, mut events) = proxy.attach().await;
    listen(&tunnel, &mut events, &[]).await;
    proxy.leave().await;
    assert_eq!(tunnel.closed().await, Closed::Peer("the proxy pod is stopping".to_owned()));
}
