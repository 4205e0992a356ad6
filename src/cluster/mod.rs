//! The cluster's side of a session: find the workload, put a proxy in its place, reach the proxy, put everything back.
//!
//! The laptop holds the kubeconfig and runs its login plugins; nothing of it enters a container or the cluster. All of
//! it works from Kubernetes 1.20 on and installs nothing: a session is one Deployment and one annotation.
//!
//! In reading order:
//! - [`connect`]: kubeconfig to [`Cluster`];
//! - [`workload`]: what `--swap NAME` means, [`candidate`]: the one that was found, and [`ports`]: which of its ports and
//!   containers matter; [`fixture`]: what runs pods and cannot be swapped;
//! - [`stance`]: whether a session takes a workload's place, is like one, or is on its own, and the pod to be made after;
//! - [`template`]: the proxy's Deployment, a pure function of the stance, with [`security`] and [`resources`];
//! - [`quantity`]: numbers as Kubernetes writes them;
//! - [`rights`]: what the session may do, asked before anything changes, and [`role`]: the same as a Role;
//! - [`proxy`]: create it and wait, and [`failure`]: say early why it will not start;
//! - [`mounts`]: what is mounted into the swapped container;
//! - [`carrier`]: a byte pipe to the proxy, [`control`]: admission and requests on it, and [`files`]: the pod's files;
//! - [`swap`]: record, scale, restore; [`presence`]: which pods still answer for the original; [`holders`]: who holds
//!   what, and [`loss`]: a session that holds it no more, or shares it with what others make of it; [`patience`]: what undoes
//!   a swap, while nobody answers;
//! - [`deciders`]: who else decides about the workload's replicas;
//! - [`letter`]: what the proxy may do by itself when its session is gone;
//! - [`inspect`] and [`pod_security`]: what `tpdocker doctor` wants to know;
//! - [`error`]: what can go wrong and its cure.

pub mod candidate;
pub mod carrier;
pub mod connect;
pub mod control;
pub mod deciders;
pub mod error;
pub mod failure;
pub mod files;
pub mod fixture;
pub mod holders;
pub mod inspect;
pub mod letter;
pub mod loss;
mod meanwhile;
pub mod mounts;
pub mod patience;
pub mod pod_security;
pub mod ports;
pub mod presence;
pub mod proxy;
mod quantity;
pub mod resources;
pub mod rights;
pub mod role;
pub mod security;
pub mod stance;
pub mod swap;
pub mod template;
pub mod workload;

pub use carrier::PortForward;
pub use connect::{Cluster, Facts};
pub use control::{ControlClient, admit};
pub use error::ClusterError;
pub use files::FilesFeed;
pub use fixture::FixtureKind;
pub use holders::{Holder, Holders, Orphan, Other, ProxyState, Scope};
pub use letter::Letterhead;
pub use loss::Loss;
pub use mounts::{PodMount, Source};
pub use patience::patiently;
pub use proxy::{Proxy, ProxyPod};
pub use rights::{Lacking, Purpose};
pub use stance::{Likeness, ModelKind, PodModel, Stance};
pub use swap::Restored;
pub use template::{Note, ProxySpec, control_port, proxy_deployment};
pub use workload::{Kind, Workload, WorkloadRef};
