//! Leaving a letter with the proxy, for the case that this process or its machine is gone for longer than `--grace`.
//!
//! The letter is there before the original leaves. From then on this process says every few seconds, on the connection over
//! which it came, that it lives; it brings a fresh token long before the old one runs out, and the same letter to a
//! pod that comes in the place of a lost one. Where none of that can be had the session goes on without, and says so once.

use std::convert::Infallible;
use std::sync::{Arc, Once};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tpdocker_protocol::contract::CLIENT_SPEAKS_EVERY;
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
        let (Some(workload), Some(record)) = (self.stance().workload(), self.claimed.get()) else { return };
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
            let head = cluster.letterhead(workload, record, &attached.proxy, env, self.grace.0).await?;
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
        let keeper = Keeper { cluster, access, head, letter, sealed: now, renew, tried: false, notice: notice.clone() };
        let (handed_tx, handed_rx) = oneshot::channel();
        let keeper = AbortOnDropHandle::new(tokio::spawn(keeper.run(handed_tx)));
        if self.keeper.set(keeper).is_err() {
            tracing::error!("a second letter was left");
        }
        if timeout(HANDED_WITHIN, handed_rx).await.is_err() {
            notice.give("it did not take the letter in time");
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
    /// Goes on until it is dropped; `handed` hears when the proxy has the letter.
    async fn run(mut self, handed: oneshot::Sender<()>) {
        let mut handed = Some(handed);
        loop {
            let Err(error) = self.stay(&mut handed).await;
            tracing::info!(%error, "the connection of the letter is dialled again");
            sleep(DIAL_AGAIN).await;
        }
    }

    /// Hands the letter over, and is there as long as the connection is.
    async fn stay(&mut self, handed: &mut Option<oneshot::Sender<()>>) -> Result<Infallible, ClusterError> {
        let mut control = self.access.control_of_last().await?;
        self.renew_if_due().await;
        control.keep(self.current()).await?;
        if let Some(handed) = handed.take() {
            // Nobody waits for it any more when it took too long.
            let _late = handed.send(());
        }
        if !self.tried {
            self.try_out(&mut control).await?;
            self.tried = true;
        }
        loop {
            sleep(CLIENT_SPEAKS_EVERY).await;
            if self.renew_if_due().await {
                control.keep(self.current()).await?;
            } else {
                control.there().await?;
            }
        }
    }

    /// The letter, valid as long as its token still is.
    fn current(&self) -> Letter {
        let valid = self.letter.valid.saturating_sub(self.sealed.elapsed());
        Letter { valid, ..self.letter.clone() }
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
