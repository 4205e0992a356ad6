//! What was typed, as what it means: validated, with files read and defaults filled in. No command asks clap anything.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tpdocker_protocol::addr::Transport;

/// Which cluster, and where in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterSettings {
    /// Context of the kubeconfig; its current one when `None`.
    pub context: Option<String>,
    /// Namespace; the context's, else `default`, when `None`.
    pub namespace: Option<String>,
}

/// `NAME`, `KIND/NAME`, each with an optional `:CONTAINER`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwapTarget {
    /// The kind, when it was named.
    pub kind: Option<TargetKind>,
    /// Name of the Service or workload.
    pub name: String,
    /// Which container of the pod is replaced; the only one, or the one behind the Service's port, when `None`.
    pub container: Option<String>,
}

/// Kinds that a swap can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetKind {
    /// A Service, resolved to the workload behind it.
    Service,
    /// apps/v1 Deployment.
    Deployment,
    /// apps/v1 `StatefulSet`.
    StatefulSet,
    /// apps/v1 `ReplicaSet`.
    ReplicaSet,
}

/// `tpdocker run`.
#[derive(Debug, Clone, PartialEq)]
pub struct RunSettings {
    /// The cluster.
    pub cluster: ClusterSettings,
    /// What is swapped.
    pub swap: SwapTarget,
    /// The proxy image, when not the one that belongs to this binary.
    pub proxy_image: Option<String>,
    /// The user's container.
    pub app: AppSpec,
    /// Its network, which belongs to the sidecar.
    pub net: NetSpec,
    /// Print the plan and change nothing.
    pub dry_run: bool,
}

/// The user's container, less what belongs to the owner of its network namespace.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AppSpec {
    /// The image, as typed.
    pub image: String,
    /// What follows the image; it belongs to the app, whatever it looks like.
    pub command: Vec<String>,
    /// `--entrypoint`; an empty string clears the image's.
    pub entrypoint: Option<String>,
    /// `-e` and `--env-file`, later ones winning; they win over the pod's.
    pub env: BTreeMap<String, String>,
    /// `-l`.
    pub labels: BTreeMap<String, String>,
    /// `-v`, as Docker takes them, host paths made absolute.
    pub binds: Vec<String>,
    /// `--mount`.
    pub mounts: Vec<MountSpec>,
    /// `-w`.
    pub workdir: Option<String>,
    /// `-u`.
    pub user: Option<String>,
    /// `--name`.
    pub name: Option<String>,
    /// `-i`.
    pub interactive: bool,
    /// `-t`.
    pub tty: bool,
    /// `--rm`. Without it the stopped container stays, as with `docker run`.
    pub rm: bool,
    /// `--pull`.
    pub pull: PullPolicy,
    /// `--platform`, as typed.
    pub platform: Option<String>,
    /// `--init`.
    pub init: bool,
}

/// What `docker run` moves to the owner of the network namespace: here, the sidecar.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetSpec {
    /// `-p`.
    pub publish: Vec<Publish>,
    /// `--hostname`; the pod's when `None`.
    pub hostname: Option<String>,
    /// `--add-host`, as `name:address`.
    pub add_hosts: Vec<String>,
    /// `--dns`; the pod's resolver when empty.
    pub dns: Vec<IpAddr>,
    /// `--network`, in order; the default bridge when empty.
    pub networks: Vec<String>,
}

/// One published port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Address on the host; all of them when `None`.
    pub host_ip: Option<IpAddr>,
    /// Port on the host; the engine chooses when `None`.
    pub host_port: Option<u16>,
    /// Port in the container.
    pub container_port: u16,
    /// Its transport.
    pub transport: Transport,
}

/// `--mount`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSpec {
    /// `type=`.
    pub kind: MountKind,
    /// `source=`/`src=`.
    pub source: Option<String>,
    /// `target=`/`dst=`/`destination=`.
    pub target: String,
    /// `readonly`/`ro`.
    pub read_only: bool,
}

/// `type=` of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountKind {
    /// A path of the laptop.
    Bind,
    /// A volume of the engine.
    Volume,
    /// Memory.
    Tmpfs,
}

/// `--pull`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// When the image is absent.
    #[default]
    Missing,
    /// Always.
    Always,
    /// Never.
    Never,
}
