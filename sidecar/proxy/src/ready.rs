//! The readiness probe: both ends of one byte on an abstract Unix socket (unix(7)).
//!
//! An exec probe needs no port on the pod's address, which could clash with the app's, and an abstract name needs no
//! writable directory.

use std::io::Read;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use crate::status::Status;

/// The kubelet's default probe timeout is 1 s; an answer that is not there by then is a no.
const PROBE_TIMEOUT: Duration = Duration::from_millis(800);
/// Pause after a failed accept, which means that descriptors ran out: trying at once would only burn the CPU.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Asks the proxy whose readiness socket is `name`.
pub fn probe(name: &str) -> bool {
    let answer = || -> std::io::Result<[u8; 1]> {
        let mut connection = UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?;
        connection.set_read_timeout(Some(PROBE_TIMEOUT))?;
        let mut answer = [0];
        connection.read_exact(&mut answer)?;
        Ok(answer)
    };
    answer().is_ok_and(|answer| answer == *b"1")
}

/// Binds the readiness socket.
pub(crate) fn bind(name: &str) -> std::io::Result<tokio::net::UnixListener> {
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
    listener.set_nonblocking(true)?;
    tokio::net::UnixListener::from_std(listener)
}

/// Answers probes for ever.
pub(crate) async fn serve(listener: tokio::net::UnixListener, status: Arc<Status>) {
    loop {
        match listener.accept().await {
            Ok((mut connection, _)) => {
                let answer = if status.ready() { b"1" } else { b"0" };
                // One byte fits the buffer of a fresh socket, so this does not wait for the prober.
                if let Err(error) = connection.write_all(answer).await {
                    tracing::debug!("a probe left before its answer: {error}");
                }
            }
            Err(error) => {
                tracing::warn!("cannot answer probes: {error}");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}
