//! The product as its users meet it: the real binary, a real engine, a real cluster with the staging example.
//!
//! `make test-e2e` sets both up. Each test compares the namespace and the engine before and after: whatever a session
//! did, nothing of it may stay.

mod account;
mod app_ends;
mod bad_input;
mod compose;
mod compose_ends;
mod doctor;
mod engine_restart;
mod fail_closed;
mod files;
mod flags;
mod gapless;
mod gate;
mod hold;
mod hot_reload;
mod images;
mod interrupts;
mod kills;
mod letter;
mod load;
mod main_job;
#[path = "../support/namespace.rs"]
mod namespace;
mod nodes;
mod others;
mod outages;
mod outgoing;
mod reach;
mod recovery;
mod relay;
mod rights;
mod sessions;
mod support;
mod swap;
mod workloads;
