//! Leaving a letter with the proxy, for the case that this process or its machine is gone for longer than `--grace`.
//!
//! The letter is there before the original leaves. From then on this process says every few seconds, on the connection over
//! which it came, that it lives; it brings a fresh token long before the old one runs out, and the same letter to a
//! pod that comes in the place of a lost one. Where none of that can be had the session goes on without, and says so once.

use std::convert::Infallible;
use std::sync::{Arc, Once};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tpdocker_protocol::contract::CLIENT_SPEAKS_EVERY;
use tpdocker_protocol::control::SwapRecord;
use tpdocker_protocol::letter::Letter;

use super::access::Access;
use super::{Attached, Session};
use crate::cluster::{Cluster, ClusterError, ControlClient, Letterhead, PortForward, WorkloadRef};
use crate::error::Error;
use crate::event::Reporter;
use crate::settings::Grace;

/// A token is replaced after so long, though it is good for much longer: the proxy must be able to use the last one for the
/// grace time and more.
const RENEW_EVERY: Duration = Duration::from_mins(5);
/// Before a token that could not be had is asked for again.
const RENEW_AGAIN: Duration = Duration::from_secs(30);
/// A token that takes longer is for the next time: meanwhile the proxy would think that nobody is there.
const RENEWED_WITHIN: Duration = Duration::from_secs(5);
/// Before a connection that was lost is dialled again.
const DIAL_AGAIN: Duration = Duration::from_secs(1);
/// The letter is there before the swap, unless that takes longer than a person would wait for it.
const HANDED_WITHIN: Duration = Duration::from_secs(10);
/// The authorizer hears of a new Role, and a network of a new pod, a moment later.
const TRIED_WITHIN: Duration = Duration::from_secs(10);
const TRY_AGAIN: Duration = Duration::from_millis(250);

/// What keeps the letter good.
#[derive(Debug)]
struct Keeper {
    cluster: Cluster,
    access: Arc<Access>,
    head: Letterhead,
    letter: Letter,
    sealed: Instant,
    renew: Instant,
    tried: bool,
    notice: Notice,
    /// What is on the workload.
    record_rx: watch::Receiver<Option<SwapRecord>>,
    /// For which record the proxy has a letter.
    handed_tx: watch::Sender<Option<SwapRecord>>,
}

/// A letter that is kept good until this is dropped.
#[derive(Debug)]
pub struct Keeping {
    _keeper: AbortOnDropHandle<()>,
    handed_rx: watch::Receiver<Option<SwapRecord>>,
    notice: Notice,
}

/// Says once that the proxy cannot restore, and who can.
#[derive(Debug, Clone)]
struct Notice {
    reporter: Reporter,
    workload: WorkloadRef,
    given: Arc<Once>,
}

impl Session {
    /// With a `grace` that is not 0, the proxy puts the workload back by itself when it was without this process for longer.
    #[must_use]
    pub fn restored_after(mut self, grace: Grace) -> Self {
        self.grace = grace;
        self
    }

    /// Leaves a letter with the proxy, where there is something to put back. Goes on without where that cannot be.
    pub async fn entrust(&self, attached: &Attached) {
        let mut record_rx = self.claimed.subscribe();
        let record = record_rx.borrow_and_update().clone();
        let (Some(workload), Some(record)) = (self.stance().workload(), record) else { return };
        if self.grace.0.is_zero() {
            return;
        }
        let (reporter, workload_ref) = (self.reporter.clone(), workload.reference.clone());
        let notice = Notice { reporter, workload: workload_ref, given: Arc::new(Once::new()) };
        if !self.found.lacking.letter.is_empty() {
            return notice.give(&format!("this login may not {}", self.found.lacking.letter.join(", ")));
        }
        let cluster = self.found.cluster.clone();
        let sealed = async {
            let env = &attached.pod.env;
            let head = cluster.letterhead(workload, &record, &attached.proxy, env, self.grace.0).await?;
            let letter = cluster.seal(&head).await?;
            Ok::<_, ClusterError>((head, letter))
        };
        let (head, letter) = match sealed.await {
            Ok(sealed) => sealed,
            Err(error) => return notice.give(&Error::from(error).chain().join(": ")),
        };
        let now = Instant::now();
        let access = Arc::clone(&attached.access);
        let renew = now + renewal_of(&letter);
        let (handed_tx, handed_rx) = watch::channel(None);
        let (sealed, tried, told) = (now, false, notice.clone());
        let keeper = Keeper { cluster, access, head, letter, sealed, renew, tried, notice: told, record_rx, handed_tx };
        let keeper = AbortOnDropHandle::new(tokio::spawn(keeper.run()));
        let keeping = self.keeping.get_or_init(|| Keeping { _keeper: keeper, handed_rx, notice });
        keeping.handed(&record).await;
    }

    /// Has the letter undo what `record` says, which is on the workload in the place of the former one.
    pub(super) async fn rewrite_letter(&self, record: SwapRecord) {
        self.claimed.send_replace(Some(record.clone()));
        if let Some(keeping) = self.keeping.get() {
            keeping.handed(&record).await;
        }
    }
}

impl Keeping {
    /// Waits until the proxy has the letter for `record`.
    async fn handed(&self, record: &SwapRecord) {
        let mut handed_rx = self.handed_rx.clone();
        let handed = handed_rx.wait_for(|handed| handed.as_ref() == Some(record));
        if !matches!(timeout(HANDED_WITHIN, handed).await, Ok(Ok(_))) {
            self.notice.give("it did not take the letter in time");
        }
    }
}

/// How long a token stays in use.
fn renewal_of(letter: &Letter) -> Duration {
    RENEW_EVERY.min(letter.valid / 4)
}

impl Notice {
    fn give(&self, why: &str) {
        let WorkloadRef { kind, namespace, name } = &self.workload;
        let target = format!("{}/{name}", kind.slug());
        let text = format!(
            "if this machine is gone, the proxy cannot put {target} back by itself: {why}; then anybody can: tpdocker restore \
             -n {namespace} {target} (the Role that lets the proxy: tpdocker rbac -n {namespace} --swap {target})"
        );
        self.given.call_once(|| self.reporter.notice(text));
    }
}

impl Keeper {
    /// Goes on until it is dropped.
    async fn run(mut self) {
        loop {
            let Err(error) = self.stay().await;
            tracing::info!(%error, "the connection of the letter is dialled again");
            sleep(DIAL_AGAIN).await;
        }
    }

    /// Hands the letter over, and is there as long as the connection is.
    async fn stay(&mut self) -> Result<Infallible, ClusterError> {
        let mut control = self.access.control_of_last().await?;
        self.renew_if_due().await;
        self.hand_over(&mut control).await?;
        if !self.tried {
            self.try_out(&mut control).await?;
            self.tried = true;
        }
        loop {
            let rewritten = matches!(timeout(CLIENT_SPEAKS_EVERY, self.record_rx.changed()).await, Ok(Ok(())));
            if self.renew_if_due().await || rewritten {
                self.hand_over(&mut control).await?;
            } else {
                control.there().await?;
            }
        }
    }

    /// Gives the proxy the letter for the record of the moment.
    async fn hand_over(&mut self, control: &mut ControlClient<PortForward>) -> Result<(), ClusterError> {
        let record = self.record_rx.borrow_and_update().clone();
        if let Some(record) = &record {
            self.head.write(record)?;
        }
        control.keep(self.current()).await?;
        self.handed_tx.send_replace(record);
        Ok(())
    }

    /// The letter, valid as long as its token still is.
    fn current(&self) -> Letter {
        let valid = self.letter.valid.saturating_sub(self.sealed.elapsed());
        Letter { valid, requests: self.head.requests().to_vec(), ..self.letter.clone() }
    }

    async fn renew_if_due(&mut self) -> bool {
        let now = Instant::now();
        if now < self.renew {
            return false;
        }
        match timeout(RENEWED_WITHIN, self.cluster.seal(&self.head)).await {
            Ok(Ok(letter)) => {
                (self.sealed, self.renew) = (now, now + renewal_of(&letter));
                self.letter = letter;
                return true;
            }
            Ok(Err(error)) => tracing::info!(%error, "the letter keeps its token"),
            Err(_) => tracing::info!("the letter keeps its token: no answer"),
        }
        self.renew = now + RENEW_AGAIN;
        false
    }

    /// Whether the proxy can post it, found out before that is needed.
    async fn try_out(&self, control: &mut ControlClient<PortForward>) -> Result<(), ClusterError> {
        let until = Instant::now() + TRIED_WITHIN;
        while let Some(failed) = control.try_letter().await? {
            if Instant::now() > until {
                self.notice.give(&failed);
                return Ok(());
            }
            sleep(TRY_AGAIN).await;
        }
        tracing::info!("the proxy can post its letter");
        Ok(())
    }
}
