//! How a session stands to the workloads of its namespace: in the place of one, beside one and like it, or on its own.
//!
//! All three are a pod of the proxy's, so all three come down to a [`PodModel`], from which the one template is made
//! ([`super::template`]). What a stance does not take is not in its model: a session beside a workload has a model without
//! labels, and so no Service sends to its pod and no controller adopts it; one on its own has a model of nothing but
//! the proxy. What only a swap does (record, scale, restore) needs a [`Workload`], which only [`Stance::Swap`] has.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements, SeccompProfile,
    SecurityContext,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tpdocker_protocol::addr::Port;
use tpdocker_protocol::control::Incoming;

use super::fixture::FixtureKind;
use super::workload::{Kind, Stateful, Workload};
use crate::settings::InitContainers;

/// How [`Stance::told`] begins for a session that is like something.
const LIKE: &str = "like ";
/// [`Stance::told`] of a session on its own.
const ONLY_OUTGOING: &str = "only outgoing";
/// Name of the only container of a session on its own.
const ALONE: &str = "outgoing";
/// What the proxy of a session on its own asks for, and its limits: those that [`super::resources`] gives to any proxy,
/// and a whole core, since nobody's template says how much the namespace can spare. A quota may demand that all are said.
const REQUESTS: [(&str, &str); 2] = [("cpu", "100m"), ("memory", "64Mi")];
const LIMITS: [(&str, &str); 2] = [("cpu", "1"), ("memory", "256Mi")];

/// The pod that the proxy's pod is made after.
#[derive(Debug, Clone, PartialEq)]
pub struct PodModel {
    /// Its template.
    pub template: PodTemplateSpec,
    /// The container that becomes the proxy.
    pub container: String,
    /// Ports that the cluster expects of that container: declared, or sent to by a Service. Sorted.
    pub ports: Vec<Port>,
    /// The identity that a `StatefulSet`'s controller adds.
    pub stateful: Option<Stateful>,
    /// Claims that stay with the original's pods.
    pub withheld: Vec<Withheld>,
    /// Init containers that were left out.
    pub skipped: Vec<String>,
}

/// A claim that the proxy's pod has an empty directory for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withheld {
    /// Name of the volume.
    pub volume: String,
    /// The claim.
    pub claim: WithheldClaim,
}

/// Whose claim it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WithheldClaim {
    /// A `StatefulSet` makes one for each pod from a template of the volume's name.
    Template,
    /// A claim of this name, which the original's pods have mounted.
    Named(String),
}

/// A session beside something that runs pods.
#[derive(Debug, Clone, PartialEq)]
pub struct Likeness {
    /// What it is like.
    pub kind: ModelKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The model that is made of it.
    pub pod: PodModel,
}

/// Kinds that a session can be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelKind {
    /// One that could be swapped as well.
    Workload(Kind),
    /// One that could not.
    Fixture(FixtureKind),
}

/// How a session stands to the workloads of its namespace.
#[derive(Debug, Clone, PartialEq)]
pub enum Stance {
    /// In the place of a workload, with its traffic: `--swap`.
    Swap(Workload),
    /// Beside one, with its environment and files and none of its traffic: `--like`.
    Like(Likeness),
    /// On its own.
    Outgoing {
        /// Where.
        namespace: String,
        /// A plain pod.
        pod: PodModel,
    },
}

// === impl ModelKind ===

impl From<Kind> for ModelKind {
    fn from(kind: Kind) -> Self {
        Self::Workload(kind)
    }
}

impl ModelKind {
    /// The API group.
    pub fn group(self) -> &'static str {
        match self {
            Self::Workload(_) => "apps",
            Self::Fixture(kind) => kind.group(),
        }
    }

    /// The resource, as RBAC names it.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Workload(kind) => kind.resource(),
            Self::Fixture(kind) => kind.resource(),
        }
    }

    /// As kubectl and `--like` take it.
    pub fn slug(self) -> &'static str {
        match self {
            Self::Workload(kind) => kind.slug(),
            Self::Fixture(kind) => kind.slug(),
        }
    }
}

// === impl Likeness ===

impl Likeness {
    /// What it is like, as `--like` takes it: `kind/name`.
    pub fn of(&self) -> String {
        format!("{}/{}", self.kind.slug(), self.name)
    }
}

// === impl Stance ===

impl Stance {
    /// On its own: a pod with the proxy in it and nothing else, which Pod Security `restricted` admits.
    /// <https://kubernetes.io/docs/concepts/security/pod-security-standards/>
    pub fn outgoing(namespace: &str) -> Self {
        Self::Outgoing { namespace: namespace.to_owned(), pod: PodModel::plain() }
    }

    /// The same, with or without the init containers of the pod.
    #[must_use]
    pub fn with(mut self, init_containers: InitContainers) -> Self {
        let pod = match &mut self {
            Self::Swap(workload) => &mut workload.pod,
            Self::Like(likeness) => &mut likeness.pod,
            Self::Outgoing { pod, .. } => pod,
        };
        match init_containers {
            InitContainers::Run => {}
            InitContainers::Skip => pod.skip_init_containers(),
        }
        self
    }

    /// The pod that the proxy's is made after.
    pub fn pod(&self) -> &PodModel {
        match self {
            Self::Swap(workload) => &workload.pod,
            Self::Like(likeness) => &likeness.pod,
            Self::Outgoing { pod, .. } => pod,
        }
    }

    /// The namespace of the proxy.
    pub fn namespace(&self) -> &str {
        match self {
            Self::Swap(workload) => &workload.reference.namespace,
            Self::Like(likeness) => &likeness.namespace,
            Self::Outgoing { namespace, .. } => namespace,
        }
    }

    /// What names of the proxy begin with.
    pub fn stem(&self) -> &str {
        match self {
            Self::Swap(workload) => &workload.reference.name,
            Self::Like(likeness) => &likeness.name,
            Self::Outgoing { .. } => ALONE,
        }
    }

    /// For people: `deployment/web`, `like deployment/web`, `only outgoing`.
    pub fn told(&self) -> String {
        match self {
            Self::Swap(workload) => workload.reference.slug(),
            Self::Like(likeness) => format!("{LIKE}{}", likeness.of()),
            Self::Outgoing { .. } => ONLY_OUTGOING.to_owned(),
        }
    }

    /// The workload that is swapped.
    pub fn workload(&self) -> Option<&Workload> {
        match self {
            Self::Swap(workload) => Some(workload),
            Self::Like(_) | Self::Outgoing { .. } => None,
        }
    }

    /// From where the app's ports are reached.
    pub fn incoming(&self) -> Incoming {
        match self {
            Self::Swap(_) => Incoming::Cluster,
            Self::Like(_) => Incoming::Siblings,
            Self::Outgoing { .. } => Incoming::Nobody,
        }
    }
}

/// Whether a stance that [`Stance::told`] has told is one that swaps nothing.
pub fn swaps_nothing(told: &str) -> bool {
    told.starts_with(LIKE) || told == ONLY_OUTGOING
}

// === impl PodModel ===

impl PodModel {
    /// The container that becomes the proxy, as the template declares it.
    pub fn original(&self) -> Option<&Container> {
        self.template.spec.as_ref()?.containers.iter().find(|container| container.name == self.container)
    }

    /// Leaves the init containers out. Those that Kubernetes restarts are siblings that only start earlier, and stay.
    /// <https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/>
    fn skip_init_containers(&mut self) {
        let Some(inits) = self.template.spec.as_mut().and_then(|spec| spec.init_containers.as_mut()) else { return };
        let skipped = inits.extract_if(.., |init| init.restart_policy.as_deref() != Some("Always"));
        self.skipped.extend(skipped.map(|init| init.name));
    }

    /// A pod of the proxy alone. The default service account's token is left out, since nobody's is meant, and so are the
    /// variables about every Service of the namespace.
    fn plain() -> Self {
        let quantities = |pairs: [(&str, &str); 2]| -> BTreeMap<String, Quantity> {
            pairs.map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned()))).into()
        };
        let container = Container {
            name: ALONE.to_owned(),
            resources: Some(ResourceRequirements {
                requests: Some(quantities(REQUESTS)),
                limits: Some(quantities(LIMITS)),
                ..ResourceRequirements::default()
            }),
            security_context: Some(SecurityContext {
                allow_privilege_escalation: Some(false),
                capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
                read_only_root_filesystem: Some(true),
                ..SecurityContext::default()
            }),
            ..Container::default()
        };
        let spec = PodSpec {
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            containers: vec![container],
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
                ..PodSecurityContext::default()
            }),
            ..PodSpec::default()
        };
        Self {
            template: PodTemplateSpec { metadata: None, spec: Some(spec) },
            container: ALONE.to_owned(),
            ports: Vec::new(),
            stateful: None,
            withheld: Vec::new(),
            skipped: Vec::new(),
        }
    }

    /// The model of a pod beside those of `template`: the same in all that the container is given, and nothing by which
    /// somebody would send to it or count it.
    ///
    /// Claims stay with the original's pods, which go on running: storage that one node may mount at a time would keep the
    /// pod from starting elsewhere, and on the same node its init containers and siblings would write to what the
    /// original uses. A `StatefulSet`'s identity stays too: it belongs to a pod that is running.
    pub fn beside(mut template: PodTemplateSpec, container: String, mut withheld: Vec<Withheld>) -> Self {
        if let Some(metadata) = &mut template.metadata {
            metadata.labels = None;
        }
        if let Some(spec) = &mut template.spec {
            // Choices that were made for one pod, or for pods that end.
            spec.node_name = None;
            spec.active_deadline_seconds = None;
            // A pod that shares the node's network would need the very ports that the original has.
            spec.host_network = None;
            for own in spec.containers.iter_mut().filter(|own| own.name == container) {
                own.ports = None;
            }
            let claims = spec.volumes.iter().flatten().filter_map(|volume| {
                let claim = volume.persistent_volume_claim.as_ref()?.claim_name.clone();
                Some(Withheld { volume: volume.name.clone(), claim: WithheldClaim::Named(claim) })
            });
            withheld.extend(claims);
        }
        Self { template, container, ports: Vec::new(), stateful: None, withheld, skipped: Vec::new() }
    }
}
