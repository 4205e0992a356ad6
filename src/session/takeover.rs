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

use std::sync::atomic::Ordering;

use tpdocker_protocol::control::SwapRecord;

use super::Session;
use crate::cluster::{ClusterError, Loss, Restored, WorkloadRef};
use crate::error::{Code, Error, Explain};
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
    /// Somebody has deleted it.
    #[error("somebody else deleted {workload}{}, so this session stands in for nothing any more", if *.anew { " and made it anew" } else { "" })]
    Gone {
        /// The workload.
        workload: String,
        /// There is another one of its name.
        anew: bool,
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
            Self::Gone { .. } => Code::Workload,
            Self::Undone { .. } | Self::Deleted { .. } => Code::Tunnel,
        }
    }

    fn hint(&self) -> Option<String> {
        matches!(self, Self::Undone { .. }).then(|| {
            "the proxy does so itself when it was without this process for longer than --grace, as in a laptop's sleep".into()
        })
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
        let session = self.identity.id.as_str();
        let loss = self.found.cluster.wait_lost(workload, session, proxy, |text| self.reporter.warn(text)).await;
        let workload = workload.reference.to_string();
        match loss {
            Loss::TakenOver(record) => {
                let SwapRecord { owner, since, session, .. } = *record;
                Lost::TakenOver { workload, owner, since, session }
            }
            Loss::Undone => Lost::Undone { workload },
            Loss::Deleted { anew } => {
                self.deleted.store(true, Ordering::Relaxed);
                Lost::Gone { workload, anew }
            }
        }
    }

    /// The end where the workload is gone, so that there is nothing to put back, and `deleted` is what became of the proxy. The
    /// namespace may be going too, and with that the login's rights: then the proxy goes without this session's help.
    pub(super) fn end_without(
        &self,
        workload: &WorkloadRef,
        deleted: Result<(), ClusterError>,
    ) -> Result<(String, Restored), ClusterError> {
        let facts = match deleted {
            Ok(()) => format!("{} is gone, proxy deleted", workload.name),
            Err(error) if error.code() == Code::Forbidden => {
                let (proxy, why) = (self.proxy_name(), Error::from(error).chain().join(": "));
                self.reporter.warn(format!(
                    "the proxy, Deployment `{proxy}`, is left to the end of its namespace, if it is ending: {why}"
                ));
                format!("{} is gone", workload.name)
            }
            Err(error) => return Err(error),
        };
        Ok((facts, Restored::missing()))
    }

    /// Deletes the proxies of whom the workload was taken from, once this session's answers.
    pub(super) async fn displace(&self, workload: &WorkloadRef, step: &Step) -> Result<(), ClusterError> {
        if self.take_over {
            self.found.cluster.delete_orphans_of(workload, |text| step.progress(text)).await?;
        }
        Ok(())
    }
}
