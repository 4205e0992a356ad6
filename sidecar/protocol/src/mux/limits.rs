//! Every bound of the multiplexer, with its reason.

use std::time::Duration;

/// What each end may send on a new stream before the other end's app has read: a request and most answers fit, and a
/// stalled app holds no more than this.
pub const INITIAL_WINDOW: u32 = 256 << 10;
/// A window grows up to this: 320 MB/s at 50 ms, more than any carrier does.
pub const MAX_WINDOW: u32 = 16 << 20;
/// All that windows may grow beyond the initial ones, so that many greedy streams with stalled readers do not add up.
pub const WINDOW_BUDGET: usize = 256 << 20;
/// Streams that either end may have open; a laptop's app with more sockets than this has a leak.
pub const MAX_STREAMS: usize = 16_384;
/// Bytes of one stream that wait for the carrier; beyond it the writer waits. One batch of the driver.
pub const SEND_QUEUE: usize = 256 << 10;
/// What a stream may send before it is the next one's turn. A small answer waits for one quantum, and a header is
/// 0.01 % of it.
pub const QUANTUM: usize = 64 << 10;
/// A stream with no more than this waiting is small and goes before the bulk.
pub const SMALL: usize = 16 << 10;
/// Small streams and datagrams may send this much before bulk gets one quantum, so that many small ones do not starve
/// it.
pub const SMALL_BURST: usize = 256 << 10;
/// Payloads up to this are copied behind their header: cheaper than one more entry in a vectored write.
pub const COPY_SEND: usize = 2 << 10;
/// Pieces of small frames are gathered up to this length.
pub const GATHER: usize = 16 << 10;
/// Received payloads below this are copied together: a slice of few bytes would hold the driver's whole read buffer.
pub const COPY_RECEIVE: usize = 16 << 10;
/// Datagrams that wait, in bytes, per direction and end; the oldest are dropped beyond it, as a socket's buffer does.
pub const DATAGRAM_QUEUE: usize = 1 << 20;
/// What a waiting datagram costs beyond its payload, so that empty ones are bounded too.
pub const DATAGRAM_OVERHEAD: usize = 128;
/// Answers and orders that wait for the carrier. An honest other end always reads; who lets more pile up does not.
pub const MAX_CONTROL: usize = 4 << 20;
/// Silence after which the other end is asked whether it lives (design: load balancers cut idle connections at 60 s
/// and later).
pub const PING_AFTER: Duration = Duration::from_secs(5);
/// Silence after which it does not.
pub const DEAD_AFTER: Duration = Duration::from_secs(15);
/// How old the measured round trip may be before the next credit asks again.
pub const RTT_FRESH: Duration = Duration::from_millis(500);

const _: () = assert!(QUANTUM <= crate::frame::MAX_DATA, "a quantum is one frame");
const _: () = assert!(INITIAL_WINDOW <= MAX_WINDOW);
const _: () = assert!(SEND_QUEUE >= QUANTUM);
