//! The cluster's end of a tunnel: a process that stands in for the swapped container in its own pod.
//!
//! It runs with whatever identity the swapped container had: no root, no capability, a read-only file system. It
//! listens on the pod's loopback for the CLI (a port-forward dials there), lets in whoever holds the session's key,
//! and then does in the pod what the app does on the laptop: it dials where the app dials, sends the app's datagrams,
//! and listens where the app listens. It stores nothing and knows nothing of Kubernetes.
//!
//! In reading order:
//! - [`args`] — the command line;
//! - [`server`] — the listener on the loopback, and what an admitted connection becomes;
//! - [`gate`] — admission;
//! - [`control`] — answers to the CLI, with [`pod`] for what the swapped container would see and [`files`] for its files;
//! - [`session`] — one attached tunnel, with [`dial`], [`listeners`], [`udp`], [`ping`] and [`icmp`] for what it asks;
//! - [`handover`] — who calls at the end of a session or of the pod, with [`relay`] and [`parting`];
//! - [`letterbox`] — what is done when the CLI is gone for good, with [`post`] and [`endpoints`];
//! - [`status`] and [`ready`] — what the kubelet and the CLI are told.

pub mod args;
mod control;
mod dial;
mod endpoints;
mod files;
mod gate;
mod handover;
mod icmp;
mod letterbox;
mod listeners;
mod parting;
mod ping;
mod pod;
mod post;
pub mod ready;
mod relay;
pub mod server;
mod session;
mod status;
mod task;
mod udp;
