//! `tpdocker::docker` against a real engine: what it creates, what an app gets and gives, and what is refused.
//!
//! A missing engine is a failure; `TPDOCKER_TEST_NO_ENGINE=1` says that there is none on purpose.

mod app;
mod environment;
mod images;
mod neighbours;
mod push;
mod refusals;
mod save;
mod sidecar;
mod support;
mod terminal;
mod volumes;
