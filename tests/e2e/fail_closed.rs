//! Whatever breaks, the app gets errors, and not one packet for the cluster leaves by the laptop's network: every frame
//! that leaves the sidecar's namespace passes the bridge on the laptop, where a tap sees it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::sockopt::RcvBufForce;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket};
use nix::unistd::Pid;

use crate::support::{
    NAMESPACE, PATIENCE, SERVICE_IMAGE, Tpdocker, assert_restored, docker, kubectl, staging, until, world,
};

const APP: &str = "tpdocker-e2e-closed";
/// A word of the app's questions to the resolver that is in no other packet of this machine.
const QUESTION: &str = "tpdocker-must-not-leak";
/// The tap's buffer: it sees all traffic of the machine, in bursts.
const TAP_BUFFER: usize = 32 << 20;
/// As much of a frame as it looks at; a question is shorter.
const SNAP: usize = 2048;
/// Where nameservers listen.
const DNS: [u8; 2] = 53_u16.to_be_bytes();

/// One attempt of each kind: a connection to a Service, a datagram to the cluster's nameserver and one to the
/// Internet's, a name, an echo request.
const PROBE: &str = "
import errno, socket, sys
patience, thing, question = float(sys.argv[1]), sys.argv[2], sys.argv[3]
def attempt(what, of):
    try: print(what, of() or 'done')
    except socket.timeout: print(what, 'silence')
    except socket.gaierror as e: print(what, 'no name')
    except OSError as e: print(what, errno.errorcode.get(e.errno, e))
def tcp():
    with socket.create_connection((thing, 80), patience): pass
def udp(to):
    labels = b''.join(bytes([len(l)]) + l.encode() for l in (question, 'invalid'))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(1)
        s.sendto(b'\\x12\\x34\\x01\\0\\0\\x01\\0\\0\\0\\0\\0\\0' + labels + b'\\0\\0\\x01\\0\\x01', (to, 53))
        s.recv(512)
def echo():
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as s:
        s.settimeout(1)
        s.sendto(b'\\x08\\0\\xf7\\xff\\0\\0\\0\\0', (thing, 0))
        s.recv(512)
attempt('tcp', tcp)
attempt('nameserver', lambda: udp('10.96.0.10'))
attempt('internet', lambda: udp('8.8.8.8'))
attempt('name', lambda: socket.getaddrinfo(question + '.invalid.', 80) and None)
attempt('echo', echo)
";

/// What the app gets.
fn probe(patience: u32, thing: &str) -> Vec<String> {
    let exec = ["exec", "-u", "0", "-e", "RES_OPTIONS=timeout:1 attempts:1", APP, "python3", "-c", PROBE];
    docker(&[&exec[..], &[&patience.to_string(), thing, QUESTION]].concat()).lines().map(str::to_owned).collect()
}

/// A tap on every interface of the laptop: frames from the sidecar's address, and the question to any nameserver.
struct Tap {
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Tap {
    fn new(mac: [u8; 6]) -> Self {
        let socket =
            socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll).unwrap();
        setsockopt(&socket, RcvBufForce, &TAP_BUFFER).unwrap();
        let seen = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let frames = Arc::downgrade(&seen);
        std::thread::spawn(move || {
            let mut buffer = [0; SNAP];
            while let Some(frames) = frames.upgrade() {
                if let Some(frame) = next(&socket, &mut buffer)
                    && (is_from(frame, mac) || asks(frame))
                {
                    frames.lock().unwrap().push(frame.to_vec());
                }
            }
        });
        Self { seen }
    }

    /// What has left, besides the packet to the laptop that the app sends last: when that is seen, all before it is.
    fn leaked(&self) -> Vec<Vec<u8>> {
        const LAST: &str = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); \
                            s.sendto(b'tpdocker-control', (socket.gethostbyname('host.docker.internal'), 9))";
        let is_last = |frame: &Vec<u8>| frame.ends_with(b"tpdocker-control");
        until("the tap to see the packet that may leave", PATIENCE, || {
            docker(&["exec", APP, "python3", "-c", LAST]);
            if self.seen.lock().unwrap().iter().any(is_last) { Ok(()) } else { Err("not yet".into()) }
        });
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        seen.into_iter().filter(|frame| !is_last(frame)).collect()
    }
}

fn next<'a>(socket: &OwnedFd, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let length = recv(socket.as_raw_fd(), buffer, MsgFlags::empty()).ok()?;
    Some(&buffer[..length])
}

/// A datagram or segment over IPv4 to a nameserver, with the question in it.
fn asks(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x08, 0x00])
        && frame.get(36..38) == Some(&DNS)
        && frame.windows(QUESTION.len()).any(|part| part == QUESTION.as_bytes())
}

/// An IP packet of the sidecar's namespace: ARP is the bridge's business, and so is IPv6's discovery of routers and
/// neighbours and of who listens to multicast.
fn is_from(frame: &[u8], mac: [u8; 6]) -> bool {
    let discovery = |kind: u8| matches!(kind, 131..=137 | 143);
    frame.get(6..12) == Some(&mac)
        && match frame.get(12..14) {
            Some([0x08, 0x00]) => true,
            Some([0x86, 0xdd]) => match frame.get(20) {
                Some(58) => !frame.get(54).copied().is_some_and(discovery),
                Some(0) => !frame.get(62).copied().is_some_and(discovery),
                _ => true,
            },
            _ => false,
        }
}

/// A session whose app reaches the cluster, and the tap.
struct Watched {
    session: Tpdocker,
    sidecar: String,
    tap: Tap,
    thing: String,
}

impl Watched {
    fn start() -> Self {
        // What is looked at here takes a while, in which the proxy is not to restore by itself.
        let flags =
            ["run", "--swap", "servicename", "--grace=10m", "-n", NAMESPACE, "--rm", "--name", APP, SERVICE_IMAGE];
        let session = Tpdocker::start(&flags);
        session.says("is answered here");
        let owner = docker(&["inspect", "-f", "{{.HostConfig.NetworkMode}}", APP]);
        let sidecar = owner.trim().trim_start_matches("container:").to_owned();
        let mac = docker(&["inspect", "-f", "{{.NetworkSettings.MacAddress}}", &sidecar]);
        let octets: Vec<u8> = mac.trim().split(':').map(|octet| u8::from_str_radix(octet, 16).unwrap()).collect();
        let tap = Tap::new(octets.try_into().unwrap());
        let thing = kubectl(&["get", "service", "thing1", "-o=jsonpath={.spec.clusterIP}"]);
        let watched = Self { session, sidecar, tap, thing };
        watched.reaches_the_cluster();
        assert_eq!(watched.tap.leaked(), Vec::<Vec<u8>>::new(), "while everything works");
        watched
    }

    fn reaches_the_cluster(&self) {
        let reach = "import socket, sys; socket.create_connection((socket.gethostbyname('thing1'), 80), 5)";
        until("the app to reach the cluster", PATIENCE, || {
            let status = std::process::Command::new("docker").args(["exec", APP, "python3", "-c", reach]).output();
            match status {
                Ok(output) if output.status.success() => Ok(()),
                other => Err(format!("{other:?}\n{}", self.session.stderr())),
            }
        });
    }

    /// Asserts that everything fails, connections with one of `tcp`, and that nothing leaves.
    fn fails_closed(&self, patience: u32, tcp: &[&str]) {
        let got = probe(patience, &self.thing);
        let word = |line: usize| got[line].split_once(' ').unwrap().1;
        assert!(tcp.contains(&word(0)), "{got:?}");
        assert_eq!([word(1), word(2), word(3)], ["silence", "silence", "no name"], "{got:?}");
        // The kernel tells a sender whose packet a rule drops.
        assert!(["silence", "EPERM", "EHOSTUNREACH"].contains(&word(4)), "{got:?}");
        assert_eq!(self.tap.leaked(), Vec::<Vec<u8>>::new(), "something left by the bridge");
    }

    /// The processes of the sidecar: its holder and its data plane.
    fn processes(&self) -> (Pid, Option<Pid>) {
        let holder = docker(&["inspect", "-f", "{{.State.Pid}}", &self.sidecar]);
        let holder = holder.trim();
        let children = std::fs::read_to_string(format!("/proc/{holder}/task/{holder}/children")).unwrap();
        let pid = |text: &str| text.parse().ok().map(Pid::from_raw);
        (pid(holder).unwrap(), children.split_whitespace().next().and_then(pid))
    }
}

/// Dead, or a zombie whose threads have ended, too: until then the kernel's queue has its reader.
fn is_gone(pid: Pid) -> bool {
    let zombie = std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "));
    zombie && std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count) <= 1
}

#[test]
fn with_the_data_plane_dead_connections_are_refused_and_nothing_leaves() {
    let _staging = staging();
    let before = world();
    let watched = Watched::start();
    let (holder, data_plane) = watched.processes();
    let data_plane = data_plane.unwrap();
    // Stopped like this the holder cannot start another one in the middle of the look.
    kill(holder, Signal::SIGSTOP).unwrap();
    kill(data_plane, Signal::SIGKILL).unwrap();
    until("the data plane to be dead", PATIENCE, || if is_gone(data_plane) { Ok(()) } else { Err(String::new()) });
    watched.fails_closed(5, &["ECONNREFUSED"]);
    kill(holder, Signal::SIGCONT).unwrap();
    watched.reaches_the_cluster();
    assert_eq!(watched.tap.leaked(), Vec::<Vec<u8>>::new(), "while the next data plane took over");
    watched.session.interrupt();
    assert_restored(&before);
}

#[test]
fn with_the_carrier_paused_connections_wait_and_nothing_leaves() {
    let _staging = staging();
    let before = world();
    let watched = Watched::start();
    watched.session.signal(Signal::SIGSTOP);
    watched.fails_closed(4, &["silence"]);
    until("the sidecar to notice that its tunnel is dead", PATIENCE, || {
        let asked = ["exec", &watched.sidecar, "/tpdocker-sidecar", "healthy"];
        let health = std::process::Command::new("docker").args(asked).output().unwrap();
        if health.status.success() { Err("healthy".to_owned()) } else { Ok(()) }
    });
    watched.fails_closed(15, &["EHOSTUNREACH"]);
    watched.session.signal(Signal::SIGCONT);
    watched.reaches_the_cluster();
    assert_eq!(watched.tap.leaked(), Vec::<Vec<u8>>::new(), "while the tunnel came back");
    watched.session.interrupt();
    assert_restored(&before);
}

#[test]
fn without_a_tunnel_the_cluster_is_unreachable_and_nothing_leaves() {
    let _staging = staging();
    let before = world();
    let watched = Watched::start();
    watched.session.signal(Signal::SIGKILL);
    watched.fails_closed(15, &["EHOSTUNREACH"]);
    let Watched { session, .. } = watched;
    session.wait();
    Tpdocker::run(&["restore", "-n", NAMESPACE, "servicename"]).code(0);
    assert_restored(&before);
}
