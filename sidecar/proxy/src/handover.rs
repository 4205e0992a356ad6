//! The end of a session, as its callers see it: what the app no longer answers, the original does.
//!
//! The CLI begins the handover when the app has ended and nobody else serves yet. From then on the pod stays ready and
//! its ports stay open, with or without a tunnel: who calls waits here, and so does who waited in the sidecar for the
//! app to listen again. When the CLI names pods of the original, connections are spliced to the same port of one of them.
//!
//! A client that is gone without a word leaves the pod in the same way, where a letter will bring the original back soon:
//!
//! ```text
//! app ──tunnel lost──→ waiting ──letter: pods of the original serve──→ original
//!  ↑                      │ new tunnel                                    ↑
//!  └──────────────────────┘               app ──CLI: the app has ended────┘
//! ```
//!
//! A pod that is deleted gets connections for about a second more, until every node has heard of it
//! (<https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-termination-flow>). So [`Handover::drain`] goes
//! on until nobody has called for a while, also when it is another session's proxy or another pod that comes after this
//! one. Connections are then closed where nobody waits for an answer ([`crate::parting`]).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tpdocker_protocol::contract::PROXY_DRAINS_WITHIN;

use crate::listeners::Listeners;
use crate::parting::Leaving;
use crate::relay::{self, Traffic};

/// A pod of the same cluster answers a SYN in a fraction of it; one that does not is gone, or out of reach.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// So long nobody must have called: kube-proxy writes its rules at most once a second by default.
const QUIET: Duration = Duration::from_secs(2);

/// Who answers callers.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
enum Stage {
    /// The app, through the tunnel.
    #[default]
    App,
    /// Nobody: the client is gone, and comes back or not.
    Waiting,
    /// The pods of the original, which may be none yet.
    Original(Vec<IpAddr>),
}

/// Who answers instead of the app.
#[derive(Debug, Default)]
pub(crate) struct Handover {
    stage: watch::Sender<Stage>,
    /// Connections that came so far.
    calls: watch::Sender<u64>,
    /// Connections that somebody is served on, or waits on.
    active: watch::Sender<usize>,
    leaving: watch::Sender<bool>,
    turn: AtomicUsize,
    kept: Mutex<Option<Listeners>>,
}

impl Handover {
    /// Begins, or names other pods.
    pub(crate) fn hand_over(&self, to: Vec<IpAddr>) {
        self.stage.send_replace(Stage::Original(to));
    }

    /// Somebody called, whoever answers.
    pub(crate) fn called(&self) {
        self.calls.send_modify(|calls| *calls += 1);
    }

    /// Whether it is not the app that answers.
    pub(crate) fn has_begun(&self) -> bool {
        *self.stage.borrow() != Stage::App
    }

    /// Whether the client is gone, and who calls waits.
    pub(crate) fn is_waiting(&self) -> bool {
        *self.stage.borrow() == Stage::Waiting
    }

    /// Whether the original serves: pods of it are named.
    pub(crate) fn is_served(&self) -> bool {
        matches!(&*self.stage.borrow(), Stage::Original(to) if !to.is_empty())
    }

    /// Resolves when it begins.
    pub(crate) async fn begun(&self) {
        // The sender is here, so this does not fail.
        drop(self.stage.subscribe().wait_for(|stage| *stage != Stage::App).await);
    }

    /// The tunnel is lost: whoever calls waits for the next one, or for the original.
    pub(crate) fn wait(&self, listeners: Listeners) {
        self.keep(listeners);
        self.stage.send_if_modified(|stage| {
            let app = *stage == Stage::App;
            if app {
                *stage = Stage::Waiting;
            }
            app
        });
    }

    /// Ends the waiting, if it is that: there is a tunnel again, or there will be nobody. Gives back the ports.
    pub(crate) fn stop_waiting(&self) -> Option<Listeners> {
        let waited = self.stage.send_if_modified(|stage| {
            let waiting = *stage == Stage::Waiting;
            if waiting {
                *stage = Stage::App;
            }
            waiting
        });
        if waited { self.kept.lock().unwrap_or_else(PoisonError::into_inner).take() } else { None }
    }

    /// The ports outlive the tunnel that opened them.
    pub(crate) fn keep(&self, listeners: Listeners) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(listeners);
    }

    /// Closes the ports that were kept.
    pub(crate) fn release(&self) {
        drop(self.kept.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Counts a connection as one that is waited for, until the guard is dropped.
    pub(crate) fn counted(&self) -> Counted<'_> {
        self.active.send_modify(|active| *active += 1);
        Counted(&self.active)
    }

    /// Tells when the pod is leaving.
    pub(crate) fn leaving(&self) -> Leaving {
        self.leaving.subscribe()
    }

    /// Splices a connection to `port` of the original, as soon as there is one. Resets it when no pod can be reached, and
    /// gives it back when it is the app's again.
    pub(crate) async fn pass_on(&self, port: u16, caller: TcpStream) -> Option<TcpStream> {
        let decided = |stage: &Stage| match stage {
            Stage::App => true,
            Stage::Waiting => false,
            Stage::Original(to) => !to.is_empty(),
        };
        let stage = match self.stage.subscribe().wait_for(decided).await {
            Ok(stage) => stage.clone(),
            // The sender is here, so this does not happen.
            Err(_) => Stage::Original(Vec::new()),
        };
        let Stage::Original(to) = stage else { return Some(caller) };
        let outcome = match self.dial(&to, port).await {
            Ok(pod) => relay::relay(caller, pod, self.leaving()).await,
            Err(error) => {
                relay::reset(&caller);
                Err(error)
            }
        };
        match outcome {
            Ok(Traffic { up, down }) => tracing::debug!("passed on to port {port}: {up} bytes up, {down} down"),
            Err(error) => tracing::info!("a connection to port {port} could not be passed on: {error}"),
        }
        None
    }

    /// The pods take turns; one that does not answer is passed over.
    async fn dial(&self, to: &[IpAddr], port: u16) -> io::Result<TcpStream> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut failed = io::Error::from(io::ErrorKind::NotConnected);
        for ip in to.iter().cycle().skip(turn % to.len().max(1)).take(to.len()) {
            match timeout(DIAL_TIMEOUT, TcpStream::connect(SocketAddr::new(*ip, port))).await {
                Ok(Ok(pod)) => return Ok(pod),
                Ok(Err(error)) => failed = error,
                Err(_) => failed = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(failed)
    }

    /// Serves until nobody comes any more, when there is somebody who answers: the app (`ready`), or the original.
    pub(crate) async fn drain(&self, ready: bool) {
        let somebody = if self.has_begun() { self.is_served() } else { ready };
        if !somebody {
            return;
        }
        let limit = Instant::now() + PROXY_DRAINS_WITHIN;
        let mut calls = self.calls.subscribe();
        while Instant::now() < limit && timeout(QUIET, calls.changed()).await.is_ok() {}
        self.leaving.send_replace(true);
        let mut active = self.active.subscribe();
        if timeout_at(limit, active.wait_for(|active| *active == 0)).await.is_err() {
            tracing::info!("{} connections are cut off", *active.borrow());
        }
    }
}

/// A connection that is waited for.
pub(crate) struct Counted<'a>(&'a watch::Sender<usize>);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|active| *active -= 1);
    }
}
