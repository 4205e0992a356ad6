//! Netlink (RFC 3549, netlink(7)): length-prefixed messages of type-length-value attributes in host byte order.
//!
//! Four kernel interfaces are spoken here: `nf_tables`, the packet queue, socket diagnostics and rtnetlink. The kernel
//! carries out what it is sent within the `sendto` call, so its acknowledgements are in the socket when that returns, and
//! no function here waits; only the packet queue and notifications of changes are read asynchronously.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt, socket,
    sockopt,
};

/// `NLM_F_REQUEST`
pub(crate) const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`
pub(crate) const ACK: u16 = 0x4;
/// `NLM_F_DUMP`
pub(crate) const DUMP: u16 = 0x300;
/// `NLM_F_EXCL`: not if it is there already.
pub(crate) const EXCLUSIVE: u16 = 0x200;
/// `NLM_F_CREATE`
pub(crate) const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`
pub(crate) const APPEND: u16 = 0x800;

/// `NLMSG_ERROR`, also the acknowledgement, with error 0.
pub(crate) const ERROR: u16 = 2;
/// `NLMSG_DONE`
pub(crate) const DONE: u16 = 3;

/// `NLA_F_NESTED`
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;
const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;

/// A netlink socket, non-blocking, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    pub(crate) fn open(protocol: SockProtocol) -> io::Result<Self> {
        Self::subscribe(protocol, 0)
    }

    /// One that also gets what the kernel tells to the multicast `groups`, a bit each.
    pub(crate) fn subscribe(protocol: SockProtocol, groups: u32) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Self(fd))
    }

    /// Room for what the kernel says; beyond it `recv` fails with ENOBUFS once and messages are lost. In a user namespace
    /// (rootless engines) it is at most `net.core.rmem_max`.
    pub(crate) fn set_receive_buffer(&self, bytes: usize) -> io::Result<()> {
        let forced = setsockopt(&self.0, sockopt::RcvBufForce, &bytes);
        Ok(forced.or_else(|_| setsockopt(&self.0, sockopt::RcvBuf, &bytes))?)
    }

    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        sendto(self.0.as_raw_fd(), bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        Ok(())
    }

    /// One datagram of messages. A longer one than `buffer` is an error rather than half a message.
    pub(crate) fn recv<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let length = recv(self.0.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC)?;
        buffer.get(..length).ok_or_else(|| io::ErrorKind::FileTooLarge.into())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Appends a message whose body `fill` writes.
pub(crate) fn put_message(out: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; 4]);
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend([0; 4]);
    fill(out);
    let length = u32::try_from(out.len() - start).expect("a message of ours is far below 4 GiB");
    out[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

/// The header of netfilter's messages, `struct nfgenmsg`; `resource` is a queue's number or a batch's subsystem.
pub(crate) fn put_nfgenmsg(out: &mut Vec<u8>, family: u8, resource: u16) {
    out.extend([family, 0]);
    out.extend(resource.to_be_bytes());
}

/// Appends an attribute, padded to four bytes.
pub(crate) fn put(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    put_with(out, kind, |out| out.extend(value));
}

/// Appends an attribute made of attributes.
pub(crate) fn put_nested(out: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    put_with(out, kind | NESTED, fill);
}

/// Appends a text with its terminating zero.
pub(crate) fn put_text(out: &mut Vec<u8>, kind: u16, text: &str) {
    put_with(out, kind, |out| {
        out.extend(text.as_bytes());
        out.push(0);
    });
}

fn put_with(out: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; 2]);
    out.extend(kind.to_ne_bytes());
    fill(out);
    let length = u16::try_from(out.len() - start).expect("an attribute of ours is far below 64 KiB");
    out[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    out.resize(out.len().next_multiple_of(4), 0);
}

/// A received message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) sequence: u32,
    pub(crate) body: &'a [u8],
}

impl Message<'_> {
    /// Of an [`ERROR`]: what it acknowledges (`None`) or why the request failed.
    pub(crate) fn error(&self) -> Option<io::Error> {
        let errno = u32_at(self.body, 0).map_or(0, u32::cast_signed);
        (errno != 0).then(|| io::Error::from_raw_os_error(errno.saturating_neg()))
    }
}

/// The messages in a datagram; ends at the first that is malformed.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let kind = u16_at(bytes, 4)?;
        let sequence = u32_at(bytes, 8)?;
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, sequence, body })
    })
}

/// The attributes in a message's body, as types and values; ends at the first that is malformed.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & TYPE_MASK;
        let value = bytes.get(ATTRIBUTE_HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_is_padded_and_measured_as_netlink_wants_it() {
        let mut out = Vec::new();
        put_message(&mut out, 7, REQUEST | ACK, 9, |out| {
            put_nested(out, 1, |out| put_text(out, 2, "lo"));
        });
        let native = |length: u16, kind: u16| [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        let expected = [
            &28_u32.to_ne_bytes()[..],
            &[7_u16.to_ne_bytes(), 5_u16.to_ne_bytes()].concat(),
            &9_u32.to_ne_bytes(),
            &[0; 4],
            &native(12, 0x8001),
            &native(7, 2),
            b"lo\0\0",
        ]
        .concat();
        assert_eq!(out, expected);
    }

    proptest! {
        #[test]
        fn attributes_come_back_as_they_were_put(values in prop::collection::vec((0_u16..0x3fff, prop::collection::vec(any::<u8>(), 0..40)), 0..8)) {
            let mut body = Vec::new();
            for (kind, value) in &values {
                put(&mut body, *kind, value);
            }
            let mut out = Vec::new();
            put_message(&mut out, 1, 0, 2, |out| out.extend(&body));
            put_message(&mut out, 3, 0, 4, |_| ());
            let parsed: Vec<_> = messages(&out).collect();
            prop_assert_eq!(parsed.len(), 2);
            prop_assert_eq!((parsed[1].kind, parsed[1].sequence, parsed[1].body.len()), (3, 4, 0));
            let back: Vec<_> = attributes(parsed[0].body).map(|(kind, value)| (kind, value.to_vec())).collect();
            prop_assert_eq!(back, values);
        }

        #[test]
        fn garbage_ends_instead_of_panicking(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for message in messages(&bytes) {
                message.error();
                prop_assert!(attributes(message.body).count() <= bytes.len());
            }
            prop_assert!(attributes(&bytes).count() <= bytes.len());
        }
    }
}
