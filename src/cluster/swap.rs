//! Taking a workload out of service and putting it back.
//!
//! The record of a swap is an annotation on the workload itself, written with a precondition before anything changes
//! and removed last, so whoever finds a workload at 0 finds there how many replicas it had and whose doing it is. Every
//! step may be repeated: what is missing is already gone, what is done stays done. A conflict is never overwritten: the
//! object is read again and the decision made anew.

use std::future::Ready;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, ResourceExt as _};
use tpdocker_protocol::contract::ANNOTATION_SWAP;
use tpdocker_protocol::control::SwapRecord;

use super::connect::Cluster;
use super::error::ClusterError;
use super::holders::{ProxyState, Scope};
use super::meanwhile::replicas_of;
use super::patience::may_pass;
use super::presence::Watched;
use super::workload::{Kind, Workload, WorkloadRef};

/// Conflicts in a row. Controllers write a workload's status a few times while it changes, not ten times in a row.
const MAX_CONFLICTS: usize = 10;
/// How long the original's pods may take to be ready again before the proxy is removed all the same.
const READY_TIMEOUT: Duration = Duration::from_mins(3);
/// Once one pod serves, how long the others are waited for.
const REST_TIMEOUT: Duration = Duration::from_secs(20);
/// Between its record and its proxy a session asks the API server a few questions; clocks differ by some more.
const GHOST_AGE: Duration = Duration::from_mins(5);

/// A workload's record, written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// As it is on the workload.
    pub record: SwapRecord,
    /// Whose it replaced.
    pub from: Option<SwapRecord>,
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The record that was found; `None` when nothing was swapped.
    pub record: Option<SwapRecord>,
    /// The record of another session, which has it now.
    pub holder: Option<SwapRecord>,
    /// Replicas that are wanted.
    pub replicas: i32,
    /// Replicas that are ready.
    pub ready: i32,
    /// There is no such workload.
    pub missing: bool,
}

/// A workload at one moment, whatever its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Moment {
    uid: String,
    resource_version: String,
    replicas: i32,
    ready: i32,
    /// The controller has seen the last change of the spec, so `ready` is about it.
    settled: bool,
    record: Option<Result<SwapRecord, String>>,
}

// === impl Cluster ===

impl Cluster {
    /// Writes the record of a swap. `record.replicas` becomes what the workload has at that moment. Succeeds without a
    /// change when this session's record is there already.
    pub async fn record(&self, workload: &Workload, record: SwapRecord) -> Result<SwapRecord, ClusterError> {
        Ok(self.claim(workload, record, None).await?.record)
    }

    /// As [`Self::record`], also over the record of the session `over`. Then a workload at 0 keeps the replicas that the
    /// other recorded: they are the original's. A session that was quicker in taking over is not meant, so of many that
    /// replace the same one, one wins.
    pub async fn claim(
        &self,
        workload: &Workload,
        record: SwapRecord,
        over: Option<&str>,
    ) -> Result<Claimed, ClusterError> {
        let reference = &workload.reference;
        for _ in 0..MAX_CONFLICTS {
            let now = self.moment(reference).await?;
            if now.uid != workload.uid {
                return Err(changed(reference, "was replaced by another of the same name"));
            }
            let mut claimed = Claimed { record: SwapRecord { replicas: now.replicas, ..record.clone() }, from: None };
            match now.record {
                Some(Ok(found)) if found.session == record.session => {
                    return Ok(Claimed { record: found, from: None });
                }
                Some(Ok(ghost)) if now.replicas != 0 && self.is_ghost(&ghost).await? => {
                    tracing::debug!(?ghost, "an old record came back with a rollback");
                }
                Some(Ok(found)) if over == Some(&found.session) => {
                    if now.replicas == 0 {
                        claimed.record.replicas = found.replicas;
                    }
                    claimed.from = Some(found);
                }
                Some(Ok(found)) => {
                    let proxy = self.proxy_state(&found).await?;
                    return Err(held(reference, found, Some(proxy)));
                }
                // A record that cannot be read is somebody's all the same.
                Some(Err(text)) => {
                    return Err(changed(reference, &format!("carries a swap record of another release: {text}")));
                }
                None => {}
            }
            let text = serde_json::to_string(&claimed.record).map_err(|bad| changed(reference, &bad.to_string()))?;
            if self.annotate(reference, &now.resource_version, Some(text)).await? {
                return Ok(claimed);
            }
        }
        Err(changed(reference, "changes all the time"))
    }

    /// Whether a record on a workload that runs is a leftover: a Deployment's controller copies annotations to its
    /// `ReplicaSet`s and never removes them there, and `kubectl rollout undo` copies them back. A session's record comes
    /// before its proxy, so a young one without a proxy is no ghost.
    pub(super) async fn is_ghost(&self, record: &SwapRecord) -> Result<bool, ClusterError> {
        let proxies = self.api::<Deployment>();
        // By a list, since a Role may know the right to get by the workload's name alone.
        let by_name = ListParams::default().fields(&format!("metadata.name={}", record.proxy));
        let found = self.ask("look for the other session's proxy", proxies.list_metadata(&by_name)).await?;
        let age = record.since.parse::<Timestamp>().map(|since| Timestamp::now().duration_since(since));
        Ok(found.items.is_empty() && age.is_ok_and(|age| age.as_secs() > GHOST_AGE.as_secs().cast_signed()))
    }

    /// Scales to `replicas` if the workload carries `session`'s record; as with [`Self::scale_or_learn`].
    pub async fn scale(&self, reference: &WorkloadRef, session: &str, replicas: i32) -> Result<(), ClusterError> {
        for _ in 0..MAX_CONFLICTS {
            if self.scale_or_learn(reference, session, replicas).await?.is_none() {
                return Ok(());
            }
        }
        Err(changed(reference, "changes all the time"))
    }

    /// Scales to `replicas` if the workload carries `session`'s record. On the way to 0 the record learns first of the
    /// number that somebody else, such as an autoscaler, has set since it was written: then that is all that is done, and
    /// who has told others of the record is given the new one.
    pub async fn scale_or_learn(
        &self,
        reference: &WorkloadRef,
        session: &str,
        replicas: i32,
    ) -> Result<Option<SwapRecord>, ClusterError> {
        for _ in 0..MAX_CONFLICTS {
            let now = self.moment(reference).await?;
            let record = match &now.record {
                Some(Ok(found)) if found.session == session => found,
                Some(Ok(found)) => return Err(held(reference, found.clone(), None)),
                _ => return Err(changed(reference, "lost its swap record")),
            };
            if replicas == 0 && now.replicas != 0 && now.replicas != record.replicas {
                let record = SwapRecord { replicas: now.replicas, ..record.clone() };
                let text = serde_json::to_string(&record).map_err(|bad| changed(reference, &bad.to_string()))?;
                if self.annotate(reference, &now.resource_version, Some(text)).await? {
                    return Ok(Some(record));
                }
            } else if now.replicas == replicas || self.set_scale(reference, &now.resource_version, replicas).await? {
                return Ok(None);
            }
        }
        Err(changed(reference, "changes all the time"))
    }

    /// The record that a workload carries.
    pub async fn swap_of(&self, reference: &WorkloadRef) -> Result<Option<SwapRecord>, ClusterError> {
        match self.moment(reference).await?.record {
            None => Ok(None),
            Some(Ok(record)) => Ok(Some(record)),
            Some(Err(text)) => Err(changed(reference, &format!("carries a swap record of another release: {text}"))),
        }
    }

    /// All swapped workloads of the namespace.
    pub async fn swaps(&self) -> Result<Vec<(WorkloadRef, SwapRecord)>, ClusterError> {
        self.swaps_in(Scope::Namespace).await
    }

    /// All swapped workloads there.
    pub(super) async fn swaps_in(&self, scope: Scope) -> Result<Vec<(WorkloadRef, SwapRecord)>, ClusterError> {
        let mut swaps = Vec::new();
        for kind in [Kind::Deployment, Kind::StatefulSet, Kind::ReplicaSet] {
            let api = match scope {
                Scope::Namespace => Api::namespaced_with(self.client.clone(), self.namespace(), &resource_of(kind)),
                Scope::Everywhere => Api::<DynamicObject>::all_with(self.client.clone(), &resource_of(kind)),
            };
            let list = match self.ask(format!("list {}", kind.resource()), api.list(&ListParams::default())).await {
                // A login that may not list a kind has a Role for another one, or for one workload by its name.
                Err(error) if kind != Kind::Deployment && error.status() == Some(403) => continue,
                listed => listed?,
            };
            for object in list {
                // A Deployment's controller copies its annotations to its ReplicaSets.
                let controlled = object.owner_references().iter().any(|owner| owner.controller == Some(true));
                if let (false, Some(Ok(record))) = (controlled, Moment::of(&object).record) {
                    let namespace = object.namespace().unwrap_or_default();
                    swaps.push((WorkloadRef { kind, namespace, name: object.name_any() }, record));
                }
            }
        }
        Ok(swaps)
    }

    /// Puts everything back from what the cluster remembers: replicas, then the proxy's end, then the record's. With
    /// `session`, another session's swap is left alone. `serving` is awaited each time that more of the original's pods are
    /// ready, before the proxy goes. Goes on past a step that is refused and reports all that is left; where there is no answer
    /// it ends, to be repeated: the proxy shall not go before the original is back.
    pub async fn restore<S: Future<Output = ()>>(
        &self,
        reference: &WorkloadRef,
        session: Option<&str>,
        serving: impl FnMut() -> S,
        progress: impl FnMut(String),
    ) -> Result<Restored, ClusterError> {
        self.undo(reference, session, Some(serving), progress).await
    }

    /// As [`Self::restore`] of `session`'s swap, without waiting for pods: neither for the original's to be ready nor for
    /// the proxy's to go. Who calls in between is refused.
    pub async fn restore_at_once(&self, reference: &WorkloadRef, session: &str) -> Result<Restored, ClusterError> {
        self.undo(reference, Some(session), None::<fn() -> Ready<()>>, |_| {}).await
    }

    /// With `serving`, waits for pods.
    async fn undo<S: Future<Output = ()>>(
        &self,
        reference: &WorkloadRef,
        session: Option<&str>,
        serving: Option<impl FnMut() -> S>,
        mut progress: impl FnMut(String),
    ) -> Result<Restored, ClusterError> {
        let now = match self.moment(reference).await {
            Ok(now) => now,
            Err(ClusterError::NotFound { .. }) => return Ok(Restored::missing()),
            Err(error) => return Err(error),
        };
        let record = match now.record {
            Some(Ok(record)) if session.is_none_or(|session| session == record.session) => record,
            Some(Ok(other)) => {
                return Ok(Restored { holder: Some(other), ..Restored::nothing(now.replicas, now.ready) });
            }
            None => return Ok(Restored::nothing(now.replicas, now.ready)),
            Some(Err(text)) => {
                return Err(changed(reference, &format!("carries a swap record of another release: {text}")));
            }
        };
        let mut left = Vec::new();
        let mut back = Moment { record: None, ..now };
        // Somebody who scaled it meanwhile (a person, an autoscaler, GitOps) decided; only 0 is our doing.
        if back.replicas == 0 {
            match self.scale(reference, &record.session, record.replicas).await {
                Ok(()) => back.replicas = record.replicas,
                // Taken over a moment ago: what is left to do is that session's.
                Err(ClusterError::Held { .. }) if session.is_some() => {
                    let holder = self.swap_of(reference).await?;
                    return Ok(Restored { holder, ..Restored::nothing(back.replicas, back.ready) });
                }
                Err(error) if may_pass(&error) => return Err(error),
                Err(error) => left.push(format!("scale to {}: {}", record.replicas, text_of(&error))),
            }
        }
        let waits = serving.is_some();
        if let Some(serving) = serving.filter(|_| left.is_empty()) {
            match self.wait_back(reference, serving, &mut progress).await {
                Ok(ready) => back.ready = ready,
                Err(error) if may_pass(&error) => return Err(error),
                Err(error) => left.push(text_of(&error)),
            }
        }
        let deleted = if waits {
            self.delete_proxy(&record.proxy, &record.session, &mut progress).await
        } else {
            self.delete_proxy_at_once(&record.proxy).await
        };
        match deleted {
            Err(error) if may_pass(&error) => return Err(error),
            Err(error) => left.push(format!("delete the proxy {}: {}", record.proxy, text_of(&error))),
            Ok(()) => {}
        }
        // The record stays as long as anything is left to do.
        if left.is_empty() {
            match self.forget(reference, &record.session).await {
                Err(error) if may_pass(&error) => return Err(error),
                Err(error) => left.push(format!("remove the annotation {ANNOTATION_SWAP}: {}", text_of(&error))),
                Ok(()) => {}
            }
        }
        if left.is_empty() {
            Ok(Restored { record: Some(record), ..Restored::nothing(back.replicas, back.ready) })
        } else {
            Err(ClusterError::Restore { workload: Box::new(reference.clone()), left })
        }
    }

    /// Removes `session`'s record; a missing one is removed already, another session's stays.
    async fn forget(&self, reference: &WorkloadRef, session: &str) -> Result<(), ClusterError> {
        for _ in 0..MAX_CONFLICTS {
            let now = self.moment(reference).await?;
            match now.record {
                Some(Ok(found)) if found.session == session => {}
                _ => return Ok(()),
            }
            if self.annotate(reference, &now.resource_version, None).await? {
                return Ok(());
            }
        }
        Err(changed(reference, "changes all the time"))
    }

    /// Waits until the original serves again: all its replicas, or one and then a little longer. How many are ready.
    async fn wait_back<S: Future<Output = ()>>(
        &self,
        reference: &WorkloadRef,
        mut serving: impl FnMut() -> S,
        progress: &mut impl FnMut(String),
    ) -> Result<i32, ClusterError> {
        let by_name = format!("metadata.name={}", reference.name);
        let mut watched = Watched::new(self.any(reference), watcher::Config::default().fields(&by_name));
        let mut deadline = tokio::time::Instant::now() + READY_TIMEOUT;
        let mut ready = 0;
        loop {
            let seen = match tokio::time::timeout_at(deadline, watched.changed()).await {
                Ok(seen) => seen.map_err(|cause| ClusterError::request("watch the workload", cause))?,
                Err(_) if ready > 0 => return Ok(ready),
                Err(_) => {
                    // Of a server that does not answer nothing was heard, and the pods may be ready.
                    self.moment(reference).await?;
                    let what = format!("has no ready pod {} s after it was scaled back", READY_TIMEOUT.as_secs());
                    return Err(changed(reference, &what));
                }
            };
            let Some(object) = seen.get(&reference.name) else {
                return Err(changed(reference, "was deleted"));
            };
            let now = Moment::of(object);
            if !now.settled {
                continue;
            }
            if now.ready > ready {
                serving().await;
            }
            if now.ready >= now.replicas {
                return Ok(now.ready);
            }
            if ready == 0 && now.ready > 0 {
                deadline = deadline.min(tokio::time::Instant::now() + REST_TIMEOUT);
            }
            ready = now.ready;
            progress(format!("{}/{} of the original's pods ready", now.ready, now.replicas));
        }
    }

    pub(super) fn any(&self, reference: &WorkloadRef) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &reference.namespace, &resource_of(reference.kind))
    }

    async fn moment(&self, reference: &WorkloadRef) -> Result<Moment, ClusterError> {
        let api = self.any(reference);
        match self.ask(format!("get {reference}"), api.get_opt(&reference.name)).await? {
            Some(object) => Ok(Moment::of(&object)),
            None => Err(ClusterError::NotFound {
                what: reference.kind.as_str(),
                name: reference.name.clone(),
                namespace: reference.namespace.clone(),
                near: Vec::new(),
                elsewhere: Vec::new(),
            }),
        }
    }

    /// Writes or removes the record; `false` when the object has changed since `resource_version`.
    async fn annotate(
        &self,
        reference: &WorkloadRef,
        resource_version: &str,
        record: Option<String>,
    ) -> Result<bool, ClusterError> {
        let patch = serde_json::json!({
            "metadata": { "resourceVersion": resource_version, "annotations": { ANNOTATION_SWAP: record } }
        });
        let api = self.any(reference);
        let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
        let request = api.patch(&reference.name, &params, &patch);
        unless_conflict(self.ask(format!("annotate {reference}"), request).await)
    }

    async fn set_scale(
        &self,
        reference: &WorkloadRef,
        resource_version: &str,
        replicas: i32,
    ) -> Result<bool, ClusterError> {
        let api = self.any(reference);
        let mut scale = self.ask(format!("get the scale of {reference}"), api.get_scale(&reference.name)).await?;
        scale.metadata.resource_version = Some(resource_version.to_owned());
        scale.spec.get_or_insert_default().replicas = Some(replicas);
        let params = PostParams::default();
        let request = api.replace_scale(&reference.name, &params, &scale);
        unless_conflict(self.ask(format!("scale {reference}"), request).await)
    }
}

/// The record that an object carries, or what is wrong with it.
pub(super) fn record_of(object: &DynamicObject) -> Option<Result<SwapRecord, String>> {
    let text = object.annotations().get(ANNOTATION_SWAP)?;
    Some(serde_json::from_str(text).map_err(|error| error.to_string()))
}

/// The time for [`SwapRecord::since`].
pub fn since_now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

// === impl Restored ===

impl Restored {
    /// Of a workload that does not exist.
    pub fn missing() -> Self {
        Self { missing: true, ..Self::nothing(0, 0) }
    }

    fn nothing(replicas: i32, ready: i32) -> Self {
        Self { record: None, holder: None, replicas, ready, missing: false }
    }
}

// === impl Moment ===

impl Moment {
    fn of(object: &DynamicObject) -> Self {
        let number = |path: &str| object.data.pointer(path).and_then(serde_json::Value::as_i64);
        let count = |path: &str| number(path).and_then(|count| i32::try_from(count).ok());
        Self {
            uid: object.uid().unwrap_or_default(),
            resource_version: object.resource_version().unwrap_or_default(),
            replicas: replicas_of(object),
            ready: count("/status/readyReplicas").unwrap_or(0),
            settled: number("/status/observedGeneration") >= object.metadata.generation,
            record: record_of(object),
        }
    }
}

fn resource_of(kind: Kind) -> ApiResource {
    match kind {
        Kind::Deployment => ApiResource::erase::<Deployment>(&()),
        Kind::StatefulSet => ApiResource::erase::<StatefulSet>(&()),
        Kind::ReplicaSet => ApiResource::erase::<ReplicaSet>(&()),
    }
}

fn unless_conflict<T>(outcome: Result<T, ClusterError>) -> Result<bool, ClusterError> {
    match outcome {
        Ok(_) => Ok(true),
        Err(error) if error.status() == Some(409) => Ok(false),
        Err(error) => Err(error),
    }
}

fn held(reference: &WorkloadRef, found: SwapRecord, proxy: Option<ProxyState>) -> ClusterError {
    let SwapRecord { session, owner, since, .. } = found;
    ClusterError::Held { workload: Box::new(reference.clone()), owner, since, session, proxy }
}

fn changed(reference: &WorkloadRef, what: &str) -> ClusterError {
    ClusterError::Changed { workload: reference.clone(), what: what.to_owned() }
}

/// The message with its causes on one line, for a list.
fn text_of(error: &ClusterError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
