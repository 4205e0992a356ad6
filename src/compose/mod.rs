//! Docker Compose: a service that carries `x-tpdocker` stands in for a workload of the cluster. [`project`] rewrites what
//! Compose resolved: [`extension`] reads the key, [`attach`] gives the service its sidecar. [`client`] runs Compose.

pub mod attach;
pub mod client;
pub mod extension;
pub mod project;
