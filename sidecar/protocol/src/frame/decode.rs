//! Bytes → frames. Everything here may come from a stranger, so nothing is believed: the length is judged before a
//! byte of the payload is waited for, and every field before it is used.

use bytes::{Bytes, BytesMut};

use super::fields::Fields;
use super::{
    DELIVER, DIAL, Datagram, Echo, Frame, HEADER, MAGIC, MAX_DATA, MAX_DATAGRAM, MAX_LISTENING, MAX_PORT_MESSAGE,
    MAX_REASON, PROXY, SESSION, SIDECAR, Side, StreamId, code,
};
use crate::addr::{AppAddr, ClusterAddr, Target};
use crate::contract::PROTOCOL_VERSION;
use crate::control::PortFailure;

/// The longest HELLO of any version, so that versions can tell each other apart.
const MAX_HELLO: usize = 64;
/// The longest address.
const MAX_ADDR: usize = 1 + 16 + 2 + 4;
/// All ports of both transports in all four scopes.
const MAX_LISTEN: usize = 2 * 65_535 * 4 * 4;

/// What is wrong with the bytes of the other end. There is no way to go on after it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The type byte.
    #[error("unknown frame type {0}")]
    Type(u8),
    /// Longer than its type allows.
    #[error("a frame of type {code} with {length} bytes, over its limit of {limit}")]
    Oversize {
        /// The type byte.
        code: u8,
        /// Bytes announced.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The payload ends in the middle of a field.
    #[error("a frame that ends in the middle of a field")]
    Short,
    /// Bytes after the last field.
    #[error("a frame with bytes after its last field")]
    Long,
    /// A session frame with a stream or the reverse.
    #[error("a frame of type {0} on the wrong kind of stream")]
    Stream(u8),
    /// A value out of its range.
    #[error("a frame with {0}")]
    Field(&'static str),
}

/// Takes frames off a buffer. It has a state of its own only in the middle of a DATA frame.
#[derive(Debug, Default)]
pub struct Decoder {
    /// DATA frame whose payload is under way, and how much of it is still to come.
    data: Option<(StreamId, usize)>,
}

impl Decoder {
    /// The next frame; `Ok(None)` asks for more bytes. Payloads share the buffer's memory.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if self.data.is_none() {
            let Some(header) = buffer.first_chunk::<HEADER>() else { return Ok(None) };
            let code = header[0];
            let length = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
            let stream = StreamId(u32::from_be_bytes([header[4], header[5], header[6], header[7]]));
            check(code, length, stream)?;
            if code != code::DATA {
                if buffer.len() < HEADER + length {
                    return Ok(None);
                }
                let payload = buffer.split_to(HEADER + length).freeze().slice(HEADER..);
                return parse(code, stream, Fields(payload)).map(Some);
            }
            let _ = buffer.split_to(HEADER);
            self.data = Some((stream, length));
        }
        let Some((stream, left)) = self.data else { return Ok(None) };
        let here = left.min(buffer.len());
        if here == 0 {
            return Ok(None);
        }
        self.data = (here < left).then_some((stream, left - here));
        Ok(Some(Frame::Data { stream, payload: buffer.split_to(here).freeze() }))
    }
}

/// Whether a frame may have this header.
fn check(code: u8, length: usize, stream: StreamId) -> Result<(), FrameError> {
    let (of_stream, limit) = match code {
        code::HELLO => (false, MAX_HELLO),
        code::OPEN => (true, 1 + 2 + MAX_ADDR),
        code::OPENED | code::FIN => (true, 0),
        code::REFUSED | code::RESET => (true, 2),
        code::DATA => (true, MAX_DATA),
        code::CREDIT => (true, 4),
        code::DATAGRAM => (false, 2 * MAX_ADDR + MAX_DATAGRAM),
        code::DATAGRAM_FAILED => (false, 2 * MAX_ADDR + 2),
        code::LISTEN => (false, MAX_LISTEN),
        code::LISTENING => (false, MAX_LISTENING),
        code::PING | code::PONG => (false, 8),
        code::CLOSE => (false, MAX_REASON),
        code::ECHO => (false, 2 * MAX_ADDR + 2 + MAX_DATAGRAM),
        code::ECHO_FAILED => (false, 2 * MAX_ADDR + 2 + 2),
        _ => return Err(FrameError::Type(code)),
    };
    if of_stream == (stream == SESSION) {
        return Err(FrameError::Stream(code));
    }
    if length > limit {
        return Err(FrameError::Oversize { code, length, limit });
    }
    if code == code::DATA && length == 0 {
        return Err(FrameError::Short);
    }
    Ok(())
}

fn parse(code: u8, stream: StreamId, mut fields: Fields) -> Result<Frame, FrameError> {
    let frame = match code {
        code::HELLO => return parse_hello(fields),
        code::OPEN => Frame::Open { stream, target: parse_target(&mut fields)? },
        code::OPENED => Frame::Opened { stream },
        code::REFUSED => Frame::Refused { stream, errno: fields.errno()? },
        code::FIN => Frame::Fin { stream },
        code::RESET => Frame::Reset { stream, errno: fields.errno()? },
        code::CREDIT => match fields.u32()? {
            0 => return Err(FrameError::Field("a credit of 0")),
            bytes => Frame::Credit { stream, bytes },
        },
        code::DATAGRAM => {
            let (app, remote) = (AppAddr(fields.addr()?), ClusterAddr(fields.addr()?));
            return Ok(Frame::Datagram(Datagram { app, remote, payload: payload_of(code, fields)? }));
        }
        code::DATAGRAM_FAILED => Frame::DatagramFailed {
            app: AppAddr(fields.addr()?),
            remote: ClusterAddr(fields.addr()?),
            errno: fields.errno()?,
        },
        code::LISTEN => {
            let mut listeners = Vec::new();
            while !fields.is_empty() {
                listeners.push(fields.listener()?);
            }
            Frame::Listen(listeners)
        }
        code::LISTENING => parse_listening(&mut fields)?,
        code::PING => Frame::Ping(fields.u64()?),
        code::PONG => Frame::Pong(fields.u64()?),
        code::CLOSE => {
            let length = fields.0.len();
            Frame::Close { reason: fields.text(length)? }
        }
        code::ECHO => {
            let (app, remote, sequence) = (AppAddr(fields.addr()?), ClusterAddr(fields.addr()?), fields.u16()?);
            return Ok(Frame::Echo(Echo { app, remote, sequence, payload: payload_of(code, fields)? }));
        }
        code::ECHO_FAILED => Frame::EchoFailed {
            app: AppAddr(fields.addr()?),
            remote: ClusterAddr(fields.addr()?),
            sequence: fields.u16()?,
            errno: fields.errno()?,
        },
        _ => return Err(FrameError::Type(code)),
    };
    fields.end()?;
    Ok(frame)
}

/// What is left of a frame that carries a packet's payload.
fn payload_of(code: u8, fields: Fields) -> Result<Bytes, FrameError> {
    let payload = fields.0;
    if payload.len() > MAX_DATAGRAM {
        return Err(FrameError::Oversize { code, length: payload.len(), limit: MAX_DATAGRAM });
    }
    Ok(payload)
}

fn parse_hello(mut fields: Fields) -> Result<Frame, FrameError> {
    if fields.array()? != MAGIC {
        return Err(FrameError::Field("the greeting of something else"));
    }
    let version = fields.u16()?;
    let side = match fields.u8()? {
        SIDECAR => Side::Sidecar,
        PROXY => Side::Proxy,
        _ => return Err(FrameError::Field("an unknown side")),
    };
    if version == PROTOCOL_VERSION {
        fields.end()?;
    }
    Ok(Frame::Hello { version, side })
}

fn parse_target(fields: &mut Fields) -> Result<Target, FrameError> {
    match fields.u8()? {
        DIAL => Ok(Target::Dial(ClusterAddr(fields.addr()?))),
        DELIVER => match fields.u16()? {
            0 => Err(FrameError::Field("a port of 0")),
            port => Ok(Target::Deliver { port, peer: ClusterAddr(fields.addr()?) }),
        },
        _ => Err(FrameError::Field("an unknown target")),
    }
}

fn parse_listening(fields: &mut Fields) -> Result<Frame, FrameError> {
    let mut bound = Vec::new();
    for _ in 0..fields.u32()? {
        bound.push(fields.port()?);
    }
    let mut failed = Vec::new();
    while !fields.is_empty() {
        let port = fields.port()?;
        let length = usize::from(fields.u16()?);
        if length > MAX_PORT_MESSAGE {
            return Err(FrameError::Field("an overlong message"));
        }
        failed.push(PortFailure { port, message: fields.text(length)? });
    }
    Ok(Frame::Listening { bound, failed })
}
