//! The proxy's Deployment: a pod template, of the workload's own in a swap, with one container exchanged.
//!
//! What differs between a swap, a session beside a workload and one on its own is decided before, in the
//! [`PodModel`] that the template is taken from; here is one path for all. Of a swapped workload everything that decides
//! where a pod may run, what it may reach and what it is given stays: labels (so Services, network policies and meshes
//! treat it as the original), annotations, volumes, environment, service account, scheduling, init and sibling
//! containers. What belongs to the exchanged program goes: its command, its probes, its privileges. Pure: the same stance
//! and the same [`ProxySpec`] give the same Deployment, which is what the golden tests and `--dry-run` show.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy};
use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, ExecAction, PodSpec, PodTemplateSpec, Probe, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use tpdocker_protocol::addr::Port;
use tpdocker_protocol::contract::{
    ANNOTATION_OWNER, ANNOTATION_SINCE, ANNOTATION_STANCE, LABEL_ROLE, LABEL_SESSION, PROXY_DRAINS_WITHIN, PROXY_PATH,
    ROLE_PROXY,
};

use super::error::ClusterError;
use super::stance::{PodModel, Stance, Withheld};
use super::{mounts, resources, security};

/// A pod's name is its Deployment's with `-` + 10 + `-` + 5 characters, and becomes a host name of at most 63.
const MAX_NAME: usize = 63 - 17;
/// So much of a session's id makes names unique enough and still readable; the label has all of it.
const SHORT_SESSION: usize = 8;
/// The first port tried for the proxy's own listener: below the ephemeral range (32768 and up), above what services
/// like to use.
const CONTROL_PORT_BASE: u16 = 17_170;
/// The API server's default for `terminationGracePeriodSeconds`.
const DEFAULT_GRACE: i64 = 30;
/// What a drain takes, and some.
const DRAIN_GRACE: i64 = PROXY_DRAINS_WITHIN.as_secs().cast_signed() + 2;
/// The `ReplicaSet` controller's label; it sets its own on the proxy's pods.
const POD_TEMPLATE_HASH: &str = "pod-template-hash";
/// The `StatefulSet` controller's label on each pod, by which Services for one pod select.
const STATEFUL_POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// Annotations about the original's own history.
const HISTORY: [&str; 4] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "kubectl.kubernetes.io/restartedAt",
    "kubernetes.io/change-cause",
    "deployment.kubernetes.io/revision",
];

/// What the proxy is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxySpec {
    /// The session's id: a valid label value.
    pub session: String,
    /// Who started it: `user@host`.
    pub owner: String,
    /// When, RFC 3339 in UTC.
    pub since: String,
    /// The session's Ed25519 public key; the proxy admits whoever holds the other half.
    pub public_key: [u8; 32],
    /// The proxy's image.
    pub image: String,
    /// Port of the pod's loopback on which the proxy listens; see [`control_port`].
    pub control_port: u16,
}

/// Something about the proxy that differs from the original and may matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// `hostPort` was removed from a container, since the original occupies it on its node.
    HostPort {
        /// The container.
        container: String,
        /// The port on the node.
        port: u16,
    },
    /// The original is privileged; the proxy is not.
    Unprivileged,
    /// The proxy runs as user 0, with `NET_BIND_SERVICE` alone, to bind this port as the original may do.
    RootForLowPort(Port),
    /// The proxy runs as user 0, without any capability, to read the files of this volume as the original may do.
    RootForFiles(String),
    /// The template's user is not 0, and whether this port can be bound depends on the node.
    LowPort(Port),
    /// Init containers of these names are left out.
    SkippedInit(Vec<String>),
    /// The pod beside a workload has none of its labels.
    NoLabels(String),
    /// A claim is an empty directory in the proxy: the claim itself stays with the original.
    EmptyClaim(String),
    /// A block device is not given to the proxy.
    NoDevice(String),
    /// An extended resource is not requested for the proxy.
    NoResource(String),
}

// === impl Note ===

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostPort { container, port } => {
                write!(f, "port {port} of the node is not taken for container {container}")
            }
            Self::Unprivileged => f.write_str("the container is privileged, the proxy is not"),
            Self::RootForLowPort(port) => {
                write!(f, "the proxy runs as root with NET_BIND_SERVICE alone, to bind {port}")
            }
            Self::RootForFiles(volume) => {
                write!(f, "the proxy runs as root without capabilities, to read volume {volume}")
            }
            Self::LowPort(port) => write!(f, "the proxy may be unable to bind {port} without being root"),
            Self::SkippedInit(names) => write!(f, "init containers are left out: {}", names.join(", ")),
            Self::NoLabels(of) => write!(
                f,
                "the pod has no label of {of}: no Service sends to it, and network policies for those labels do not count it in"
            ),
            Self::EmptyClaim(name) => write!(f, "volume {name} is empty in the proxy; the claim stays untouched"),
            Self::NoDevice(name) => write!(f, "block device {name} is not given to the proxy"),
            Self::NoResource(name) => write!(f, "{name} is not requested for the proxy"),
        }
    }
}

/// A port for the proxy's listener that no container of the pod declares.
pub fn control_port(model: &PodModel) -> u16 {
    let spec = model.template.spec.as_ref();
    let all = spec.into_iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let taken: Vec<i32> = all.flat_map(|it| it.ports.iter().flatten()).map(|port| port.container_port).collect();
    let free =
        |port: &u16| !taken.contains(&i32::from(*port)) && model.ports.iter().all(|declared| declared.number != *port);
    (CONTROL_PORT_BASE..u16::MAX).find(free).unwrap_or(CONTROL_PORT_BASE)
}

/// Name of the proxy's Deployment.
pub fn proxy_name(workload: &str, session: &str) -> String {
    let short: String = session.chars().take(SHORT_SESSION).collect();
    let suffix = format!("-tpdocker-{}", short.to_ascii_lowercase());
    // Names are ASCII; a dot is allowed in them and not in a host name, which the pod's name becomes.
    let stem: String = workload.chars().take(MAX_NAME.saturating_sub(suffix.len())).collect();
    format!("{}{suffix}", stem.replace('.', "-").trim_end_matches('-'))
}

/// The Deployment of a session, and what is different about its pod.
pub fn proxy_deployment(stance: &Stance, proxy: &ProxySpec) -> Result<(Deployment, Vec<Note>), ClusterError> {
    let model = stance.pod();
    let pod = model.template.spec.clone().unwrap_or_default();
    refuse(stance, &pod)?;

    let own: BTreeMap<String, String> =
        [(LABEL_SESSION, proxy.session.as_str()), (LABEL_ROLE, ROLE_PROXY)].map(|(k, v)| (k.into(), v.into())).into();
    let annotations: BTreeMap<String, String> = [
        (ANNOTATION_OWNER, proxy.owner.clone()),
        (ANNOTATION_SINCE, proxy.since.clone()),
        (ANNOTATION_STANCE, stance.told()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    let mut notes = match stance {
        Stance::Like(likeness) => vec![Note::NoLabels(likeness.of())],
        Stance::Swap(_) | Stance::Outgoing { .. } => Vec::new(),
    };
    if !model.skipped.is_empty() {
        notes.push(Note::SkippedInit(model.skipped.clone()));
    }
    let spec = DeploymentSpec {
        replicas: Some(1),
        revision_history_limit: Some(0),
        selector: LabelSelector {
            match_labels: Some([(LABEL_SESSION.to_owned(), proxy.session.clone())].into()),
            ..LabelSelector::default()
        },
        // There must never be two: they would share the traffic and only one has a client.
        strategy: Some(DeploymentStrategy { type_: Some("Recreate".into()), rolling_update: None }),
        template: PodTemplateSpec {
            metadata: Some(pod_metadata(model, &own)),
            spec: Some(pod_spec(pod, model, proxy, &mut notes)),
        },
        ..DeploymentSpec::default()
    };
    // The Deployment itself carries none of the original's labels: tools that track their objects by label (Argo CD,
    // Helm) would take it for theirs and delete it.
    let metadata = ObjectMeta {
        name: Some(proxy_name(stance.stem(), &proxy.session)),
        namespace: Some(stance.namespace().to_owned()),
        labels: Some(own),
        annotations: Some(annotations),
        ..ObjectMeta::default()
    };
    Ok((Deployment { metadata, spec: Some(spec), status: None }, notes))
}

fn refuse(stance: &Stance, pod: &PodSpec) -> Result<(), ClusterError> {
    let why = if pod.host_network == Some(true) {
        "it uses the node's network (hostNetwork), where a second copy cannot listen on the same ports"
    } else if pod.os.as_ref().is_some_and(|os| os.name == "windows")
        || pod.node_selector.iter().flatten().any(|(key, value)| key == "kubernetes.io/os" && value == "windows")
    {
        "its pods run on Windows and the proxy is a Linux program"
    } else {
        return Ok(());
    };
    Err(match stance {
        Stance::Swap(workload) => {
            ClusterError::NotSwappable { what: workload.reference.to_string(), why: why.into(), cure: None }
        }
        Stance::Like(likeness) => ClusterError::Unlike { what: likeness.of(), why: why.into() },
        Stance::Outgoing { .. } => ClusterError::Unlike { what: stance.told(), why: why.into() },
    })
}

fn pod_metadata(model: &PodModel, own: &BTreeMap<String, String>) -> ObjectMeta {
    let original = model.template.metadata.clone().unwrap_or_default();
    let mut labels = original.labels.unwrap_or_default();
    labels.remove(POD_TEMPLATE_HASH);
    if let Some(stateful) = &model.stateful {
        labels.insert(STATEFUL_POD_NAME.into(), stateful.first_pod.clone());
    }
    labels.extend(own.clone());
    let annotations = original.annotations.map(|mut annotations| {
        annotations.retain(|key, _| !HISTORY.contains(&key.as_str()));
        annotations
    });
    ObjectMeta {
        labels: Some(labels),
        annotations: annotations.filter(|annotations| !annotations.is_empty()),
        ..ObjectMeta::default()
    }
}

fn pod_spec(mut pod: PodSpec, model: &PodModel, proxy: &ProxySpec, notes: &mut Vec<Note>) -> PodSpec {
    let pod_security = pod.security_context.clone().unwrap_or_default();
    let volumes = pod.volumes.clone().unwrap_or_default();
    for container in pod.containers.iter_mut().chain(pod.init_containers.iter_mut().flatten()) {
        strip_host_ports(container, notes);
    }
    for container in pod.containers.iter_mut().filter(|container| container.name == model.container) {
        *container = proxy_container(container, model, proxy, &pod_security, &volumes, notes);
    }
    if let Some(stateful) = &model.stateful {
        // What the StatefulSet's controller would have set; peers find the pod under this name.
        pod.hostname = pod.hostname.or_else(|| Some(stateful.first_pod.clone()));
        pod.subdomain = pod.subdomain.or_else(|| stateful.service_name.clone());
    }
    for Withheld { volume: name, .. } in &model.withheld {
        let volumes = pod.volumes.get_or_insert_default();
        // A claim template wins over a volume of the same name.
        volumes.retain(|volume| &volume.name != name);
        volumes.push(Volume {
            name: name.clone(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Volume::default()
        });
        notes.push(Note::EmptyClaim(name.clone()));
    }
    // Callers are passed on to the original until every node knows that the proxy is gone.
    let grace = pod.termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE).max(DRAIN_GRACE);
    pod.termination_grace_period_seconds = Some(grace);
    pod.restart_policy = Some("Always".into());
    pod.ephemeral_containers = None;
    pod
}

fn strip_host_ports(container: &mut Container, notes: &mut Vec<Note>) {
    for port in container.ports.iter_mut().flatten() {
        port.host_ip = None;
        if let Some(number) = port.host_port.take().and_then(|number| u16::try_from(number).ok()).filter(|n| *n != 0) {
            notes.push(Note::HostPort { container: container.name.clone(), port: number });
        }
    }
}

fn proxy_container(
    original: &Container,
    model: &PodModel,
    proxy: &ProxySpec,
    pod_security: &k8s_openapi::api::core::v1::PodSecurityContext,
    volumes: &[Volume],
    notes: &mut Vec<Note>,
) -> Container {
    notes.extend(original.volume_devices.iter().flatten().map(|device| Note::NoDevice(device.name.clone())));
    Container {
        name: original.name.clone(),
        image: Some(proxy.image.clone()),
        image_pull_policy: Some("IfNotPresent".into()),
        command: Some(vec![PROXY_PATH.into()]),
        args: Some(arguments(model, proxy)),
        env: original.env.clone(),
        env_from: original.env_from.clone(),
        ports: original.ports.clone(),
        volume_mounts: original.volume_mounts.clone(),
        resources: original.resources.as_ref().map(|resources| resources::for_proxy(resources, notes)),
        security_context: Some(security::for_proxy(
            original.security_context.as_ref(),
            pod_security,
            &model.ports,
            mounts::closed_volume(original, volumes),
            notes,
        )),
        readiness_probe: Some(readiness()),
        ..Container::default()
    }
}

/// The argv of `tpdocker-proxy serve`.
fn arguments(model: &PodModel, proxy: &ProxySpec) -> Vec<String> {
    let key = proxy.public_key.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    let mut args = vec![
        "serve".to_owned(),
        "--listen".to_owned(),
        format!("127.0.0.1:{}", proxy.control_port),
        "--key".to_owned(),
        key,
        "--session".to_owned(),
        proxy.session.clone(),
    ];
    for port in &model.ports {
        args.extend(["--port".to_owned(), port.to_string()]);
    }
    args
}

/// Ready while a client is attached and the app listens. An exec probe, because a port opened for a probe would be a
/// port that the original does not have. Each second, so that attach and detach show quickly; two failures, because
/// one slow exec on a busy node is no news.
fn readiness() -> Probe {
    Probe {
        exec: Some(ExecAction { command: Some(vec![PROXY_PATH.into(), "ready".into()]) }),
        period_seconds: Some(1),
        timeout_seconds: Some(5),
        failure_threshold: Some(2),
        ..Probe::default()
    }
}
