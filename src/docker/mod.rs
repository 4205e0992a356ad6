//! The Docker engine: the sidecar container, which owns a network namespace, and the user's container, which joins it.
//!
//! Everything goes through the engine's API and nothing through the `docker` command: errors keep their type, no
//! container's output passes through a log driver on its way to a person, and a machine with an engine but no client is
//! enough. Names mean what they mean to Docker.
//!
//! In reading order:
//! - `engine`: which engine, and whether it can be used (`endpoint` and `config` say where it is);
//! - `images`: the image of the user's container, and `carried`: ours (`credentials` for registries);
//! - `sidecar`: the container that owns the network;
//! - `neighbours`: who else is on its networks;
//! - `app`: the user's container, from its creation to its exit code;
//! - `streams`: its stdin, stdout and stderr (`stdio` is our end, `hijack` the connection, `frames` the format on it,
//!   `terminal` what a TTY needs);
//! - `volumes`: where the pod's files are kept;
//! - `cleanup`: what is left of a session, `inventory`: what there is of all of them;
//! - `error`: what an engine refuses, and the cure (`holder` looks for who has what is taken).

mod app;
mod carried;
mod cleanup;
mod config;
mod credentials;
mod endpoint;
mod engine;
mod error;
mod frames;
mod hijack;
mod holder;
mod images;
mod inventory;
mod neighbours;
mod sidecar;
mod stdio;
mod streams;
mod terminal;
mod volumes;

pub use app::{App, Exit, Fate, Running};
pub use cleanup::InEngine;
pub use engine::Engine;
pub use error::EngineError;
pub use images::ImageFacts;
pub use inventory::SessionContainer;
pub use neighbours::{Joined, Neighbours};
pub use sidecar::{
    DEFAULT_NETWORK, HOST_GATEWAY, HOST_NAME, IPV6_SWITCH, Sidecar, SidecarSpec, has_ipv6, name_the_laptop,
};
pub use stdio::Stdio;
pub use terminal::Window;
pub use volumes::VolumeSpec;
