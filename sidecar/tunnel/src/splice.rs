//! A stream tied to a socket.
//!
//! What an app can see of a TCP connection (RFC 9293) has to survive the tunnel: half-close, the order of data and
//! end, and the difference between an end and a reset.
//!
//! | socket | stream |
//! |---|---|
//! | EOF | FIN |
//! | `shutdown(SHUT_WR)` | ◀ FIN |
//! | `ECONNRESET`, `EPIPE`, ... | RESET with the errno |
//! | close with `SO_LINGER` 0, which sends RST | ◀ RESET, after the data that came before it |
//!
//! Credit follows the socket: a chunk is granted anew once the kernel has taken it, so the app's receive buffer is
//! the only buffer that a stalled app fills beyond its window.

use std::io;
use std::time::Duration;

use bytes::Buf;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tpdocker_protocol::errno::Errno;

use crate::buffers::Buffers;
use crate::stream::{ReadHalf, Stream, WriteHalf};
use crate::talk::Talk;

/// The first reads of a connection: most of them are small, and thousands of connections may be idle.
const FIRST_READ: usize = 16 << 10;
/// The reads of a connection that fills them.
const LARGEST_READ: usize = 256 << 10;
/// Buffers under way that are remembered for reuse: the stream's queue, the driver's batch, and one being filled.
const BUFFERS: usize = 4;
/// How long an app may take to read what came before a reset; then it sees the reset without it.
const RESET_GRACE: Duration = Duration::from_secs(5);

/// How a relayed connection went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpliceReport {
    /// Bytes read from the socket for the stream.
    pub sent: u64,
    /// Bytes from the stream into the socket.
    pub received: u64,
    /// Why the connection was reset, if it was.
    pub reset: Option<Errno>,
}

/// Who reset the connection.
enum Reset {
    Socket(Errno),
    Stream(Errno),
}

/// Relays between a stream and a socket until both directions have ended: EOF becomes FIN, FIN becomes
/// `shutdown(SHUT_WR)`, a reset of one side becomes a reset of the other (`SO_LINGER` 0 on the socket). Dropping the
/// future resets the stream and closes the socket.
pub async fn splice(stream: Stream, socket: TcpStream) -> SpliceReport {
    splice_heard(stream, &socket, &Talk::default()).await
}

/// [`splice`] of a socket that is closed by its owner, with everybody's words told to `talk`: the socket's end asks, the
/// stream's answers. `talk` may hold and end the asking. Dropping the future resets the stream.
pub async fn splice_heard(stream: Stream, socket: &TcpStream, talk: &Talk) -> SpliceReport {
    let (mut read, mut write) = stream.into_split();
    // Small answers must not wait for acknowledgements of earlier ones (RFC 896): the app decided what to write when.
    let ended = match socket.set_nodelay(true) {
        Ok(()) => relay(socket, &mut read, &mut write, talk).await,
        Err(error) => Err(Reset::Socket(Errno::from_io(&error))),
    };
    let reset = match ended {
        Ok(()) => None,
        Err(reset) => {
            let (Reset::Socket(errno) | Reset::Stream(errno)) = reset;
            if matches!(reset, Reset::Socket(_)) {
                // What the app wrote before it reset the connection is the other end's to read.
                write.finish_with_reset(errno);
            }
            if let Err(error) = socket.set_zero_linger() {
                tracing::debug!(%error, "a socket cannot be reset, it is closed");
            }
            Some(errno)
        }
    };
    SpliceReport { sent: talk.asked(), received: talk.answered(), reset }
}

async fn relay(socket: &TcpStream, read: &mut ReadHalf, write: &mut WriteHalf, talk: &Talk) -> Result<(), Reset> {
    let up = upload(socket, write, talk);
    let down = download(socket, read, talk);
    tokio::pin!(up, down);
    tokio::select! {
        ended = &mut up => match ended {
            Ok(()) => tokio::select! {
                ended = &mut down => ended,
                reset = socket_reset(socket) => Err(reset),
            },
            // What had arrived before the stream was reset is still for the app.
            Err(Reset::Stream(errno)) => match tokio::time::timeout(RESET_GRACE, down).await {
                Ok(ended) => ended.and(Err(Reset::Stream(errno))),
                Err(_) => Err(Reset::Stream(errno)),
            },
            Err(reset) => Err(reset),
        },
        ended = &mut down => match ended {
            Ok(()) => up.await,
            Err(reset) => Err(reset),
        },
    }
}

/// Socket → stream, until EOF. Fails as soon as the stream does, even while the socket is silent.
async fn upload(socket: &TcpStream, write: &mut WriteHalf, talk: &Talk) -> Result<(), Reset> {
    let mut buffers = Buffers::new(FIRST_READ, BUFFERS);
    loop {
        tokio::select! {
            ready = socket.readable() => ready.map_err(socket_error)?,
            errno = write.failed() => return Err(Reset::Stream(errno)),
        }
        if talk.is_held() {
            tokio::select! {
                () = talk.ended() => {
                    write.finish();
                    return Ok(());
                }
                errno = write.failed() => return Err(Reset::Stream(errno)),
            }
        }
        let buffer = buffers.get();
        let room = buffer.capacity() - buffer.len();
        match socket.try_read_buf(buffer) {
            Ok(0) => {
                write.finish();
                return Ok(());
            }
            Ok(length) => {
                let chunk = buffer.split().freeze();
                talk.ask(length);
                write.write(chunk).await.map_err(Reset::Stream)?;
                if length == room && buffers.size() < LARGEST_READ {
                    buffers.resize(LARGEST_READ.min(buffers.size() * 4));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(socket_error(error)),
        }
    }
}

/// Stream → socket, until FIN.
async fn download(socket: &TcpStream, read: &mut ReadHalf, talk: &Talk) -> Result<(), Reset> {
    while let Some(mut chunk) = read.read().await.map_err(Reset::Stream)? {
        while chunk.has_remaining() {
            match socket.try_write(&chunk) {
                Ok(written) => {
                    chunk.advance(written);
                    talk.answer(written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    socket.writable().await.map_err(socket_error)?;
                }
                Err(error) => return Err(socket_error(error)),
            }
        }
    }
    match socket2::SockRef::from(socket).shutdown(std::net::Shutdown::Write) {
        // The app has gone already; that is how the other direction ends.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        ended => ended.map_err(socket_error),
    }
}

/// Resolves when the app resets a connection whose other direction it has finished; nothing reads there any more.
async fn socket_reset(socket: &TcpStream) -> Reset {
    match socket.ready(Interest::ERROR).await {
        Ok(_) => Reset::Socket(socket.take_error().ok().flatten().map_or(Errno::ECONNRESET, |e| Errno::from_io(&e))),
        Err(error) => socket_error(error),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn socket_error(error: io::Error) -> Reset {
    Reset::Socket(Errno::from_io(&error))
}
