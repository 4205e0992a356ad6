//! The end of a session: callers wait for the original and are passed on to it.

mod support;

use std::net::{IpAddr, Ipv4Addr};

use support::{PATIENCE, Proxy, free_port, listen, listen_on, tcp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tpdocker_protocol::addr::{Listener, Scope};
use tpdocker_protocol::control::{ProxyReply, ProxyRequest};
use tpdocker_tunnel::{Event, Events, Tunnel};

/// Where the proxy listens: on this address alone, so that the original can have the same port beside it.
const POD: Ipv4Addr = Ipv4Addr::LOCALHOST;
const ORIGINAL: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Nobody listens there.
const GONE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// A proxy with an open port, and the sidecar's end of its tunnel.
async fn serving() -> (Proxy, Tunnel, Events, u16) {
    let port = free_port().await;
    let proxy = Proxy::start(vec![tcp(port)]).await;
    let (tunnel, mut events) = proxy.attach().await;
    let listener = Listener { port: tcp(port), scope: Scope::LoopbackV4 };
    listen_on(&tunnel, &mut events, vec![listener]).await;
    (proxy, tunnel, events, port)
}

async fn hand_over(proxy: &Proxy, to: &[Ipv4Addr]) {
    let mut control = proxy.control().await;
    let to = to.iter().copied().map(IpAddr::V4).collect();
    control.send(&ProxyRequest::HandOver { to }).await.unwrap();
    assert_eq!(control.receive().await.unwrap(), Some(ProxyReply::HandedOver));
}

async fn said(from: &mut TcpStream) -> [u8; 3] {
    let mut heard = [0; 3];
    timeout(PATIENCE, from.read_exact(&mut heard)).await.expect("in time").unwrap();
    heard
}

#[tokio::test]
async fn who_waits_for_the_app_and_who_comes_later_is_answered_by_the_original() {
    let (proxy, tunnel, mut events, port) = serving().await;
    let mut early = TcpStream::connect((POD, port)).await.unwrap();
    early.write_all(b"one").await.unwrap();
    // The sidecar holds it: the app does not listen at the moment.
    let held = timeout(PATIENCE, events.next()).await.expect("in time");
    assert!(matches!(held, Some(Event::Open(_))), "{held:?}");
    hand_over(&proxy, &[]).await;
    tunnel.close("the session ends");
    tunnel.closed().await;
    // The port is open all the time.
    let mut late = TcpStream::connect((POD, port)).await.unwrap();
    late.write_all(b"two").await.unwrap();

    let original = TcpListener::bind((ORIGINAL, port)).await.unwrap();
    hand_over(&proxy, &[GONE, ORIGINAL]).await;
    let mut heard = Vec::new();
    for _ in 0..2 {
        let (mut served, _) = timeout(PATIENCE, original.accept()).await.expect("in time").unwrap();
        let asked = said(&mut served).await;
        served.write_all(&asked).await.unwrap();
        heard.push(asked);
        // Half-closed by the original; the end comes through.
        served.shutdown().await.unwrap();
    }
    heard.sort_unstable();
    assert_eq!(heard, [*b"one", *b"two"]);
    for (caller, word) in [(&mut early, b"one"), (&mut late, b"two")] {
        assert_eq!(said(caller).await, *word);
        assert_eq!(timeout(PATIENCE, caller.read(&mut [0])).await.expect("in time").unwrap(), 0);
    }
}

#[tokio::test]
async fn the_pod_stays_as_ready_as_it_was() {
    let port = free_port().await;
    let proxy = Proxy::start(vec![tcp(port)]).await;
    let (tunnel, mut events) = proxy.attach().await;
    listen(&tunnel, &mut events, &[tcp(port)]).await;
    assert!(proxy.ready().await);
    hand_over(&proxy, &[]).await;
    tunnel.close("the session ends");
    tunnel.closed().await;
    assert!(proxy.ready().await);
}

#[tokio::test]
async fn a_caller_is_reset_when_no_pod_of_the_original_answers() {
    let (proxy, _tunnel, _events, port) = serving().await;
    hand_over(&proxy, &[GONE]).await;
    let mut caller = TcpStream::connect((POD, port)).await.unwrap();
    let end = timeout(PATIENCE, caller.read(&mut [0])).await.expect("in time");
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_pod_that_is_deleted_passes_on_who_still_comes_and_answers_before_it_closes() {
    let (mut proxy, _tunnel, _events, port) = serving().await;
    let original = TcpListener::bind((ORIGINAL, port)).await.unwrap();
    hand_over(&proxy, &[ORIGINAL]).await;
    let mut idle = TcpStream::connect((POD, port)).await.unwrap();
    let (_idle_served, _) = original.accept().await.unwrap();
    proxy.shutdown_tx.take().unwrap().send(()).unwrap();

    let mut caller = TcpStream::connect((POD, port)).await.unwrap();
    let (mut served, _) = timeout(PATIENCE, original.accept()).await.expect("in time").unwrap();
    caller.write_all(b"ask").await.unwrap();
    assert_eq!(said(&mut served).await, *b"ask");
    // Nobody waits on this one, so it ends, in order.
    assert_eq!(timeout(PATIENCE, idle.read(&mut [0])).await.expect("in time").unwrap(), 0);
    assert!(!proxy.server.is_finished(), "somebody waits for an answer");
    served.write_all(b"yes").await.unwrap();
    assert_eq!(said(&mut caller).await, *b"yes");
    assert_eq!(timeout(PATIENCE, caller.read(&mut [0])).await.expect("in time").unwrap(), 0);
    timeout(PATIENCE, &mut proxy.server).await.expect("the server ends").unwrap();
}

#[tokio::test]
async fn another_tunnel_is_not_taken_any_more() {
    let (proxy, _tunnel, _events, _) = serving().await;
    hand_over(&proxy, &[]).await;
    let (tunnel, _events) = proxy.attach().await;
    timeout(PATIENCE, tunnel.closed()).await.expect("it is closed");
}

#[tokio::test]
async fn a_ready_pod_that_is_deleted_serves_who_still_comes_through_its_tunnel() {
    let port = free_port().await;
    let mut proxy = Proxy::start(vec![tcp(port)]).await;
    let (tunnel, mut events) = proxy.attach().await;
    listen(&tunnel, &mut events, &[tcp(port)]).await;
    proxy.shutdown_tx.take().unwrap().send(()).unwrap();
    let _caller = TcpStream::connect((POD, port)).await.unwrap();
    let delivered = timeout(PATIENCE, events.next()).await.expect("in time");
    assert!(matches!(delivered, Some(Event::Open(_))), "{delivered:?}");
    timeout(PATIENCE, &mut proxy.server).await.expect("the server ends").unwrap();
}
