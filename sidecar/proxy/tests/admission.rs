//! Who gets in, and what the CLI is told.

mod support;

use ed25519_dalek::SigningKey;
use support::{Proxy, SESSION, key, status, watch};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tpdocker_protocol::admission::{Challenge, Role};
use tpdocker_protocol::control::{ProxyReply, ProxyRequest};

#[tokio::test]
async fn a_strangers_key_and_another_session_are_refused_with_the_reason() {
    let proxy = Proxy::start(Vec::new()).await;
    let stranger = SigningKey::from_bytes(&[8; 32]);
    for (key, session) in [(&stranger, SESSION), (&key(), "s-other")] {
        let (mut connection, reason) = proxy.knock(key, Role::Tunnel, session).await;
        assert_eq!(reason, "the signature does not belong to this session");
        assert_eq!(connection.read(&mut [0]).await.unwrap(), 0, "the proxy hangs up");
    }
    assert!(!proxy.ready().await);
}

/// Time is tokio's own here and runs as soon as everybody waits.
#[tokio::test(start_paused = true)]
async fn a_connection_that_says_nothing_is_closed() {
    let proxy = Proxy::start(Vec::new()).await;
    let mut silent = TcpStream::connect(proxy.address).await.unwrap();
    let mut received = Vec::new();
    silent.read_to_end(&mut received).await.unwrap();
    assert_eq!(received.len(), Challenge::LEN);
}

#[tokio::test]
async fn a_crowd_that_says_nothing_does_not_keep_the_cli_out_for_ever() {
    let proxy = Proxy::start(Vec::new()).await;
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(TcpStream::connect(proxy.address).await.unwrap());
    }
    drop(crowd);
    tokio::time::timeout(support::PATIENCE, proxy.admitted(Role::Control)).await.unwrap();
}

#[tokio::test]
async fn the_cli_is_told_what_the_pod_is_like() {
    let proxy = Proxy::start(Vec::new()).await;
    let mut control = proxy.control().await;
    control.send(&ProxyRequest::Describe).await.unwrap();
    let Some(ProxyReply::Pod(pod)) = control.receive().await.unwrap() else { panic!("not a pod") };
    let ours: Vec<(String, String)> = std::env::vars().collect();
    let theirs: Vec<(String, String)> = pod.env.into_iter().map(|var| (var.name, var.value)).collect();
    assert_eq!(theirs, ours);
    assert_eq!(pod.resolv_conf, std::fs::read_to_string("/etc/resolv.conf").unwrap());
    assert_eq!(pod.hosts, std::fs::read_to_string("/etc/hosts").unwrap());
    assert_eq!(pod.hostname, std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim_end());
    assert!(pod.pod_ips.iter().all(|ip| !ip.is_loopback()));
}

#[tokio::test]
async fn the_cli_sees_a_tunnel_come_and_go() {
    let proxy = Proxy::start(Vec::new()).await;
    let mut watch = watch(&proxy).await;
    status(&mut watch, |status| !status.attached && !status.ready).await;
    let (tunnel, mut events) = proxy.attach().await;
    // A sidecar is there when it has said what the app listens on, be it nothing.
    tunnel.listen(Vec::new());
    assert!(matches!(events.next().await, Some(tpdocker_tunnel::Event::Listening { .. })));
    status(&mut watch, |status| status.attached && status.ready).await;
    assert!(proxy.ready().await);
    tunnel.close("enough");
    status(&mut watch, |status| !status.attached && !status.ready).await;
    assert!(!proxy.ready().await);
}
