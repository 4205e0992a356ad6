//! The opening of a stream, at the end that asks and at the end that is asked.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use tpdocker_protocol::addr::Target;
use tpdocker_protocol::errno::Errno;
use tpdocker_protocol::frame::StreamId;

use crate::core::{Core, Wait};
use crate::stream::{Handle, Stream};
use crate::tunnel::Closed;

/// Why a stream was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The other end's answer: what `connect()` said there.
    #[error("{0}")]
    Refused(Errno),
    /// The tunnel has ended.
    #[error(transparent)]
    Closed(#[from] Closed),
}

pub(crate) async fn open(core: &Arc<Core>, target: Target) -> Result<Stream, OpenError> {
    let opened = match core.update(|state| state.mux.open(target, Instant::now())) {
        Ok(id) => {
            // From here on, dropping the future drops the handle, which takes the open back.
            let handle = Handle::new(core, id);
            let answer = poll_fn(|context| {
                core.update(|state| match state.mux.answer(id) {
                    Ok(true) => Poll::Ready(Ok(())),
                    Ok(false) => {
                        state.wait(id, Wait::Recv, context);
                        Poll::Pending
                    }
                    Err(errno) => Poll::Ready(Err(errno)),
                })
            });
            answer.await.map(|()| Stream::new(handle))
        }
        Err(errno) => Err(errno),
    };
    opened.map_err(|errno| match core.watch_end().borrow().clone() {
        Some(closed) => OpenError::Closed(closed),
        None => OpenError::Refused(errno),
    })
}

/// A stream that the other end wants to open. Dropping it refuses with `ECONNABORTED`.
#[derive(Debug)]
pub struct Pending {
    handle: Handle,
    target: Target,
}

impl Pending {
    pub(crate) fn new(core: &Arc<Core>, id: StreamId, target: Target) -> Self {
        Self { handle: Handle::new(core, id), target }
    }

    /// What the stream is for.
    pub fn target(&self) -> Target {
        self.target
    }

    /// Resolves when the other end takes the open back or the tunnel ends: nobody waits for an answer any more.
    pub async fn cancelled(&self) {
        self.handle.failed().await;
    }

    /// Both ends may send. If the open was taken back meanwhile, the stream says so.
    pub fn accept(self) -> Stream {
        self.handle.core.update(|state| state.mux.accept(self.handle.id));
        Stream::new(self.handle)
    }

    /// The other end's open fails with `errno`.
    pub fn refuse(self, errno: Errno) {
        self.handle.core.update(|state| state.mux.refuse(self.handle.id, errno));
    }
}
