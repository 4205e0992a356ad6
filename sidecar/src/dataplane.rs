//! The data plane, put together.
//!
//! ```text
//! app --SYN, datagrams--> capture --> relay --> tunnel --> carrier (Unix socket) --> CLI --> proxy
//! app <--connect, inject-- deliver, injector <-- tunnel
//! ports --what the app listens on--> tunnel
//! ```
//! The rules are installed before anything else: from the first packet on, traffic is carried or refused, never leaked.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use tokio::sync::{Mutex, watch};
use tpdocker_protocol::addr::Port;
use tpdocker_protocol::contract::{SIDECAR_RUN_DIR, SIDECAR_SOCKET};
use tpdocker_protocol::control::{Incoming, SidecarConfig, SidecarStatus};
use tpdocker_tunnel::{Echo, Event, Events, Side, Tunnel};

use crate::callers::Callers;
use crate::capture::{Capture, CaptureConfig, CaptureError, Cidr, Injector, Rules};
use crate::deliver::Delivery;
use crate::files::{self, FileError, OwnName};
use crate::hold::Hold;
use crate::host_ports::{HostPortError, HostPorts};
use crate::link::{Generation, Link};
use crate::names::{Names, Recall, Table};
use crate::podip::{AddressError, Changes, PodAddresses};
use crate::ports::OwnPorts;
use crate::relay::Arrivals;
use crate::{control, deliver, ports, relay};

/// How often the ports of the app are looked at: a new listener is open in the cluster within this and a round trip.
const PORTS_INTERVAL: Duration = Duration::from_millis(150);
/// The same while connections wait for the app to listen again.
const HURRIED_INTERVAL: Duration = Duration::from_millis(20);
/// Time for the goodbye to leave at the end.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);

/// Where things are; the defaults are those of the image.
#[derive(Debug, Clone)]
pub struct Options {
    /// The Unix socket for the CLI.
    pub socket: PathBuf,
    /// The resolver's configuration that the app reads.
    pub resolv_conf: PathBuf,
    /// The hosts file that the app reads.
    pub hosts: PathBuf,
}

/// Why the data plane ends.
#[derive(Debug, thiserror::Error)]
pub enum DataPlaneError {
    /// The rules cannot be installed.
    #[error("cannot capture the namespace's traffic")]
    Capture(#[from] CaptureError),
    /// The kernel's queue broke.
    #[error("the capture's queue broke")]
    Queue(#[source] io::Error),
    /// The namespace's addresses cannot be seen.
    #[error("cannot see the addresses of the namespace")]
    Addresses(#[source] io::Error),
    /// The app's ports cannot be seen.
    #[error("cannot see the ports of the app")]
    Ports(#[source] io::Error),
    /// The CLI cannot connect.
    #[error("cannot listen on {path}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A configuration that cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigureError {
    #[error("{0:?} is not a network in CIDR notation")]
    Network(String),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("cannot set the networks that are reached directly: {0}")]
    Bypass(#[from] CaptureError),
    #[error("the pod's address cannot be had: {0}")]
    Address(#[from] AddressError),
    #[error(transparent)]
    HostPort(#[from] HostPortError),
}

/// What the connections of the CLI share.
pub(crate) struct DataPlane {
    options: Options,
    rules: Mutex<Rules>,
    addresses: Mutex<PodAddresses>,
    injector: Injector,
    link: Arc<Link>,
    delivery: Arc<Delivery>,
    expected_tx: watch::Sender<Expected>,
    hold_rx: watch::Receiver<Hold>,
    names: Arc<Names>,
    recall: Arc<Recall>,
    host_ports: HostPorts,
    status_tx: watch::Sender<SidecarStatus>,
}

/// What the cluster expects of the app, as in [`SidecarConfig`].
#[derive(Debug, Clone, Default)]
struct Expected {
    declared: Vec<Port>,
    hold: Duration,
    incoming: Incoming,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            socket: PathBuf::from(SIDECAR_RUN_DIR).join(SIDECAR_SOCKET),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            hosts: PathBuf::from("/etc/hosts"),
        }
    }
}

/// Captures the calling thread's network namespace and serves until `shutdown` resolves or something breaks. Another
/// data plane can take over after that: the rules stay.
pub async fn run(options: Options, shutdown: impl Future<Output = ()>) -> Result<(), DataPlaneError> {
    let Capture { rules, captured, redirected, injector, .. } = Capture::install(&CaptureConfig::default())?;
    let callers = Callers::install();
    let addresses = PodAddresses::open().map_err(DataPlaneError::Addresses)?;
    let changes = Changes::subscribe().map_err(DataPlaneError::Addresses)?;
    let own_ports = OwnPorts::default();
    own_ports.add(redirected.ports());
    let app_ports = ports::Watch::new(PORTS_INTERVAL).map_err(DataPlaneError::Ports)?.without(own_ports.clone());
    let listener = control::bind(&options.socket)
        .map_err(|source| DataPlaneError::Socket { path: options.socket.clone(), source })?;
    let status = SidecarStatus { capture: Some(rules.kind().to_owned()), ..SidecarStatus::default() };
    tracing::info!("capturing by {}", rules.kind());

    let link = Arc::new(Link::default());
    let arrivals = Arc::new(Arrivals::default());
    let (hold_tx, hold_rx) = watch::channel(Hold::default());
    let (expected_tx, expected_rx) = watch::channel(Expected::default());
    let names = Arc::new(Names::default());
    let recall = Arc::new(Recall::new(Arc::clone(&names), Arc::clone(&link), injector.clone()));
    let answers = relay::Answers { names: Arc::clone(&names), recall: Arc::clone(&recall), injector: injector.clone() };
    let plane = Arc::new(DataPlane {
        options,
        rules: Mutex::new(rules),
        addresses: Mutex::new(addresses),
        injector,
        link: Arc::clone(&link),
        delivery: Arc::new(Delivery::new(callers, hold_rx.clone())),
        expected_tx,
        hold_rx,
        names,
        recall: Arc::clone(&recall),
        host_ports: HostPorts::new(own_ports),
        status_tx: watch::Sender::new(status),
    });
    plane.trial().await;
    let outcome = tokio::select! {
        error = relay::outgoing(captured, Arc::clone(&link), Arc::clone(&arrivals), answers) => Err(DataPlaneError::Queue(error)),
        () = relay::arrive(redirected, arrivals) => Ok(()),
        () = control::serve(listener, Arc::clone(&plane)) => Ok(()),
        error = announce(app_ports, &plane, expected_rx, hold_tx) => Err(DataPlaneError::Ports(error)),
        never = recall.run() => match never {},
        error = keep_addresses(changes, &plane) => Err(DataPlaneError::Addresses(error)),
        () = shutdown => Ok(()),
    };
    if let Some(tunnel) = link.tunnel() {
        tunnel.close("the sidecar is stopping");
        if tokio::time::timeout(GOODBYE_TIMEOUT, tunnel.closed()).await.is_err() {
            tracing::warn!("the tunnel did not end in time");
        }
    }
    outcome
}

/// Tells everybody what the app listens on and what is kept open for it, until that cannot be seen any more.
async fn announce(
    mut app_ports: ports::Watch,
    plane: &DataPlane,
    mut expected_rx: watch::Receiver<Expected>,
    hold_tx: watch::Sender<Hold>,
) -> io::Error {
    let mut hold = Hold::default();
    loop {
        let deadline = hold.poll_timeout();
        tokio::select! {
            seen = app_ports.changed() => match seen {
                Ok(sockets) => hold.handle_input(sockets, Instant::now()),
                Err(error) => return error,
            },
            Ok(()) = expected_rx.changed() => {
                let Expected { declared, hold: patience, incoming } = expected_rx.borrow_and_update().clone();
                hold.admit(incoming);
                app_ports.set_declared(declared.iter().copied());
                hold.configure(declared, patience);
            }
            () = sleep_until(deadline) => hold.handle_timeout(Instant::now()),
        }
        app_ports.set_interval(if hold.poll_timeout().is_some() { HURRIED_INTERVAL } else { PORTS_INTERVAL });
        plane.status_tx.send_if_modified(|status| {
            let listening = hold.public();
            let changed = status.listening != listening;
            status.listening = listening;
            changed
        });
        hold_tx.send_if_modified(|known| {
            let changed = *known != hold;
            known.clone_from(&hold);
            changed
        });
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Follows what the engine does to the namespace's networks, until that cannot be seen any more.
async fn keep_addresses(mut changes: Changes, plane: &DataPlane) -> io::Error {
    loop {
        if let Err(error) = changes.next().await {
            return error;
        }
        if let Err(error) = plane.renew_addresses().await {
            tracing::warn!("after a change of the networks: {error}");
        }
    }
}

fn own_name(config: &SidecarConfig) -> OwnName {
    let hostname = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
    let (names, addresses) = (config.own_names.clone(), config.pod_ips.clone());
    OwnName { hostname, names, addresses, docker: deliver::own_addresses() }
}

impl DataPlane {
    pub(crate) fn watch(&self) -> watch::Receiver<SidecarStatus> {
        self.status_tx.subscribe()
    }

    /// Checks everything, then changes it.
    pub(crate) async fn configure(&self, config: &SidecarConfig) -> Result<(), ConfigureError> {
        let bypass = config.bypass.iter().map(|text| text.parse().map_err(|_| ConfigureError::Network(text.clone())));
        let mut bypass: Vec<Cidr> = bypass.collect::<Result<_, _>>()?;
        bypass.extend(files::addresses_of(&self.options.hosts, &config.host_names)?.into_iter().map(Cidr::host));
        self.host_ports.set(&config.host_ports)?;
        self.rules.lock().await.set_bypass(&bypass)?;
        {
            let mut addresses = self.addresses.lock().await;
            let now = addresses.set(&config.pod_ips, &bypass)?;
            self.rules.lock().await.set_addresses(now)?;
        }
        self.names.set(Table::new(config.resolv_conf.as_deref().unwrap_or_default(), &config.siblings));
        if let Some(content) = &config.resolv_conf {
            files::write_in_place(&self.options.resolv_conf, content)?;
        }
        files::set_extra_hosts(&self.options.hosts, &own_name(config), &config.extra_hosts)?;
        let SidecarConfig { hold, incoming, .. } = *config;
        self.expected_tx.send_replace(Expected { declared: config.declared.clone(), hold, incoming });
        self.trial().await;
        self.status_tx.send_modify(|status| status.configured = true);
        Ok(())
    }

    async fn renew_addresses(&self) -> Result<(), ConfigureError> {
        let mut addresses = self.addresses.lock().await;
        if let Some(now) = addresses.renew()? {
            self.rules.lock().await.set_addresses(now)?;
        }
        Ok(())
    }

    /// Whose address the app sees. Found out again when the namespace may have got other addresses.
    async fn trial(&self) {
        let problem = self.delivery.trial().await;
        if let Some(problem) = &problem {
            tracing::warn!("the app does not see its callers' addresses: {problem}");
        }
        self.status_tx.send_modify(|status| status.own_source = problem);
    }

    /// Keeps a connection of the CLI for an app that connects to one of the laptop's ports.
    pub(crate) fn park(&self, connection: UnixStream) {
        self.host_ports.park(connection);
    }

    /// Starts a tunnel over a carrier, in place of an older one: the CLI has a reason to bring a new one.
    pub(crate) fn attach(self: Arc<Self>, carrier: UnixStream) {
        let (reader, writer) = carrier.into_split();
        let (tunnel, events) = Tunnel::start_halves(Side::Sidecar, reader, writer);
        let (generation, older) = self.link.attach(tunnel.clone());
        if let Some(older) = older {
            older.close("replaced by a newer carrier");
        }
        // Attached is only what the proxy has answered on.
        self.status_tx.send_modify(|status| status.attached = false);
        tokio::spawn(async move {
            self.session(generation, &tunnel, events).await;
            let closed = tunnel.closed().await;
            tracing::info!("the tunnel ended: {closed}");
            // Under the status' lock, so that a newer tunnel's `true` cannot come in between.
            self.status_tx.send_modify(|status| status.attached &= !self.link.detach(generation));
        });
    }

    async fn session(&self, generation: Generation, tunnel: &Tunnel, mut events: Events) {
        let mut hold_rx = self.hold_rx.clone();
        hold_rx.mark_changed();
        let mut told = None;
        loop {
            tokio::select! {
                event = events.next() => match event {
                    None => return,
                    Some(event) => self.handle(generation, event),
                },
                Ok(()) = hold_rx.changed() => {
                    let open = hold_rx.borrow_and_update().open();
                    if told.as_ref() != Some(&open) {
                        tunnel.listen(open.clone());
                        told = Some(open);
                    }
                }
            }
        }
    }

    fn handle(&self, generation: Generation, event: Event) {
        let injected = match event {
            Event::Open(pending) => {
                let delivery = Arc::clone(&self.delivery);
                tokio::spawn(async move { delivery.connection(pending).await });
                return;
            }
            Event::Datagram(datagram) => {
                if !self.recall.answered(datagram.app, datagram.remote, &datagram.payload) {
                    return;
                }
                self.injector.udp_reply(deliver::resolve(datagram.app), datagram.remote, &datagram.payload)
            }
            Event::DatagramFailed { app, remote, errno } => {
                self.recall.failed(app, remote);
                self.injector.unreachable(deliver::resolve(app), remote, errno)
            }
            Event::Echo(Echo { app, remote, sequence, payload }) => {
                self.injector.echo_reply(app, remote, sequence, &payload)
            }
            Event::EchoFailed { app, remote, sequence, errno } => {
                tracing::debug!("ping of {}: {errno}", remote.0);
                self.injector.echo_failed(app, remote, sequence, errno)
            }
            Event::Listening { failed, .. } => {
                for failure in failed {
                    tracing::warn!("port {} cannot be opened in the pod: {}", failure.port, failure.message);
                }
                self.status_tx.send_modify(|status| status.attached |= self.link.is_current(generation));
                return;
            }
            Event::Listen(_) => return tracing::warn!("a proxy said what only a sidecar says"),
        };
        if let Err(error) = injected {
            tracing::debug!("a datagram did not reach the app: {error}");
        }
    }
}
