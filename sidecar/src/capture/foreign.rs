//! What is parsed here of bytes that others make, the kernel, the app and the cluster, as functions that may be called with anything
//! and panic when a property does not hold: the fuzz targets of `tests/fuzz`. Not an interface.

use super::packet::{self, Body};
use super::{netlink as wire, queue};
use crate::ports;

/// Messages and attributes lie within the datagram, one behind the other.
pub fn netlink(bytes: &[u8]) {
    let mut left = bytes.len();
    for message in wire::messages(bytes) {
        // The header of a message, and that of an attribute.
        left = left.checked_sub(16 + message.body.len()).expect("messages within the datagram");
        let attributes = wire::attributes(message.body).map(|(_, value)| 4 + value.len()).sum::<usize>();
        assert!(attributes <= message.body.len(), "attributes within the message");
        message.error();
    }
}

/// Packets lie within the datagram.
pub fn nfqueue(bytes: &[u8]) {
    let copied: usize = queue::packets(bytes).iter().map(|packet| packet.bytes.len()).sum();
    assert!(copied <= bytes.len(), "copies are of the datagram");
}

/// A datagram that was read can be written, and is then read as the same.
pub fn packet(bytes: &[u8]) {
    let Ok(parsed) = packet::parse(bytes) else { return };
    assert_eq!(parsed.from.is_ipv4(), parsed.to.is_ipv4());
    if let Body::Udp { payload } = parsed.body {
        let written = packet::udp(parsed.from, parsed.to, payload).expect("it came in a packet");
        assert_eq!(packet::parse(&written), Ok(parsed), "written and read again");
    }
}

/// See there.
pub fn names(bytes: &[u8]) {
    crate::names::foreign::names(bytes);
}

/// No more sockets than fit into the datagram.
pub fn diagnostics(bytes: &[u8]) {
    // The least that is read of `struct inet_diag_msg`, and the header of its message.
    assert!(ports::sockets_in(bytes) * (16 + 24) <= bytes.len());
}
