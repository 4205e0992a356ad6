//! The listener on the pod's loopback, and what an admitted connection becomes.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::VerifyingKey;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tpdocker_protocol::addr::Port;
use tpdocker_protocol::admission::Role;
use tpdocker_tunnel::{Side, Tunnel};

use crate::session::Pod;
use crate::status::Status;
use crate::{control, gate, ready, session};

/// Connections that may be in their handshake at a time; more wait in the kernel. The CLI needs a handful, and a
/// sibling container that opens connections and says nothing must not eat memory.
const MAX_UNADMITTED: usize = 64;
/// Pause after a failed accept, which means that descriptors ran out: trying at once would only burn the CPU.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// Time for the goodbye to leave at the end. The kubelet gives 30 s by default, but a person waits for this.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the CLI's port-forward arrives; on the pod's loopback.
    pub listen: SocketAddr,
    /// The public half of the session's key.
    pub key: VerifyingKey,
    /// The session's id.
    pub session: String,
    /// Ports that the pod's spec declares for the swapped container.
    pub declared: Vec<Port>,
    /// Name of the readiness socket in the abstract Unix namespace.
    pub ready_socket: String,
}

/// Why the proxy cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The control address is taken or not the pod's.
    #[error("cannot listen on {address}")]
    Control {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The readiness socket is taken: another proxy runs in this network namespace.
    #[error("cannot listen for readiness probes on @{name}")]
    Ready {
        /// The socket's name.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// A proxy that is listening.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    ready: UnixListener,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    pod: Pod,
    attached: Mutex<Option<Attached>>,
}

#[derive(Debug)]
struct Attached {
    tunnel: Tunnel,
    session: JoinHandle<()>,
}

impl Server {
    /// Binds both listeners. Must be called in a tokio runtime.
    pub async fn bind(config: Config) -> Result<Self, BindError> {
        let control = |source| BindError::Control { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(control)?;
        let address = listener.local_addr().map_err(control)?;
        let ready = ready::bind(&config.ready_socket)
            .map_err(|source| BindError::Ready { name: config.ready_socket.clone(), source })?;
        let status = Arc::new(Status::new(config.declared.clone()));
        let (handover, letterbox) = (Arc::default(), Arc::default());
        let pod = Pod { status, handover, letterbox, control_port: address.port() };
        let shared = Arc::new(Shared { config, pod, attached: Mutex::default() });
        Ok(Self { listener, address, ready, shared })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` resolves, and for a little longer as long as somebody calls; the tunnel is told why it ends.
    /// Then a letter that no other pod has is posted.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Self { listener, ready, shared, .. } = self;
        let Pod { status, handover, letterbox, .. } = &shared.pod;
        let mut letters = pin!(letterbox.run(handover, status));
        tokio::select! {
            () = accept(listener, Arc::clone(&shared)) => (),
            () = ready::serve(ready, Arc::clone(status)) => (),
            () = &mut letters => (),
            () = async { shutdown.await; shared.leave().await } => (),
        }
        shared.end().await;
        tokio::select! {
            () = letters => (),
            () = letterbox.cleared() => (),
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let unadmitted = Arc::new(Semaphore::new(MAX_UNADMITTED));
    while let Ok(place) = Arc::clone(&unadmitted).acquire_owned().await {
        match listener.accept().await {
            Ok((connection, _)) => {
                tokio::spawn(Arc::clone(&shared).connection(connection, place));
            }
            Err(error) => {
                tracing::warn!("cannot accept control connections: {error}");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

impl Shared {
    /// Goes on as long as somebody calls. Where they are passed on to the original, there is nothing left for a letter to do;
    /// where they wait, it brings the original first.
    async fn leave(&self) {
        let Pod { status, handover, letterbox, .. } = &self.pod;
        if !handover.is_served() {
            letterbox.leave();
        }
        if handover.is_waiting() {
            letterbox.cleared().await;
        }
        handover.drain(status.ready()).await;
    }

    async fn end(&self) {
        self.pod.handover.release();
        if let Some(attached) = self.attached.lock().await.take() {
            attached.tunnel.close("the proxy pod is stopping");
            if tokio::time::timeout(GOODBYE_TIMEOUT, attached.session).await.is_err() {
                tracing::warn!("the tunnel did not end in time");
            }
        }
    }

    async fn connection(self: Arc<Self>, mut connection: TcpStream, place: OwnedSemaphorePermit) {
        let role = match gate::admit(&mut connection, &self.config.key, &self.config.session).await {
            Ok(role) => role,
            Err(error) => return tracing::warn!("a connection was not admitted: {error}"),
        };
        drop(place);
        if let Err(error) = connection.set_nodelay(true) {
            return tracing::debug!("a connection left after its admission: {error}");
        }
        match role {
            Role::Tunnel => self.attach(connection).await,
            Role::Control => {
                let Pod { status, handover, letterbox, .. } = &self.pod;
                if let Err(error) = control::serve(connection, status.watch(), handover, letterbox).await {
                    tracing::info!("control connection: {error}");
                }
            }
        }
    }

    /// A newer tunnel replaces an older one: the CLI has a reason to dial anew, and knows more than this end.
    async fn attach(&self, connection: TcpStream) {
        let mut attached = self.attached.lock().await;
        let handover = &self.pod.handover;
        if handover.has_begun() && !handover.is_waiting() {
            return tracing::warn!("a tunnel came to a session that is handed over");
        }
        if let Some(older) = attached.take() {
            older.tunnel.close("replaced by a newer tunnel");
            if let Err(error) = older.session.await {
                tracing::error!("the older session did not end well: {error}");
            }
        }
        let (reader, writer) = connection.into_split();
        let (tunnel, events) = Tunnel::start_halves(Side::Proxy, reader, writer);
        tracing::info!("a tunnel is attached");
        let session = session::run(tunnel.clone(), events, self.pod.clone());
        let session = tokio::spawn(async move {
            // Not inside of the macro: its arguments are evaluated only where its level is enabled.
            let closed = session.await;
            tracing::info!("the tunnel ended: {closed}");
        });
        *attached = Some(Attached { tunnel, session });
    }
}
