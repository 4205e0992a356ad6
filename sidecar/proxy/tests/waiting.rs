//! A client that is gone: who calls waits for it, or for the original that a letter brings back.

mod support;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use support::server::{NEVER, SERVING, SOON, Server, ask, keep, letter};
use support::{PATIENCE, Proxy, event, free_port, listen_on, pair, status, tcp, watch};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tpdocker_protocol::addr::{Listener, Scope};
use tpdocker_protocol::control::{ProxyReply, ProxyRequest};
use tpdocker_protocol::letter::Letter;
use tpdocker_tunnel::{Event, Events, Tunnel, splice};

/// Where the proxy listens: on addresses of this family alone, so that the original can have the same port beside it.
const POD: Ipv6Addr = Ipv6Addr::LOCALHOST;
const ORIGINAL: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const GRACE: Duration = Duration::from_mins(1);

async fn attach(proxy: &Proxy, port: u16) -> (Tunnel, Events) {
    let (tunnel, mut events) = proxy.attach().await;
    listen_on(&tunnel, &mut events, vec![Listener { port: tcp(port), scope: Scope::AnyV6 }]).await;
    (tunnel, events)
}

/// A proxy whose client has left `letter` and is gone, and its port.
async fn deserted(letter: Letter) -> (Proxy, u16) {
    let port = free_port().await;
    let proxy = Proxy::start(vec![tcp(port)]).await;
    let (tunnel, _events) = attach(&proxy, port).await;
    let mut client = proxy.control().await;
    keep(&mut client, letter).await;
    let mut watch = watch(&proxy).await;
    status(&mut watch, |status| status.attached && status.ready).await;
    tunnel.close("it is killed");
    drop(client);
    status(&mut watch, |status| !status.attached).await;
    (proxy, port)
}

async fn call(port: u16, word: &[u8; 3]) -> TcpStream {
    let mut caller = TcpStream::connect((POD, port)).await.unwrap();
    caller.write_all(word).await.unwrap();
    caller
}

async fn said(from: &mut TcpStream) -> [u8; 3] {
    let mut heard = [0; 3];
    timeout(PATIENCE, from.read_exact(&mut heard)).await.expect("in time").unwrap();
    heard
}

#[tokio::test]
async fn who_calls_waits_for_a_client_that_comes_back() {
    let server = Server::start(&[]).await;
    let (proxy, port) = deserted(letter(server.port, GRACE)).await;
    assert!(proxy.ready().await);
    let mut caller = call(port, b"one").await;
    let (tunnel, mut events) = proxy.attach().await;
    // Before the app's ports are told: it had called before.
    let Event::Open(pending) = event(&mut events).await else { panic!("not a caller") };
    let (mut app, sidecar) = pair().await;
    tokio::spawn(splice(pending.accept(), sidecar));
    assert_eq!(said(&mut app).await, *b"one");
    app.write_all(b"yes").await.unwrap();
    assert_eq!(said(&mut caller).await, *b"yes");

    listen_on(&tunnel, &mut events, vec![Listener { port: tcp(port), scope: Scope::AnyV6 }]).await;
    assert!(proxy.ready().await);
    let _caller = call(port, b"two").await;
    assert!(matches!(event(&mut events).await, Event::Open(_)));
    // The ports that were kept are those that the app may close.
    listen_on(&tunnel, &mut events, Vec::new()).await;
    assert!(!proxy.ready().await);
    assert_eq!(TcpStream::connect((POD, port)).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn who_waits_is_answered_by_the_original_before_the_proxy_goes() {
    let mut server = Server::start(&[]).await;
    let (proxy, port) = deserted(letter(server.port, SOON)).await;
    let mut early = call(port, b"one").await;
    assert_eq!(server.lines(3).await, ["GET /look", "GET /look", "PATCH /a"]);
    // Nobody is ready yet.
    assert_eq!(server.lines(2).await, [SERVING; 2]);
    let mut late = call(port, b"two").await;
    let original = TcpListener::bind((ORIGINAL, port)).await.unwrap();
    server.serves(&[&ORIGINAL.to_string()]);
    let mut heard = Vec::new();
    for _ in 0..2 {
        let (mut served, _) = timeout(PATIENCE, original.accept()).await.expect("in time").unwrap();
        let asked = said(&mut served).await;
        served.write_all(&asked).await.unwrap();
        heard.push((asked, served));
    }
    assert_eq!((said(&mut early).await, said(&mut late).await), (*b"one", *b"two"));
    while server.next().await.line == SERVING {}
    assert!(proxy.ready().await, "until the pod is deleted");
    drop(heard);
    proxy.leave().await;
    server.is_left_alone().await;
}

#[tokio::test]
async fn a_pod_that_is_told_to_leave_while_callers_wait_brings_the_original_first() {
    let mut server = Server::start(&[]).await;
    let (proxy, port) = deserted(letter(server.port, GRACE)).await;
    let mut caller = call(port, b"one").await;
    let original = TcpListener::bind((ORIGINAL, port)).await.unwrap();
    server.serves(&[&ORIGINAL.to_string()]);
    let leaving = tokio::spawn(proxy.leave());
    let (mut served, _) = timeout(PATIENCE, original.accept()).await.expect("in time").unwrap();
    served.write_all(b"yes").await.unwrap();
    assert_eq!(said(&mut caller).await, *b"yes");
    assert_eq!(server.lines(5).await, ["GET /look", "GET /look", "PATCH /a", SERVING, "DELETE /b"]);
    drop(served);
    leaving.await.unwrap();
}

#[tokio::test]
async fn nobody_waits_where_the_original_would_not_come_in_time() {
    let server = Server::start(&[]).await;
    let (proxy, port) = deserted(letter(server.port, NEVER)).await;
    assert!(!proxy.ready().await);
    // The status is told before the port is closed.
    timeout(PATIENCE, async { while TcpStream::connect((POD, port)).await.is_ok() {} }).await.expect("it is closed");
}

#[tokio::test]
async fn who_waits_for_a_letter_that_is_no_good_any_more_is_reset() {
    let server = Server::start(&[]).await;
    let (proxy, port) = deserted(Letter { valid: Duration::ZERO, ..letter(server.port, SOON) }).await;
    let mut caller = call(port, b"one").await;
    let end = timeout(PATIENCE, caller.read(&mut [0])).await.expect("in time");
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert!(!proxy.ready().await);
    assert!(TcpStream::connect((POD, port)).await.is_err());
}

#[tokio::test]
async fn a_pod_that_leaves_while_its_client_is_there_keeps_nobody_waiting() {
    let mut server = Server::start(&[]).await;
    let port = free_port().await;
    let mut proxy = Proxy::start(vec![tcp(port)]).await;
    let (tunnel, _events) = attach(&proxy, port).await;
    let mut client = proxy.control().await;
    keep(&mut client, letter(server.port, GRACE)).await;
    proxy.shutdown_tx.take().unwrap().send(()).unwrap();
    timeout(PATIENCE, tunnel.closed()).await.expect("the tunnel ends");
    timeout(PATIENCE, async { while TcpStream::connect((POD, port)).await.is_ok() {} }).await.expect("it is closed");
    assert!(!proxy.server.is_finished(), "it waits for a word of its client");
    assert_eq!(ask(&mut client, &ProxyRequest::There).await, ProxyReply::Heard);
    timeout(PATIENCE, &mut proxy.server).await.expect("the server ends").unwrap();
    server.is_left_alone().await;
}
