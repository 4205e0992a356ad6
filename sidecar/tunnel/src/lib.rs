//! The tokio driver of the multiplexer: one [`Tunnel`] over one carrier, the same on both ends.
//!
//! The rules of the game are in [`tpdocker_protocol::mux`], which cannot do I/O; this crate moves its bytes and wakes
//! whoever waits. In reading order: `core` is the state that all share and the waking; `carrier` holds the two tasks
//! of a tunnel; `open`, `events` and `stream` are what the app sees; `splice` ties a stream to a socket, `talk` hears
//! who speaks on it; `buffers` keeps large reads from costing an allocation each. [`messages`] is apart: what the CLI says to either end.
//!
//! ```text
//! Stream::write ──▶ Mux ──poll_transmit──▶ writer task ──vectored write──▶ carrier
//! Stream::read  ◀── Mux ◀──handle_input── reader task ◀──256 KiB reads─── carrier
//! ```
//!
//! The reader never waits for anybody but the carrier: what it reads is bounded by the credit of the streams. A chunk
//! that [`Stream::read`] returned becomes credit when the next one is asked for, so an app that stops asking stops
//! its peer and nobody else.

mod buffers;
mod carrier;
mod core;
mod events;
pub mod messages;
mod open;
mod splice;
mod stream;
mod talk;
mod tunnel;

pub use events::{Event, Events};
pub use open::{OpenError, Pending};
pub use splice::{SpliceReport, splice, splice_heard};
pub use stream::{ReadHalf, Stream, WriteHalf};
pub use talk::Talk;
pub use tpdocker_protocol::frame::{Datagram, Echo, Side};
pub use tunnel::{Closed, Tunnel};
