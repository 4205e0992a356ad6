//! The control plane of tpdocker: what the CLI does on the laptop. It never touches a packet; the data plane
//! (`sidecar/`) does, and knows neither Docker nor Kubernetes. They meet in `tpdocker-protocol`.
//!
//! In reading order:
//! - [`cli`]: what was typed;
//! - [`settings`]: what it means;
//! - [`commands`]: what is done about it;
//! - [`plan`] and [`session`]: a swap, from its plan to its undoing;
//! - [`compose`]: the same for a service of a Compose project;
//! - [`cluster`]: the workload, the proxy in its place, and the way to it;
//! - [`docker`]: the engine, the sidecar container and the user's container;
//! - [`image`]: the images that this binary carries inside itself;
//! - [`event`] and [`output`]: what a person or a script is told;
//! - [`doctor`]: whether everything is there that a session needs;
//! - [`error`]: what can go wrong, the cure, and the exit code.

pub mod cli;
pub mod cluster;
pub mod commands;
pub mod compose;
pub mod docker;
pub mod doctor;
pub mod error;
pub mod event;
pub mod image;
pub mod output;
pub mod plan;
pub mod session;
pub mod settings;
