//! A cluster that answers by the last octet of the address, and a pod with another container on its loopback.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use tokio::{io::AsyncWriteExt, sync::oneshot};
use tpdocker_protocol::{addr::ClusterAddr, errno::Errno};
use tpdocker_sidecar::capture::{
    Capture, CaptureConfig, CaptureError, Captured, Connection, Counters, HeldSyn, Redirected, Rules,
};

use super::{Namespace, PATIENCE};

/// What [`serve`] of another process says when the rules are in force.
pub const READY: &str = "capturing";

pub const ACCEPTED: u8 = 1;
pub const REFUSED: u8 = 2;
pub const HOST_UNREACHABLE: u8 = 3;
pub const NET_UNREACHABLE: u8 = 4;
pub const SILENT: u8 = 5;
pub const SLOW: u8 = 6;
pub const PROHIBITED: u8 = 7;
pub const FORGOTTEN: u8 = 8;
pub const PORT_UNREACHABLE: u8 = 9;

/// The port on which the pod's other container listens, at loopback addresses and at [`POD4`].
pub const SIBLING: u16 = 5432;
/// A port of the pod that is refused late.
pub const LATE: u16 = 5433;
/// The pod's address.
pub const POD4: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 7);

/// Longer than the first two repetitions of a SYN, after one second and two more.
const SLOW_DIAL: Duration = Duration::from_millis(3500);
const DIAL: Duration = Duration::from_millis(50);

/// A relay that runs in a thread of the namespace until this is dropped.
pub struct Relay {
    pub rules: Rules,
    pub counters: Arc<Counters>,
    /// Every SYN that was held, in order.
    pub syns: Arc<Mutex<Vec<SocketAddr>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Relay {
    pub fn start(namespace: &Namespace, config: CaptureConfig) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (ready_tx, ready_rx) = mpsc::channel();
        let syns = Arc::<Mutex<Vec<_>>>::default();
        let seen = Arc::clone(&syns);
        let thread = namespace.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let Capture { rules, captured, redirected, injector, counters } = install(&config);
                ready_tx.send((rules, counters)).unwrap();
                tokio::select! {
                    end = serve(captured, redirected, injector, seen) => panic!("{end:?}"),
                    _ = stopped => {}
                }
            });
        });
        let (rules, counters) = ready_rx.recv().expect("the capture could not be installed");
        Self { rules, counters, syns, stop: Some(stop), thread: Some(thread) }
    }

    /// How many SYNs to `remote` have been held.
    pub fn syns_to(&self, remote: SocketAddr) -> usize {
        self.syns.lock().unwrap().iter().filter(|seen| **seen == remote).count()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(std::thread::JoinHandle::join);
        if !std::thread::panicking() {
            assert!(ended.is_some_and(|ended| ended.is_ok()), "the relay panicked");
        }
    }
}

/// A child that another test has just forked holds a copy of every descriptor until it executes its program, that of a
/// relay before this one included.
fn install(config: &CaptureConfig) -> Capture {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Capture::install(config) {
            Err(CaptureError::QueueTaken(_)) if Instant::now() < deadline => std::thread::yield_now(),
            installed => return installed.unwrap(),
        }
    }
}

/// All that [`super::Lab::sidecar_process`] runs.
pub async fn process() {
    let Capture { captured, redirected, injector, .. } = Capture::install(&CaptureConfig::default()).unwrap();
    println!("{READY}");
    serve(captured, redirected, injector, Arc::default()).await.unwrap();
}

/// Answers for ever.
pub async fn serve(
    mut captured: tpdocker_sidecar::capture::CapturedPackets,
    redirected: Redirected,
    injector: tpdocker_sidecar::capture::Injector,
    syns: Arc<Mutex<Vec<SocketAddr>>>,
) -> io::Result<()> {
    tokio::spawn(greet(redirected));
    loop {
        match captured.next().await? {
            Captured::Tcp(held) => {
                syns.lock().unwrap().push(held.remote.0);
                tokio::spawn(dial(held));
            }
            Captured::Udp { app, remote, .. } if in_the_pod(remote) && remote.0.port() != SIBLING => {
                injector.unreachable(app, remote, Errno::ECONNREFUSED)?;
            }
            Captured::Udp { app, remote, payload } if !in_the_pod(remote) && last_octet(remote) == PORT_UNREACHABLE => {
                assert!(payload.len() < 100);
                injector.unreachable(app, remote, Errno::ECONNREFUSED)?;
            }
            Captured::Udp { app, remote, payload } => injector.udp_reply(app, remote, &payload)?,
            Captured::Echo { app, remote, sequence, .. } if last_octet(remote) == PROHIBITED => {
                injector.echo_failed(app, remote, sequence, Errno::EPERM)?;
            }
            Captured::Echo { app, remote, sequence, payload } => {
                injector.echo_reply(app, remote, sequence, &payload)?;
            }
        }
    }
}

/// Says who is there and hangs up.
async fn greet(redirected: Redirected) {
    loop {
        let Connection { mut stream, app, remote } = redirected.accept().await.unwrap();
        stream.write_all(format!("{} {}", app.0, remote.0).as_bytes()).await.unwrap();
    }
}

async fn dial(held: HeldSyn) {
    let last = last_octet(held.remote);
    if !in_the_pod(held.remote) {
        tokio::time::sleep(if last == SLOW { SLOW_DIAL } else { DIAL }).await;
    }
    match last {
        _ if in_the_pod(held.remote) && held.remote.0.port() == SIBLING => held.accept(),
        _ if held.remote.0.port() == LATE => {
            tokio::time::sleep(SLOW_DIAL).await;
            held.refuse(Errno::ECONNREFUSED);
        }
        _ if in_the_pod(held.remote) => held.refuse(Errno::ECONNREFUSED),
        ACCEPTED | SLOW => held.accept(),
        REFUSED => held.refuse(Errno::ECONNREFUSED),
        HOST_UNREACHABLE => held.refuse(Errno::EHOSTUNREACH),
        NET_UNREACHABLE => held.refuse(Errno::ENETUNREACH),
        SILENT => held.refuse(Errno::ETIMEDOUT),
        PROHIBITED => held.refuse(Errno::EPERM),
        _ => drop(held),
    }
}

fn in_the_pod(address: ClusterAddr) -> bool {
    address.0.ip().is_loopback() || address.0.ip() == POD4
}

fn last_octet(address: ClusterAddr) -> u8 {
    match address.0.ip() {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(v6) => v6.octets()[15],
    }
}
