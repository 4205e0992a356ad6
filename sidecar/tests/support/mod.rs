//! A laptop in miniature for tests of the capture: two network namespaces joined by a veth pair.
//!
//! `app` stands for the container's namespace, `peer` for everything around it, its default gateway included. All of it
//! is gone when the last descriptor is closed.

use std::{
    fs::File,
    io::{BufRead, BufReader, ErrorKind, Read},
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, setns, unshare};
use socket2::{Domain, Protocol, Socket, Type};

pub mod ping;
pub mod relay;

pub const APP4: &str = "172.31.9.2";
pub const PEER4: &str = "172.31.9.1";
pub const APP6: &str = "fd00:9::2";
pub const PEER6: &str = "fd00:9::1";
/// A cluster of nobody: its last octet tells the fake relay what to answer.
pub const CLUSTER4: &str = "10.96.0.";
pub const CLUSTER6: &str = "fd00:96::";
/// No blocking call of a test takes longer unless something is broken.
pub const PATIENCE: Duration = Duration::from_secs(10);

const APP_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const BARRIER_PORT: u16 = 7007;

/// Says why and answers true if this process may not make namespaces.
pub fn skip() -> bool {
    let skip = !nix::unistd::geteuid().is_root();
    if skip {
        println!("skipped: network namespaces need root");
    }
    skip
}

/// A network namespace.
#[derive(Clone)]
pub struct Namespace(Arc<File>);

impl Namespace {
    fn new() -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        };
        Self(Arc::new(thread::spawn(make).join().unwrap()))
    }

    /// Runs `f` in a thread that lives in the namespace.
    pub fn spawn<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
        let fd = Arc::clone(&self.0);
        thread::spawn(move || {
            setns(&*fd, CloneFlags::CLONE_NEWNET).unwrap();
            f()
        })
    }

    /// The same, and waits for it.
    pub fn run<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(f).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs commands of iproute2, one a line.
    pub fn ip(&self, commands: &str) {
        let commands = commands.to_owned();
        self.run(move || {
            for line in commands.lines().map(str::trim).filter(|line| !line.is_empty()) {
                let output = Command::new("ip").args(line.split(' ')).output().unwrap();
                assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
            }
        });
    }

    /// Sets one of `/proc/sys/net`.
    pub fn sysctl(&self, name: &str, value: &str) {
        let (path, value) = (format!("/proc/sys/net/{name}"), value.to_owned());
        self.run(move || std::fs::write(path, value).unwrap());
    }
}

/// Both namespaces.
pub struct Lab {
    pub app: Namespace,
    pub peer: Namespace,
}

impl Lab {
    pub fn new() -> Self {
        let (app, peer) = (Namespace::new(), Namespace::new());
        let peer_path = format!("/proc/{}/fd/{}", std::process::id(), peer.0.as_raw_fd());
        app.ip(&format!(
            "link set lo up
             link add v0 address 02:00:00:00:00:02 type veth peer name v1
             link set v1 netns {peer_path}"
        ));
        for (namespace, interface, v4, v6) in [(&app, "v0", APP4, APP6), (&peer, "v1", PEER4, PEER6)] {
            namespace.ip(&format!(
                "link set lo up
                 addr add {v4}/24 dev {interface}
                 addr add {v6}/64 dev {interface} nodad
                 link set {interface} up"
            ));
        }
        app.ip(&format!("route add default via {PEER4}\n-6 route add default via {PEER6}"));
        // The strictest setting that distributions have.
        for interface in ["all", "default", "lo", "v0"] {
            app.sysctl(&format!("ipv4/conf/{interface}/rp_filter"), "1");
        }
        Self { app, peer }
    }

    /// Sees what the app's namespace sends, from now on.
    pub fn sniff(&self) -> Sniffer {
        // ETH_P_ALL
        let all = Protocol::from(i32::from(3_u16.to_be()));
        let socket = self.peer.run(move || Socket::new(Domain::PACKET, Type::RAW, Some(all)).unwrap());
        socket.set_nonblocking(true).unwrap();
        Sniffer { socket }
    }

    /// Returns when everything that the app has sent before has arrived at the peer: asks it for an answer twice, since
    /// two processors can overtake each other once.
    pub fn barrier(&self) {
        let app = self.app.run(|| UdpSocket::bind((APP4, BARRIER_PORT)).unwrap());
        let peer = self.peer.run(|| UdpSocket::bind((PEER4, BARRIER_PORT)).unwrap());
        for socket in [&app, &peer] {
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        for _ in 0..2 {
            peer.send_to(b"?", (APP4, BARRIER_PORT)).unwrap();
            let (_, from) = app.recv_from(&mut [0; 8]).unwrap();
            app.send_to(b"!", from).unwrap();
            peer.recv_from(&mut [0; 8]).unwrap();
        }
    }

    /// Starts the fake relay in a process of its own, which has the capabilities `NET_ADMIN` and `NET_RAW` only.
    pub fn sidecar_process(&self) -> Sidecar {
        let mut child = self.app.run(|| {
            Command::new("setpriv")
                .args(["--no-new-privs", "--inh-caps=-all", "--bounding-set=-all,+net_admin,+net_raw", "--"])
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", "sidecar_process", "--ignored", "--nocapture"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        });
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let ready = lines.find(|line| line.contains(relay::READY));
        let sidecar = Sidecar(child);
        assert!(ready.is_some(), "the sidecar process did not start");
        sidecar
    }
}

/// A process that ends with its test.
pub struct Sidecar(Child);

impl Sidecar {
    /// SIGKILL: nothing is cleaned up.
    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // After `kill` it is gone already.
        if self.0.try_wait().is_ok_and(|status| status.is_none()) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }
}

/// A tap on the peer's interface.
pub struct Sniffer {
    socket: Socket,
}

impl Sniffer {
    /// The IP packets that the app's namespace has sent, but for those of [`Lab::barrier`] and neighbour discovery.
    pub fn packets(&mut self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let mut buffer = vec![0; 1 << 17];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(length) => packets.extend(interesting(&buffer[..length])),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return packets,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn interesting(frame: &[u8]) -> Option<Vec<u8>> {
    let (header, packet) = frame.split_at_checked(14)?;
    let discovery = |kind: u8| (131..=137).contains(&kind) || kind == 143;
    let boring = match header[12..] {
        [0x08, 0x00] => packet[9] == 17 && packet[20..22] == BARRIER_PORT.to_be_bytes(),
        // Multicast listener reports have a hop-by-hop header of eight bytes.
        [0x86, 0xdd] => (packet[6] == 58 && discovery(packet[40])) || (packet[6] == 0 && discovery(packet[48])),
        _ => true,
    };
    (header[6..12] == APP_MAC && !boring).then(|| packet.to_vec())
}

/// Of the fake cluster.
pub fn cluster(prefix: &str, last: u8, port: u16) -> SocketAddr {
    let last = if prefix == CLUSTER4 { last.to_string() } else { format!("{last:x}") };
    SocketAddr::new(format!("{prefix}{last}").parse().unwrap(), port)
}
