//! What an app sees of its connection through two splices and a tunnel.

mod support;

use std::io::ErrorKind;

use support::{Pair, over_tcp, pattern, stream_pair, tcp_pair, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tpdocker_protocol::errno::Errno;
use tpdocker_tunnel::{SpliceReport, splice};

/// app ⇄ splice ⇄ tunnel ⇄ splice ⇄ server
struct Relayed {
    app: TcpStream,
    server: TcpStream,
    sidecar_splice: JoinHandle<SpliceReport>,
    proxy_splice: JoinHandle<SpliceReport>,
    tunnels: Pair,
}

async fn relayed() -> Relayed {
    let mut tunnels = over_tcp().await;
    let (near, far) = stream_pair(&mut tunnels).await;
    let (app, captured) = tcp_pair().await;
    let (dialled, server) = tcp_pair().await;
    Relayed {
        app,
        server,
        sidecar_splice: tokio::spawn(splice(near, captured)),
        proxy_splice: tokio::spawn(splice(far, dialled)),
        tunnels,
    }
}

#[tokio::test]
async fn a_half_close_of_the_app_reaches_the_server_and_the_answer_comes_back() {
    let Relayed { mut app, mut server, sidecar_splice, proxy_splice, tunnels: _tunnels } = relayed().await;
    app.write_all(b"request").await.unwrap();
    app.shutdown().await.unwrap();
    let mut request = Vec::new();
    within(server.read_to_end(&mut request)).await.unwrap();
    assert_eq!(request, b"request");
    server.write_all(b"the answer").await.unwrap();
    drop(server);
    let mut answer = Vec::new();
    within(app.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"the answer");
    assert_eq!(within(sidecar_splice).await.unwrap(), SpliceReport { sent: 7, received: 10, reset: None });
    assert_eq!(within(proxy_splice).await.unwrap(), SpliceReport { sent: 10, received: 7, reset: None });
}

#[tokio::test]
async fn a_server_may_close_first_and_still_read() {
    let Relayed { mut app, mut server, sidecar_splice, tunnels: _tunnels, .. } = relayed().await;
    server.shutdown().await.unwrap();
    assert_eq!(within(app.read(&mut [0; 8])).await.unwrap(), 0);
    app.write_all(b"goodbye").await.unwrap();
    drop(app);
    let mut rest = Vec::new();
    within(server.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"goodbye");
    assert_eq!(within(sidecar_splice).await.unwrap().reset, None);
}

#[tokio::test]
async fn a_reset_by_the_server_is_a_reset_for_the_app() {
    let Relayed { mut app, server, sidecar_splice, proxy_splice, tunnels: _tunnels } = relayed().await;
    server.set_zero_linger().unwrap();
    drop(server);
    assert_eq!(within(app.read(&mut [0; 8])).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(within(sidecar_splice).await.unwrap().reset, Some(Errno::ECONNRESET));
    assert_eq!(within(proxy_splice).await.unwrap().reset, Some(Errno::ECONNRESET));
}

#[tokio::test]
async fn a_reset_by_the_app_is_a_reset_for_the_server_even_after_a_half_close() {
    let Relayed { mut app, mut server, tunnels: _tunnels, .. } = relayed().await;
    app.write_all(b"request").await.unwrap();
    app.shutdown().await.unwrap();
    let mut request = Vec::new();
    within(server.read_to_end(&mut request)).await.unwrap();
    // The kernel resets a connection that is closed with unread data.
    server.write_all(b"unread").await.unwrap();
    within(app.peek(&mut [0; 1])).await.unwrap();
    drop(app);
    let error = within(async {
        loop {
            if let Err(error) = server.write_all(b"more").await {
                return error;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
}

#[tokio::test]
async fn an_answer_that_is_followed_by_a_reset_is_read_before_the_reset() {
    for round in 0..20 {
        let Relayed { mut app, mut server, tunnels: _tunnels, .. } = relayed().await;
        app.write_all(b"a request that the server does not read").await.unwrap();
        within(server.peek(&mut [0; 1])).await.unwrap();
        let answer = pattern(round, 0, 100_000);
        server.write_all(&answer).await.unwrap();
        drop(server);
        let mut seen = Vec::new();
        let ended = within(app.read_to_end(&mut seen)).await;
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(seen == answer, "{} of {} bytes came before the reset", seen.len(), answer.len());
    }
}

#[tokio::test]
async fn when_the_tunnel_ends_the_apps_connection_is_reset() {
    let Relayed { mut app, tunnels, sidecar_splice, .. } = relayed().await;
    tunnels.proxy.close("gone");
    assert_eq!(within(app.read(&mut [0; 8])).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(within(sidecar_splice).await.unwrap().reset, Some(Errno::ECONNRESET));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_megabytes_pass_both_ways_at_once_unharmed() {
    const LENGTH: usize = 16 << 20;
    let Relayed { app, server, sidecar_splice, tunnels: _tunnels, .. } = relayed().await;
    let ends = [(app, 1), (server, 2)].map(|(socket, seed)| {
        tokio::spawn(async move {
            let (mut read, mut write) = socket.into_split();
            let writer = tokio::spawn(async move {
                write.write_all(&pattern(seed, 0, LENGTH)).await.unwrap();
                write.shutdown().await.unwrap();
            });
            let mut seen = Vec::new();
            read.read_to_end(&mut seen).await.unwrap();
            assert!(seen == pattern(3 - seed, 0, LENGTH), "{} bytes, or wrong ones", seen.len());
            writer.await.unwrap();
        })
    });
    for end in ends {
        within(end).await.unwrap();
    }
    let report = within(sidecar_splice).await.unwrap();
    assert_eq!(report, SpliceReport { sent: LENGTH as u64, received: LENGTH as u64, reset: None });
}
