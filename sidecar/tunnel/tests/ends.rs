//! How a tunnel ends, and what travels beside the streams.

mod support;

use bytes::Bytes;
use support::{dial, in_memory, over_tcp, stream_pair, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tpdocker_protocol::addr::{AppAddr, ClusterAddr, Listener, Port, Scope, Transport};
use tpdocker_protocol::control::PortFailure;
use tpdocker_protocol::errno::Errno;
use tpdocker_tunnel::{Closed, Datagram, Echo, Event, OpenError, Side, Tunnel};

#[tokio::test]
async fn closing_one_end_says_why_at_the_other_and_resets_the_streams_of_both() {
    let mut pair = over_tcp().await;
    let (mut client, mut server) = stream_pair(&mut pair).await;
    pair.sidecar.close("the session is over");
    assert_eq!(within(pair.sidecar.closed()).await, Closed::Local);
    assert_eq!(within(pair.proxy.closed()).await, Closed::Peer("the session is over".to_owned()));
    assert_eq!(within(client.read()).await, Err(Errno::ECONNRESET));
    assert_eq!(within(server.read()).await, Err(Errno::ECONNRESET));
    assert!(within(pair.proxy_events.next()).await.is_none());
    let refused = within(pair.proxy.open(dial(1))).await.unwrap_err();
    assert_eq!(refused, OpenError::Closed(Closed::Peer("the session is over".to_owned())));
}

#[tokio::test]
async fn the_tunnel_ends_when_its_last_handle_is_dropped() {
    let pair = in_memory();
    let (sidecar, sidecar_events) = (pair.sidecar.clone(), pair.sidecar_events);
    drop(pair.sidecar);
    drop(sidecar_events);
    assert!(tokio::time::timeout(std::time::Duration::from_millis(50), pair.proxy.closed()).await.is_err());
    drop(sidecar);
    assert!(matches!(within(pair.proxy.closed()).await, Closed::Peer(_)));
}

#[tokio::test]
async fn a_carrier_that_ends_ends_everything() {
    let (near, mut far) = tokio::io::duplex(64 << 10);
    let (tunnel, mut events) = Tunnel::start(Side::Sidecar, near);
    let opening = {
        let tunnel = tunnel.clone();
        tokio::spawn(async move { tunnel.open(dial(1)).await })
    };
    let mut greeting = [0; 8];
    within(far.read_exact(&mut greeting)).await.unwrap();
    drop(far);
    let closed = within(tunnel.closed()).await;
    assert!(matches!(&closed, Closed::Carrier(_)), "{closed:?}");
    assert_eq!(within(opening).await.unwrap().unwrap_err(), OpenError::Closed(closed));
    assert!(within(events.next()).await.is_none());
}

#[tokio::test]
async fn a_carrier_that_is_reset_ends_everything() {
    let (near, far) = support::tcp_pair().await;
    let (tunnel, _events) = Tunnel::start(Side::Proxy, near);
    far.set_zero_linger().unwrap();
    drop(far);
    let closed = within(tunnel.closed()).await;
    assert!(matches!(&closed, Closed::Carrier(_)), "{closed:?}");
}

#[tokio::test]
async fn a_stranger_on_the_carrier_is_told_what_is_wrong() {
    let (near, mut far) = tokio::io::duplex(64 << 10);
    let (tunnel, _events) = Tunnel::start(Side::Proxy, near);
    far.write_all(b"GET / HTTP/1.1\r\nHost: proxy\r\n\r\n").await.unwrap();
    let closed = within(tunnel.closed()).await;
    assert!(matches!(&closed, Closed::Protocol(why) if why.contains("unknown frame type 71")), "{closed:?}");
    let mut said = Vec::new();
    within(far.read_to_end(&mut said)).await.unwrap();
    assert!(String::from_utf8_lossy(&said).contains("unknown frame type 71"));
}

#[tokio::test(start_paused = true)]
async fn a_carrier_that_says_nothing_is_dead_after_fifteen_seconds() {
    let (near, _far) = tokio::io::duplex(64 << 10);
    let started = tokio::time::Instant::now();
    let (tunnel, _events) = Tunnel::start(Side::Sidecar, near);
    let closed = tunnel.closed().await;
    assert!(matches!(&closed, Closed::Carrier(why) if why.contains("silent")), "{closed:?}");
    assert_eq!(started.elapsed().as_secs(), 15);
}

#[tokio::test]
async fn datagrams_and_their_failures_arrive_with_both_addresses() {
    let mut pair = in_memory();
    let app = AppAddr("172.17.0.2:40000".parse().unwrap());
    let remote = ClusterAddr("[fd00::53]:53".parse().unwrap());
    for payload in [Bytes::new(), Bytes::from_static(b"query"), Bytes::from(vec![9; 65_507])] {
        let datagram = Datagram { app, remote, payload };
        pair.sidecar.send_datagram(datagram.clone());
        assert!(matches!(within(pair.proxy_events.next()).await, Some(Event::Datagram(seen)) if seen == datagram));
        pair.proxy.send_datagram(datagram.clone());
        assert!(matches!(within(pair.sidecar_events.next()).await, Some(Event::Datagram(seen)) if seen == datagram));
    }
    pair.proxy.send_datagram_failed(app, remote, Errno::ECONNREFUSED);
    match within(pair.sidecar_events.next()).await {
        Some(Event::DatagramFailed { app: a, remote: r, errno }) => {
            assert_eq!((a, r, errno), (app, remote, Errno::ECONNREFUSED));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn echo_requests_replies_and_failures_arrive_with_identifier_and_sequence() {
    let mut pair = in_memory();
    let app = AppAddr("172.17.0.2:7".parse().unwrap());
    let remote = ClusterAddr("10.96.0.10:0".parse().unwrap());
    let echo = Echo { app, remote, sequence: 3, payload: Bytes::from_static(b"payload") };
    pair.sidecar.send_echo(echo.clone());
    assert!(matches!(within(pair.proxy_events.next()).await, Some(Event::Echo(seen)) if seen == echo));
    pair.proxy.send_echo(echo.clone());
    assert!(matches!(within(pair.sidecar_events.next()).await, Some(Event::Echo(seen)) if seen == echo));
    pair.proxy.send_echo_failed(app, remote, 4, Errno::EACCES);
    match within(pair.sidecar_events.next()).await {
        Some(Event::EchoFailed { app: a, remote: r, sequence, errno }) => {
            assert_eq!((a, r, sequence, errno), (app, remote, 4, Errno::EACCES));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn ports_to_listen_on_are_asked_for_and_answered() {
    let mut pair = in_memory();
    let ports: Vec<_> = [80, 443].map(|number| Port { transport: Transport::Tcp, number }).into();
    let wanted =
        vec![Listener { port: ports[0], scope: Scope::AnyV6 }, Listener { port: ports[1], scope: Scope::LoopbackV4 }];
    pair.sidecar.listen(wanted.clone());
    assert!(matches!(within(pair.proxy_events.next()).await, Some(Event::Listen(seen)) if seen == wanted));
    let failure = PortFailure { port: ports[1], message: "in use".to_owned() };
    pair.proxy.listening(vec![ports[0]], vec![failure.clone()]);
    match within(pair.sidecar_events.next()).await {
        Some(Event::Listening { bound, failed }) => assert_eq!((bound, failed), (vec![ports[0]], vec![failure])),
        other => panic!("{other:?}"),
    }
}
