//! Docker Compose: a service that carries `x-tpdocker` stands in for a workload of the cluster. [`project`] rewrites what
//! Compose resolved; [`client`] runs Compose.

pub mod client;
pub mod project;
