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
//! The pod is unready then and its ports are closed, since the tunnel went with the client: nobody is sent here, so
//! nobody has to be passed on to the original, whose pods get the callers as soon as they are ready.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tpdocker_protocol::letter::{Letter, LetterRequest};

use crate::post::{Post, PostError};

/// First and longest pause between two attempts: a server that restarts is back within seconds, one that is being repaired
/// is not hurried.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// How long the client of a pod that leaves may be gone: it dials a connection that was lost again after a second.
const GRACE_OF_LEAVING: Duration = Duration::from_secs(2);

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

    /// Posts each letter whose client is gone.
    pub(crate) async fn run(&self) {
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
                Look::Fine | Look::Late => self.post_all(&kept).await,
                Look::Never => false,
            };
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
    async fn post_all(&self, kept: &Kept) -> bool {
        for request in &kept.post.letter().requests {
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
