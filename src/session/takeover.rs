//! Taking a workload over from another session, and losing it to one. The record is the lock: who wrote it last, with
//! the precondition that it had not changed since it was read, holds the workload.
//!
//! ```text
//!            A serves ──────────────────────────────────── A's proxy is deleted: A ends, restores nothing
//! B records over A's ─→ B's proxy ─→ B's app listens ─→ B's proxy is ready ─┘─→ B serves
//! ```
//!
//! B keeps the number of replicas of A's record, so the original comes back whole from B as well. When B ends before its
//! proxy is ready it puts the original back and deletes A's proxy too: A cannot be given the lock back, since it may be
//! gone.

use tpdocker_protocol::control::SwapRecord;

use super::Session;
use crate::cluster::{ClusterError, Loss, WorkloadRef};
use crate::error::{Code, Explain};
use crate::event::Step;

/// The session's workload, or its proxy where it swaps nothing, is not its own any more.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// Another session has it.
    #[error("{workload} was taken over by {owner} at {since} (session {session})")]
    TakenOver {
        /// The workload.
        workload: String,
        /// `user@host`.
        owner: String,
        /// RFC 3339.
        since: String,
        /// The other session.
        session: String,
    },
    /// Somebody has deleted the proxy of a session that swaps nothing.
    #[error("somebody else deleted the proxy of this session, Deployment `{proxy}`")]
    Deleted {
        /// The proxy's Deployment.
        proxy: String,
    },
    /// Somebody has put it back.
    #[error("somebody else ended this swap: {workload} has no record of it, and the proxy is gone")]
    Undone {
        /// The workload.
        workload: String,
    },
}

impl Explain for Lost {
    fn code(&self) -> Code {
        match self {
            Self::TakenOver { .. } => Code::Held,
            Self::Undone { .. } | Self::Deleted { .. } => Code::Tunnel,
        }
    }
}

impl Session {
    /// With `yes`, takes the workload over from the session that holds it.
    #[must_use]
    pub fn taking_over(mut self, yes: bool) -> Self {
        self.take_over = yes;
        self
    }

    /// Waits until the workload is lost to somebody else, or the proxy where nothing is swapped. Before
    /// [`Session::begin`] nothing can be lost.
    pub async fn lost(&self) -> Lost {
        let proxy = self.begun.wait().await;
        let Some(workload) = self.found.stance.workload() else {
            self.found.cluster.wait_deleted(proxy).await;
            return Lost::Deleted { proxy: proxy.clone() };
        };
        let workload = &workload.reference;
        let session = self.identity.id.as_str();
        let loss = self.found.cluster.wait_lost(workload, session, proxy, |text| self.reporter.warn(text)).await;
        let workload = workload.to_string();
        match loss {
            Loss::TakenOver(record) => {
                let SwapRecord { owner, since, session, .. } = *record;
                Lost::TakenOver { workload, owner, since, session }
            }
            Loss::Undone => Lost::Undone { workload },
        }
    }

    /// Deletes the proxies of whom the workload was taken from, once this session's answers.
    pub(super) async fn displace(&self, workload: &WorkloadRef, step: &Step) -> Result<(), ClusterError> {
        if self.take_over {
            self.found.cluster.delete_orphans_of(workload, |text| step.progress(text)).await?;
        }
        Ok(())
    }
}
