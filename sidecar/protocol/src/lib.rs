//! What the ends of tpdocker say to each other, and nothing else.
//!
//! Three programs meet here: the CLI on the laptop (`tpdocker`), the sidecar that owns the container's network
//! namespace (`tpdocker-sidecar`), and the proxy that stands in for the swapped container in the cluster
//! (`tpdocker-proxy`). This crate cannot do I/O: it depends on no runtime and opens no socket. Bytes and the time
//! come in as arguments, bytes and events come out, so two ends can be tested face to face in memory.
//!
//! In reading order:
//! - [`contract`]: names, ports, labels and paths on which all three agree;
//! - [`addr`]: what a stream or a datagram is addressed to; [`cidr`]: networks;
//! - [`errno`]: how a refused `connect()` travels;
//! - [`admission`]: who may speak to a proxy;
//! - [`control`]: requests of the CLI to the proxy and to the sidecar;
//! - [`files`]: how the files of the pod travel; [`letter`]: what a proxy does when the CLI is gone;
//! - [`frame`]: the wire format between sidecar and proxy;
//! - [`mux`]: streams, credit and scheduling over one carrier.

pub mod addr;
pub mod admission;
pub mod cidr;
pub mod contract;
pub mod control;
pub mod errno;
pub mod files;
pub mod frame;
pub mod letter;
pub mod mux;
