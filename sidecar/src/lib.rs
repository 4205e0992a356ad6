//! The container's end of a tunnel: it owns the network namespace that the user's container joins.
//!
//! What the app sends is captured by the kernel's own means and carried to the proxy in the cluster; what the cluster
//! sends to the proxy is handed to the app. This end makes no connection towards the cluster itself: a carrier comes
//! in on a Unix socket, pumped by the CLI, so nothing in the namespace needs an exemption.
//!
//! In reading order:
//! - [`args`] — the command line;
//! - [`holder`] — PID 1 of the container, which outlives the data plane;
//! - [`dataplane`] — how everything below is put together; [`incapable`] — what is said where it cannot be;
//! - [`capture`] — rules, held packets, replies;
//! - [`podip`] — the pod's address, on this end;
//! - [`ports`] — what the app listens on; [`hold`] — what the cluster finds open while it is restarted;
//! - [`link`] — the tunnel of the moment;
//! - [`relay`] — what the app sends; [`deliver`] — what the cluster sends, [`callers`] — from whose address;
//! - [`names`] — siblings on Docker networks, and what the nameservers said; [`host_ports`] — the laptop's localhost;
//! - [`control`] — the Unix socket; [`files`] — the pod's resolver and hosts; [`volumes`] — its volumes;
//! - [`health`] — the engine's health check.

pub mod args;
mod callers;
pub mod capture;
mod control;
pub mod dataplane;
mod deliver;
pub mod files;
pub mod health;
mod hold;
pub mod holder;
mod host_ports;
pub mod incapable;
mod link;
mod names;
mod podip;
pub mod ports;
mod relay;
pub mod volumes;
