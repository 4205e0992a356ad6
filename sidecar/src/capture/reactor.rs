//! The sidecar's one piece of unsafe code: handing a netlink socket to tokio's reactor.

use std::{io, sync::Arc};

use tokio::io::{Interest, unix::AsyncFd};

use super::netlink::Socket;

/// Registers `socket` for reading with the runtime of the caller.
pub(crate) fn readable(socket: Arc<Socket>) -> io::Result<AsyncFd<Arc<Socket>>> {
    // SAFETY: the `Socket` owns its descriptor, opens no other in its place, and lives at least as long as the
    // `AsyncFd` that holds a reference to it.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}
