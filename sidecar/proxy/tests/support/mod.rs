//! A proxy in this process, and the sidecar's end of its tunnel.

#![allow(dead_code, reason = "each test program uses its part")]

pub mod server;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tpdocker_protocol::addr::{AppAddr, ClusterAddr, Listener, Port, Scope, Target, Transport};
use tpdocker_protocol::admission::{Challenge, Role};
use tpdocker_protocol::control::{PortFailure, ProxyReply, ProxyRequest, ProxyStatus};
use tpdocker_proxy::server::{Config, Server};
use tpdocker_tunnel::messages::Messages;
use tpdocker_tunnel::{Event, Events, OpenError, Side, Tunnel, splice};

/// Longer than anything here takes; what is not there by then never comes.
pub const PATIENCE: Duration = Duration::from_secs(10);
pub const SESSION: &str = "s-test";

pub struct Proxy {
    pub address: SocketAddr,
    pub ready_socket: String,
    pub shutdown_tx: Option<oneshot::Sender<()>>,
    pub server: JoinHandle<()>,
}

pub fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

pub fn tcp(number: u16) -> Port {
    Port { transport: Transport::Tcp, number }
}

pub fn udp(number: u16) -> Port {
    Port { transport: Transport::Udp, number }
}

impl Proxy {
    pub async fn start(declared: Vec<Port>) -> Self {
        // The first test of the program wins; what is logged shows when a test fails.
        let _ = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_test_writer().try_init();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let ready_socket = format!("proxy-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let config = Config {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            key: key().verifying_key(),
            session: SESSION.to_owned(),
            declared,
            ready_socket: ready_socket.clone(),
        };
        let server = Server::bind(config).await.unwrap();
        let address = server.address();
        let (shutdown_tx, shutdown_rx) = oneshot::channel::<()>();
        let server = tokio::spawn(server.run(async {
            // A dropped sender is the end of the test.
            let _ = shutdown_rx.await;
        }));
        Self { address, ready_socket, shutdown_tx: Some(shutdown_tx), server }
    }

    /// A connection and what the proxy says of its answer: empty for yes.
    pub async fn knock(&self, key: &SigningKey, role: Role, session: &str) -> (TcpStream, String) {
        let mut connection = TcpStream::connect(self.address).await.unwrap();
        let mut challenge = [0; Challenge::LEN];
        connection.read_exact(&mut challenge).await.unwrap();
        let answer = Challenge::decode(&challenge).unwrap().answer(key, role, session);
        connection.write_all(&answer.encode()).await.unwrap();
        let mut reason = vec![0; usize::from(connection.read_u8().await.unwrap())];
        connection.read_exact(&mut reason).await.unwrap();
        (connection, String::from_utf8(reason).unwrap())
    }

    pub async fn admitted(&self, role: Role) -> TcpStream {
        let (connection, reason) = self.knock(&key(), role, SESSION).await;
        assert_eq!(reason, "");
        connection
    }

    pub async fn attach(&self) -> (Tunnel, Events) {
        Tunnel::start(Side::Sidecar, self.admitted(Role::Tunnel).await)
    }

    pub async fn control(&self) -> Messages<TcpStream> {
        Messages::new(self.admitted(Role::Control).await)
    }

    /// Told to leave, as by the kubelet.
    pub async fn leave(mut self) {
        self.shutdown_tx.take().unwrap().send(()).unwrap();
        timeout(PATIENCE, self.server).await.expect("the proxy to leave in time").unwrap();
    }

    pub async fn ready(&self) -> bool {
        let name = self.ready_socket.clone();
        tokio::task::spawn_blocking(move || tpdocker_proxy::ready::probe(&name)).await.unwrap()
    }
}

/// The next event, which has to come.
pub async fn event(events: &mut Events) -> Event {
    timeout(PATIENCE, events.next()).await.expect("an event in time").expect("the tunnel is alive")
}

/// Asks for `ports`, as a dual-stack app, and returns what the proxy says of them.
pub async fn listen(tunnel: &Tunnel, events: &mut Events, ports: &[Port]) -> (Vec<Port>, Vec<PortFailure>) {
    let dual = |port: &Port| [Scope::AnyV4, Scope::AnyV6].map(|scope| Listener { port: *port, scope });
    listen_on(tunnel, events, ports.iter().flat_map(dual).collect()).await
}

pub async fn listen_on(
    tunnel: &Tunnel,
    events: &mut Events,
    listeners: Vec<Listener>,
) -> (Vec<Port>, Vec<PortFailure>) {
    tunnel.listen(listeners);
    loop {
        if let Event::Listening { bound, failed } = event(events).await {
            return (bound, failed);
        }
    }
}

/// A connected pair of sockets.
pub async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// What the app's `connect()` through the tunnel gives.
pub async fn dial(tunnel: &Tunnel, remote: SocketAddr) -> Result<TcpStream, OpenError> {
    let opened = timeout(PATIENCE, tunnel.open(Target::Dial(ClusterAddr(remote)))).await.expect("an answer in time");
    let stream = opened?;
    let (app, sidecar) = pair().await;
    tokio::spawn(splice(stream, sidecar));
    Ok(app)
}

/// A TCP port that nobody uses.
pub async fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap().local_addr().unwrap().port()
}

pub fn app(port: u16) -> AppAddr {
    AppAddr((Ipv4Addr::new(172, 17, 0, 2), port).into())
}

/// Reads statuses until one is as wanted.
pub async fn status(watch: &mut Messages<TcpStream>, wanted: impl Fn(&ProxyStatus) -> bool) -> ProxyStatus {
    let search = async {
        loop {
            match watch.receive().await.unwrap() {
                Some(ProxyReply::Status(status)) if wanted(&status) => return status,
                Some(ProxyReply::Status(_)) => (),
                other => panic!("not a status: {other:?}"),
            }
        }
    };
    timeout(PATIENCE, search).await.expect("the status in time")
}

pub async fn watch(proxy: &Proxy) -> Messages<TcpStream> {
    let mut control = proxy.control().await;
    control.send(&ProxyRequest::Watch).await.unwrap();
    control
}
