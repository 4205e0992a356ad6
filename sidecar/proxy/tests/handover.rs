//! The end of a session: callers wait for the original and are passed on to it.

mod support;

use std::net::{IpAddr, Ipv4Addr};

use support::{PATIENCE, Proxy, event, free_port, listen, listen_on, pair, tcp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tpdocker_protocol::addr::{Listener, Scope};
use tpdocker_protocol::control::{ProxyReply, ProxyRequest};
use tpdocker_tunnel::{Event, Events, Tunnel, splice};

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

/// Somebody who calls from the cluster, and his connection at the app.
async fn call(events: &mut Events, port: u16) -> (TcpStream, TcpStream) {
    let caller = TcpStream::connect((POD, port)).await.unwrap();
    let Event::Open(pending) = event(events).await else { panic!("not a delivery") };
    let (app, sidecar) = pair().await;
    tokio::spawn(splice(pending.accept(), sidecar));
    (caller, app)
}

#[tokio::test]
async fn a_ready_pod_that_is_deleted_serves_who_still_comes_and_ends_in_order_what_rests() {
    let port = free_port().await;
    let mut proxy = Proxy::start(vec![tcp(port)]).await;
    let (tunnel, mut events) = proxy.attach().await;
    listen(&tunnel, &mut events, &[tcp(port)]).await;
    let (mut resting, mut rested) = call(&mut events, port).await;
    proxy.shutdown_tx.take().unwrap().send(()).unwrap();
    let (mut caller, mut app) = call(&mut events, port).await;
    caller.write_all(b"ask").await.unwrap();
    assert_eq!(said(&mut app).await, *b"ask");
    // Nobody waits on this one, so it ends, at both ends.
    assert_eq!(timeout(PATIENCE, resting.read(&mut [0])).await.expect("in time").unwrap(), 0);
    assert_eq!(timeout(PATIENCE, rested.read(&mut [0])).await.expect("in time").unwrap(), 0);
    drop(rested);
    assert!(!proxy.server.is_finished(), "somebody waits for an answer");
    app.write_all(b"yes").await.unwrap();
    assert_eq!(said(&mut caller).await, *b"yes");
    assert_eq!(timeout(PATIENCE, caller.read(&mut [0])).await.expect("in time").unwrap(), 0);
    drop(app);
    timeout(PATIENCE, &mut proxy.server).await.expect("the server ends").unwrap();
}

#[tokio::test]
async fn a_client_that_asks_all_the_time_is_answered_in_full_and_not_asked_for_twice() {
    let port = free_port().await;
    let mut proxy = Proxy::start(vec![tcp(port)]).await;
    let (tunnel, mut events) = proxy.attach().await;
    listen(&tunnel, &mut events, &[tcp(port)]).await;
    let (mut caller, mut app) = call(&mut events, port).await;
    proxy.shutdown_tx.take().unwrap().send(()).unwrap();
    let asked = tokio::spawn(async move {
        let mut asked = 0;
        let mut request = [0; 3];
        while app.read_exact(&mut request).await.is_ok() {
            asked += 1;
            // In two pieces with a pause between them.
            app.write_all(b"y").await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            app.write_all(b"es").await.unwrap();
        }
        asked
    });
    let mut answered = 0;
    let ending = loop {
        caller.write_all(b"ask").await.unwrap();
        let mut answer = [0; 3];
        let mut length = 0;
        while length < answer.len() {
            match timeout(PATIENCE, caller.read(&mut answer[length..])).await.expect("in time").unwrap_or(0) {
                0 => break,
                more => length += more,
            }
        }
        if length < answer.len() {
            break length;
        }
        answered += 1;
    };
    assert_eq!(ending, 0, "an answer was cut short");
    assert!(answered > 10, "{answered}");
    assert_eq!(timeout(PATIENCE, asked).await.expect("the app sees the end").unwrap(), answered);
    timeout(PATIENCE, &mut proxy.server).await.expect("the server ends").unwrap();
}
