//! Questions over TCP (RFC 7766): a connection to the cluster's nameserver, in which the questions for names of siblings
//! are answered here. The answers of both may come in any order, but each in one piece.

use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::Mutex;
use tpdocker_protocol::errno::Errno;
use tpdocker_tunnel::{ReadHalf, Stream, WriteHalf};

use super::Table;
use super::message::Transport;

/// Of one read.
const CHUNK: usize = 4 << 10;

/// Relays until both ends have said all, as a splice would.
pub(crate) async fn serve(table: Arc<Table>, stream: Stream, socket: TcpStream) -> Result<(), Errno> {
    let (from_cluster, to_cluster) = stream.into_split();
    let (from_app, to_app) = socket.into_split();
    let to_app = Mutex::new(to_app);
    let questions = questions(&table, from_app, to_cluster, &to_app);
    let answers = answers(from_cluster, &to_app);
    tokio::try_join!(questions, answers).map(drop)
}

async fn questions(
    table: &Table,
    mut from_app: OwnedReadHalf,
    mut to_cluster: WriteHalf,
    to_app: &Mutex<impl AsyncWrite + Unpin>,
) -> Result<(), Errno> {
    let mut received = BytesMut::with_capacity(CHUNK);
    while from_app.read_buf(&mut received).await.map_err(os)? > 0 {
        while let Some(framed) = message(&mut received) {
            match table.answer(&framed[2..], Transport::Stream) {
                None => to_cluster.write(framed).await?,
                Some(answer) => {
                    let length = u16::try_from(answer.len()).map_err(|_| Errno::ECONNRESET)?;
                    let framed = [&length.to_be_bytes()[..], &answer].concat();
                    to_app.lock().await.write_all(&framed).await.map_err(os)?;
                }
            }
        }
    }
    // An unfinished question is the cluster's to judge.
    if received.has_remaining() {
        to_cluster.write(received.freeze()).await?;
    }
    to_cluster.finish();
    Ok(())
}

async fn answers(mut from_cluster: ReadHalf, to_app: &Mutex<impl AsyncWrite + Unpin>) -> Result<(), Errno> {
    let mut received = BytesMut::new();
    while let Some(chunk) = from_cluster.read().await? {
        received.extend_from_slice(&chunk);
        while let Some(framed) = message(&mut received) {
            to_app.lock().await.write_all(&framed).await.map_err(os)?;
        }
    }
    let mut to_app = to_app.lock().await;
    to_app.write_all(&received).await.map_err(os)?;
    to_app.shutdown().await.map_err(os)
}

/// The first message with its length in front, once it is whole.
fn message(received: &mut BytesMut) -> Option<Bytes> {
    let length = 2 + usize::from(u16::from_be_bytes(*received.first_chunk()?));
    (received.len() >= length).then(|| received.split_to(length).freeze())
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn os(error: io::Error) -> Errno {
    Errno::from_io(&error)
}
