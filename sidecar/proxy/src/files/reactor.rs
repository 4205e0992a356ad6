//! The proxy's one piece of unsafe code: handing an inotify descriptor to tokio's reactor.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::{Interest, unix::AsyncFd};

/// Registers `descriptor` for reading with the runtime of the caller.
pub(super) fn readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` always gives the one descriptor that it owns, and the `AsyncFd` owns it from here on.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}
