//! What the app sends, carried to the proxy.
//!
//! A connection is held in its SYN until the proxy has connected or failed to, and then let go with the same result.
//! The app's data runs over kernel TCP to the redirect's listener, where the connection meets the stream that waits
//! for it.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout};
use tpdocker_protocol::addr::{AppAddr, ClusterAddr, Target};
use tpdocker_protocol::errno::Errno;
use tpdocker_tunnel::{Datagram, Echo, OpenError, Stream, splice};

use crate::capture::{Captured, CapturedPackets, Connection, HeldSyn, Injector, Redirected};
use crate::link::{Generation, HOLD_TIMEOUT, Link};
use crate::names::{self, Names, Recall};

/// Connections that may be held at a time. One more is answered with silence: the app's kernel sends its SYN again
/// after a second, when there is room.
const MAX_HELD: usize = 8192;
/// Time in which an accepted SYN has to become a connection. It takes microseconds, unless the app has given up.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept, which means that descriptors ran out: trying at once would only burn the CPU.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Streams that wait for the app's connection.
///
/// What arrives is known by where it goes and by the app's port, but the port may be another one than in the SYN:
/// connection tracking changes it when a connection from the same port to elsewhere, alive or in `TIME_WAIT`, already
/// has the listener's end of it. Streams to the same address that have just been opened are as good as each other, so
/// then the one that waits longest is taken.
#[derive(Debug, Default)]
pub(crate) struct Arrivals(Mutex<HashMap<ClusterAddr, VecDeque<Expected>>>);

#[derive(Debug)]
struct Expected {
    app: AppAddr,
    arrival_tx: oneshot::Sender<TcpStream>,
}

/// What is answered here and not by the cluster: names of siblings, and what the cluster cannot say for the moment.
#[derive(Debug, Clone)]
pub(crate) struct Answers {
    pub(crate) names: Arc<Names>,
    pub(crate) recall: Arc<Recall>,
    pub(crate) injector: Injector,
}

/// Takes captured packets until the queue breaks.
pub(crate) async fn outgoing(
    mut captured: CapturedPackets,
    link: Arc<Link>,
    arrivals: Arc<Arrivals>,
    answers: Answers,
) -> io::Error {
    let places = Arc::new(Semaphore::new(MAX_HELD));
    loop {
        match captured.next().await {
            Err(error) => return error,
            Ok(Captured::Udp { app, remote, payload }) => {
                if let Some(answer) = answers.names.answer(remote.0, &payload) {
                    if let Err(error) = answers.injector.udp_reply(app, remote, &answer) {
                        tracing::debug!("the address of a sibling did not reach the app: {error}");
                    }
                    continue;
                }
                let (number, tunnel) = link.current().unzip();
                answers.recall.asked(app, remote, &payload, number);
                if let Some(tunnel) = tunnel {
                    tunnel.send_datagram(Datagram { app, remote, payload });
                }
            }
            Ok(Captured::Echo { app, remote, sequence, payload }) => {
                if let Some(tunnel) = link.tunnel() {
                    tunnel.send_echo(Echo { app, remote, sequence, payload });
                }
            }
            Ok(Captured::Tcp(held)) => match Arc::clone(&places).try_acquire_owned() {
                Err(_) => held.refuse(Errno::ETIMEDOUT),
                Ok(place) => {
                    let (link, arrivals) = (Arc::clone(&link), Arc::clone(&arrivals));
                    let table = answers.names.table(held.remote.0);
                    tokio::spawn(async move {
                        let connected = connect(held, &link, &arrivals).await;
                        drop(place);
                        let Some((stream, socket)) = connected else { return };
                        if let Some(table) = table {
                            let ended = names::serve(table, stream, socket).await;
                            tracing::debug!("questions of the app: {ended:?}");
                        } else {
                            let report = splice(stream, socket).await;
                            tracing::debug!("connection of the app: {report:?}");
                        }
                    });
                }
            },
        }
    }
}

/// Decides what becomes of a held SYN.
async fn connect(held: HeldSyn, link: &Link, arrivals: &Arrivals) -> Option<(Stream, TcpStream)> {
    let remote = held.remote;
    let deadline = Instant::now() + HOLD_TIMEOUT;
    let mut after = Generation::default();
    let stream = loop {
        let Some((generation, tunnel)) = link.newer(after, deadline).await else {
            tracing::info!("no tunnel for a connection to {}", remote.0);
            held.refuse(Errno::EHOSTUNREACH);
            return None;
        };
        match tunnel.open(Target::Dial(remote)).await {
            Ok(stream) => break stream,
            Err(OpenError::Refused(errno)) => {
                tracing::debug!("connection to {}: {errno}", remote.0);
                held.refuse(errno);
                return None;
            }
            Err(OpenError::Closed(_)) => after = generation,
        }
    };
    let arrival_rx = arrivals.expect(held.app, remote);
    held.accept();
    if let Ok(Ok(socket)) = timeout(ARRIVAL_TIMEOUT, arrival_rx).await {
        return Some((stream, socket));
    }
    arrivals.forget_the_gone(remote);
    // The stream is dropped, which resets the connection in the cluster.
    tracing::debug!("the app gave up on its connection to {}", remote.0);
    None
}

/// Matches what arrives at the redirect's listener with what waits for it.
pub(crate) async fn arrive(redirected: Redirected, arrivals: Arc<Arrivals>) {
    loop {
        match redirected.accept().await {
            Ok(connection) => arrivals.hand_over(connection),
            Err(error) => {
                tracing::warn!("cannot accept a connection of the app: {error}");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

// === impl Arrivals ===

impl Arrivals {
    fn expect(&self, app: AppAddr, remote: ClusterAddr) -> oneshot::Receiver<TcpStream> {
        let (arrival_tx, arrival_rx) = oneshot::channel();
        self.with(|waiting| waiting.entry(remote).or_default().push_back(Expected { app, arrival_tx }));
        arrival_rx
    }

    /// Forgets those whose receiver has been dropped.
    fn forget_the_gone(&self, remote: ClusterAddr) {
        self.with(|waiting| {
            if let Some(expected) = waiting.get_mut(&remote) {
                expected.retain(|expected| !expected.arrival_tx.is_closed());
                if expected.is_empty() {
                    waiting.remove(&remote);
                }
            }
        });
    }

    fn hand_over(&self, Connection { mut stream, app, remote }: Connection) {
        while let Some(arrival_tx) = self.claim(app, remote) {
            match arrival_tx.send(stream) {
                Ok(()) => return,
                Err(unclaimed) => stream = unclaimed,
            }
        }
        tracing::debug!("nobody waits for the connection from {} to {}", app.0, remote.0);
        if let Err(error) = stream.set_zero_linger() {
            tracing::debug!("it had gone: {error}");
        }
    }

    fn claim(&self, app: AppAddr, remote: ClusterAddr) -> Option<oneshot::Sender<TcpStream>> {
        self.with(|waiting| {
            let expected = waiting.get_mut(&remote)?;
            let place = expected.iter().position(|expected| expected.app == app).unwrap_or(0);
            let claimed = expected.remove(place);
            if expected.is_empty() {
                waiting.remove(&remote);
            }
            claimed.map(|expected| expected.arrival_tx)
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut HashMap<ClusterAddr, VecDeque<Expected>>) -> T) -> T {
        // The map is whole after every operation, so a panic elsewhere does not spoil it.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
