//! Noticing that the kubelet has put a new version in force.
//!
//! It does so by a rename in the volume's directory, which inotify(7) tells. Some runtimes keep events from the container
//! (their volumes come over virtiofs or a gofer), and a node may have no inotify instances left; so the links are
//! looked at from time to time in any case.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

use super::reactor::readable;

/// Between two looks, beside inotify. The kubelet itself takes a minute to notice a change of a `ConfigMap`.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// Bytes of events taken at once: one event with the longest name is 272.
const EVENTS: usize = 4096;

/// Watches volumes.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: Option<AsyncFd<OwnedFd>>,
}

impl Watch {
    /// Watches these directories; what cannot be watched is looked at.
    pub(super) fn new<'a>(directories: impl Iterator<Item = &'a Path>) -> Self {
        match watch(directories) {
            Ok(inotify) => Self { inotify: Some(inotify) },
            Err(error) => {
                tracing::info!("volumes are looked at every {LOOK_EVERY:?}: {error}");
                Self { inotify: None }
            }
        }
    }

    /// How changes are noticed.
    pub(super) fn by(&self) -> &'static str {
        if self.inotify.is_some() { "inotify" } else { "polling" }
    }

    /// Resolves when something may have changed. Cancel-safe.
    pub(super) async fn changed(&self) {
        tokio::select! {
            () = self.event() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }

    async fn event(&self) {
        let Some(inotify) = &self.inotify else { return std::future::pending().await };
        match inotify.readable().await {
            Ok(mut ready) => {
                // Which one is found out by looking; what counts is that the queue is empty.
                let drained = ready.try_io(|inotify| Ok(nix::unistd::read(inotify.get_ref(), &mut [0; EVENTS])?));
                if let Ok(Err(error)) = drained {
                    tracing::warn!("inotify is lost: {error}");
                    std::future::pending::<()>().await;
                }
            }
            Err(error) => {
                tracing::warn!("inotify is lost: {error}");
                std::future::pending::<()>().await;
            }
        }
    }
}

fn watch<'a>(directories: impl Iterator<Item = &'a Path>) -> io::Result<AsyncFd<OwnedFd>> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    for directory in directories {
        inotify.add_watch(directory, AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ONLYDIR)?;
    }
    readable(inotify.into())
}
