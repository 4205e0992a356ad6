//! Fields that more than one frame is made of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::FrameError;
use crate::addr::{Listener, Port, Scope, Transport};
use crate::errno::Errno;

const V4: u8 = 4;
const V6: u8 = 6;
/// Protocol numbers of IANA.
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Added to a family's number.
const LOOPBACK: u8 = 0x80;

pub(super) fn put_addr(out: &mut BytesMut, addr: SocketAddr) {
    match addr.ip() {
        IpAddr::V4(ip) => {
            out.put_u8(V4);
            out.put_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.put_u8(V6);
            out.put_slice(&ip.octets());
        }
    }
    out.put_u16(addr.port());
    if let SocketAddr::V6(addr) = addr {
        out.put_u32(addr.scope_id());
    }
}

pub(super) fn put_port(out: &mut BytesMut, port: Port) {
    out.put_u8(match port.transport {
        Transport::Tcp => TCP,
        Transport::Udp => UDP,
    });
    out.put_u16(port.number);
}

pub(super) fn put_listener(out: &mut BytesMut, listener: Listener) {
    put_port(out, listener.port);
    out.put_u8(match listener.scope {
        Scope::AnyV4 => V4,
        Scope::AnyV6 => V6,
        Scope::LoopbackV4 => LOOPBACK | V4,
        Scope::LoopbackV6 => LOOPBACK | V6,
    });
}

/// The longest beginning of `text` that has at most `limit` bytes and ends between characters.
pub(super) fn truncated(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

/// Takes fields off a payload; every one may be missing.
pub(super) struct Fields(pub(super) Bytes);

impl Fields {
    pub(super) fn u8(&mut self) -> Result<u8, FrameError> {
        self.0.try_get_u8().map_err(|_| FrameError::Short)
    }

    pub(super) fn u16(&mut self) -> Result<u16, FrameError> {
        self.0.try_get_u16().map_err(|_| FrameError::Short)
    }

    pub(super) fn u32(&mut self) -> Result<u32, FrameError> {
        self.0.try_get_u32().map_err(|_| FrameError::Short)
    }

    pub(super) fn u64(&mut self) -> Result<u64, FrameError> {
        self.0.try_get_u64().map_err(|_| FrameError::Short)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let mut array = [0; N];
        self.0.try_copy_to_slice(&mut array).map_err(|_| FrameError::Short)?;
        Ok(array)
    }

    pub(super) fn errno(&mut self) -> Result<Errno, FrameError> {
        match self.u16()? {
            0 => Err(FrameError::Field("an errno of 0")),
            errno => Ok(Errno(errno)),
        }
    }

    pub(super) fn addr(&mut self) -> Result<SocketAddr, FrameError> {
        match self.u8()? {
            V4 => {
                let ip = Ipv4Addr::from(self.array::<4>()?);
                Ok(SocketAddr::from((ip, self.u16()?)))
            }
            V6 => {
                let ip = Ipv6Addr::from(self.array::<16>()?);
                let port = self.u16()?;
                Ok(SocketAddrV6::new(ip, port, 0, self.u32()?).into())
            }
            _ => Err(FrameError::Field("an unknown address family")),
        }
    }

    pub(super) fn port(&mut self) -> Result<Port, FrameError> {
        let transport = match self.u8()? {
            TCP => Transport::Tcp,
            UDP => Transport::Udp,
            _ => return Err(FrameError::Field("an unknown transport")),
        };
        match self.u16()? {
            0 => Err(FrameError::Field("a port of 0")),
            number => Ok(Port { transport, number }),
        }
    }

    pub(super) fn listener(&mut self) -> Result<Listener, FrameError> {
        const LOOPBACK_V4: u8 = LOOPBACK | V4;
        const LOOPBACK_V6: u8 = LOOPBACK | V6;
        let port = self.port()?;
        let scope = match self.u8()? {
            V4 => Scope::AnyV4,
            V6 => Scope::AnyV6,
            LOOPBACK_V4 => Scope::LoopbackV4,
            LOOPBACK_V6 => Scope::LoopbackV6,
            _ => return Err(FrameError::Field("an unknown scope")),
        };
        Ok(Listener { port, scope })
    }

    pub(super) fn text(&mut self, length: usize) -> Result<String, FrameError> {
        if self.0.len() < length {
            return Err(FrameError::Short);
        }
        let bytes = self.0.split_to(length);
        let text = std::str::from_utf8(&bytes).map_err(|_| FrameError::Field("a text that is not UTF-8"))?;
        Ok(text.to_owned())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Nothing may follow the last field.
    pub(super) fn end(self) -> Result<(), FrameError> {
        if self.0.is_empty() { Ok(()) } else { Err(FrameError::Long) }
    }
}
