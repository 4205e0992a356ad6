//! The sidecar's Unix socket: the CLI's requests, and the carriers that it pumps.
//!
//! The socket lies in a directory that is the user's alone, so whoever connects is the CLI (or root).

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tpdocker_protocol::contract::{SIDECAR_CARRIER, SIDECAR_CONTROL, SIDECAR_FILES_DIR, SIDECAR_HOST_PORT};
use tpdocker_protocol::control::{SidecarReply, SidecarRequest};
use tpdocker_tunnel::messages::{MessageError, Messages};

use crate::dataplane::DataPlane;
use crate::incapable::chain;
use crate::volumes;

/// Everybody may use the socket who can reach it: the CLI does not run as root, and its directory keeps others out.
const SOCKET_MODE: u32 = 0o666;
/// Time to say what a connection is for.
const ROLE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections at a time; the CLI needs two and the health check one.
const MAX_CONNECTIONS: usize = 64;
/// Pause after a failed accept, which means that descriptors ran out: trying at once would only burn the CPU.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Binds the socket at `path`, in place of one that an earlier data plane left behind.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => (),
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    Ok(listener)
}

/// Serves the socket for ever.
pub(crate) async fn serve(listener: UnixListener, plane: Arc<DataPlane>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((connection, _)) => {
                let plane = Arc::clone(&plane);
                tokio::spawn(async move {
                    if let Err(error) = dispatch(connection, plane).await {
                        tracing::info!("connection of the CLI: {error}");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("cannot accept connections of the CLI: {error}");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

async fn dispatch(mut connection: UnixStream, plane: Arc<DataPlane>) -> Result<(), MessageError> {
    let role = timeout(ROLE_TIMEOUT, connection.read_u8()).await.map_err(io::Error::from)??;
    match role {
        SIDECAR_CONTROL => requests(connection, &plane).await,
        SIDECAR_CARRIER => {
            plane.attach(connection);
            Ok(())
        }
        SIDECAR_HOST_PORT => {
            plane.park(connection);
            Ok(())
        }
        other => Err(io::Error::new(io::ErrorKind::InvalidData, format!("unknown role {other}")).into()),
    }
}

async fn requests(connection: UnixStream, plane: &DataPlane) -> Result<(), MessageError> {
    let mut messages = Messages::new(connection);
    let mut status_rx = plane.watch();
    let mut watching = false;
    loop {
        tokio::select! {
            request = messages.receive() => match request? {
                None => return Ok(()),
                Some(SidecarRequest::Configure(config)) => {
                    let reply = match plane.configure(&config).await {
                        Ok(()) => SidecarReply::Configured,
                        Err(error) => SidecarReply::Error { message: chain(&error) },
                    };
                    messages.send(&reply).await?;
                }
                Some(SidecarRequest::SwapFiles(swap)) => {
                    let reply = match volumes::swap(Path::new(SIDECAR_FILES_DIR), &swap) {
                        Ok(()) => SidecarReply::Swapped,
                        Err(error) => SidecarReply::Error { message: error.to_string() },
                    };
                    messages.send(&reply).await?;
                }
                Some(SidecarRequest::Watch) => {
                    watching = true;
                    status_rx.mark_changed();
                }
            },
            changed = status_rx.changed(), if watching => {
                if changed.is_err() {
                    return Ok(());
                }
                let status = status_rx.borrow_and_update().clone();
                messages.send(&SidecarReply::Status(status)).await?;
            }
        }
    }
}
