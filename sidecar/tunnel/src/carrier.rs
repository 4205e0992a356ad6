//! The two tasks of a tunnel: one reads the carrier, one writes it.
//!
//! They are two so that a carrier that takes no bytes does not keep the other end's bytes from being read: two ends
//! that both only write would wait for each other for ever.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::buffers::Buffers;
use crate::core::Core;

/// One read of the carrier.
const READ: usize = 256 << 10;
/// What the writer takes from the multiplexer at once. A request that comes meanwhile waits for this much.
const BATCH: usize = 256 << 10;
/// Pieces in one vectored write; Linux takes 1024 (`UIO_MAXIOV`), and a batch seldom has more than this.
const PIECES: usize = 64;
/// How long a CLOSE may take to be written to a carrier that is stuck.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Carrier → multiplexer, and the time.
pub(crate) async fn read<R: AsyncRead + Unpin>(core: Arc<Core>, mut carrier: R) {
    let mut buffers = Buffers::new(READ);
    let mut armed = Instant::now();
    let timer = tokio::time::sleep_until(armed.into());
    tokio::pin!(timer);
    loop {
        tokio::select! {
            // What has arrived is read before the silence is judged.
            biased;
            () = core.stop.notified() => return drain(carrier).await,
            read = carrier.read_buf(buffers.get()) => match read {
                Ok(0) => return core.carrier_lost("it was closed at the other end".to_owned()),
                Ok(_) => {
                    let deadline = core.update(|state| {
                        state.mux.handle_input(buffers.current(), Instant::now());
                        state.mux.poll_timeout()
                    });
                    // A timer that fires early finds nothing to do, so it is moved only when it would be late.
                    if let Some(deadline) = deadline.filter(|deadline| *deadline < armed) {
                        armed = deadline;
                        timer.as_mut().reset(armed.into());
                    }
                }
                Err(error) => return core.carrier_lost(error.to_string()),
            },
            () = &mut timer => {
                let now = Instant::now();
                let deadline = core.update(|state| {
                    state.mux.handle_timeout(now);
                    state.mux.poll_timeout()
                });
                let Some(deadline) = deadline else { continue };
                armed = deadline;
                timer.as_mut().reset(armed.into());
            }
        }
    }
}

/// Reads on for a moment after the end: a TCP carrier that is closed with unread bytes is reset, and the CLOSE that
/// says why would be lost with it.
async fn drain<R: AsyncRead + Unpin>(carrier: R) {
    let mut sink = tokio::io::sink();
    // How the carrier ends is of no interest any more.
    let _ended = tokio::time::timeout(LAST_WORDS, tokio::io::copy(&mut carrier.take(u64::MAX), &mut sink)).await;
}

/// Multiplexer → carrier.
pub(crate) async fn write<W: AsyncWrite + Unpin>(core: Arc<Core>, mut carrier: W) {
    let mut end = core.watch_end();
    let written = tokio::select! {
        written = write_until_end(&core, &mut carrier) => written,
        () = async {
            // The sender is in `core` and lives as long as this.
            let _ended = end.wait_for(Option::is_some).await.is_ok();
            tokio::time::sleep(LAST_WORDS).await;
        } => return,
    };
    if let Err(error) = written {
        // Why the other end stopped reading may be among what it has written.
        let _told = tokio::time::timeout(LAST_WORDS, end.wait_for(Option::is_some)).await;
        core.carrier_lost(error.to_string());
    }
}

async fn write_until_end<W: AsyncWrite + Unpin>(core: &Core, carrier: &mut W) -> io::Result<()> {
    let mut batch = VecDeque::new();
    let mut flushed = true;
    loop {
        let (ended, sleeps) = core.update(|state| {
            let mut length = 0;
            while length < BATCH
                && let Some(piece) = state.mux.poll_transmit()
            {
                length += piece.len();
                batch.push_back(piece);
            }
            let ended = state.mux.ended().is_some();
            state.writer_sleeps = batch.is_empty() && flushed && !ended;
            (ended, state.writer_sleeps)
        });
        if !batch.is_empty() {
            write_batch(carrier, &mut batch).await?;
            flushed = false;
        } else if !flushed {
            carrier.flush().await?;
            flushed = true;
        } else if ended {
            return carrier.shutdown().await;
        } else if sleeps {
            core.writer.notified().await;
        }
    }
}

async fn write_batch<W: AsyncWrite + Unpin>(carrier: &mut W, batch: &mut VecDeque<Bytes>) -> io::Result<()> {
    if !carrier.is_write_vectored() {
        // One message of the carrier for many frames is cheaper than a copy is dear.
        let mut joined = BytesMut::with_capacity(batch.iter().map(Bytes::len).sum());
        batch.drain(..).for_each(|piece| joined.extend_from_slice(&piece));
        return carrier.write_all(&joined).await;
    }
    while !batch.is_empty() {
        let written = std::future::poll_fn(|context| {
            let mut slices = [IoSlice::new(&[]); PIECES];
            let count = batch.len().min(PIECES);
            for (slice, piece) in slices.iter_mut().zip(batch.iter()) {
                *slice = IoSlice::new(piece);
            }
            Pin::new(&mut *carrier).poll_write_vectored(context, &slices[..count])
        })
        .await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        advance(batch, written);
    }
    Ok(())
}

/// Takes `written` bytes off the front.
pub(crate) fn advance(batch: &mut VecDeque<Bytes>, mut written: usize) {
    while let Some(front) = batch.front_mut() {
        if front.len() > written {
            front.advance(written);
            return;
        }
        written -= front.len();
        batch.pop_front();
    }
}
