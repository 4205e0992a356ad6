//! The pump against a real WebSocket whose other end is played here.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;

const PORT: u16 = 17_170;

async fn pair() -> (PortForward, WebSocketStream<DuplexStream>) {
    pair_that_pings(PING_EVERY).await
}

async fn pair_that_pings(every: Duration) -> (PortForward, WebSocketStream<DuplexStream>) {
    let (near, far) = tokio::io::duplex(1 << 20);
    let near = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
    let far = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
    (PortForward::new(Box::pin(near), "pod".into(), PORT, every), far)
}

fn message(channel: u8, bytes: &[u8]) -> Message {
    Message::binary([&[channel], bytes].concat())
}

async fn opened() -> (PortForward, WebSocketStream<DuplexStream>) {
    let (near, mut far) = pair().await;
    for channel in [DATA, ERROR] {
        far.send(message(channel, &PORT.to_le_bytes())).await.unwrap();
    }
    (near, far)
}

#[tokio::test]
async fn bytes_arrive_in_order_without_the_opening_messages() {
    let (mut near, mut far) = opened().await;
    far.send(message(DATA, b"hel")).await.unwrap();
    far.send(message(DATA, b"lo")).await.unwrap();
    far.close(None).await.unwrap();
    let mut all = Vec::new();
    near.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"hello");
}

#[tokio::test]
async fn a_large_write_becomes_large_messages() {
    let (mut near, mut far) = opened().await;
    let sent: Vec<u8> = (0..=250).cycle().take(MAX_MESSAGE + 1000).collect();
    let expected = sent.clone();
    let writer = tokio::spawn(async move {
        near.write_all(&sent).await.unwrap();
        near.flush().await.unwrap();
        near
    });
    let mut received = Vec::new();
    let mut messages = 0;
    while received.len() < expected.len() {
        let Some(Ok(Message::Binary(bytes))) = far.next().await else { panic!("no data") };
        assert_eq!(bytes[0], DATA);
        received.extend_from_slice(&bytes[1..]);
        messages += 1;
    }
    assert_eq!((received, messages), (expected, 2));
    writer.await.unwrap();
}

#[tokio::test]
async fn the_other_ends_error_is_the_error_of_the_next_read() {
    let (mut near, mut far) = opened().await;
    far.send(message(ERROR, b"connection refused\n")).await.unwrap();
    let error = near.read_u8().await.unwrap_err();
    let Some(ClusterError::Tunnel { source, .. }) = error.get_ref().and_then(|inner| inner.downcast_ref()) else {
        panic!("{error:?}")
    };
    assert_eq!(source.to_string(), "connection refused");
}

#[tokio::test]
async fn a_channel_that_opens_with_another_port_or_length_is_refused() {
    for opening in [message(DATA, &1u16.to_le_bytes()), message(DATA, b"xyz"), message(7, b"ab")] {
        let (mut near, mut far) = pair().await;
        far.send(opening).await.unwrap();
        assert!(near.read_u8().await.is_err());
    }
}

#[tokio::test]
async fn a_silent_connection_pings_while_somebody_reads() {
    let (mut near, mut far) = pair_that_pings(Duration::from_millis(10)).await;
    let reader = tokio::spawn(async move { near.read_u8().await });
    let Some(Ok(Message::Ping(_))) = far.next().await else { panic!("no ping") };
    reader.abort();
}

#[tokio::test]
async fn a_ping_is_answered_while_somebody_reads() {
    let (mut near, mut far) = opened().await;
    let reader = tokio::spawn(async move { near.read_u8().await });
    far.send(Message::Ping(Bytes::from_static(b"?"))).await.unwrap();
    assert_eq!(far.next().await.unwrap().unwrap(), Message::Pong(Bytes::from_static(b"?")));
    reader.abort();
}
