//! What a service says under `x-tpdocker`: the flags of `tpdocker run`, as keys.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::project::{ProjectError, texts};
use crate::cli::bypass_network;
use crate::settings::{ClusterSettings, Grace, Hold, InitContainers, Intent, NetSpec, SwapTarget, VolumeChoice};

/// The extension key of a service.
pub(super) const EXTENSION: &str = "x-tpdocker";

/// The value of `x-tpdocker`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Extension {
    swap: Option<String>,
    like: Option<String>,
    #[serde(default, rename = "skip-init-containers")]
    skip_init_containers: bool,
    namespace: Option<String>,
    context: Option<String>,
    hold: Option<String>,
    grace: Option<String>,
    /// As `--bypass`.
    #[serde(default)]
    bypass: Vec<String>,
    /// As `--container-to-host`; YAML reads a port alone as a number.
    #[serde(default, rename = "container-to-host")]
    container_to_host: Vec<Value>,
    #[serde(default)]
    volumes: BTreeMap<String, VolumeWord>,
}

/// What the service gets for a volume of the pod. A directory of the laptop is what its own `volumes` are for.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum VolumeWord {
    Skip,
    Empty,
    Copy,
}

impl From<VolumeWord> for VolumeChoice {
    fn from(word: VolumeWord) -> Self {
        match word {
            VolumeWord::Skip => Self::Skip,
            VolumeWord::Empty => Self::Empty,
            VolumeWord::Copy => Self::Copy,
        }
    }
}

/// One service that is to run as if it were a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodService {
    /// Its name.
    pub service: String,
    /// What it is to the workloads of the cluster.
    pub intent: Intent,
    /// What becomes of the pod's init containers.
    pub init_containers: InitContainers,
    /// Where.
    pub cluster: ClusterSettings,
    /// As for `tpdocker run --hold`.
    pub hold: Hold,
    /// As for `tpdocker run --grace`.
    pub grace: Grace,
    /// What the session has to know of the service's network; Compose sets it up.
    pub net: NetSpec,
    /// What it gets for volumes of the pod.
    pub pod_volumes: BTreeMap<String, VolumeChoice>,
}

/// Reads what `extension`, the value of the key, wants for `service`.
pub(super) fn pod_service(name: &str, service: &Value, extension: &Value) -> Result<PodService, ProjectError> {
    let wrong = |source: Cause| ProjectError::Extension { service: name.into(), source };
    let extension: Extension = serde_json::from_value(extension.clone()).map_err(|error| wrong(error.into()))?;
    if let Some(mode) = service["network_mode"].as_str().filter(|mode| *mode != "bridge") {
        return Err(ProjectError::NetworkMode { service: name.into(), mode: mode.into() });
    }
    let target = |text: String| text.parse::<SwapTarget>().map_err(|error| wrong(error.into()));
    let intent = match (extension.swap, extension.like) {
        (Some(_), Some(_)) => return Err(wrong("it is either `swap` or `like`".into())),
        (Some(swap), None) => Intent::Swap(target(swap)?),
        (None, Some(like)) => Intent::Like(target(like)?),
        (None, None) => Intent::Outgoing,
    };
    Ok(PodService {
        service: name.into(),
        intent,
        init_containers: if extension.skip_init_containers { InitContainers::Skip } else { InitContainers::Run },
        cluster: ClusterSettings { context: extension.context, namespace: extension.namespace },
        hold: extension.hold.map_or(Ok(Hold::default()), |hold| hold.parse()).map_err(|error| wrong(error.into()))?,
        grace: extension
            .grace
            .map_or(Ok(Grace::default()), |grace| grace.parse())
            .map_err(|error| wrong(error.into()))?,
        net: NetSpec {
            add_hosts: texts(&service["extra_hosts"]),
            bypass: collected(extension.bypass.iter().map(|text| bypass_network(text))).map_err(wrong)?,
            host_ports: collected(extension.container_to_host.iter().map(|port| text(port).parse())).map_err(wrong)?,
            ..NetSpec::default()
        },
        pod_volumes: extension.volumes.into_iter().map(|(name, word)| (name, word.into())).collect(),
    })
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

fn collected<T, E: Into<Cause>>(parsed: impl Iterator<Item = Result<T, E>>) -> Result<Vec<T>, Cause> {
    parsed.collect::<Result<_, _>>().map_err(Into::into)
}

/// A string as it is, and anything else as YAML would have it.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
