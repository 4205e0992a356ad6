//! How a session that goes on learns that its workload is not its own any more: the record is the lock, so whoever
//! changes the record is obeyed.
//!
//! A session that takes a workload over writes its own record over the other's and only then starts its proxy. Until
//! that one is ready the other's proxy is all there is to answer, so the other session goes on serving until its proxy is
//! deleted from under it and the last of its pods has ended; the one that takes over deletes it, when its own is ready.
//!
//! The same watch shows what others do to the workload beside that ([`super::meanwhile`]), and its end.

use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use kube::runtime::watcher;
use tpdocker_protocol::control::SwapRecord;

use super::connect::Cluster;
use super::error::{Cause, ClusterError};
use super::holders::{ProxyState, state_of};
use super::meanwhile::Meanwhile;
use super::presence::Watched;
use super::proxy::session_pods;
use super::swap::record_of;
use super::workload::{Workload, WorkloadRef};

/// Before a watch that failed for good (a login that expired) is tried anew.
const WATCH_AGAIN: Duration = Duration::from_secs(5);

/// How long the pods of a deleted proxy are served still: callers come as long as not every node has heard of the
/// deletion.
const LINGER: Duration = Duration::from_secs(15);

/// What happened to a session's workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// Another session has written its record over this one's.
    TakenOver(Box<SwapRecord>),
    /// Somebody removed the record and the proxy.
    Undone,
    /// Somebody deleted the workload.
    Deleted {
        /// And made another one of the same name.
        anew: bool,
    },
}

/// The record, as seen by the session that wrote it.
enum Seen {
    Own,
    Others(Box<SwapRecord>),
    /// Not on the workload any more.
    Gone,
    /// The workload itself does not exist any more, but one of its name may.
    Deleted {
        anew: bool,
    },
}

/// What is known of a session's workload, and what has been told about it.
struct Watch<'a> {
    cluster: &'a Cluster,
    workload: &'a Workload,
    session: &'a str,
    proxy: &'a str,
    meanwhile: Meanwhile<'a>,
    taken: Option<Box<SwapRecord>>,
    told_gone: bool,
    /// The proxy's Deployment is gone.
    deleted: bool,
}

impl Cluster {
    /// Waits until `workload`, which carries `session`'s record and has its proxy, is lost to it. `tell` is told what
    /// somebody should know before that.
    pub async fn wait_lost(
        &self,
        workload: &Workload,
        session: &str,
        proxy: &str,
        mut tell: impl FnMut(String),
    ) -> Loss {
        let mut watch = Watch {
            cluster: self,
            workload,
            session,
            proxy,
            meanwhile: Meanwhile::new(workload),
            taken: None,
            told_gone: false,
            deleted: false,
        };
        loop {
            match watch.follow(&mut tell).await {
                Ok(loss) => {
                    // Where the proxy is still there, its end is up to the session.
                    if watch.taken.is_some() && watch.deleted {
                        self.linger(session).await;
                    }
                    return loss;
                }
                Err(error) => {
                    tracing::info!(%error, "the record is watched anew");
                    tokio::time::sleep(WATCH_AGAIN).await;
                }
            }
        }
    }
}

impl Cluster {
    /// Waits until somebody has deleted `proxy`, which exists.
    pub async fn wait_deleted(&self, proxy: &str) {
        loop {
            let mut proxies = Watched::new(self.api::<Deployment>(), named(proxy));
            let deleted = async {
                while !proxies.changed().await?.is_empty() {}
                Ok::<_, Cause>(())
            };
            match deleted.await {
                Ok(()) => return,
                Err(cause) => {
                    tracing::info!(%cause, "the proxy is watched anew");
                    tokio::time::sleep(WATCH_AGAIN).await;
                }
            }
        }
    }

    /// Waits until the pods of `session`'s deleted proxy have ended.
    async fn linger(&self, session: &str) {
        let mut pods = Watched::new(self.api::<Pod>(), session_pods(session));
        let ended = async {
            while !pods.changed().await?.is_empty() {}
            Ok::<_, Cause>(())
        };
        match tokio::time::timeout(LINGER, ended).await {
            Ok(Ok(())) => {}
            // The session ends a little early then, and nothing stays behind for that.
            Ok(Err(cause)) => tracing::info!(%cause, "the proxy's last pods cannot be watched"),
            Err(_) => tracing::info!("the proxy's pods take long to end"),
        }
    }
}

/// Waits until then; forever when it is never.
async fn at(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}

fn named(name: &str) -> watcher::Config {
    watcher::Config::default().fields(&format!("metadata.name={name}"))
}

impl Watch<'_> {
    async fn follow(&mut self, tell: &mut impl FnMut(String)) -> Result<Loss, ClusterError> {
        let WorkloadRef { name, .. } = &self.workload.reference;
        let mut workloads = Watched::new(self.cluster.any(&self.workload.reference), named(name));
        let mut proxies = Watched::new(self.cluster.api::<Deployment>(), named(self.proxy));
        let (mut record, mut proxy) = (None, None);
        loop {
            tokio::select! {
                seen = workloads.changed() => {
                    let seen = seen.map_err(|cause| ClusterError::request("watch the workload", cause))?;
                    let seen = seen.get(name);
                    record = Some(self.seen(seen).await?);
                    if let (Some(Seen::Own), Some(object)) = (&record, seen) {
                        self.meanwhile.handle_input(object);
                    }
                }
                seen = proxies.changed() => {
                    let seen = seen.map_err(|cause| ClusterError::request("watch the proxy", cause))?;
                    let state = seen.get(self.proxy).map_or(ProxyState::Missing, state_of);
                    self.deleted = state == ProxyState::Missing;
                    proxy = Some(state);
                }
                () = at(self.meanwhile.poll_timeout()) => {}
            }
            while let Some(text) = self.meanwhile.poll_event(Instant::now()) {
                tell(text);
            }
            if let (Some(record), Some(proxy)) = (&record, proxy)
                && let Some(loss) = self.judge(record, proxy, tell)
            {
                return Ok(loss);
            }
        }
    }

    async fn seen(&self, workload: Option<&DynamicObject>) -> Result<Seen, ClusterError> {
        let Some(workload) = workload else { return Ok(Seen::Deleted { anew: false }) };
        if workload.uid().is_some_and(|uid| uid != self.workload.uid) {
            return Ok(Seen::Deleted { anew: true });
        }
        Ok(match record_of(workload) {
            Some(Ok(record)) if record.session == self.session => Seen::Own,
            // What a rollback of the workload brought back is nobody's.
            Some(Ok(record)) if self.cluster.is_ghost(&record).await? => Seen::Gone,
            Some(Ok(record)) => Seen::Others(Box::new(record)),
            Some(Err(_)) | None => Seen::Gone,
        })
    }

    fn judge(&mut self, record: &Seen, proxy: ProxyState, tell: &mut impl FnMut(String)) -> Option<Loss> {
        match (record, proxy) {
            (Seen::Own, _) => None,
            (Seen::Others(by), ProxyState::Attached) => {
                if self.taken.replace(by.clone()).as_ref() != Some(by) {
                    tell(format!(
                        "{} (session {}) takes {} over; it is answered here until the other's app listens",
                        by.owner, by.session, self.workload.reference
                    ));
                }
                None
            }
            (Seen::Others(by), _) => Some(Loss::TakenOver(by.clone())),
            (Seen::Gone | Seen::Deleted { .. }, _) if self.taken.is_some() => self.taken.clone().map(Loss::TakenOver),
            (Seen::Deleted { anew }, _) => Some(Loss::Deleted { anew: *anew }),
            (Seen::Gone, ProxyState::Missing) => Some(Loss::Undone),
            (Seen::Gone, _) => {
                if !std::mem::replace(&mut self.told_gone, true) {
                    tell(format!("somebody removed the record of this swap from {}", self.workload.reference));
                }
                None
            }
        }
    }
}
