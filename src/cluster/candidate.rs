//! An object that a swap may mean, whatever its kind, and the workload it becomes: which container, which ports, which
//! Services. Without a cluster, so that all of it is tested on manifests.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{PodTemplateSpec, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::ResourceExt as _;
use tpdocker_protocol::contract::LABEL_SESSION;

use crate::settings::SwapTarget;

use super::deciders::GitOps;
use super::error::ClusterError;
use super::ports;
use super::stance::{Likeness, PodModel, Withheld, WithheldClaim};
use super::workload::{Kind, Stateful, Workload, WorkloadRef};

/// An object that may be swapped: the common part of the three kinds.
#[derive(Debug, Clone)]
pub struct Candidate {
    kind: Kind,
    metadata: ObjectMeta,
    is_proxy: bool,
    replicas: i32,
    ready: i32,
    template: PodTemplateSpec,
    selector: LabelSelector,
    stateful: Option<Stateful>,
    /// Of a `StatefulSet`'s templates.
    claims: Vec<Withheld>,
}

impl From<Deployment> for Candidate {
    fn from(it: Deployment) -> Self {
        let spec = it.spec.unwrap_or_default();
        let ready = it.status.and_then(|status| status.ready_replicas);
        Self::new(Kind::Deployment, it.metadata, spec.replicas, ready, Some(spec.template), spec.selector)
    }
}

impl From<ReplicaSet> for Candidate {
    fn from(it: ReplicaSet) -> Self {
        let spec = it.spec.unwrap_or_default();
        let ready = it.status.and_then(|status| status.ready_replicas);
        Self::new(Kind::ReplicaSet, it.metadata, spec.replicas, ready, spec.template, spec.selector)
    }
}

impl From<StatefulSet> for Candidate {
    fn from(it: StatefulSet) -> Self {
        let spec = it.spec.unwrap_or_default();
        let ready = it.status.and_then(|status| status.ready_replicas);
        let claims = spec.volume_claim_templates.iter().flatten().filter_map(|claim| claim.metadata.name.clone());
        let claims = claims.map(|volume| Withheld { volume, claim: WithheldClaim::Template }).collect();
        let found = Self::new(Kind::StatefulSet, it.metadata, spec.replicas, ready, Some(spec.template), spec.selector);
        let service_name = spec.service_name.filter(|name| !name.is_empty());
        let stateful = Stateful { first_pod: format!("{}-0", found.name()), service_name };
        Self { stateful: Some(stateful), claims, ..found }
    }
}

impl Candidate {
    fn new(
        kind: Kind,
        metadata: ObjectMeta,
        replicas: Option<i32>,
        ready: Option<i32>,
        template: Option<PodTemplateSpec>,
        selector: LabelSelector,
    ) -> Self {
        let labels = metadata.labels.as_ref();
        let is_proxy = labels.is_some_and(|labels| labels.contains_key(LABEL_SESSION));
        let (template, ready) = (template.unwrap_or_default(), ready.unwrap_or(0));
        // The API server's default for an absent number is one.
        let replicas = replicas.unwrap_or(1);
        Self { kind, metadata, is_proxy, replicas, ready, template, selector, stateful: None, claims: Vec::new() }
    }

    /// `kind/name`, as `--swap` takes it.
    pub fn slug(&self) -> String {
        format!("{}/{}", self.kind.slug(), self.name())
    }

    /// Whether `service` sends to its pods. The proxies of other sessions carry the labels too, and do not count.
    pub fn is_behind(&self, service: &Service) -> bool {
        !self.is_proxy && ports::selects(service, &self.template)
    }

    fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    fn reference(&self) -> WorkloadRef {
        WorkloadRef {
            kind: self.kind,
            namespace: self.metadata.namespace.clone().unwrap_or_default(),
            name: self.name().to_owned(),
        }
    }

    /// What `target` means to a session that is to be like this object.
    pub fn into_likeness(self, target: &SwapTarget, services: &[Service]) -> Result<Likeness, ClusterError> {
        let WorkloadRef { kind, namespace, name } = self.reference();
        let services = self.served_by(services);
        let choice = format!("--like {}", self.slug());
        let container = choose_container(&self.reference().to_string(), &choice, &self.template, target, &services)?;
        let pod = PodModel::beside(self.template, container, self.claims);
        Ok(Likeness { kind: kind.into(), namespace, name, pod })
    }

    fn served_by<'a>(&self, services: &'a [Service]) -> Vec<&'a Service> {
        services.iter().filter(|service| ports::selects(service, &self.template)).collect()
    }

    /// The workload that `target` means, if this object may be swapped. `services` are those of its namespace.
    pub fn into_workload(self, target: &SwapTarget, services: &[Service]) -> Result<Workload, ClusterError> {
        let reference = self.reference();
        let refuse =
            |why: String, cure: Option<String>| ClusterError::NotSwappable { what: reference.to_string(), why, cure };
        if self.is_proxy {
            return Err(refuse("it is the proxy of a tpdocker session".into(), None));
        }
        let owners = self.metadata.owner_references.iter().flatten();
        if let Some(owner) = owners.into_iter().find(|owner| owner.controller == Some(true)) {
            let why = format!("{} `{}` owns it and would undo the change", owner.kind, owner.name);
            return Err(refuse(why, Some(format!("swap {}/{} instead", owner.kind.to_lowercase(), owner.name))));
        }
        let services = self.served_by(services);
        let choice = format!("--swap {}", self.slug());
        let container = choose_container(&reference.to_string(), &choice, &self.template, target, &services)?;
        let ports = ports::containers(&self.template)
            .iter()
            .find(|candidate| candidate.name == container)
            .map(|container| ports::ports_of(container, &self.template, &services))
            .unwrap_or_default();
        Ok(Workload {
            reference,
            gitops: GitOps::of(&self.metadata).map(Box::new),
            template: Box::new(self.template.clone()),
            uid: self.metadata.uid.unwrap_or_default(),
            resource_version: self.metadata.resource_version.unwrap_or_default(),
            replicas: self.replicas,
            ready: self.ready,
            pod: PodModel {
                template: self.template,
                container,
                ports,
                stateful: self.stateful,
                withheld: self.claims,
                skipped: Vec::new(),
            },
            selector: self.selector,
            services: services.iter().map(|service| service.name_any()).collect(),
        })
    }
}

/// The container of `template`, which belongs to `what`, that `target` means; `choice` is how to say which.
pub(super) fn choose_container(
    what: &str,
    choice: &str,
    template: &PodTemplateSpec,
    target: &SwapTarget,
    services: &[&Service],
) -> Result<String, ClusterError> {
    let names: Vec<String> = ports::containers(template).iter().map(|container| container.name.clone()).collect();
    let complaint = |wanted: Option<&String>| ClusterError::Container {
        what: what.to_owned(),
        choice: choice.to_owned(),
        wanted: wanted.cloned(),
        containers: names.clone(),
    };
    if let Some(wanted) = &target.container {
        return if names.contains(wanted) { Ok(wanted.clone()) } else { Err(complaint(Some(wanted))) };
    }
    if let [only] = names.as_slice() {
        return Ok(only.clone());
    }
    // The Service that was named decides; others may send to a sibling, such as a metrics exporter.
    let named: Vec<&Service> = services.iter().copied().filter(|service| service.name_any() == target.name).collect();
    let candidates = if named.is_empty() { services } else { named.as_slice() };
    match ports::served_by(template, candidates).as_slice() {
        [only] => Ok((*only).to_owned()),
        _ => Err(complaint(None)),
    }
}
