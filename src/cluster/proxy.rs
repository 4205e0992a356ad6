//! The proxy in the cluster: create it, follow it until it is useful, delete it.

use std::pin::pin;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, LogParams, PostParams};
use kube::runtime::watcher;
use tpdocker_protocol::contract::LABEL_SESSION;

use super::connect::Cluster;
use super::error::{Cause, ClusterError};
use super::failure::{Failure, Outlook, is_ready, outlook, rejected};
use super::mounts::{self, PodMount};
use super::presence::Watched;

/// An autoscaler that is about to add a node says so within seconds, but takes minutes; somebody waits in front of a
/// terminal.
const SCHEDULING_PATIENCE: Duration = Duration::from_secs(30);
/// The garbage collector and the controllers have queues; a minute in them is an outage.
const DELETE_TIMEOUT: Duration = Duration::from_mins(1);
/// Lines of a crashed container's log that go into the error.
const LOG_TAIL: i64 = 10;

/// A proxy's Deployment.
#[derive(Debug, Clone)]
pub struct Proxy {
    cluster: Cluster,
    /// Name of the Deployment.
    pub name: String,
    /// Its `metadata.uid`.
    pub uid: String,
    /// The session.
    pub session: String,
    container: String,
}

/// The proxy's pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyPod {
    /// Its name.
    pub name: String,
    /// The node it is on.
    pub node: Option<String>,
    /// Its address.
    pub ip: Option<String>,
    /// What is mounted into the proxy's container.
    pub mounts: Vec<PodMount>,
}

/// How far the pod must have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Scheduled,
    Running,
    Ready,
}

impl Cluster {
    /// Creates the proxy from [`super::proxy_deployment`]'s value; `container` is the exchanged container's name.
    pub async fn create_proxy(&self, deployment: &Deployment, container: &str) -> Result<Proxy, ClusterError> {
        let name = deployment.name_any();
        let session = deployment.labels().get(LABEL_SESSION).cloned().unwrap_or_default();
        let create = self.api::<Deployment>();
        let created = match self.ask("create the proxy", create.create(&PostParams::default(), deployment)).await {
            Ok(created) => created,
            Err(ClusterError::Request { source: source @ Cause::Status { code: 403 | 422, .. }, .. }) => {
                return Err(ClusterError::Proxy { reason: source.to_string(), cure: None });
            }
            Err(error) => return Err(error),
        };
        let uid = created.uid().unwrap_or_default();
        Ok(Proxy { cluster: self.clone(), name, uid, session, container: container.to_owned() })
    }

    /// Deletes the proxy's Deployment `name` of `session` and waits until its pods are gone or going. What is missing
    /// is gone.
    pub async fn delete_proxy(
        &self,
        name: &str,
        session: &str,
        mut progress: impl FnMut(String),
    ) -> Result<(), ClusterError> {
        self.delete_proxy_at_once(name).await?;
        let mut pods = Watched::new(self.api::<Pod>(), session_pods(session));
        let wait = async {
            loop {
                let pods = pods.changed().await.map_err(|cause| ClusterError::request("watch pods", cause))?;
                // One that is being deleted is out of every Service; how long its siblings take to end is up to them.
                let staying = pods.values().filter(|pod| pod.metadata.deletion_timestamp.is_none()).count();
                if staying == 0 {
                    return Ok(());
                }
                progress(format!("{staying} proxy pod still there"));
            }
        };
        match tokio::time::timeout(DELETE_TIMEOUT, wait).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ClusterError::request("see the proxy's pod go", Cause::Timeout(DELETE_TIMEOUT.as_secs()))),
        }
    }
}

impl Cluster {
    /// Deletes the proxy's Deployment; its pods go after it. What is missing is gone.
    pub async fn delete_proxy_at_once(&self, name: &str) -> Result<(), ClusterError> {
        let deployments = self.api::<Deployment>();
        match self.ask("delete the proxy", deployments.delete(name, &DeleteParams::background())).await {
            Ok(_) => Ok(()),
            Err(error) if error.status() == Some(404) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

// === impl Proxy ===

impl Proxy {
    /// Waits until a node is chosen.
    pub async fn wait_scheduled(
        &self,
        within: Duration,
        progress: impl FnMut(String),
    ) -> Result<ProxyPod, ClusterError> {
        self.wait(Stage::Scheduled, within, progress).await
    }

    /// Waits until the proxy's container runs. Fails as soon as the kubelet says that it will not.
    pub async fn wait_running(&self, within: Duration, progress: impl FnMut(String)) -> Result<ProxyPod, ClusterError> {
        self.wait(Stage::Running, within, progress).await
    }

    /// Waits until the pod is ready: a client is attached and the app listens.
    pub async fn wait_ready(&self, within: Duration, progress: impl FnMut(String)) -> Result<ProxyPod, ClusterError> {
        self.wait(Stage::Ready, within, progress).await
    }

    async fn wait(
        &self,
        stage: Stage,
        within: Duration,
        mut progress: impl FnMut(String),
    ) -> Result<ProxyPod, ClusterError> {
        let mut last = String::from("nothing yet");
        let mut tell = |text: String| {
            if last != text {
                last.clone_from(&text);
                progress(text);
            }
        };
        let outcome = tokio::time::timeout(within, self.follow(stage, &mut tell)).await;
        outcome.unwrap_or_else(|_| {
            let reason = format!("after {} s it waits for: {last}", within.as_secs());
            let cure =
                format!("kubectl -n {} describe pods -l {LABEL_SESSION}={}", self.cluster.namespace(), self.session);
            Err(ClusterError::Proxy { reason, cure: Some(cure) })
        })
    }

    async fn follow(&self, stage: Stage, tell: &mut impl FnMut(String)) -> Result<ProxyPod, ClusterError> {
        let by_name = format!("metadata.name={}", self.name);
        let mut pods = Watched::new(self.cluster.api::<Pod>(), session_pods(&self.session));
        let mut deployments =
            Watched::new(self.cluster.api::<Deployment>(), watcher::Config::default().fields(&by_name));
        let warnings = watcher::Config::default().fields("involvedObject.kind=Pod,type=Warning");
        let mut warnings = Some(Watched::new(self.cluster.api::<Event>(), warnings));
        let mut unschedulable = pin!(tokio::time::sleep(SCHEDULING_PATIENCE));
        let mut unschedulable_since: Option<String> = None;
        loop {
            tokio::select! {
                seen = pods.changed() => {
                    let pods = seen.map_err(|cause| ClusterError::request("watch pods", cause))?;
                    let Some(pod) = newest(pods.values()) else { continue };
                    match outlook(pod, &self.container) {
                        Outlook::Failed(failure) => return Err(self.failed(&pod.name_any(), failure).await),
                        Outlook::Unschedulable(message) => {
                            if unschedulable_since.is_none() {
                                unschedulable.as_mut().reset(tokio::time::Instant::now() + SCHEDULING_PATIENCE);
                            }
                            tell(format!("the scheduler: {message}"));
                            unschedulable_since = Some(message);
                            continue;
                        }
                        Outlook::Running if stage != Stage::Ready || is_ready(pod) => return Ok(ProxyPod::of(pod, &self.container)),
                        Outlook::Running => tell("the proxy's readiness".into()),
                        Outlook::Waiting(what) => {
                            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
                            if stage == Stage::Scheduled && node.is_some() {
                                return Ok(ProxyPod::of(pod, &self.container));
                            }
                            tell(what);
                        }
                    }
                    unschedulable_since = None;
                }
                seen = deployments.changed() => {
                    let deployments = seen.map_err(|cause| ClusterError::request("watch deployments", cause))?;
                    if let Some(failure) = deployments.get(&self.name).and_then(rejected) {
                        return Err(ClusterError::Proxy { reason: failure.to_string(), cure: None });
                    }
                }
                seen = next_warning(&mut warnings, &self.name) => {
                    match seen {
                        Some(text) => tell(text),
                        None => warnings = None,
                    }
                }
                () = &mut unschedulable, if unschedulable_since.is_some() => {
                    let reason = format!("no node takes it: {}", unschedulable_since.unwrap_or_default());
                    return Err(ClusterError::Proxy { reason, cure: None });
                }
            }
        }
    }

    async fn failed(&self, pod: &str, failure: Failure) -> ClusterError {
        let mut reason = failure.to_string();
        let cure = match &failure {
            Failure::Image { container, .. } if *container == self.container => Some(
                "make the proxy's image available to the cluster: tpdocker image push REGISTRY/NAME, \
                 then add --proxy-image REGISTRY/NAME"
                    .to_owned(),
            ),
            Failure::Crash { container, previous, .. } => {
                reason.push_str(&self.log_tail(pod, container, *previous).await);
                None
            }
            _ => Some(format!("kubectl -n {} describe pod {pod}", self.cluster.namespace())),
        };
        ClusterError::Proxy { reason, cure }
    }

    async fn log_tail(&self, pod: &str, container: &str, previous: bool) -> String {
        let params = LogParams {
            container: Some(container.to_owned()),
            tail_lines: Some(LOG_TAIL),
            previous,
            ..LogParams::default()
        };
        match self.cluster.ask("read the log", self.cluster.api::<Pod>().logs(pod, &params)).await {
            Ok(log) if log.trim().is_empty() => String::new(),
            Ok(log) => format!("; its last output:\n{}", log.trim_end()),
            Err(error) => {
                tracing::debug!(%error, pod, "no log");
                String::new()
            }
        }
    }
}

impl ProxyPod {
    fn of(pod: &Pod, container: &str) -> Self {
        let status = pod.status.as_ref();
        let mounts = pod.spec.as_ref().map(|spec| mounts::of_container(spec, container));
        Self {
            name: pod.name_any(),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            ip: status.and_then(|status| status.pod_ip.clone()),
            mounts: mounts.unwrap_or_default(),
        }
    }
}

pub(super) fn session_pods(session: &str) -> watcher::Config {
    watcher::Config::default().labels(&format!("{LABEL_SESSION}={session}"))
}

/// The pod that counts: one that is not on its way out, the youngest of them.
fn newest<'a>(pods: impl Iterator<Item = &'a Pod>) -> Option<&'a Pod> {
    pods.filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .max_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

/// The newest warning about a pod of ours, such as a volume that cannot be mounted: these often pass, so they are
/// told and not acted upon. `None` when the login may not see events.
async fn next_warning(warnings: &mut Option<Watched<Event>>, deployment: &str) -> Option<String> {
    let Some(watched) = warnings else { return std::future::pending().await };
    let prefix = format!("{deployment}-");
    loop {
        match watched.changed().await {
            Ok(events) => {
                let ours = events.values().filter(|event| {
                    event.involved_object.name.as_deref().is_some_and(|name| name.starts_with(&prefix))
                });
                let newest = ours.max_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
                if let Some(event) = newest {
                    let (reason, message) = (event.reason.as_deref(), event.message.as_deref());
                    return Some(format!("{}: {}", reason.unwrap_or_default(), message.unwrap_or_default()));
                }
            }
            Err(cause) => {
                tracing::debug!(%cause, "no events");
                return None;
            }
        }
    }
}
