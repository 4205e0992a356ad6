//! The letter, posted to a real HTTPS server once the client is gone.

mod support;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use support::server::{Asked, NEVER, OTHER_CA, SOON, Server, ask, keep, letter};
use support::{PATIENCE, Proxy};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tpdocker_protocol::contract::CLIENT_GONE_AFTER;
use tpdocker_protocol::control::{ProxyReply, ProxyRequest};
use tpdocker_protocol::letter::{Letter, MAX_BODY, Token};
use tpdocker_tunnel::messages::Messages;

/// Long enough to come back in, on a busy machine.
const LATER: Duration = Duration::from_secs(2);

const ALL: [&str; 4] = ["GET /look", "GET /look", "PATCH /a", "DELETE /b"];

async fn tried(client: &mut Messages<TcpStream>) -> Option<String> {
    match ask(client, &ProxyRequest::Try).await {
        ProxyReply::Tried { failed } => failed,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_letter_is_posted_in_order_once_its_client_is_gone() {
    let (proxy, mut server) = (Proxy::start(Vec::new()).await, Server::start(&[]).await);
    let mut client = proxy.control().await;
    keep(&mut client, letter(server.port, SOON)).await;
    assert_eq!(ask(&mut client, &ProxyRequest::There).await, ProxyReply::Heard);
    server.is_left_alone().await;
    drop(client);
    assert_eq!(server.lines(2).await, ["GET /look"; 2]);
    assert_eq!(server.next().await, Asked { line: "PATCH /a".into(), body: "[1]".into() });
    assert_eq!(server.next().await, Asked { line: "DELETE /b".into(), body: "{}".into() });
    // Once, and no more.
    server.is_left_alone().await;
}

#[tokio::test]
async fn a_pod_that_leaves_without_its_client_posts_the_letter_first() {
    // The second server is not ready at first, neither for the look nor for the post.
    for (statuses, lines) in [(&[][..], ALL.len()), (&[503, 200, 503], ALL.len() + 2)] {
        let (proxy, mut server) = (Proxy::start(Vec::new()).await, Server::start(statuses).await);
        let mut client = proxy.control().await;
        keep(&mut client, letter(server.port, NEVER)).await;
        drop(client);
        server.is_left_alone().await;
        proxy.leave().await;
        let mut lines = server.lines(lines).await;
        lines.dedup();
        assert_eq!(lines, ["GET /look", "PATCH /a", "DELETE /b"]);
    }
}

#[tokio::test]
async fn a_client_of_a_pod_that_leaves_keeps_its_letter_by_a_word_and_has_it_posted_by_going() {
    for goes in [false, true] {
        let (proxy, mut server) = (Proxy::start(Vec::new()).await, Server::start(&[]).await);
        let mut client = proxy.control().await;
        keep(&mut client, letter(server.port, NEVER)).await;
        let leaving = tokio::spawn(proxy.leave());
        // What it said before does not tell that it is there now.
        server.is_left_alone().await;
        assert!(!leaving.is_finished());
        if goes {
            drop(client);
            leaving.await.unwrap();
            assert_eq!(server.lines(4).await, ALL);
        } else {
            assert_eq!(ask(&mut client, &ProxyRequest::There).await, ProxyReply::Heard);
            leaving.await.unwrap();
            server.is_left_alone().await;
        }
    }
}

#[tokio::test]
async fn a_pod_that_leaves_posts_nothing_twice_that_is_refused_and_nothing_where_the_original_serves() {
    // Its Deployment is deleted, and the account with it: somebody has put the original back.
    for statuses in [&[401][..], &[200, 200, 422, 403]] {
        let (proxy, mut server) = (Proxy::start(Vec::new()).await, Server::start(statuses).await);
        let mut client = proxy.control().await;
        keep(&mut client, letter(server.port, NEVER)).await;
        drop(client);
        proxy.leave().await;
        assert_eq!(server.lines(statuses.len()).await, ALL[..statuses.len()]);
        server.is_left_alone().await;
    }
    let (proxy, mut server) = (Proxy::start(Vec::new()).await, Server::start(&[]).await);
    let mut client = proxy.control().await;
    keep(&mut client, letter(server.port, NEVER)).await;
    let to = vec![Ipv4Addr::LOCALHOST.into()];
    assert_eq!(ask(&mut client, &ProxyRequest::HandOver { to }).await, ProxyReply::HandedOver);
    drop(client);
    proxy.leave().await;
    server.is_left_alone().await;
}

#[tokio::test]
async fn a_client_that_comes_back_in_time_goes_on_and_its_next_letter_is_the_one_that_counts() {
    let (proxy, mut server) = (Proxy::start(Vec::new()).await, Server::start(&[]).await);
    let mut client = proxy.control().await;
    keep(&mut client, letter(server.port, LATER)).await;
    drop(client);
    let mut client = proxy.control().await;
    let mut next = letter(server.port, SOON);
    next.requests[1].path = "/new".into();
    keep(&mut client, next).await;
    server.is_left_alone().await;
    drop(client);
    assert_eq!(server.lines(4).await, ["GET /look", "GET /look", "PATCH /new", "DELETE /b"]);
}

#[tokio::test]
async fn a_client_that_says_nothing_any_more_is_gone_though_its_connection_is_there() {
    let (proxy, mut server) = (Proxy::start(Vec::new()).await, Server::start(&[]).await);
    let mut client = proxy.control().await;
    keep(&mut client, letter(server.port, Duration::ZERO)).await;
    let began = Instant::now();
    let asked = timeout(CLIENT_GONE_AFTER + PATIENCE, server.asked.recv()).await.expect("in time");
    assert!(asked.is_some() && began.elapsed() > CLIENT_GONE_AFTER / 2, "{:?}", began.elapsed());
    assert_eq!(client.receive::<ProxyReply>().await.unwrap(), None);
}

#[tokio::test]
async fn what_is_not_done_is_posted_again_and_what_does_not_apply_any_more_is_passed_over() {
    // The patch: a server that is not ready, one that hangs up, and a condition that does not hold.
    let (proxy, mut server) = (Proxy::start(Vec::new()).await, Server::start(&[200, 200, 503, 0, 422, 404]).await);
    let mut client = proxy.control().await;
    keep(&mut client, letter(server.port, SOON)).await;
    drop(client);
    assert_eq!(server.lines(4).await, ["GET /look", "GET /look", "PATCH /a", "PATCH /a"]);
    assert_eq!(server.lines(2).await, ["PATCH /a", "DELETE /b"]);
    server.is_left_alone().await;
}

#[tokio::test]
async fn a_server_that_was_away_gives_the_client_its_time_again() {
    let proxy = Proxy::start(Vec::new()).await;
    let mut server = Server::start(&[503]).await;
    let mut client = proxy.control().await;
    keep(&mut client, letter(server.port, LATER)).await;
    drop(client);
    assert_eq!(server.lines(2).await, ["GET /look"; 2]);
    let mut client = proxy.control().await;
    keep(&mut client, letter(server.port, LATER)).await;
    server.is_left_alone().await;
    drop(client);
    assert_eq!(server.lines(4).await, ALL);
}

#[tokio::test]
async fn a_letter_waits_for_its_server_until_its_token_has_run_out() {
    let (proxy, mut server) = (Proxy::start(Vec::new()).await, Server::start(&[0, 0]).await);
    let mut client = proxy.control().await;
    keep(&mut client, letter(server.port, Duration::ZERO)).await;
    assert!(tried(&mut client).await.is_some());
    drop(client);
    assert_eq!(server.lines(2).await, ["GET /look"; 2]);
    assert_eq!(server.lines(4).await, ALL);

    let mut client = proxy.control().await;
    keep(&mut client, Letter { valid: Duration::ZERO, ..letter(server.port, Duration::ZERO) }).await;
    drop(client);
    server.is_left_alone().await;
}

#[tokio::test]
async fn whether_the_server_can_be_reached_and_known_is_told_beforehand() {
    let (proxy, mut server) = (Proxy::start(Vec::new()).await, Server::start(&[200, 403]).await);
    let mut client = proxy.control().await;
    assert_eq!(tried(&mut client).await.as_deref(), Some("there is no letter"));
    keep(&mut client, letter(server.port, NEVER)).await;
    assert_eq!(tried(&mut client).await, None);
    let refused = tried(&mut client).await.unwrap();
    assert!(refused.ends_with("answered GET /look with 403"), "{refused}");
    assert_eq!(server.lines(2).await, ["GET /look"; 2]);

    keep(&mut client, Letter { ca: OTHER_CA.into(), ..letter(server.port, NEVER) }).await;
    let unknown = tried(&mut client).await.unwrap();
    assert!(unknown.contains("certificate"), "{unknown}");
    server.is_left_alone().await;
}

#[tokio::test]
async fn a_letter_that_breaks_the_rules_is_refused_and_the_former_one_stays() {
    let (proxy, mut server) = (Proxy::start(Vec::new()).await, Server::start(&[]).await);
    let mut client = proxy.control().await;
    keep(&mut client, letter(server.port, SOON)).await;
    let mut large = letter(server.port, SOON);
    large.requests[1].body = "b".repeat(MAX_BODY + 1);
    let split = Letter { token: Token("a\r\nb".into()), ..letter(server.port, SOON) };
    let no_pem = Letter {
        ca: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into(),
        ..letter(server.port, SOON)
    };
    let empty = Letter { requests: Vec::new(), ..letter(server.port, SOON) };
    for bad in [large, split, no_pem, empty] {
        let reply = ask(&mut client, &ProxyRequest::Keep(Box::new(bad))).await;
        assert!(matches!(reply, ProxyReply::Error { .. }), "{reply:?}");
    }
    drop(client);
    assert_eq!(server.lines(4).await, ALL);
}
