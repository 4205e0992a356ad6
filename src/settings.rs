//! What was typed, as what it means: validated, with files read and defaults filled in. No command asks clap anything.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tpdocker_protocol::addr::{Port, Transport};
use tpdocker_protocol::cidr::Cidr;

use crate::cluster::FixtureKind;

/// A whole command line.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// How often `-v`/`--verbose` was given.
    pub verbosity: u8,
    /// `--output`.
    pub output: OutputFormat,
    /// What to do.
    pub command: Command,
}

/// How steps and errors are told on stderr.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OutputFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The subcommand.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// `tpdocker run`.
    Run(Box<RunSettings>),
    /// `tpdocker compose`.
    Compose(ComposeSettings),
    /// `tpdocker image`.
    Image(ImageSettings),
    /// `tpdocker doctor`.
    Doctor(DoctorSettings),
    /// `tpdocker rbac`.
    Rbac(RbacSettings),
    /// `tpdocker restore`.
    Restore(RestoreSettings),
    /// `tpdocker status`.
    Status(StatusSettings),
    /// `tpdocker stop`.
    Stop(StopSettings),
    /// `tpdocker version`.
    Version,
}

/// `tpdocker compose`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComposeSettings {
    /// The cluster, where the compose file does not say.
    pub cluster: ClusterSettings,
    /// The proxy image, when not the one that belongs to this binary.
    pub proxy_image: Option<String>,
    /// Take the workloads over from the sessions that hold them.
    pub take_over: bool,
    /// `-f`, in order; docker compose looks for its own when empty.
    pub files: Vec<PathBuf>,
    /// `-p`.
    pub project_name: Option<String>,
    /// `--profile`.
    pub profiles: Vec<String>,
    /// `--env-file`.
    pub env_files: Vec<PathBuf>,
    /// `up` or `down`.
    pub action: ComposeAction,
    /// What follows the action, for docker compose.
    pub args: Vec<String>,
}

/// What to do with a compose project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComposeAction {
    /// `up`.
    Up,
    /// `down`.
    Down,
}

/// `tpdocker image`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSettings {
    /// Write the proxy image as a tar.
    Save {
        /// Where to; stdout when `None`.
        file: Option<PathBuf>,
    },
    /// Load it into the engine.
    Load,
    /// Push it to a registry.
    Push {
        /// As what, as typed.
        reference: String,
    },
}

/// `tpdocker doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoctorSettings {
    /// The cluster.
    pub cluster: ClusterSettings,
    /// What somebody wants to swap.
    pub swap: Option<SwapTarget>,
    /// The proxy image, when not the one that belongs to this binary.
    pub proxy_image: Option<String>,
}

/// `tpdocker rbac`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RbacSettings {
    /// The cluster.
    pub cluster: ClusterSettings,
    /// What the Role is for.
    pub target: RbacTarget,
    /// Who is to have it.
    pub subjects: Vec<Subject>,
}

/// What a Role is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RbacTarget {
    /// Swapping every workload, and whatever needs less.
    Any,
    /// Swapping every workload of a kind.
    Kind(TargetKind),
    /// Swapping one workload.
    Swap(SwapTarget),
    /// Sessions like this one.
    Like(SwapTarget),
    /// Sessions that only reach.
    Outgoing,
}

/// Somebody whom RBAC knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A user, by the name that the cluster's login gives.
    User(String),
    /// A group of users.
    Group(String),
    /// A service account of the namespace.
    ServiceAccount(String),
}

/// `tpdocker restore`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreSettings {
    /// The cluster.
    pub cluster: ClusterSettings,
    /// What is put back; all that is swapped in the namespace when `None`.
    pub target: Option<SwapTarget>,
}

/// `tpdocker status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusSettings {
    /// The cluster.
    pub cluster: ClusterSettings,
    /// Look in all namespaces.
    pub all_namespaces: bool,
}

/// `tpdocker stop`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopSettings {
    /// What is to end.
    pub which: Which,
    /// `--local`: after sessions that died only what is on this machine is removed, and no cluster is asked.
    pub local: bool,
}

/// Sessions of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The only one.
    Only,
    /// The one of this id.
    Session(String),
    /// All of them.
    All,
}

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

/// What a container is to the workloads of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intent {
    /// `--swap`: it takes the place of this one.
    Swap(SwapTarget),
    /// `--like`: it has what pods of this one have, and none of their traffic.
    Like(SwapTarget),
    /// Neither: it reaches what a plain pod reaches.
    Outgoing,
}

/// What becomes of the init containers of the pod, other than those that run beside it (`restartPolicy: Always`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum InitContainers {
    /// They run in the proxy's pod, as in the original's.
    #[default]
    Run,
    /// The proxy's pod has none.
    Skip,
}

/// Kinds that `--swap` and `--like` can name.
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
    /// Something that a session can be like and not swap.
    Fixture(FixtureKind),
}

/// `--hold`: how long callers from the cluster wait for an app that has stopped listening; 0 refuses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold(pub Duration);

impl Default for Hold {
    /// Longer than interpreters and virtual machines take to start anew, shorter than the patience of common clients.
    fn default() -> Self {
        Self(Duration::from_secs(10))
    }
}

/// `--grace`: how long the proxy may be without this process before it puts the workload back by itself; 0 for never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grace(pub Duration);

impl Default for Grace {
    /// Longer than networks and VPNs take to come back, shorter than a team waits for its service.
    fn default() -> Self {
        Self(Duration::from_mins(1))
    }
}

/// `tpdocker run`.
#[derive(Debug, Clone, PartialEq)]
pub struct RunSettings {
    /// The cluster.
    pub cluster: ClusterSettings,
    /// What the container is to the workloads of the cluster.
    pub intent: Intent,
    /// `--skip-init-containers`.
    pub init_containers: InitContainers,
    /// The proxy image, when not the one that belongs to this binary.
    pub proxy_image: Option<String>,
    /// The user's container.
    pub app: AppSpec,
    /// Its network, which belongs to the sidecar.
    pub net: NetSpec,
    /// `--hold`.
    pub hold: Hold,
    /// `--grace`.
    pub grace: Grace,
    /// `--pod-volume`, by the volume's or the claim's name.
    pub pod_volumes: BTreeMap<String, VolumeChoice>,
    /// Take the workload over from the session that holds it.
    pub take_over: bool,
    /// Print the plan and change nothing.
    pub dry_run: bool,
}

/// What the user's container gets in the place of a volume of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeChoice {
    /// Nothing.
    Skip,
    /// An empty directory.
    Empty,
    /// What is in it, copied once through the proxy.
    Copy,
    /// A directory of the laptop, absolute.
    Laptop(String),
}

/// The user's container, less what belongs to the owner of its network namespace.
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of docker's, independent of the others")]
pub struct AppSpec {
    /// The image, as typed.
    pub image: String,
    /// What follows the image; it belongs to the app, whatever it looks like.
    pub command: Vec<String>,
    /// `--entrypoint`; an empty string clears the image's.
    pub entrypoint: Option<String>,
    /// `-e` and `--env-file`, later ones winning and `-e` before files, as with docker; they win over the pod's.
    pub env: BTreeMap<String, String>,
    /// `-e NAME` where the CLI's environment has no such variable: docker unsets it, so neither the pod's nor the
    /// image's value reaches the app. Never overlaps with `env`.
    pub env_unset: BTreeSet<String>,
    /// `-l`.
    pub labels: BTreeMap<String, String>,
    /// `-v`, as the engine's API takes them in `HostConfig.Binds`, host paths made absolute. One without a colon is an
    /// anonymous volume's path in the container.
    pub binds: Vec<String>,
    /// `--mount`.
    pub mounts: Vec<MountSpec>,
    /// `-w`.
    pub workdir: Option<String>,
    /// `-u`.
    pub user: Option<String>,
    /// Groups of the app beside its own.
    pub groups: Vec<String>,
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
    /// `--bypass`: what is reached from the laptop and not through the tunnel.
    pub bypass: Vec<Cidr>,
    /// `--container-to-host`.
    pub host_ports: Vec<HostPort>,
}

/// A port of the container's localhost that leads to the laptop's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostPort {
    /// Where the app connects to.
    pub container_port: u16,
    /// Where somebody listens on the laptop.
    pub host_port: u16,
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

impl std::fmt::Display for Publish {
    /// `127.0.0.1:8080 → 80/tcp`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.host_ip, self.host_port) {
            (Some(ip), Some(port)) => write!(f, "{}", SocketAddr::new(ip, port))?,
            (Some(ip), None) => write!(f, "a port of {ip}")?,
            (None, Some(port)) => write!(f, "{port}")?,
            (None, None) => f.write_str("a free port")?,
        }
        write!(f, " → {}", Port { transport: self.transport, number: self.container_port })
    }
}
