//! Whatever happens to tunnel and data plane, and however often the rules are replaced under load: what the app sends to
//! the cluster does not leave its namespace.

mod plane;

use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::sockopt::RcvBufForce;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket};
use plane::{CLUSTER_IP, Sidecar, connected, eventually};
use tpdocker_protocol::control::{Sibling, SidecarConfig, SidecarReply, SidecarRequest};

/// On the container's own network, and so reached directly once that is bypassed.
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(172, 31, 9, 1);
/// Of the neighbour: nobody asks it before.
const CONTROL_PORT: u16 = 7007;
/// The tap sees what is redirected over loopback, too.
const TAP_BUFFER: usize = 8 << 20;

/// Sees what leaves: the other end of the container's interface is in the same namespace. Read all the time, since the
/// kernel drops what a full socket cannot take.
struct Tap {
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Tap {
    fn new(sidecar: &Sidecar) -> Self {
        // Its neighbour has an address for frames, so that no packet waits for ARP.
        sidecar.namespace.ip("neigh add 172.31.9.1 lladdr 02:00:00:00:00:01 dev eth0");
        let packets =
            || socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll).unwrap();
        let socket = sidecar.namespace.run(packets);
        setsockopt(&socket, RcvBufForce, &TAP_BUFFER).unwrap();
        let seen = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let frames = Arc::downgrade(&seen);
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok(length) = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())
                && let Some(frames) = frames.upgrade()
            {
                let frame = &buffer[..length];
                let on_loopback = frame.len() < 34 || frame[..12] == [0; 12];
                if !on_loopback && frame[12..14] == [8, 0] {
                    frames.lock().unwrap().push(frame.to_vec());
                }
            }
        });
        Self { seen }
    }

    /// The IPv4 packets to `ip` so far.
    fn seen_to(&self, ip: Ipv4Addr) -> usize {
        self.seen.lock().unwrap().iter().filter(|frame| frame[30..34] == ip.octets()).count()
    }
}

/// Connections and datagrams to the cluster, one after the other.
fn send_all(running: &AtomicBool, rounds: &AtomicU32) {
    let datagrams = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let address = |port| SocketAddr::from((CLUSTER_IP, port));
    while running.load(Ordering::Relaxed) {
        // That they fail is the point of it.
        let _ = TcpStream::connect_timeout(&address(80), Duration::from_millis(20));
        for port in [53, 5353] {
            let _ = datagrams.send_to(b"leak?", address(port));
        }
        rounds.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn nothing_leaves_while_tunnels_data_planes_and_rules_come_and_go() {
    let (sidecar, cluster) = connected();
    let tap = Tap::new(&sidecar);
    let (running, rounds) = (AtomicBool::new(true), AtomicU32::new(0));
    let some_rounds = || {
        let until = rounds.load(Ordering::Relaxed) + 20;
        eventually("the app goes on sending", || (rounds.load(Ordering::Relaxed) > until).then_some(()));
    };
    std::thread::scope(|scope| {
        scope.spawn(|| sidecar.namespace.run(|| send_all(&running, &rounds)));
        some_rounds();
        // Rules and names are replaced, with and without a network that is reached directly.
        for round in 0..40_u8 {
            let siblings = vec![Sibling { names: vec!["db".into()], addresses: vec![NEIGHBOUR.into()] }];
            let bypass = if round % 2 == 0 { vec!["172.31.9.0/24".to_owned()] } else { Vec::new() };
            let config = SidecarConfig { bypass, siblings, ..SidecarConfig::default() };
            assert_eq!(sidecar.ask(&SidecarRequest::Configure(config)), SidecarReply::Configured);
        }
        // Another carrier takes over, twice.
        for _ in 0..2 {
            cluster.pump(&sidecar.socket());
            some_rounds();
        }
        // The data plane dies and comes back without configuration and without tunnel, three times.
        for _ in 0..3 {
            let dying = eventually("a data plane", || sidecar.data_plane());
            kill(dying, Signal::SIGKILL).unwrap();
            some_rounds();
            eventually("the next data plane", || sidecar.data_plane().filter(|next| *next != dying));
            eventually("it listens", || std::os::unix::net::UnixStream::connect(sidecar.socket()).ok());
            some_rounds();
        }
        // The carrier is there, and nobody moves its bytes.
        let _paused = std::os::unix::net::UnixStream::connect(sidecar.socket()).map(|mut carrier| {
            std::io::Write::write_all(&mut carrier, &[tpdocker_protocol::contract::SIDECAR_CARRIER]).unwrap();
            carrier
        });
        some_rounds();
        running.store(false, Ordering::Relaxed);
    });
    sidecar.configure();
    let last = sidecar.namespace.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).unwrap();
    last.send_to(b"may leave", (NEIGHBOUR, CONTROL_PORT)).unwrap();
    eventually("the tap sees what may leave", || (tap.seen_to(NEIGHBOUR) > 0).then_some(()));
    assert_eq!(tap.seen_to(CLUSTER_IP), 0, "packets left");
}
