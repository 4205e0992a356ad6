//! What `--swap NAME` means.
//!
//! People name the thing they know: usually the Service, whose name is in every URL. So a bare name is looked up as a
//! workload first and, failing that, as a Service, which is followed to the workload behind it by comparing its
//! selector with pod templates. When both exist they normally belong together, and the workload is taken.

use std::fmt;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{ApiResource, DynamicObject, ListParams, TypeMeta};
use kube::{Api, ResourceExt as _};
use serde::de::DeserializeOwned;

use crate::settings::{SwapTarget, TargetKind};

use super::candidate::Candidate;
use super::connect::Cluster;
use super::deciders::GitOps;
use super::error::{Cause, ClusterError};
use super::fixture::{self, Fixture, FixtureKind};
use super::ports;
use super::stance::{Likeness, PodModel};

/// Namespaces in which a name that was not found is looked for, so that a typo costs no minute.
const MAX_ELSEWHERE: usize = 20;
/// Suggestions: names that need at most this many edits.
const MAX_EDITS: usize = 3;

/// Kinds that can be swapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// apps/v1 Deployment.
    Deployment,
    /// apps/v1 `StatefulSet`.
    StatefulSet,
    /// apps/v1 `ReplicaSet`.
    ReplicaSet,
}

/// Which workload, and nothing about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadRef {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A workload, as it was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// Which.
    pub reference: WorkloadRef,
    /// Its `metadata.uid`.
    pub uid: String,
    /// Its `metadata.resourceVersion`.
    pub resource_version: String,
    /// `spec.replicas`.
    pub replicas: i32,
    /// `status.readyReplicas`.
    pub ready: i32,
    /// Its pods, and which container of them is replaced.
    pub pod: PodModel,
    /// Its pod template, with nothing left out.
    pub template: Box<PodTemplateSpec>,
    /// Whose it is, if a `GitOps` controller's.
    pub gitops: Option<Box<GitOps>>,
    /// Which pods are its own.
    pub selector: LabelSelector,
    /// Services that send to it.
    pub services: Vec<String>,
}

/// The identity that a `StatefulSet`'s controller adds to a pod beside the template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stateful {
    /// The pod that a `StatefulSet` always has.
    pub first_pod: String,
    /// `spec.serviceName`: the pod's subdomain.
    pub service_name: Option<String>,
}

// === impl Kind ===

impl Kind {
    /// Every kind, in the order in which a plain name is looked for.
    pub const ALL: [Self; 3] = [Self::Deployment, Self::StatefulSet, Self::ReplicaSet];

    /// As in a manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::ReplicaSet => "ReplicaSet",
        }
    }

    /// As kubectl and `--swap` take it.
    pub fn slug(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::StatefulSet => "statefulset",
            Self::ReplicaSet => "replicaset",
        }
    }

    /// The resource, as RBAC names it.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Deployment => "deployments",
            Self::StatefulSet => "statefulsets",
            Self::ReplicaSet => "replicasets",
        }
    }
}

impl WorkloadRef {
    /// `deployment/web`, as the command line takes it.
    pub fn slug(&self) -> String {
        format!("{}/{}", self.kind.slug(), self.name)
    }
}

impl fmt::Display for WorkloadRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.kind.as_str(), self.name)
    }
}

// === impl Cluster ===

impl Cluster {
    /// Finds what is to be swapped.
    pub async fn resolve(&self, target: &SwapTarget) -> Result<Workload, ClusterError> {
        let services = self.list::<Service>().await?;
        match Box::pin(self.meant(target, &services)).await? {
            Meant::Workload(found) => found.into_workload(target, &services),
            Meant::Fixture(found) => Err(found.not_swappable()),
        }
    }

    /// Finds what a session is to be like.
    pub async fn resolve_likeness(&self, target: &SwapTarget) -> Result<Likeness, ClusterError> {
        let services = self.list::<Service>().await?;
        match Box::pin(self.meant(target, &services)).await? {
            Meant::Workload(found) => found.into_likeness(target, &services),
            Meant::Fixture(found) => found.into_likeness(target, &services),
        }
    }

    async fn meant(&self, target: &SwapTarget, services: &[Service]) -> Result<Meant, ClusterError> {
        let name = &target.name;
        match target.kind {
            None => self.by_any_name(name, services).await,
            Some(TargetKind::Service) => match services.iter().find(|service| &service.name_any() == name) {
                Some(service) => self.behind_service(service).await,
                None => Err(self.not_found("Service", name).await),
            },
            Some(TargetKind::Deployment) => self.named(name, Kind::Deployment).await,
            Some(TargetKind::StatefulSet) => self.named(name, Kind::StatefulSet).await,
            Some(TargetKind::ReplicaSet) => self.named(name, Kind::ReplicaSet).await,
            Some(TargetKind::Fixture(kind)) => match self.fixture(name, kind).await? {
                Some(found) => Ok(Meant::Fixture(found)),
                None => Err(self.not_found(kind.as_str(), name).await),
            },
        }
    }

    /// A Role may name one kind of workload alone, so what may not be seen is first taken for not there.
    async fn by_any_name(&self, name: &str, services: &[Service]) -> Result<Meant, ClusterError> {
        let mut unseen = None;
        for kind in Kind::ALL {
            match self.by_name(name, kind).await {
                Ok(Some(found)) => return Ok(Meant::Workload(found)),
                Ok(None) => {}
                // Few have any ReplicaSet of their own, so few logins may see them.
                Err(error) if error.status() == Some(403) && kind == Kind::ReplicaSet => {}
                Err(error) if error.status() == Some(403) => unseen = unseen.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        if let Some(service) = services.iter().find(|service| service.name_any() == name) {
            return self.behind_service(service).await;
        }
        match (self.any_fixture(name).await?, unseen) {
            (Some(found), _) => Ok(Meant::Fixture(found)),
            (None, Some(unseen)) => Err(unseen),
            (None, None) => Err(self.not_found("workload or Service", name).await),
        }
    }

    async fn named(&self, name: &str, kind: Kind) -> Result<Meant, ClusterError> {
        match self.by_name(name, kind).await? {
            Some(found) => Ok(Meant::Workload(found)),
            None => Err(self.not_found(kind.as_str(), name).await),
        }
    }

    async fn by_name(&self, name: &str, kind: Kind) -> Result<Option<Candidate>, ClusterError> {
        Ok(match kind {
            Kind::Deployment => self.get::<Deployment>(name).await?.map(Candidate::from),
            Kind::StatefulSet => self.get::<StatefulSet>(name).await?.map(Candidate::from),
            Kind::ReplicaSet => self.get::<ReplicaSet>(name).await?.map(Candidate::from),
        })
    }

    async fn behind_service(&self, service: &Service) -> Result<Meant, ClusterError> {
        let name = &service.name_any();
        if ports::selector(service).is_none() {
            let what = format!("Service `{name}`");
            let why = "it has no selector, so no workload of the cluster stands behind it".into();
            return Err(ClusterError::NotSwappable { what, why, cure: None });
        }
        let mut found = Vec::new();
        found.extend(self.list::<Deployment>().await?.into_iter().map(Candidate::from));
        let (sets, unseen_sets) = self.list_if_allowed::<StatefulSet>().await?;
        found.extend(sets.into_iter().map(Candidate::from));
        // A ReplicaSet of a Deployment has the same template; only one of its own counts.
        let (bare, unseen_bare) = self.list_if_allowed::<ReplicaSet>().await?;
        let bare = bare.into_iter().filter(|set| set.owner_references().is_empty());
        found.extend(bare.map(Candidate::from));
        found.retain(|found| found.is_behind(service));
        if found.len() > 1 {
            let candidates = found.iter().map(Candidate::slug).collect();
            return Err(ClusterError::Ambiguous { name: name.into(), candidates });
        }
        match found.pop() {
            Some(found) => return Ok(Meant::Workload(found)),
            None if unseen_sets => return Err(self.may_not_list(Kind::StatefulSet)),
            None => {}
        }
        match self.fixture_behind(service).await? {
            Some(found) => Ok(Meant::Fixture(found.behind(name))),
            None => Err(ClusterError::NotSwappable {
                what: format!("Service `{name}`"),
                why: if unseen_bare {
                    "its selector fits no Deployment or StatefulSet, and this login may not list ReplicaSets".into()
                } else {
                    "its selector fits no Deployment, StatefulSet or ReplicaSet of the namespace".into()
                },
                cure: Some(format!("kubectl -n {} describe service {name}", self.namespace())),
            }),
        }
    }

    /// What has the name and cannot be swapped. A kind that the login may not see has no such name.
    async fn any_fixture(&self, name: &str) -> Result<Option<Fixture>, ClusterError> {
        use FixtureKind::{CronJob, DaemonSet, Job, Pod};
        for kind in [DaemonSet, Job, CronJob, Pod] {
            match self.fixture(name, kind).await {
                Ok(None) => {}
                Err(error) if error.status() == Some(403) => {}
                found => return found,
            }
        }
        Ok(None)
    }

    async fn fixture(&self, name: &str, kind: FixtureKind) -> Result<Option<Fixture>, ClusterError> {
        Ok(match kind {
            FixtureKind::DaemonSet => self.get::<DaemonSet>(name).await?.map(Fixture::from),
            FixtureKind::Job => self.get::<Job>(name).await?.map(Fixture::from),
            FixtureKind::CronJob => self.cron_job(name).await?.map(Fixture::from),
            FixtureKind::Pod => self.get::<Pod>(name).await?.map(Fixture::from),
        })
    }

    /// A `CronJob`, of whichever version the server has: before 1.21 that is `v1beta1`, with the same fields.
    async fn cron_job(&self, name: &str) -> Result<Option<CronJob>, ClusterError> {
        let mut resource = ApiResource::erase::<CronJob>(&());
        for version in ["v1", "v1beta1"] {
            version.clone_into(&mut resource.version);
            resource.api_version = format!("{}/{version}", resource.group);
            let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), self.namespace(), &resource);
            if let Some(mut found) = self.ask(format!("get CronJob `{name}`"), api.get_opt(name)).await? {
                found.types = Some(TypeMeta::resource::<CronJob>());
                return found.try_parse().map(Some).map_err(|error| {
                    ClusterError::request(format!("read CronJob `{name}`"), Cause::Way(error.to_string()))
                });
            }
        }
        Ok(None)
    }

    /// What runs the pods of a Service that no workload stands behind: told by one of them.
    async fn fixture_behind(&self, service: &Service) -> Result<Option<Fixture>, ClusterError> {
        let pods = self.list::<Pod>().await?;
        let Some(pod) = pods.into_iter().find(|pod| fixture::is_behind(service, pod)) else { return Ok(None) };
        let pod = Fixture::from(pod);
        let owner = match pod.owner() {
            Some(("DaemonSet", name)) => self.fixture(name, FixtureKind::DaemonSet).await?,
            Some(("Job", name)) => self.fixture(name, FixtureKind::Job).await?,
            _ => None,
        };
        Ok(Some(owner.unwrap_or(pod)))
    }

    async fn not_found(&self, what: &'static str, name: &str) -> ClusterError {
        let mut names = Vec::new();
        names.extend(self.names::<Deployment>(self.namespace()).await);
        names.extend(self.names::<StatefulSet>(self.namespace()).await);
        names.extend(self.names::<Service>(self.namespace()).await);
        let near = near_names(name, names.iter().map(String::as_str));
        let mut elsewhere = Vec::new();
        for namespace in self.namespaces().await.iter().filter(|other| *other != self.namespace()).take(MAX_ELSEWHERE) {
            if self.names::<Service>(namespace).await.iter().any(|other| other == name)
                || self.names::<Deployment>(namespace).await.iter().any(|other| other == name)
            {
                elsewhere.push(namespace.clone());
            }
        }
        ClusterError::NotFound { what, name: name.into(), namespace: self.namespace().into(), near, elsewhere }
    }

    async fn get<K: Object>(&self, name: &str) -> Result<Option<K>, ClusterError> {
        self.ask(format!("get {} `{name}`", K::kind(&())), self.api::<K>().get_opt(name)).await
    }

    async fn list<K: Object>(&self) -> Result<Vec<K>, ClusterError> {
        let list = self.ask(format!("list {}", K::plural(&())), self.api::<K>().list(&ListParams::default())).await?;
        Ok(list.items)
    }

    /// Like [`Self::list`]; nothing, and that it is unseen, when the login may not.
    async fn list_if_allowed<K: Object>(&self) -> Result<(Vec<K>, bool), ClusterError> {
        match self.list().await {
            Err(error) if error.status() == Some(403) => Ok((Vec::new(), true)),
            listed => Ok((listed?, false)),
        }
    }

    /// Names for suggestions; none where the login may not list.
    async fn names<K: Object>(&self, namespace: &str) -> Vec<String> {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        match self.ask("list", api.list_metadata(&ListParams::default())).await {
            Ok(list) => list.items.iter().map(kube::ResourceExt::name_any).collect(),
            Err(error) => {
                tracing::debug!(%error, namespace, "no suggestions");
                Vec::new()
            }
        }
    }
}

/// Names close to `wanted`: within a few edits, or one containing the other.
pub(super) fn near_names<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut near: Vec<(usize, &str)> = known
        .filter_map(|name| {
            let edits = edit_distance(wanted, name);
            let close = edits <= MAX_EDITS.min(wanted.len() / 2);
            (close || name.contains(wanted) || wanted.contains(name)).then_some((edits, name))
        })
        .collect();
    near.sort_unstable();
    near.dedup();
    near.into_iter().map(|(_, name)| name.to_owned()).collect()
}

// === private ===

/// What a name means.
enum Meant {
    /// Something that can be swapped.
    Workload(Candidate),
    /// Something that cannot.
    Fixture(Fixture),
}

trait Object:
    kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + fmt::Debug
{
}

impl<K> Object for K where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + fmt::Debug
{
}

/// Levenshtein's distance, in characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}
