//! Two tunnels face to face, and what tests do with them.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tpdocker_protocol::addr::{ClusterAddr, Target};
use tpdocker_tunnel::{Event, Events, Pending, Side, Stream, Tunnel};

/// Longer than anything takes that works.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Pair {
    pub sidecar: Tunnel,
    pub sidecar_events: Events,
    pub proxy: Tunnel,
    pub proxy_events: Events,
}

pub fn in_memory() -> Pair {
    let (near, far) = tokio::io::duplex(64 << 10);
    let (sidecar, sidecar_events) = Tunnel::start(Side::Sidecar, near);
    let (proxy, proxy_events) = Tunnel::start(Side::Proxy, far);
    Pair { sidecar, sidecar_events, proxy, proxy_events }
}

pub async fn over_tcp() -> Pair {
    let (near, far) = tcp_pair().await;
    let (reader, writer) = near.into_split();
    let (sidecar, sidecar_events) = Tunnel::start_halves(Side::Sidecar, reader, writer);
    let (reader, writer) = far.into_split();
    let (proxy, proxy_events) = Tunnel::start_halves(Side::Proxy, reader, writer);
    Pair { sidecar, sidecar_events, proxy, proxy_events }
}

pub async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

pub fn dial(port: u16) -> Target {
    Target::Dial(ClusterAddr(SocketAddr::from(([10, 0, 0, 1], port))))
}

pub async fn next_open(events: &mut Events) -> Pending {
    match within(events.next()).await {
        Some(Event::Open(pending)) => pending,
        other => panic!("not an open: {other:?}"),
    }
}

/// A stream, its sidecar end first.
pub async fn stream_pair(pair: &mut Pair) -> (Stream, Stream) {
    let open = pair.sidecar.open(dial(80));
    let accept = async { next_open(&mut pair.proxy_events).await.accept() };
    let (near, far) = within(async { tokio::join!(open, accept) }).await;
    (near.unwrap(), far)
}

pub async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it hangs")
}

/// Bytes that tell streams and offsets apart.
pub fn pattern(seed: u64, offset: u64, length: usize) -> Bytes {
    (0..length as u64)
        .map(|i| {
            let word = ((offset + i) / 8).wrapping_add(seed << 40).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            word.to_le_bytes()[((offset + i) % 8) as usize]
        })
        .collect()
}

/// Writes `length` bytes of the pattern and finishes.
pub async fn write_pattern(write: &mut tpdocker_tunnel::WriteHalf, seed: u64, length: usize, chunk: usize) {
    let mut offset = 0;
    while offset < length {
        let here = chunk.min(length - offset);
        write.write(pattern(seed, offset as u64, here)).await.unwrap();
        offset += here;
    }
    write.finish();
}

/// Reads to the end and checks every byte; returns how many there were.
pub async fn check_pattern(read: &mut tpdocker_tunnel::ReadHalf, seed: u64) -> usize {
    let mut offset = 0;
    while let Some(chunk) = read.read().await.unwrap() {
        assert!(chunk == pattern(seed, offset as u64, chunk.len()), "stream {seed} differs after {offset}");
        offset += chunk.len();
    }
    offset
}
