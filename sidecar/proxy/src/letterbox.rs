//! The letter that is posted when the client is gone for good.
//!
//! ```text
//! letter kept ─→ client there ─→ gone ── grace ──→ look ─→ post in order ─→ forget
//!                   └──── back ────┘               └ server away: when it is back, the grace time once more
//! ```
//!
//! A client is there as long as it holds a [`Lease`]: the connection over which its letter came, on which it says every few
//! seconds that it lives. The first request only looks. Where the server does not answer, the client may have been
//! cut off by the same outage, and gets its time again once there is an answer. What follows is not taken back; each
//! request carries its own condition, so a letter that comes too late changes nothing that has become another's.
//!
//! The letter is nowhere else. So a pod that is told to leave (a drained node, an eviction) waits for a word of its client,
//! who brings the same letter to the next pod; one whose client is gone, or goes now, posts it before it leaves.
//!
//! Who calls meanwhile waits ([`crate::handover`]) where the grace time is short enough for that, and is passed on to the
//! original: after the request that brings it back, and before the one that deletes this proxy, the letter's Services are
//! asked until pods stand behind them. With a longer grace time, or without a letter, the ports are closed when the tunnel
//! ends, and the pod is unready: nobody is sent here.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tpdocker_protocol::letter::{Letter, LetterRequest, Method};

use crate::handover::Handover;
use crate::post::{Post, PostError};
use crate::status::Status;
use crate::{endpoints, pod};

/// First and longest pause between two attempts: a server that restarts is back within seconds, one that is being repaired
/// is not hurried.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// How long the client of a pod that leaves may be gone: it dials a connection that was lost again after a second.
const GRACE_OF_LEAVING: Duration = Duration::from_secs(2);
/// With a longer grace time callers are refused at once and do not wait: most have given up before.
const WORTH_WAITING: Duration = Duration::from_mins(2);
/// How long the original may take until a pod of it is ready, before the proxy goes all the same.
const ORIGINAL_READY_WITHIN: Duration = Duration::from_mins(5);
/// Between two looks at the original's pods.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// At most one letter, and whether its client is there.
#[derive(Debug, Default)]
pub(crate) struct Letterbox(watch::Sender<State>);

#[derive(Debug, Default)]
struct State {
    letter: Option<Arc<Kept>>,
    clients: usize,
    /// Signs of life that came from clients.
    words: u64,
    /// From when on the pod leaves: how many words there were.
    leaves: Option<u64>,
}

#[derive(Debug)]
struct Kept {
    post: Post,
    expires: Instant,
}

/// As long as it lives, the client is there.
#[derive(Debug)]
pub(crate) struct Lease(Arc<Letterbox>);

/// How a look went.
enum Look {
    /// At once.
    Fine,
    /// Not at first, and the client has time again.
    Late,
    /// The client came back meanwhile.
    Back,
    /// Its token is no good any more.
    Never,
}

impl Letterbox {
    /// Keeps a letter in the place of the former one.
    pub(crate) fn keep(&self, letter: Letter) -> Result<(), PostError> {
        // A time too far away to be expressed does not come.
        let far = Instant::now() + Duration::from_hours(365 * 24);
        let expires = Instant::now().checked_add(letter.valid).unwrap_or(far);
        let kept = Arc::new(Kept { post: Post::new(letter)?, expires });
        self.0.send_modify(|state| state.letter = Some(kept));
        Ok(())
    }

    /// The client is there.
    pub(crate) fn lease(self: &Arc<Self>) -> Lease {
        self.0.send_modify(|state| state.clients += 1);
        Lease(Arc::clone(self))
    }

    /// Posts the first request; why that is not possible at the moment.
    pub(crate) async fn look(&self) -> Option<String> {
        let letter = self.0.borrow().letter.clone();
        match letter {
            None => Some("there is no letter".to_owned()),
            Some(kept) => kept.look().await.err().map(|error| error.to_string()),
        }
    }

    /// Whether callers wait for a client that is gone: what is posted then will bring the original soon enough. Not in a pod
    /// that leaves, whose callers have another one to go to.
    pub(crate) fn is_worth_waiting_for(&self) -> bool {
        let state = self.0.borrow();
        let soon = state.letter.as_ref().is_some_and(|kept| kept.post.letter().grace <= WORTH_WAITING);
        soon && state.leaves.is_none()
    }

    /// Posts each letter whose client is gone.
    pub(crate) async fn run(&self, handover: &Handover, status: &Status) {
        loop {
            let kept = self.abandoned().await;
            let grace = kept.post.letter().grace;
            if self.returned_within(grace).await {
                continue;
            }
            tracing::warn!("the client is gone for {grace:?}: its letter is posted");
            let posted = match self.reach(&kept).await {
                Look::Back => continue,
                Look::Late if self.returned_within(grace).await => continue,
                Look::Fine | Look::Late => self.post_all(&kept, handover).await,
                Look::Never => false,
            };
            // Who waits in vain is refused; where the original serves, nobody waits any more.
            if handover.stop_waiting().is_some() {
                status.detached();
            }
            tracing::warn!("the letter is {}", if posted { "posted" } else { "forgotten: its token is no good" });
            self.forget(&kept);
        }
    }

    /// A letter whose client is not there.
    async fn abandoned(&self) -> Arc<Kept> {
        let mut state = self.0.subscribe();
        loop {
            if let State { letter: Some(letter), clients: 0, .. } = &*state.borrow_and_update() {
                return Arc::clone(letter);
            }
            // The sender is here, so this does not fail.
            drop(state.changed().await);
        }
    }

    /// The pod leaves: a client that is gone has no more time than it takes to dial.
    pub(crate) fn leave(&self) {
        self.0.send_modify(|state| state.leaves = Some(state.words));
    }

    /// Resolves when there is no letter (any more), or its client has said since [`Self::leave`] that it is there.
    pub(crate) async fn cleared(&self) {
        let cleared = |state: &State| state.letter.is_none() || state.leaves.is_none_or(|then| state.words > then);
        // The sender is here, so this does not fail.
        drop(self.0.subscribe().wait_for(cleared).await);
    }

    /// Whether the client came back.
    async fn returned_within(&self, grace: Duration) -> bool {
        let mut state = self.0.subscribe();
        let decided = state.wait_for(|state| state.clients > 0 || state.leaves.is_some());
        let leaving = !matches!(timeout(grace, decided).await, Ok(Ok(state)) if state.clients > 0);
        if !leaving || self.0.borrow().leaves.is_none() {
            return !leaving;
        }
        self.returns_within(GRACE_OF_LEAVING.min(grace)).await
    }

    async fn returns_within(&self, patience: Duration) -> bool {
        timeout(patience, self.0.subscribe().wait_for(|state| state.clients > 0)).await.is_ok()
    }

    /// Looks until there is an answer.
    async fn reach(&self, kept: &Kept) -> Look {
        let mut late = false;
        let mut pause = RETRY.0;
        while Instant::now() < kept.expires {
            match kept.look().await {
                Ok(_) if late => return Look::Late,
                Ok(_) => return Look::Fine,
                // Account and Role end with the proxy's Deployment: who deleted that has put back what there was.
                Err(error) if error.is_refusal() && self.leaves() => return Look::Never,
                Err(error) => tracing::warn!("the letter cannot be posted yet: {error}"),
            }
            late = true;
            if self.returns_within(pause).await {
                return Look::Back;
            }
            pause = (pause * 2).min(RETRY.1);
        }
        Look::Never
    }

    fn leaves(&self) -> bool {
        self.0.borrow().leaves.is_some()
    }

    /// Everything, in order; `false` when the token was no good before the end.
    async fn post_all(&self, kept: &Kept, handover: &Handover) -> bool {
        for request in &kept.post.letter().requests {
            if request.method == Method::Delete && handover.is_waiting() {
                self.pass_on(kept, handover).await;
            }
            if !self.post_one(kept, request).await {
                return false;
            }
        }
        true
    }

    async fn post_one(&self, kept: &Kept, request: &LetterRequest) -> bool {
        let mut pause = RETRY.0;
        while Instant::now() < kept.expires {
            match kept.post.send(request).await {
                Ok(status) => {
                    tracing::info!("{} {}: {status}", request.method.as_str(), request.path);
                    return true;
                }
                Err(error) if error.is_refusal() && self.leaves() => return false,
                Err(error) => tracing::warn!("posted again in {pause:?}: {error}"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
        false
    }

    /// Has who waits answered by the original, as soon as a pod of it is ready.
    async fn pass_on(&self, kept: &Kept, handover: &Handover) {
        let until = kept.expires.min(Instant::now() + ORIGINAL_READY_WITHIN);
        while handover.is_waiting() && Instant::now() < until {
            match kept.serving().await {
                Ok(to) if !to.is_empty() => {
                    tracing::info!("who waits is passed on to {to:?}");
                    return handover.hand_over(to);
                }
                Ok(_) => {}
                Err(error) if error.is_refusal() => return tracing::warn!("who waits cannot be passed on: {error}"),
                Err(error) => tracing::warn!("who waits is not passed on yet: {error}"),
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Unless there is another one by now.
    fn forget(&self, posted: &Arc<Kept>) {
        self.0.send_modify(|state| {
            if state.letter.as_ref().is_some_and(|letter| Arc::ptr_eq(letter, posted)) {
                state.letter = None;
            }
        });
    }
}

impl Kept {
    async fn look(&self) -> Result<u16, PostError> {
        match self.post.letter().requests.first() {
            Some(first) => self.post.send(first).await,
            None => Ok(0),
        }
    }

    /// The pods behind the letter's Services, but for this one.
    async fn serving(&self) -> Result<Vec<IpAddr>, PostError> {
        let own = pod::interface_addresses().unwrap_or_default();
        let mut serving = Vec::new();
        for path in &self.post.letter().serving {
            let addresses = endpoints::ready(&self.post.read(path).await?);
            serving.extend(addresses.into_iter().filter(|address| !own.contains(address)));
        }
        Ok(serving)
    }
}

impl Lease {
    /// The client said something.
    pub(crate) fn heard(&self) {
        self.0.0.send_modify(|state| state.words += 1);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.0.send_modify(|state| state.clients -= 1);
    }
}
