//! Two sockets tied to each other, without a tunnel between them.

use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::sleep;

/// Without a byte for so long after an answer, nobody waits for more of it.
const IDLE: Duration = Duration::from_millis(300);

/// Bytes that were relayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// From the caller.
    pub(crate) up: u64,
    /// To the caller.
    pub(crate) down: u64,
}

/// Relays until both directions have ended; a failure of one side resets both. Once `leaving` is true, the connection
/// is closed as soon as nobody waits for an answer on it.
pub(crate) async fn relay(caller: TcpStream, server: TcpStream, leaving: watch::Receiver<bool>) -> io::Result<Traffic> {
    caller.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let talk = Talk::default();
    let mut caller = Heard { socket: caller, talk: &talk, asks: true };
    let mut server = Heard { socket: server, talk: &talk, asks: false };
    let outcome = {
        let copied = pin!(tokio::io::copy_bidirectional(&mut caller, &mut server));
        tokio::select! {
            copied = copied => Some(copied),
            () = talk.over(leaving) => None,
        }
    };
    match outcome {
        Some(Ok((up, down))) => Ok(Traffic { up, down }),
        Some(Err(error)) => {
            reset(&caller.socket);
            reset(&server.socket);
            Err(error)
        }
        None => Ok(Traffic { up: talk.up.into_inner(), down: talk.down.into_inner() }),
    }
}

/// Has the socket's end be a reset and not an orderly one.
pub(crate) fn reset(socket: &TcpStream) {
    if let Err(error) = socket.set_zero_linger() {
        tracing::debug!("a socket had ended already: {error}");
    }
}

/// What has been said, and by whom last.
#[derive(Debug, Default)]
struct Talk {
    up: AtomicU64,
    down: AtomicU64,
    /// The caller spoke last, so it waits for an answer.
    asked: AtomicBool,
}

impl Talk {
    fn said(&self, length: usize, asks: bool) {
        let counter = if asks { &self.up } else { &self.down };
        counter.fetch_add(length as u64, Ordering::Relaxed);
        self.asked.store(asks, Ordering::Relaxed);
    }

    fn total(&self) -> u64 {
        self.up.load(Ordering::Relaxed) + self.down.load(Ordering::Relaxed)
    }

    /// Resolves when the proxy is leaving and nobody waits for an answer.
    async fn over(&self, mut leaving: watch::Receiver<bool>) {
        if leaving.wait_for(|leaving| *leaving).await.is_err() {
            return std::future::pending().await;
        }
        loop {
            let before = self.total();
            sleep(IDLE).await;
            if self.total() == before && !self.asked.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

/// A socket whose every read is told to the [`Talk`].
struct Heard<'a> {
    socket: TcpStream,
    talk: &'a Talk,
    asks: bool,
}

impl AsyncRead for Heard<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(context, buffer))?;
        let length = buffer.filled().len() - before;
        if length > 0 {
            self.talk.said(length, self.asks);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Heard<'_> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
