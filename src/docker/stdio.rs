//! This side's descriptors: the ones that the app's stdin, stdout and stderr are carried to.
//!
//! Each direction has a thread of its own, because a terminal, a pipe and a file have one interface in common, and it
//! blocks: making them non-blocking would change them for every other program that shares them. The threads are the
//! process's, not the runtime's, so a reader that nobody feeds, or a writer that nobody empties, keeps no runtime from
//! ending. Channels between threads and tasks are short: who is slow is waited for.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use bytes::{Bytes, BytesMut};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::error::EngineError;
use super::frames::Output;
use super::terminal::{Window, window};

/// Bytes that are read at once: what a pipe holds.
pub(super) const CHUNK: usize = 64 * 1024;

/// Chunks on their way between a thread and a task; with [`CHUNK`] this is the memory of one direction (1 MiB).
const CHUNKS_UNDER_WAY: usize = 16;

/// Where the app's input comes from and its output goes to.
#[derive(Debug)]
pub struct Stdio {
    /// Read only with `-i`.
    pub stdin: OwnedFd,
    /// Everything of a TTY, else the app's stdout.
    pub stdout: OwnedFd,
    /// The app's stderr.
    pub stderr: OwnedFd,
}

impl Stdio {
    /// Those of this process.
    pub fn of_this_process() -> io::Result<Self> {
        Ok(Self {
            stdin: io::stdin().as_fd().try_clone_to_owned()?,
            stdout: io::stdout().as_fd().try_clone_to_owned()?,
            stderr: io::stderr().as_fd().try_clone_to_owned()?,
        })
    }

    /// The window of the terminal that the app is shown in, if any.
    pub fn window(&self) -> Option<Window> {
        window(&self.stdout).or_else(|| window(&self.stdin))
    }

    /// Refuses `-i -t` without a terminal, as `docker run` does; to be asked before anything is changed.
    pub fn check(&self, interactive: bool, tty: bool) -> Result<(), EngineError> {
        if interactive && tty && !self.stdin.is_terminal() { Err(EngineError::NotATerminal) } else { Ok(()) }
    }
}

/// Ends the reading thread when dropped.
#[derive(Debug)]
pub(super) struct Reading {
    _stop: OwnedFd,
}

/// stdin --chunks--> whoever has the receiver; it ends at the end of the file.
pub(super) fn read_in_thread(stdin: OwnedFd) -> io::Result<(mpsc::Receiver<Bytes>, Reading)> {
    let (chunk_tx, chunk_rx) = mpsc::channel(CHUNKS_UNDER_WAY);
    // Not for children: a login plugin that lives longer than the app would hold the reader.
    let (stopped, stop) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let mut stdin = File::from(stdin);
        let mut buffer = BytesMut::zeroed(CHUNK);
        while wait_readable(&stdin, &stopped) {
            match stdin.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => {
                    if chunk_tx.blocking_send(Bytes::copy_from_slice(&buffer[..length])).is_err() {
                        break;
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
                Err(error) => {
                    tracing::warn!(%error, "stdin cannot be read");
                    break;
                }
            }
        }
    })?;
    Ok((chunk_rx, Reading { _stop: stop }))
}

/// Whether there is something to read, rather than an order to stop.
fn wait_readable(stdin: &File, stopped: &OwnedFd) -> bool {
    loop {
        let mut polled =
            [PollFd::new(stopped.as_fd(), PollFlags::POLLIN), PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) => return !polled[0].any().unwrap_or(true),
            Err(Errno::EINTR) => {}
            // Something that cannot be waited for can be read.
            Err(_) => return true,
        }
    }
}

/// The writing thread, seen from a task.
#[derive(Debug)]
pub(super) struct Writing {
    /// What is to be written; dropping it ends the thread.
    pub(super) piece_tx: mpsc::Sender<(Output, Bytes)>,
    /// Resolves when everything has been written.
    pub(super) written: oneshot::Receiver<()>,
    /// Cancelled when whoever read stdout has gone; what the app writes is thrown away from then on.
    pub(super) reader_gone: CancellationToken,
}

/// One thread for both outputs, so that a terminal shows them in the order in which the app wrote them.
pub(super) fn write_in_thread(stdout: OwnedFd, stderr: OwnedFd) -> io::Result<Writing> {
    let (piece_tx, mut piece_rx) = mpsc::channel::<(Output, Bytes)>(CHUNKS_UNDER_WAY);
    let (written_tx, written) = oneshot::channel();
    let reader_gone = CancellationToken::new();
    let gone = reader_gone.clone();
    thread::Builder::new().name("stdout".to_owned()).spawn(move || {
        let (mut stdout, mut stderr) = (Some(File::from(stdout)), Some(File::from(stderr)));
        while let Some((output, piece)) = piece_rx.blocking_recv() {
            let slot = match output {
                Output::Stdout => &mut stdout,
                Output::Stderr => &mut stderr,
            };
            let Some(file) = slot else { continue };
            if let Err(error) = write_all(file, &piece) {
                if error.kind() == ErrorKind::BrokenPipe {
                    tracing::debug!(?output, "whoever read it has gone");
                } else {
                    tracing::warn!(%error, ?output, "the app's output cannot be written");
                }
                *slot = None;
                if output == Output::Stdout {
                    gone.cancel();
                }
            }
        }
        // Nobody waits any more when the session is being abandoned.
        let _ = written_tx.send(());
    })?;
    Ok(Writing { piece_tx, written, reader_gone })
}

/// Writes to a file, also to one that somebody else made non-blocking.
fn write_all(file: &mut File, mut piece: &[u8]) -> io::Result<()> {
    while !piece.is_empty() {
        match file.write(piece) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(length) => piece = &piece[length..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut polled = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
                if let Err(errno) = poll(&mut polled, PollTimeout::NONE)
                    && errno != Errno::EINTR
                {
                    return Err(errno.into());
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
