//! `--container-to-host`: an app that connects to a port of its localhost reaches one of the laptop's, where an IDE or a
//! debugger listens.
//!
//! Nothing listens on the laptop for it. A connection to the sidecar's socket waits there until an app needs it; the
//! sidecar then says which of the container's ports it is for, and this end connects to the port of the laptop's
//! localhost that belongs to it. A port that was not declared is refused: the sidecar cannot reach others by asking.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tpdocker_protocol::contract::{HOST_PORT_CONNECTED, HOST_PORT_REFUSED};

use super::sidecar;
use crate::settings::HostPort;

/// Pause before the next try when the sidecar's data plane is away: it is started anew within tens of milliseconds.
const RETRY: Duration = Duration::from_millis(100);
/// Of each direction; as the sidecar's.
const BUFFER: usize = 64 << 10;

/// The laptop's end. What was connected through it ends with it.
#[derive(Debug)]
pub struct Doorway {
    socket: PathBuf,
    /// Of the laptop, by the container's.
    ports: HashMap<u16, u16>,
    connections: JoinSet<()>,
}

impl Doorway {
    /// For the sidecar that listens on `socket`.
    pub fn new(socket: &Path, ports: &[HostPort]) -> Self {
        let ports = ports.iter().map(|port| (port.container_port, port.host_port)).collect();
        Self { socket: socket.to_owned(), ports, connections: JoinSet::new() }
    }

    /// Connects whoever comes, for ever; without ports nobody can come.
    pub async fn serve(&mut self) {
        while !self.ports.is_empty() {
            match self.next().await {
                Ok((sidecar, port)) => {
                    self.connections.spawn(async move {
                        if let Err(error) = join(sidecar, port).await {
                            tracing::info!(%error, ?port, "a connection of the app to the laptop ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::debug!(error = %error, "no connection of the sidecar to wait on");
                    tokio::time::sleep(RETRY).await;
                }
            }
            while self.connections.try_join_next().is_some() {}
        }
    }

    /// Waits for an app; with the port of the laptop that it wants.
    async fn next(&self) -> Result<(UnixStream, Option<u16>), sidecar::SidecarError> {
        let mut waiting = sidecar::host_port(&self.socket).await?;
        let port = waiting.read_u16().await.map_err(tpdocker_tunnel::messages::MessageError::from)?;
        Ok((waiting, self.ports.get(&port).copied()))
    }
}

async fn join(mut sidecar: UnixStream, port: Option<u16>) -> io::Result<()> {
    let connected = match port {
        Some(port) => connect(port).await,
        None => Err(io::ErrorKind::PermissionDenied.into()),
    };
    let answer = if connected.is_ok() { HOST_PORT_CONNECTED } else { HOST_PORT_REFUSED };
    sidecar.write_u8(answer).await?;
    let mut laptop = connected?;
    copy_bidirectional_with_sizes(&mut sidecar, &mut laptop, BUFFER, BUFFER).await.map(drop)
}

/// To the laptop's localhost, of which an IDE may have chosen either address.
async fn connect(port: u16) -> io::Result<TcpStream> {
    let v4 = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await;
    let stream = match v4 {
        Err(first) => TcpStream::connect(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await.map_err(|_| first)?,
        Ok(stream) => stream,
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}
