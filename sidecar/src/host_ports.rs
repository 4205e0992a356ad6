//! Ports of the container's loopback that lead to the laptop's, for debuggers: an IDE listens on the laptop, and the app
//! connects to `localhost`.
//!
//! The listeners are on loopback, which nobody outside of the namespace reaches, and this end dials nobody: connections
//! of the CLI wait here ([`tpdocker_protocol::contract::SIDECAR_HOST_PORT`]), and each becomes that of one app. The app's
//! connection is accepted before the laptop has answered, so where nobody listens there it is reset at once.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use tpdocker_protocol::contract::HOST_PORT_CONNECTED;

use crate::ports::OwnPorts;

/// Connections of the CLI that may wait. It keeps one waiting; the rest are those of a CLI that has been replaced.
const MAX_PARKED: usize = 16;
/// How long an app waits for the laptop to connect, a CLI that is just being started anew included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Of each direction. Debuggers talk little; a file transfer should still not crawl.
const BUFFER: usize = 64 << 10;
/// Pause after a failed accept, which means that descriptors ran out: trying at once would only burn the CPU.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// A port that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("port {port} of the container's loopback cannot lead to the laptop: {source}")]
pub(crate) struct HostPortError {
    port: u16,
    source: io::Error,
}

/// The listeners, and the connections that wait for them.
#[derive(Debug)]
pub(crate) struct HostPorts {
    listeners: Mutex<BTreeMap<u16, AbortOnDropHandle<()>>>,
    own: OwnPorts,
    parked_tx: mpsc::Sender<UnixStream>,
    parked_rx: Arc<AsyncMutex<mpsc::Receiver<UnixStream>>>,
}

impl HostPorts {
    /// None yet. Those to come are told to `own`, and stay the sidecar's: they do not change in a session.
    pub(crate) fn new(own: OwnPorts) -> Self {
        let (parked_tx, parked_rx) = mpsc::channel(MAX_PARKED);
        Self { listeners: Mutex::default(), own, parked_tx, parked_rx: Arc::new(AsyncMutex::new(parked_rx)) }
    }

    /// Listens on exactly these ports; connections that are established go on. Where one cannot be listened on, nothing
    /// changes.
    pub(crate) fn set(&self, ports: &[u16]) -> Result<(), HostPortError> {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        self.own.add(ports.iter().copied());
        let mut new = BTreeMap::new();
        for port in ports.iter().filter(|port| !listeners.contains_key(port)) {
            let bound = listen(*port).map_err(|source| HostPortError { port: *port, source })?;
            new.insert(*port, bound);
        }
        listeners.retain(|port, _| ports.contains(port));
        for (port, (v4, v6)) in new {
            let parked_rx = Arc::clone(&self.parked_rx);
            let serving = async move {
                match v6 {
                    Some(v6) => tokio::join!(accept(v4, port, &parked_rx), accept(v6, port, &parked_rx)).0,
                    None => accept(v4, port, &parked_rx).await,
                }
            };
            listeners.insert(port, AbortOnDropHandle::new(tokio::spawn(serving)));
        }
        Ok(())
    }

    /// Keeps a connection of the CLI until an app needs it.
    pub(crate) fn park(&self, connection: UnixStream) {
        if self.parked_tx.try_send(connection).is_err() {
            tracing::warn!("more than {MAX_PARKED} connections of the CLI wait for an app");
        }
    }
}

/// On 127.0.0.1 and, unless the namespace has no `::1`, on that: a resolver may give either for `localhost`.
fn listen(port: u16) -> io::Result<(TcpListener, Option<TcpListener>)> {
    let v4 = bind((Ipv4Addr::LOCALHOST, port).into())?;
    match bind((Ipv6Addr::LOCALHOST, port).into()) {
        Ok(v6) => Ok((v4, Some(v6))),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        Err(error) => {
            tracing::debug!(%error, "no listener on ::1");
            Ok((v4, None))
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

async fn accept(listener: TcpListener, port: u16, parked_rx: &Arc<AsyncMutex<mpsc::Receiver<UnixStream>>>) {
    loop {
        match listener.accept().await {
            Ok((app, _)) => {
                let parked_rx = Arc::clone(parked_rx);
                tokio::spawn(async move {
                    if let Err(error) = lead(app, port, &parked_rx).await {
                        tracing::debug!("connection to the laptop's end of port {port}: {error}");
                    }
                });
            }
            Err(error) => {
                tracing::warn!("cannot accept a connection to port {port}: {error}");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// Joins the app with the laptop; without one at the other end its connection is reset.
async fn lead(mut app: TcpStream, port: u16, parked_rx: &AsyncMutex<mpsc::Receiver<UnixStream>>) -> io::Result<()> {
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    let connected = timeout_at(deadline, connect(port, parked_rx)).await.map_err(io::Error::from);
    let joined = match connected.and_then(|connected| connected) {
        Ok(mut laptop) => {
            app.set_nodelay(true)?;
            copy_bidirectional_with_sizes(&mut app, &mut laptop, BUFFER, BUFFER).await.map(drop)
        }
        Err(error) => Err(error),
    };
    if joined.is_err() {
        app.set_zero_linger()?;
    }
    joined
}

/// The next connection of the CLI, once it is one to the laptop's port. Those that a CLI has left behind are passed over.
async fn connect(port: u16, parked_rx: &AsyncMutex<mpsc::Receiver<UnixStream>>) -> io::Result<UnixStream> {
    loop {
        let Some(mut laptop) = parked_rx.lock().await.recv().await else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        if laptop.write_u16(port).await.is_err() {
            continue;
        }
        match laptop.read_u8().await {
            Ok(HOST_PORT_CONNECTED) => return Ok(laptop),
            Ok(_) => return Err(io::ErrorKind::ConnectionRefused.into()),
            Err(error) => tracing::debug!("a connection of the CLI had ended: {error}"),
        }
    }
}
