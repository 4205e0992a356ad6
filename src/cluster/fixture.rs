//! What runs pods and cannot be swapped: `DaemonSets`, Jobs, `CronJobs`, and pods. A session can be like each of them, and
//! whoever wants to swap one is told what it is, why not, and what to do instead.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::ResourceExt as _;

use crate::settings::SwapTarget;

use super::candidate::choose_container;
use super::error::ClusterError;
use super::ports;
use super::stance::{Likeness, ModelKind, PodModel};

/// The `Deployment` controller's label on a `ReplicaSet`'s pods: what the set's name has behind its own.
const POD_TEMPLATE_HASH: &str = "pod-template-hash";

/// A kind of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FixtureKind {
    /// apps/v1 `DaemonSet`.
    DaemonSet,
    /// batch/v1 Job.
    Job,
    /// batch `CronJob`.
    CronJob,
    /// v1 Pod.
    Pod,
}

/// One of them.
#[derive(Debug, Clone)]
pub struct Fixture {
    kind: FixtureKind,
    metadata: ObjectMeta,
    template: PodTemplateSpec,
    /// The Service that it was found behind.
    behind: Option<String>,
}

// === impl FixtureKind ===

impl FixtureKind {
    /// As in a manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DaemonSet => "DaemonSet",
            Self::Job => "Job",
            Self::CronJob => "CronJob",
            Self::Pod => "Pod",
        }
    }

    /// The API group.
    pub fn group(self) -> &'static str {
        match self {
            Self::DaemonSet => "apps",
            Self::Job | Self::CronJob => "batch",
            Self::Pod => "",
        }
    }

    /// The resource, as RBAC names it.
    pub fn resource(self) -> &'static str {
        match self {
            Self::DaemonSet => "daemonsets",
            Self::Job => "jobs",
            Self::CronJob => "cronjobs",
            Self::Pod => "pods",
        }
    }

    /// As kubectl and `--like` take it.
    pub fn slug(self) -> &'static str {
        match self {
            Self::DaemonSet => "daemonset",
            Self::Job => "job",
            Self::CronJob => "cronjob",
            Self::Pod => "pod",
        }
    }
}

// === impl Fixture ===

impl From<DaemonSet> for Fixture {
    fn from(it: DaemonSet) -> Self {
        Self::new(FixtureKind::DaemonSet, it.metadata, it.spec.unwrap_or_default().template)
    }
}

impl From<Job> for Fixture {
    fn from(it: Job) -> Self {
        Self::new(FixtureKind::Job, it.metadata, it.spec.unwrap_or_default().template)
    }
}

impl From<CronJob> for Fixture {
    fn from(it: CronJob) -> Self {
        let job = it.spec.unwrap_or_default().job_template.spec.unwrap_or_default();
        Self::new(FixtureKind::CronJob, it.metadata, job.template)
    }
}

impl From<Pod> for Fixture {
    fn from(it: Pod) -> Self {
        let mut spec = it.spec.unwrap_or_default();
        // The name of a StatefulSet's pod among its peers, which is in use.
        if controller(&it.metadata).is_some() {
            spec.hostname = None;
            spec.subdomain = None;
        }
        let annotations = it.metadata.annotations.clone();
        let metadata = ObjectMeta { annotations, ..ObjectMeta::default() };
        Self::new(FixtureKind::Pod, it.metadata, PodTemplateSpec { metadata: Some(metadata), spec: Some(spec) })
    }
}

impl Fixture {
    fn new(kind: FixtureKind, metadata: ObjectMeta, template: PodTemplateSpec) -> Self {
        Self { kind, metadata, template, behind: None }
    }

    /// The same, found behind this Service.
    #[must_use]
    pub fn behind(self, service: &str) -> Self {
        Self { behind: Some(service.to_owned()), ..self }
    }

    /// The kind and the name of whose pod it is; `None` when it stands alone.
    pub fn owner(&self) -> Option<(&str, &str)> {
        controller(&self.metadata).map(|owner| (owner.kind.as_str(), owner.name.as_str()))
    }

    /// `kind/name`, as `--like` takes it.
    fn slug(&self) -> String {
        format!("{}/{}", self.kind.slug(), self.name())
    }

    fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// For people.
    fn told(&self) -> String {
        let own = format!("{} `{}`", self.kind.as_str(), self.name());
        self.behind.as_ref().map_or(own.clone(), |service| format!("{own}, which is behind Service `{service}`,"))
    }

    /// What a session is that is like it.
    pub fn into_likeness(self, target: &SwapTarget, services: &[Service]) -> Result<Likeness, ClusterError> {
        let choice = format!("--like {}", self.slug());
        let services: Vec<&Service> =
            services.iter().filter(|service| ports::selects(service, &self.template)).collect();
        let container = choose_container(&self.told(), &choice, &self.template, target, &services)?;
        let namespace = self.metadata.namespace.clone().unwrap_or_default();
        let name = self.name().to_owned();
        let pod = PodModel::beside(self.template, container, Vec::new());
        Ok(Likeness { kind: ModelKind::Fixture(self.kind), namespace, name, pod })
    }

    /// The answer to whoever wants to swap it.
    pub fn not_swappable(&self) -> ClusterError {
        let like =
            format!("tpdocker run --like {} IMAGE has its environment and files, and takes no traffic", self.slug());
        let (why, cure) = match self.kind {
            FixtureKind::DaemonSet => ("it runs one pod on every node and cannot be scaled to none".to_owned(), like),
            FixtureKind::Job | FixtureKind::CronJob => ("it runs to completion and serves nothing".to_owned(), like),
            FixtureKind::Pod => self.why_not_a_pod(like),
        };
        ClusterError::NotSwappable { what: self.told(), why, cure: Some(cure) }
    }

    fn why_not_a_pod(&self, like: String) -> (String, String) {
        let Some((kind, name)) = self.owner() else {
            return ("it stands alone: nothing would start it again afterwards".to_owned(), like);
        };
        let hash = self.metadata.labels.as_ref().and_then(|labels| labels.get(POD_TEMPLATE_HASH));
        let deployment =
            hash.filter(|_| kind == "ReplicaSet").and_then(|hash| name.strip_suffix(hash.as_str())?.strip_suffix('-'));
        let (kind, name) = deployment.map_or((kind, name), |deployment| ("Deployment", deployment));
        let why = format!("it is one of the pods of {kind} `{name}`");
        match kind {
            "Deployment" | "StatefulSet" | "ReplicaSet" => (why, format!("--swap {}/{name}", kind.to_lowercase())),
            "DaemonSet" | "Job" => (format!("{why}, which cannot be swapped either"), like),
            _ => (format!("{why}, a kind that tpdocker does not swap"), like),
        }
    }
}

fn controller(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Whether `service` sends to this pod of somebody's. The proxies of sessions do not count.
pub fn is_behind(service: &Service, pod: &Pod) -> bool {
    let selector = ports::selector(service);
    !pod.labels().contains_key(tpdocker_protocol::contract::LABEL_SESSION)
        && selector.is_some_and(|selector| selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value)))
}
