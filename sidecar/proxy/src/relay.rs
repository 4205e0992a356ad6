//! Two sockets tied to each other, without a tunnel between them.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tpdocker_tunnel::Talk;

use crate::parting::{self, Leaving};

/// Bytes that were relayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// From the caller.
    pub(crate) up: u64,
    /// To the caller.
    pub(crate) down: u64,
}

/// Relays until both directions have ended; a failure of one side resets both. When the pod is leaving, the connection is
/// closed as soon as nobody waits for an answer on it.
pub(crate) async fn relay(caller: TcpStream, server: TcpStream, leaving: Leaving) -> io::Result<Traffic> {
    caller.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let talk = Talk::default();
    let mut caller = Heard { socket: caller, talk: &talk, asks: true };
    let mut server = Heard { socket: server, talk: &talk, asks: false };
    let outcome = {
        let copied = pin!(tokio::io::copy_bidirectional(&mut caller, &mut server));
        tokio::select! {
            copied = copied => Some(copied),
            () = parting::over(&talk, leaving) => None,
        }
    };
    match outcome {
        Some(Ok((up, down))) => Ok(Traffic { up, down }),
        Some(Err(error)) => {
            reset(&caller.socket);
            reset(&server.socket);
            Err(error)
        }
        None => {
            parting::end(&caller.socket);
            Ok(Traffic { up: talk.asked(), down: talk.answered() })
        }
    }
}

/// Has the socket's end be a reset and not an orderly one.
pub(crate) fn reset(socket: &TcpStream) {
    if let Err(error) = socket.set_zero_linger() {
        tracing::debug!("a socket had ended already: {error}");
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
        if self.asks && self.talk.is_held() {
            // Nobody wakes it any more: the connection is about to end.
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(context, buffer))?;
        let length = buffer.filled().len() - before;
        if length > 0 {
            if self.asks { self.talk.ask(length) } else { self.talk.answer(length) }
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
