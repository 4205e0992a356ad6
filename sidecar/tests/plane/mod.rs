//! A sidecar process in a namespace as Docker would give it, a proxy in another one that is "the cluster", and the
//! pump between them that is the CLI's work otherwise.

#![allow(dead_code, reason = "each test program uses its part")]

pub mod namespace;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use namespace::Namespace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{oneshot, watch};
use tpdocker_protocol::addr::Port;
use tpdocker_protocol::admission::{Challenge, Role};
use tpdocker_protocol::contract::{SIDECAR_CARRIER, SIDECAR_CONTROL, SIDECAR_SOCKET};
use tpdocker_protocol::control::{SidecarConfig, SidecarReply, SidecarRequest, SidecarStatus};
use tpdocker_proxy::server::{Config, Server};
use tpdocker_sidecar::health;
use tpdocker_tunnel::messages::Messages;

/// Longer than anything here takes; what is not there by then never comes.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// An address that only the cluster has.
pub const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The container's address on the engine's network.
pub const CONTAINER_IP: Ipv4Addr = Ipv4Addr::new(172, 31, 9, 2);
/// The address of the pod, which the cluster's end has and the container's end takes.
pub const POD_IP: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 7);
const SESSION: &str = "s-test";

/// Waits until `probe` gives something.
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// One datagram to the app's port, which `caller` is connected to, and one back; each end sees the other's address.
pub fn ask_and_answer(caller: &UdpSocket, app: &UdpSocket) {
    for socket in [caller, app] {
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    }
    let mut buffer = [0; 64];
    let peer = eventually("a question arrives", || {
        // Until the proxy has opened the port, this is refused.
        caller.send(b"question").ok()?;
        app.recv_from(&mut buffer).ok().map(|(_, peer)| peer)
    });
    assert_eq!(peer, caller.local_addr().unwrap());
    app.send_to(b"answer", peer).unwrap();
    let length = eventually("the answer arrives", || caller.recv(&mut buffer).ok());
    assert_eq!(&buffer[..length], b"answer");
}

/// The holder with its data plane, in a container's place.
pub struct Sidecar {
    pub namespace: Arc<Namespace>,
    pub files: tempfile::TempDir,
    holder: Child,
}

impl Sidecar {
    /// Starts `tpdocker-sidecar hold` where `/run/tpdocker`, `resolv.conf` and `hosts` are mounts, and with the two
    /// capabilities that it has, as under Docker.
    pub fn start() -> Self {
        Self::start_with("+net_admin,+net_raw")
    }

    /// The same with these capabilities, as setpriv(1) takes them, and no others.
    pub fn start_with(capabilities: &str) -> Self {
        let namespace = Arc::new(Namespace::new());
        // A way out, so that what is not captured would leave: into the void, here.
        namespace.ip("link add eth0 type veth peer name void0");
        namespace.ip("link set void0 up");
        namespace.ip(&format!("addr add {CONTAINER_IP}/24 dev eth0"));
        namespace.ip("link set eth0 up");
        namespace.ip("route add default via 172.31.9.1");
        // As the engine does for every container.
        namespace.run(|| std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")).unwrap();
        let files = tempfile::tempdir().unwrap();
        std::fs::write(files.path().join("resolv.conf"), "nameserver 127.0.0.11\n").unwrap();
        std::fs::write(files.path().join("hosts"), "127.0.0.1\tlocalhost\n").unwrap();
        std::fs::create_dir(files.path().join("run")).unwrap();
        let script = "mount --bind $DIR/resolv.conf /etc/resolv.conf && mount --bind $DIR/hosts /etc/hosts \
                      && mount -t tmpfs none /run && mkdir /run/tpdocker && mount --bind $DIR/run /run/tpdocker \
                      && exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all,$CAPABILITIES \
                      -- $SIDECAR hold --log debug";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).env("DIR", files.path());
        command.env("CAPABILITIES", capabilities).env("SIDECAR", env!("CARGO_BIN_EXE_tpdocker-sidecar"));
        let holder = namespace.run(|| command.spawn()).unwrap();
        let sidecar = Self { namespace, files, holder };
        eventually("the data plane listens", || std::os::unix::net::UnixStream::connect(sidecar.socket()).ok());
        sidecar
    }

    pub fn socket(&self) -> PathBuf {
        self.files.path().join("run").join(SIDECAR_SOCKET)
    }

    pub fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.files.path().join(name)).unwrap()
    }

    pub fn is_healthy(&self) -> bool {
        health::check(&self.socket()).is_ok()
    }

    /// The data plane's process, of the holder that became of the shell.
    pub fn data_plane(&self) -> Option<Pid> {
        let holder = self.holder.id();
        let children = std::fs::read_to_string(format!("/proc/{holder}/task/{holder}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok().map(Pid::from_raw)
    }

    /// Sends the request and returns the first answer.
    pub fn ask(&self, request: &SidecarRequest) -> SidecarReply {
        runtime().block_on(async {
            let mut socket = UnixStream::connect(self.socket()).await.unwrap();
            socket.write_u8(SIDECAR_CONTROL).await.unwrap();
            let mut messages = Messages::new(socket);
            messages.send(request).await.unwrap();
            messages.receive().await.unwrap().expect("an answer")
        })
    }

    pub fn configure(&self) {
        self.configure_with(&[], Duration::ZERO);
    }

    /// The same with what the cluster expects of the app.
    pub fn configure_with(&self, declared: &[Port], hold: Duration) {
        let config = SidecarConfig {
            resolv_conf: Some("search staging.svc.cluster.local\nnameserver 10.96.0.10\n".to_owned()),
            extra_hosts: vec!["10.0.0.1 alias".to_owned()],
            bypass: vec!["172.31.9.0/24".to_owned()],
            declared: declared.to_vec(),
            hold,
            pod_ips: vec![POD_IP.into()],
            ..SidecarConfig::default()
        };
        assert_eq!(self.ask(&SidecarRequest::Configure(config)), SidecarReply::Configured);
    }

    pub fn status(&self) -> SidecarStatus {
        match self.ask(&SidecarRequest::Watch) {
            SidecarReply::Status(status) => status,
            other => panic!("not a status: {other:?}"),
        }
    }

    /// Freezes the holder, or lets it go on.
    pub fn hold_still(&self, still: bool) {
        let signal = if still { Signal::SIGSTOP } else { Signal::SIGCONT };
        kill(Pid::from_raw(self.holder.id().cast_signed()), signal).unwrap();
    }

    /// Asks the holder to end, and returns how it did.
    pub fn stop(&mut self) -> std::process::ExitStatus {
        kill(Pid::from_raw(self.holder.id().cast_signed()), Signal::SIGTERM).unwrap();
        eventually("the holder ends", || self.holder.try_wait().unwrap())
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        if matches!(self.holder.try_wait(), Ok(None)) {
            self.hold_still(false);
            self.stop();
        }
    }
}

/// A namespace with a proxy in it.
pub struct Cluster {
    pub namespace: Arc<Namespace>,
    /// Where the proxy listens for the CLI.
    pub address: SocketAddr,
    _stop_tx: oneshot::Sender<()>,
}

impl Cluster {
    pub fn start() -> Self {
        // The first test of the program wins; what is logged shows when a test fails.
        let _ = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_test_writer().try_init();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let namespace = Arc::new(Namespace::new());
        namespace.ip(&format!("addr add {CLUSTER_IP}/32 dev lo"));
        namespace.ip(&format!("addr add {POD_IP}/32 dev lo"));
        let config = Config {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            key: key().verifying_key(),
            session: SESSION.to_owned(),
            declared: Vec::new(),
            ready_socket: format!("sidecar-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)),
        };
        let (stop_tx, stop_rx) = oneshot::channel::<()>();
        let (address_tx, address_rx) = std::sync::mpsc::channel();
        spawn_in(&namespace, async move {
            let server = Server::bind(config).await.unwrap();
            address_tx.send(server.address()).unwrap();
            server
                .run(async {
                    // A dropped sender is the end of the test.
                    let _ = stop_rx.await;
                })
                .await;
        });
        Self { namespace, address: address_rx.recv().unwrap(), _stop_tx: stop_tx }
    }

    /// Pumps between the proxy and `socket` until one of them hangs up.
    pub fn pump(&self, socket: &Path) {
        self.pump_through(socket, watch::channel(true).1);
    }

    /// The same through a way that carries nothing while the switch is off, and loses nothing: a black hole, to TCP.
    pub fn pump_with_switch(&self, socket: &Path) -> watch::Sender<bool> {
        let (switch_tx, switch_rx) = watch::channel(true);
        self.pump_through(socket, switch_rx);
        switch_tx
    }

    fn pump_through(&self, socket: &Path, switch_rx: watch::Receiver<bool>) {
        let (address, socket) = (self.address, socket.to_owned());
        spawn_in(&self.namespace, async move {
            if let Err(error) = pump(address, &socket, switch_rx).await {
                eprintln!("the pump ended: {error}");
            }
        });
    }
}

async fn pump(proxy: SocketAddr, socket: &Path, switch_rx: watch::Receiver<bool>) -> io::Result<()> {
    let mut proxy = TcpStream::connect(proxy).await?;
    let mut challenge = [0; Challenge::LEN];
    proxy.read_exact(&mut challenge).await?;
    let answer = Challenge::decode(&challenge).unwrap().answer(&key(), Role::Tunnel, SESSION);
    proxy.write_all(&answer.encode()).await?;
    assert_eq!(proxy.read_u8().await?, 0, "admitted");
    let mut sidecar = UnixStream::connect(socket).await?;
    sidecar.write_u8(SIDECAR_CARRIER).await?;
    let (proxy_reader, proxy_writer) = proxy.into_split();
    let (sidecar_reader, sidecar_writer) = sidecar.into_split();
    let out = carry(sidecar_reader, proxy_writer, switch_rx.clone());
    tokio::try_join!(out, carry(proxy_reader, sidecar_writer, switch_rx)).map(drop)
}

/// Copies until the end, whenever the switch is on.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut switch_rx: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        let length = from.read(&mut buffer).await?;
        // Without its sender the switch stays as it is.
        let _on = switch_rx.wait_for(|on| *on).await.is_ok();
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..length]).await?;
    }
}

/// A sidecar and a cluster, connected and configured.
pub fn connected() -> (Sidecar, Cluster) {
    let (sidecar, cluster) = (Sidecar::start(), Cluster::start());
    sidecar.configure();
    cluster.pump(&sidecar.socket());
    eventually("the sidecar is attached", || sidecar.is_healthy().then_some(()));
    (sidecar, cluster)
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A thread in the namespace with a runtime of its own; all of its sockets are in there.
fn spawn_in(namespace: &Arc<Namespace>, future: impl Future<Output = ()> + Send + 'static) {
    let namespace = Arc::clone(namespace);
    std::thread::spawn(move || namespace.run(|| runtime().block_on(future)));
}
