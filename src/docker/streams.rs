//! The app's stdin, stdout and stderr, carried between its container and this side's descriptors.
//!
//! ```text
//! stdin  --chunks--> input task  --bytes--> hijacked connection --> the container's stdin
//! stdout <--pieces-- output task <--bytes-- hijacked connection <-- the container's stdout and stderr
//! ```

use std::io;
use std::os::fd::AsFd;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::frames::{BadFrame, Frames, Output};
use super::hijack::Hijacked;
use super::stdio::{CHUNK, Reading, Stdio, Writing, read_in_thread, write_in_thread};
use super::terminal::RawMode;

/// How a stream broke.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] BadFrame),
}

/// An attached container's streams; dropping them detaches and puts the terminal back.
#[derive(Debug)]
pub(super) struct Streams {
    /// Ends when everything that the app wrote has been written out here.
    pub(super) output: AbortOnDropHandle<Result<(), StreamError>>,
    /// Whoever read stdout has gone.
    pub(super) reader_gone: CancellationToken,
    /// What belongs to this side and ends with the app.
    pub(super) side: Side,
}

/// The part of the streams that has to end when the app has.
#[derive(Debug)]
pub(super) struct Side {
    _raw_mode: Option<RawMode>,
    _input: Option<(AbortOnDropHandle<()>, Reading)>,
}

impl Streams {
    /// Begins to carry; with `interactive` and `tty` the terminal is raw from here on.
    pub(super) fn begin(hijacked: Hijacked, stdio: Stdio, interactive: bool, tty: bool) -> io::Result<Self> {
        let Hijacked { reader, writer, early } = hijacked;
        let raw_mode = if interactive && tty { RawMode::enter(stdio.stdin.as_fd())? } else { None };
        let input = if interactive {
            let (chunk_rx, reading) = read_in_thread(stdio.stdin)?;
            Some((AbortOnDropHandle::new(tokio::spawn(carry_input(chunk_rx, writer))), reading))
        } else {
            // Closing our half now would detach the outputs with some engines; nobody reads it.
            writer.forget();
            None
        };
        let writing = write_in_thread(stdio.stdout, stdio.stderr)?;
        let reader_gone = writing.reader_gone.clone();
        let output = AbortOnDropHandle::new(tokio::spawn(carry_output(reader, early, writing, tty)));
        Ok(Self { output, reader_gone, side: Side { _raw_mode: raw_mode, _input: input } })
    }
}

/// stdin --chunks--> the container, and then the end of the file.
async fn carry_input(mut chunk_rx: mpsc::Receiver<Bytes>, mut writer: OwnedWriteHalf) {
    while let Some(chunk) = chunk_rx.recv().await {
        if let Err(error) = writer.write_all(&chunk).await {
            // The app closed its stdin or ended; neither is a failure of the session.
            tracing::debug!(%error, "the container takes no more input");
            return;
        }
    }
    if let Err(error) = writer.shutdown().await {
        tracing::debug!(%error, "the container's stdin was closed before ours");
    }
    writer.forget();
}

/// The container --pieces--> the writing thread, which sets the pace.
async fn carry_output(
    mut reader: impl AsyncReadExt + Unpin,
    early: BytesMut,
    writing: Writing,
    tty: bool,
) -> Result<(), StreamError> {
    let Writing { piece_tx, written, .. } = writing;
    let mut frames = Frames::default();
    let mut buffer = early;
    loop {
        loop {
            let piece = if tty {
                let bytes = buffer.split().freeze();
                (!bytes.is_empty()).then_some((Output::Stdout, bytes))
            } else {
                frames.next(&mut buffer)?
            };
            let Some(piece) = piece else { break };
            if piece_tx.send(piece).await.is_err() {
                // Only a panic ends the thread before its channel.
                return Ok(());
            }
        }
        buffer.reserve(CHUNK);
        if reader.read_buf(&mut buffer).await? == 0 {
            break;
        }
    }
    drop(piece_tx);
    // The thread ends without a word only if it panicked, and then there is nothing left to wait for.
    let _ = written.await;
    Ok(())
}
