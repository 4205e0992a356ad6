//! Connections that the app makes: the pod connects where the app wants to, and tells the truth about it.

use tokio::net::TcpStream;
use tpdocker_protocol::addr::Target;
use tpdocker_protocol::errno::Errno;
use tpdocker_tunnel::{Pending, splice};

/// Carries out one open of the sidecar. There is no timeout of our own: the kernel's says ETIMEDOUT, and the app has
/// its own patience, whose end cancels the open.
pub(crate) async fn answer(pending: Pending) {
    let Target::Dial(address) = pending.target() else {
        tracing::warn!("a sidecar asked a proxy to deliver");
        pending.refuse(Errno::EPERM);
        return;
    };
    let connected = tokio::select! {
        connected = TcpStream::connect(address.0) => connected,
        () = pending.cancelled() => return tracing::debug!("connection to {}: the app gave up", address.0),
    };
    match connected {
        Ok(socket) => {
            let report = splice(pending.accept(), socket).await;
            tracing::debug!("connection to {}: {report:?}", address.0);
        }
        Err(error) => {
            tracing::debug!("connection to {}: {error}", address.0);
            pending.refuse(Errno::from_io(&error));
        }
    }
}
