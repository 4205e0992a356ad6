//! What the rows are about: addresses and names that the one who made the fixtures knows. Given, and not looked up, so
//! that a row about TCP says nothing about names.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::Deserialize;

/// The argument of `probe rows`, as JSON.
#[derive(Deserialize)]
pub struct Targets {
    /// Addresses of pods that run `probe serve`.
    pub peers: Vec<IpAddr>,
    /// The cluster's address of the Service in front of them.
    pub peer_service: IpAddr,
    /// The cluster's address of the Service in front of the pod that is probed.
    pub own_service: IpAddr,
    /// A Service without endpoints.
    pub empty_service: SocketAddr,
    /// An address to which a router says "host unreachable".
    pub unreachable: IpAddr,
    /// An address to which a router says "network unreachable".
    pub net_unreachable: IpAddr,
    /// An address that a firewall drops packets to.
    pub filtered: IpAddr,
    /// The namespace of the fixtures.
    pub namespace: String,
    /// The database outside of the cluster.
    pub database: String,
    /// Directories and files that the pod has from volumes.
    pub volumes: Vec<PathBuf>,
    /// Of them, a directory whose file `value` is changed when the probe asks for it.
    pub live: PathBuf,
    /// Variables that begin like this are too many for a row each.
    pub bulk_variables: String,
    /// How long a connection is left idle, in seconds.
    pub idle_seconds: u64,
    /// Whether the idle connection is among the rows.
    pub idle_too: bool,
    /// How much is sent, and received, in one stream, in bytes: a multiple of [`crate::bulk::BLOCK`].
    pub bulk_bytes: u64,
}
