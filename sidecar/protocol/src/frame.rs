//! The wire format between sidecar and proxy.
//!
//! A carrier is a reliable pipe of bytes, so a frame needs no checksum and no escape: a fixed header of eight bytes,
//! then the payload. All integers are big-endian.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | type |
//! | 1 | 3 | length of the payload |
//! | 4 | 4 | stream; 0 for frames of the session |
//!
//! | type | frame | stream | payload |
//! |---|---|---|---|
//! | 1 | HELLO | 0 | `"TPMX"`, version u16, side u8; first frame in both directions; what follows is for later versions |
//! | 2 | OPEN | id | 1, address (dial) or 2, port u16, address (deliver) |
//! | 3 | OPENED | id | – |
//! | 4 | REFUSED | id | errno u16 |
//! | 5 | DATA | id | 1 to [`MAX_DATA`] bytes |
//! | 6 | FIN | id | – |
//! | 7 | RESET | id | errno u16 |
//! | 8 | CREDIT | id | bytes u32: how many more the receiver of this frame may send |
//! | 9 | DATAGRAM | 0 | app address, remote address, 0 to [`MAX_DATAGRAM`] bytes |
//! | 10 | `DATAGRAM_FAILED` | 0 | app address, remote address, errno u16 |
//! | 11 | LISTEN | 0 | for each socket: port, scope u8 |
//! | 12 | LISTENING | 0 | count u32, so many ports; then for each failure: port, length u16, UTF-8 |
//! | 13 | PING | 0 | u64 |
//! | 14 | PONG | 0 | u64 of the ping |
//! | 15 | CLOSE | 0 | UTF-8 reason |
//! | 16 | ECHO | 0 | app address, remote address, sequence number u16, 0 to [`MAX_DATAGRAM`] bytes |
//! | 17 | `ECHO_FAILED` | 0 | app address, remote address, sequence number u16, errno u16 |
//!
//! An address is 4, four bytes, port u16, or 6, sixteen bytes, port u16, scope u32 (the flow label of an IPv6 socket
//! address means nothing at the other end and is not carried). A port is its transport (6 TCP, 17 UDP, as IANA
//! numbers them) u8 and its number u16. A scope is 4 (any IPv4 address), 6 (any IPv6 address), 0x84 (127.0.0.1) or 0x86
//! (`::1`).
//!
//! The payload of DATA is handed on as it arrives, without waiting for its end and without copying: a frame of 256 KiB
//! costs neither a buffer of that size nor the time until its last byte. So what [`Decoder`] yields as
//! [`Frame::Data`] may be part of a frame on the wire; a stream has no message boundaries to lose.

mod decode;
mod fields;

use bytes::{BufMut, Bytes, BytesMut};

pub use decode::{Decoder, FrameError};

use crate::addr::{AppAddr, ClusterAddr, Listener, Port, Target};
use crate::control::PortFailure;
use crate::errno::Errno;
use fields::{put_addr, put_listener, put_port, truncated};

/// Bytes before every payload.
pub const HEADER: usize = 8;
/// The longest payload of DATA: with it, headers cost nothing, and a pipe of 10 Mbit/s is still shared five times a
/// second.
pub const MAX_DATA: usize = 256 << 10;
/// The longest payload of a UDP datagram over IPv4 (RFC 768: 65535 − 8 − 20).
pub const MAX_DATAGRAM: usize = 65_507;
/// The longest LISTENING: all ports of both transports without messages take 640 KiB.
pub const MAX_LISTENING: usize = 1 << 20;
/// The longest message about one port.
pub const MAX_PORT_MESSAGE: usize = 256;
/// The longest reason in CLOSE.
pub const MAX_REASON: usize = 1024;
/// First bytes of HELLO's payload.
const MAGIC: [u8; 4] = *b"TPMX";

/// Number of a stream; odd ones were opened by the sidecar, even ones by the proxy. Never 0, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u32);

/// Which end this is; the ends number their streams apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The container's end.
    Sidecar,
    /// The cluster's end.
    Proxy,
}

impl Side {
    /// The end that this one talks to.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Sidecar => Self::Proxy,
            Self::Proxy => Self::Sidecar,
        }
    }
}

/// One UDP datagram of the app (sidecar → proxy) or for the app (proxy → sidecar).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// The app's socket.
    pub app: AppAddr,
    /// Whom it talks to.
    pub remote: ClusterAddr,
    /// At most [`MAX_DATAGRAM`] bytes; may be empty.
    pub payload: Bytes,
}

/// One ICMP echo request of the app (sidecar → proxy) or the reply to it (proxy → sidecar).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Echo {
    /// Who asks; the echo's identifier stands in the place of the port, as in a NAT (RFC 5508).
    pub app: AppAddr,
    /// Who is asked; its port is 0.
    pub remote: ClusterAddr,
    /// Tells the requests of one identifier apart.
    pub sequence: u16,
    /// At most [`MAX_DATAGRAM`] bytes, since ICMP's header is as long as UDP's; may be empty.
    pub payload: Bytes,
}

/// One message on the wire; the module's table says how it looks there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the module's table")]
pub enum Frame {
    /// Who speaks, and in which version.
    Hello { version: u16, side: Side },
    /// Asks for a stream.
    Open { stream: StreamId, target: Target },
    /// The stream exists; both ends may send their initial window.
    Opened { stream: StreamId },
    /// The stream does not come to be.
    Refused { stream: StreamId, errno: Errno },
    /// Bytes of the app.
    Data { stream: StreamId, payload: Bytes },
    /// The sender of this frame sends no more on this stream.
    Fin { stream: StreamId },
    /// Both directions end at once; also takes back an OPEN.
    Reset { stream: StreamId, errno: Errno },
    /// The app has read.
    Credit { stream: StreamId, bytes: u32 },
    /// See [`Datagram`].
    Datagram(Datagram),
    /// An ICMP error came back for a datagram from `app` to `remote`.
    DatagramFailed { app: AppAddr, remote: ClusterAddr, errno: Errno },
    /// The complete set of sockets that the pod is to listen on for the app.
    Listen(Vec<Listener>),
    /// The complete set of ports open at the pod's addresses, and those that could not be.
    Listening { bound: Vec<Port>, failed: Vec<PortFailure> },
    /// Asks for a [`Frame::Pong`] with the same number.
    Ping(u64),
    /// Answers [`Frame::Ping`].
    Pong(u64),
    /// The session ends; no frame follows.
    Close { reason: String },
    /// See [`Echo`].
    Echo(Echo),
    /// An echo request was not answered but refused.
    EchoFailed { app: AppAddr, remote: ClusterAddr, sequence: u16, errno: Errno },
}

/// The type byte.
mod code {
    pub(super) const HELLO: u8 = 1;
    pub(super) const OPEN: u8 = 2;
    pub(super) const OPENED: u8 = 3;
    pub(super) const REFUSED: u8 = 4;
    pub(super) const DATA: u8 = 5;
    pub(super) const FIN: u8 = 6;
    pub(super) const RESET: u8 = 7;
    pub(super) const CREDIT: u8 = 8;
    pub(super) const DATAGRAM: u8 = 9;
    pub(super) const DATAGRAM_FAILED: u8 = 10;
    pub(super) const LISTEN: u8 = 11;
    pub(super) const LISTENING: u8 = 12;
    pub(super) const PING: u8 = 13;
    pub(super) const PONG: u8 = 14;
    pub(super) const CLOSE: u8 = 15;
    pub(super) const ECHO: u8 = 16;
    pub(super) const ECHO_FAILED: u8 = 17;
}

const SESSION: StreamId = StreamId(0);
const DIAL: u8 = 1;
const DELIVER: u8 = 2;
const SIDECAR: u8 = 1;
const PROXY: u8 = 2;

/// Writes the header of a DATA frame whose payload, of `length` ≤ [`MAX_DATA`] bytes, follows from elsewhere.
pub fn put_data_header(out: &mut BytesMut, stream: StreamId, length: usize) {
    debug_assert!((1..=MAX_DATA).contains(&length), "a DATA frame of {length} bytes");
    put_header(out, code::DATA, stream, length);
}

fn put_header(out: &mut BytesMut, code: u8, stream: StreamId, length: usize) {
    out.put_u8(code);
    out.put_uint(length as u64, 3);
    out.put_u32(stream.0);
}

impl Frame {
    /// Appends the frame to `out`. Texts over their limits are cut.
    pub fn encode(&self, out: &mut BytesMut) {
        let start = out.len();
        out.put_bytes(0, HEADER);
        let (code, stream) = self.encode_payload(out);
        let length = out.len() - start - HEADER;
        let mut header = &mut out[start..start + HEADER];
        header.put_u8(code);
        header.put_uint(length as u64, 3);
        header.put_u32(stream.0);
    }

    fn encode_payload(&self, out: &mut BytesMut) -> (u8, StreamId) {
        match self {
            Self::Hello { version, side } => {
                out.put_slice(&MAGIC);
                out.put_u16(*version);
                out.put_u8(match side {
                    Side::Sidecar => SIDECAR,
                    Side::Proxy => PROXY,
                });
                (code::HELLO, SESSION)
            }
            Self::Open { stream, target } => {
                match target {
                    Target::Dial(addr) => {
                        out.put_u8(DIAL);
                        put_addr(out, addr.0);
                    }
                    Target::Deliver { port, peer } => {
                        out.put_u8(DELIVER);
                        out.put_u16(*port);
                        put_addr(out, peer.0);
                    }
                }
                (code::OPEN, *stream)
            }
            Self::Opened { stream } => (code::OPENED, *stream),
            Self::Refused { stream, errno } => {
                out.put_u16(errno.0);
                (code::REFUSED, *stream)
            }
            Self::Data { stream, payload } => {
                out.put_slice(payload);
                (code::DATA, *stream)
            }
            Self::Fin { stream } => (code::FIN, *stream),
            Self::Reset { stream, errno } => {
                out.put_u16(errno.0);
                (code::RESET, *stream)
            }
            Self::Credit { stream, bytes } => {
                out.put_u32(*bytes);
                (code::CREDIT, *stream)
            }
            Self::Datagram(Datagram { app, remote, payload }) => {
                put_addr(out, app.0);
                put_addr(out, remote.0);
                out.put_slice(payload);
                (code::DATAGRAM, SESSION)
            }
            Self::DatagramFailed { app, remote, errno } => {
                put_addr(out, app.0);
                put_addr(out, remote.0);
                out.put_u16(errno.0);
                (code::DATAGRAM_FAILED, SESSION)
            }
            Self::Listen(listeners) => {
                for listener in listeners {
                    put_listener(out, *listener);
                }
                (code::LISTEN, SESSION)
            }
            Self::Listening { bound, failed } => {
                put_listening(out, bound, failed);
                (code::LISTENING, SESSION)
            }
            Self::Ping(number) => {
                out.put_u64(*number);
                (code::PING, SESSION)
            }
            Self::Pong(number) => {
                out.put_u64(*number);
                (code::PONG, SESSION)
            }
            Self::Close { reason } => {
                out.put_slice(truncated(reason, MAX_REASON).as_bytes());
                (code::CLOSE, SESSION)
            }
            Self::Echo(Echo { app, remote, sequence, payload }) => {
                put_echo(out, *app, *remote, *sequence);
                out.put_slice(payload);
                (code::ECHO, SESSION)
            }
            Self::EchoFailed { app, remote, sequence, errno } => {
                put_echo(out, *app, *remote, *sequence);
                out.put_u16(errno.0);
                (code::ECHO_FAILED, SESSION)
            }
        }
    }
}

fn put_echo(out: &mut BytesMut, app: AppAddr, remote: ClusterAddr, sequence: u16) {
    put_addr(out, app.0);
    put_addr(out, remote.0);
    out.put_u16(sequence);
}

fn put_ports(out: &mut BytesMut, ports: &[Port]) {
    for port in ports {
        put_port(out, *port);
    }
}

/// Messages are left out once they would make the frame too long; which ports failed is always said.
fn put_listening(out: &mut BytesMut, bound: &[Port], failed: &[PortFailure]) {
    const PORT: usize = 3;
    const LENGTH: usize = 2;
    let bare = 4 + bound.len() * PORT + failed.len() * (PORT + LENGTH);
    let mut room = MAX_LISTENING.saturating_sub(bare);
    out.put_u32(u32::try_from(bound.len()).unwrap_or(u32::MAX));
    put_ports(out, bound);
    for failure in failed {
        let message = truncated(&failure.message, MAX_PORT_MESSAGE.min(room));
        room -= message.len();
        put_port(out, failure.port);
        out.put_u16(u16::try_from(message.len()).unwrap_or(0));
        out.put_slice(message.as_bytes());
    }
}
