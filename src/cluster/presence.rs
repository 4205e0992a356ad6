//! What is there at the moment, by watching: a snapshot that follows the API server, and on top of it the wait until
//! no pod of the original answers any more.
//!
//! A watch that drops is taken up again by kube's watcher, from where it was; only what cannot get better (a right that
//! is missing, a login that expired) ends the wait.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{Endpoints, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Api;
use kube::ResourceExt as _;
use kube::api::ListParams;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use serde::de::DeserializeOwned;
use tpdocker_protocol::contract::LABEL_SESSION;

use super::connect::Cluster;
use super::error::{Cause, ClusterError};
use super::failure::is_ready;
use super::meanwhile::replicas_of;
use super::workload::{Workload, WorkloadRef};

/// A pod leaves the endpoints as soon as its deletion begins; the rest is the controllers' queue.
const GONE_TIMEOUT: Duration = Duration::from_mins(1);

/// The objects of one watch, by name.
pub(super) struct Watched<K> {
    events: Pin<Box<dyn Stream<Item = watcher::Result<Event<K>>> + Send>>,
    objects: BTreeMap<String, K>,
    /// A list under way; it replaces `objects` when complete.
    listing: BTreeMap<String, K>,
}

// === impl Watched ===

impl<K> Watched<K>
where
    K: kube::Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    pub(super) fn new(api: Api<K>, config: watcher::Config) -> Self {
        let events = Box::pin(watch(api, config).default_backoff());
        Self { events, objects: BTreeMap::new(), listing: BTreeMap::new() }
    }

    /// Waits for the first snapshot or the next change. Cancel-safe.
    pub(super) async fn changed(&mut self) -> Result<&BTreeMap<String, K>, Cause> {
        loop {
            match self.events.next().await {
                Some(Ok(Event::Apply(object))) => {
                    self.objects.insert(object.name_any(), object);
                }
                Some(Ok(Event::Delete(object))) => {
                    self.objects.remove(&object.name_any());
                }
                Some(Ok(Event::Init)) => {
                    self.listing.clear();
                    continue;
                }
                Some(Ok(Event::InitApply(object))) => {
                    self.listing.insert(object.name_any(), object);
                    continue;
                }
                Some(Ok(Event::InitDone)) => self.objects = std::mem::take(&mut self.listing),
                Some(Err(error)) => {
                    let cause = Cause::from(error);
                    if matches!(cause, Cause::Login(_)) || matches!(cause.status(), Some(401 | 403 | 404)) {
                        return Err(cause);
                    }
                    tracing::debug!(%cause, "a watch is taken up again");
                    continue;
                }
                None => return Err(Cause::Way("the watch ended".into())),
            }
            return Ok(&self.objects);
        }
    }
}

// === impl Cluster ===

impl Cluster {
    /// Waits until no pod of the original, which was scaled to 0, is an endpoint of the workload's Services, or, without
    /// Services, until each is at least on its way out. `progress` is told how many are left. `Some` when somebody else
    /// has scaled it back, with the number.
    pub async fn wait_gone(
        &self,
        workload: &Workload,
        mut progress: impl FnMut(String),
    ) -> Result<Option<i32>, ClusterError> {
        let wait = async {
            let names = self.wait_leaving(workload, &mut progress).await?;
            if !workload.services.is_empty() {
                self.wait_unserved(workload, &names, &mut progress).await?;
            }
            Ok(())
        };
        let either = async {
            tokio::select! {
                gone = wait => gone.map(|()| None),
                back = self.wait_scaled_back(&workload.reference) => back.map(Some),
            }
        };
        match tokio::time::timeout(GONE_TIMEOUT, either).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ClusterError::Changed {
                workload: workload.reference.clone(),
                what: format!("still has pods {} s after it was scaled to 0", GONE_TIMEOUT.as_secs()),
            }),
        }
    }

    /// Addresses of the original's pods that are ready.
    pub async fn serving(&self, workload: &Workload) -> Result<Vec<IpAddr>, ClusterError> {
        let params = ListParams::default().labels(&original_pods(workload));
        let pods = self.ask("list pods", self.api::<Pod>().list(&params)).await?;
        let serving = pods.iter().filter(|pod| is_ready(pod) && pod.metadata.deletion_timestamp.is_none());
        Ok(serving.filter_map(|pod| pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()).collect())
    }

    /// Waits until the workload is not at 0.
    async fn wait_scaled_back(&self, reference: &WorkloadRef) -> Result<i32, ClusterError> {
        let by_name = watcher::Config::default().fields(&format!("metadata.name={}", reference.name));
        let mut workloads = Watched::new(self.any(reference), by_name);
        loop {
            let seen = workloads.changed().await.map_err(|cause| ClusterError::request("watch the workload", cause))?;
            match seen.get(&reference.name).map_or(0, replicas_of) {
                0 => {}
                replicas => return Ok(replicas),
            }
        }
    }

    /// Waits until every pod of the original is being deleted; their names.
    async fn wait_leaving(
        &self,
        workload: &Workload,
        progress: &mut impl FnMut(String),
    ) -> Result<BTreeSet<String>, ClusterError> {
        let mut pods = Watched::new(self.api::<Pod>(), watcher::Config::default().labels(&original_pods(workload)));
        let mut names = BTreeSet::new();
        loop {
            let pods = pods.changed().await.map_err(|cause| ClusterError::request("watch pods", cause))?;
            names.extend(pods.keys().cloned());
            let staying = pods.values().filter(|pod| pod.metadata.deletion_timestamp.is_none()).count();
            if staying == 0 {
                return Ok(names);
            }
            progress(format!("{staying} of the original's pods still there"));
        }
    }

    async fn wait_unserved(
        &self,
        workload: &Workload,
        pods: &BTreeSet<String>,
        progress: &mut impl FnMut(String),
    ) -> Result<(), ClusterError> {
        let mut endpoints = Watched::new(self.api::<Endpoints>(), watcher::Config::default());
        loop {
            let all = endpoints.changed().await.map_err(|cause| ClusterError::request("watch endpoints", cause))?;
            let ours = workload.services.iter().filter_map(|service| all.get(service));
            let left = ours.flat_map(pods_of).filter(|pod| pods.contains(*pod)).collect::<BTreeSet<_>>().len();
            if left == 0 {
                return Ok(());
            }
            progress(format!("{left} of the original's endpoints still there"));
        }
    }
}

/// Selects the pods of the original: the proxies carry its labels and their own.
fn original_pods(workload: &Workload) -> String {
    format!("{},!{LABEL_SESSION}", selector_text(&workload.selector))
}

/// Names of the pods to which the Service sends.
fn pods_of(endpoints: &Endpoints) -> impl Iterator<Item = &str> {
    let addresses = endpoints.subsets.iter().flatten().flat_map(|subset| subset.addresses.iter().flatten());
    addresses.filter_map(|address| address.target_ref.as_ref()).filter_map(|target| target.name.as_deref())
}

/// A selector as the `labelSelector` parameter has it.
/// <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors>
pub(super) fn selector_text(selector: &LabelSelector) -> String {
    let equal = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}"));
    let others = selector.match_expressions.iter().flatten().map(|expression| {
        let values = expression.values.iter().flatten().cloned().collect::<Vec<_>>().join(",");
        match expression.operator.as_str() {
            "In" => format!("{} in ({values})", expression.key),
            "NotIn" => format!("{} notin ({values})", expression.key),
            "DoesNotExist" => format!("!{}", expression.key),
            // Exists, and what a later release may add.
            _ => expression.key.clone(),
        }
    });
    equal.chain(others).collect::<Vec<_>>().join(",")
}
