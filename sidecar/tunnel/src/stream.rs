//! One stream, as chunks.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use tpdocker_protocol::errno::Errno;
use tpdocker_protocol::frame::StreamId;
use tpdocker_protocol::mux::Recv;

use crate::core::{Core, Wait};

/// One stream, as chunks. Dropping it without a finish in both directions resets it.
///
/// Every failure is an [`Errno`]: that of the other end's reset, or `ECONNRESET` when the tunnel has ended.
#[derive(Debug)]
pub struct Stream {
    read: ReadHalf,
    write: WriteHalf,
}

/// The direction from the other end. The stream is let go of when both halves are dropped.
#[derive(Debug)]
pub struct ReadHalf {
    handle: Arc<Handle>,
    /// Bytes that were handed out and are credit once the next chunk is asked for.
    out: usize,
}

/// The direction towards the other end. The stream is let go of when both halves are dropped.
#[derive(Debug)]
pub struct WriteHalf {
    handle: Arc<Handle>,
}

/// Lets go of the stream when it is dropped.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) core: Arc<Core>,
    pub(crate) id: StreamId,
}

// === impl Stream ===

impl Stream {
    pub(crate) fn new(handle: Handle) -> Self {
        let handle = Arc::new(handle);
        Self { read: ReadHalf { handle: Arc::clone(&handle), out: 0 }, write: WriteHalf { handle } }
    }

    /// See [`ReadHalf::read`].
    pub async fn read(&mut self) -> Result<Option<Bytes>, Errno> {
        self.read.read().await
    }

    /// See [`WriteHalf::write`].
    pub async fn write(&mut self, data: Bytes) -> Result<(), Errno> {
        self.write.write(data).await
    }

    /// See [`WriteHalf::finish`].
    pub fn finish(&mut self) {
        self.write.finish();
    }

    /// See [`WriteHalf::reset`].
    pub fn reset(&mut self, errno: Errno) {
        self.write.reset(errno);
    }

    /// Resolves with the errno when the stream is reset or the tunnel ends. What had arrived can still be read.
    pub async fn failed(&self) -> Errno {
        self.write.handle.failed().await
    }

    /// The two directions, to be used by two tasks.
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        (self.read, self.write)
    }
}

// === impl ReadHalf ===

impl ReadHalf {
    /// The next bytes; `None` when the other end has finished. Asking says that the chunk before has been dealt with:
    /// only then may the other end send more in its place. Cancel safe.
    pub async fn read(&mut self) -> Result<Option<Bytes>, Errno> {
        let Handle { core, id } = &*self.handle;
        let out = &mut self.out;
        let chunk = poll_fn(|context| {
            core.update(|state| {
                if *out > 0 {
                    state.mux.consumed(*id, std::mem::take(out), Instant::now());
                }
                match state.mux.recv(*id) {
                    Ok(Recv::Chunk(chunk)) => Poll::Ready(Ok(Some(chunk))),
                    Ok(Recv::Fin) => Poll::Ready(Ok(None)),
                    Ok(Recv::Wait) => {
                        state.wait(*id, Wait::Recv, context);
                        Poll::Pending
                    }
                    Err(errno) => Poll::Ready(Err(errno)),
                }
            })
        })
        .await?;
        self.out = chunk.as_ref().map_or(0, Bytes::len);
        Ok(chunk)
    }
}

// === impl WriteHalf ===

impl WriteHalf {
    /// Queues all of `data`; waits while the queue is full, which it stays while the other end's app does not read.
    /// When cancelled, a part may have been queued. `EPIPE` after [`Self::finish`].
    pub async fn write(&mut self, mut data: Bytes) -> Result<(), Errno> {
        let Handle { core, id } = &*self.handle;
        poll_fn(|context| {
            core.update(|state| match state.mux.send(*id, &mut data) {
                Ok(()) if data.is_empty() => Poll::Ready(Ok(())),
                Ok(()) => {
                    state.wait(*id, Wait::Send, context);
                    Poll::Pending
                }
                Err(errno) => Poll::Ready(Err(errno)),
            })
        })
        .await
    }

    /// See [`Stream::failed`].
    pub async fn failed(&self) -> Errno {
        self.handle.failed().await
    }

    /// Nothing more will be written; what is queued still goes out.
    pub fn finish(&mut self) {
        let Handle { core, id } = &*self.handle;
        core.update(|state| state.mux.finish(*id));
    }

    /// Ends both directions at once, here and at the other end. What is queued or unread is dropped.
    pub fn reset(&mut self, errno: Errno) {
        let Handle { core, id } = &*self.handle;
        core.update(|state| state.mux.reset(*id, errno));
    }
}

// === impl Handle ===

impl Handle {
    pub(crate) fn new(core: &Arc<Core>, id: StreamId) -> Self {
        Self { core: Arc::clone(core), id }
    }

    pub(crate) async fn failed(&self) -> Errno {
        poll_fn(|context| {
            self.core.update(|state| match state.mux.failure(self.id) {
                Some(errno) => Poll::Ready(errno),
                None => {
                    state.wait(self.id, Wait::Failed, context);
                    Poll::Pending
                }
            })
        })
        .await
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        drop(self.core.update(|state| state.release(self.id)));
    }
}
