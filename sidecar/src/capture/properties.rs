//! Properties of what is said to the kernel and of what is read of packets, against readers and sums that share no code
//! with the ones under test: an encoder and a decoder with the same mistake agree with each other.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use tpdocker_protocol::errno::Errno;

use super::{
    netlink,
    packet::{self, Body, Parsed, Unreadable},
    queue,
};

// === netlink attributes ===

#[derive(Debug, Clone, PartialEq)]
enum Attribute {
    Value(u16, Vec<u8>),
    Text(u16, String),
    Nested(u16, Vec<Attribute>),
}

fn attributes() -> impl Strategy<Value = Vec<Attribute>> {
    let kind = 0..0x3fff_u16;
    let leaf = prop_oneof![
        (kind.clone(), prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(kind, value)| Attribute::Value(kind, value)),
        (kind.clone(), "[a-z]{0,16}").prop_map(|(kind, text)| Attribute::Text(kind, text)),
    ];
    let tree = leaf.prop_recursive(4, 40, 6, move |inner| {
        (kind.clone(), prop::collection::vec(inner, 0..6)).prop_map(|(kind, inside)| Attribute::Nested(kind, inside))
    });
    prop::collection::vec(tree, 0..8)
}

fn put(out: &mut Vec<u8>, attribute: &Attribute) {
    match attribute {
        Attribute::Value(kind, value) => netlink::put(out, *kind, value),
        Attribute::Text(kind, text) => netlink::put_text(out, *kind, text),
        Attribute::Nested(kind, inside) => {
            netlink::put_nested(out, *kind, |out| inside.iter().for_each(|attribute| put(out, attribute)));
        }
    }
}

fn native<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().unwrap()
}

/// Reads what [`put`] wrote, as netlink(7) describes it, and panics at the first byte that is not as it says. `like`
/// tells what to expect, since a text and a value look the same.
fn read(mut bytes: &[u8], like: &[Attribute]) {
    for attribute in like {
        let length = usize::from(u16::from_ne_bytes(native(bytes, 0)));
        let kind = u16::from_ne_bytes(native(bytes, 2));
        let value = &bytes[4..length];
        match attribute {
            Attribute::Value(expected, content) => assert_eq!((kind, value), (*expected, &content[..])),
            Attribute::Text(expected, text) => {
                assert_eq!((kind, value), (*expected, [text.as_bytes(), &[0]].concat().as_slice()));
            }
            Attribute::Nested(expected, inside) => {
                // NLA_F_NESTED
                assert_eq!(kind, *expected | 0x8000);
                read(value, inside);
            }
        }
        let padded = length + (4 - length % 4) % 4;
        assert!(bytes[length..padded].iter().all(|byte| *byte == 0), "padding of zeros");
        bytes = &bytes[padded..];
    }
    assert!(bytes.is_empty(), "nothing behind the last one");
}

proptest! {
    #[test]
    fn messages_and_attributes_are_laid_out_as_netlink_says(
        (kind, flags, sequence) in (any::<u16>(), any::<u16>(), any::<u32>()),
        trees in attributes(),
    ) {
        let mut out = vec![0xaa; 8];
        netlink::put_message(&mut out, kind, flags, sequence, |out| trees.iter().for_each(|tree| put(out, tree)));
        let message = &out[8..];
        prop_assert_eq!(usize::try_from(u32::from_ne_bytes(native(message, 0))).unwrap(), message.len());
        prop_assert_eq!(message.len() % 4, 0);
        prop_assert_eq!(u16::from_ne_bytes(native(message, 4)), kind);
        prop_assert_eq!(u16::from_ne_bytes(native(message, 6)), flags);
        prop_assert_eq!(u32::from_ne_bytes(native(message, 8)), sequence);
        prop_assert_eq!(native(message, 12), [0; 4]);
        read(&message[16..], &trees);
    }
}

// === queued packets ===

/// An attribute of a queued packet, with a value that may be shorter than it should be.
fn queued() -> impl Strategy<Value = Vec<(u16, Vec<u8>)>> {
    prop::collection::vec((0..12_u16, prop::collection::vec(any::<u8>(), 0..10)), 0..8)
}

fn datagram(packets: &[Vec<(u16, Vec<u8>)>]) -> Vec<u8> {
    let mut out = Vec::new();
    for attributes in packets {
        netlink::put_message(&mut out, 3 << 8, 0, 0, |out| {
            netlink::put_nfgenmsg(out, 2, 0);
            for (kind, value) in attributes {
                netlink::put(out, *kind, value);
            }
        });
    }
    out
}

proptest! {
    #[test]
    fn a_queued_packet_is_read_if_its_number_is_whole(attributes in queued()) {
        let bytes = datagram(std::slice::from_ref(&attributes));
        let last = |wanted: u16| attributes.iter().rfind(|(kind, _)| *kind == wanted).map(|(_, value)| value.clone());
        match &queue::packets(&bytes)[..] {
            [packet] => {
                prop_assert_eq!(packet.id.to_be_bytes(), native(&last(1).unwrap(), 0));
                prop_assert_eq!(packet.bytes.to_vec(), last(10).unwrap_or_default());
                let interface = last(6).map_or(0, |value| u32::from_be_bytes(native(&value, 0)));
                prop_assert_eq!(packet.out_interface, interface);
            }
            [] => {
                let number = last(1).is_some_and(|value| value.len() >= 4);
                let interfaces = attributes.iter().filter(|(kind, _)| *kind == 6).all(|(_, value)| value.len() >= 4);
                prop_assert!(!(number && interfaces), "a packet was overlooked");
            }
            more => prop_assert!(false, "{} packets of one", more.len()),
        }
    }

    #[test]
    fn a_cut_datagram_gives_the_packets_before_the_cut(
        packets in prop::collection::vec(queued(), 1..5),
        cut in any::<prop::sample::Index>(),
    ) {
        let bytes = datagram(&packets);
        let all: Vec<u32> = queue::packets(&bytes).iter().map(|packet| packet.id).collect();
        let some: Vec<u32> = queue::packets(&bytes[..cut.index(bytes.len())]).iter().map(|packet| packet.id).collect();
        prop_assert!(all.starts_with(&some), "{:?} of {:?}", some, all);
    }
}

// === packets ===

fn ends() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    let v4 = (any::<[u8; 4]>(), any::<u16>()).prop_map(SocketAddr::from);
    let v6 = (any::<[u16; 8]>(), any::<u16>()).prop_map(SocketAddr::from);
    prop_oneof![(v4.clone(), v4), (v6.clone(), v6)]
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..600)
}

/// RFC 1071 by its own words: the 16-bit one's complement sum, carries added back as they come. All ones if right.
fn ones_complement_sum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let words = bytes.chunks(2).map(|word| u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)]));
    words.fold(0, |sum: u16, word| {
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    })
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Takes a packet apart by the offsets of RFC 791 and RFC 8200, checks its header, and returns its protocol and body.
fn opened(packet: &[u8], from: IpAddr, to: IpAddr) -> (u8, &[u8]) {
    let length = |at: usize| usize::from(u16::from_be_bytes(native(packet, at)));
    if from.is_ipv4() {
        assert_eq!((packet[0], length(2)), (0x45, packet.len()));
        assert!(packet[8] > 1, "time to live");
        assert_eq!((&packet[12..16], &packet[16..20]), (&octets(from)[..], &octets(to)[..]));
        assert_eq!(ones_complement_sum(&[&packet[..20]]), 0xffff);
        (packet[9], &packet[20..])
    } else {
        assert_eq!((packet[0] >> 4, length(4)), (6, packet.len() - 40));
        assert!(packet[7] > 1, "hop limit");
        assert_eq!((&packet[8..24], &packet[24..40]), (&octets(from)[..], &octets(to)[..]));
        (packet[6], &packet[40..])
    }
}

/// What a transport's checksum covers beside its own bytes: RFC 768, RFC 8200 section 8.1.
fn pseudo_header(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let length = u32::try_from(length).unwrap().to_be_bytes();
    [&octets(from)[..], &octets(to), &length, &[0, 0, 0, protocol]].concat()
}

/// The packet with something between its IP header and the rest.
fn with_inserted(packet: &[u8], inserted: &[u8], next: Option<u8>) -> Vec<u8> {
    let header = if packet[0] >> 4 == 4 { 20 } else { 40 };
    let mut out = [&packet[..header], inserted, &packet[header..]].concat();
    if header == 20 {
        out[0] = 0x40 | u8::try_from((20 + inserted.len()) / 4).unwrap();
        let length = u16::try_from(out.len()).unwrap();
        out[2..4].copy_from_slice(&length.to_be_bytes());
    } else {
        let length = u16::try_from(out.len() - 40).unwrap();
        out[4..6].copy_from_slice(&length.to_be_bytes());
        out[6] = next.unwrap_or(out[6]);
    }
    out
}

/// Extension headers, each of its type and so many times eight bytes more, in front of `last`: the type of the first,
/// and all of them.
fn extensions(headers: &[(u8, u8)], last: u8) -> (u8, Vec<u8>) {
    let mut bytes = Vec::new();
    for (index, (_, more)) in headers.iter().enumerate() {
        let next = headers.get(index + 1).map_or(last, |(kind, _)| *kind);
        bytes.extend([next, *more]);
        bytes.resize(bytes.len() + 6 + usize::from(*more) * 8, 0);
    }
    (headers.first().map_or(last, |(kind, _)| *kind), bytes)
}

proptest! {
    #[test]
    fn a_datagram_is_laid_out_and_summed_as_the_rfcs_say((from, to) in ends(), payload in payload()) {
        let packet = packet::udp(from, to, &payload).unwrap();
        let (protocol, udp) = opened(&packet, from.ip(), to.ip());
        prop_assert_eq!((protocol, udp.len()), (17, 8 + payload.len()));
        let number = |at: usize| u16::from_be_bytes(native(udp, at));
        prop_assert_eq!((number(0), number(2), usize::from(number(4))), (from.port(), to.port(), udp.len()));
        prop_assert_ne!(number(6), 0, "there is a checksum");
        let pseudo = pseudo_header(from.ip(), to.ip(), 17, udp.len());
        prop_assert_eq!(ones_complement_sum(&[&pseudo, udp]), 0xffff);
        prop_assert_eq!(&udp[8..], &payload[..]);
    }

    #[test]
    fn an_error_is_laid_out_and_summed_as_the_rfcs_say((app, remote) in ends(), errno in prop_oneof![
        Just(Errno::ECONNREFUSED), Just(Errno::EHOSTUNREACH), Just(Errno::ENETUNREACH), Just(Errno::EACCES),
    ]) {
        let packet = packet::unreachable(app, remote, errno).unwrap().unwrap();
        let (protocol, icmp) = opened(&packet, remote.ip(), app.ip());
        let pseudo = if app.is_ipv4() { Vec::new() } else { pseudo_header(remote.ip(), app.ip(), 58, icmp.len()) };
        prop_assert_eq!(protocol, if app.is_ipv4() { 1 } else { 58 });
        prop_assert_eq!(ones_complement_sum(&[&pseudo, icmp]), 0xffff);
        // Destination unreachable: RFC 792, RFC 4443.
        prop_assert_eq!(icmp[0], if app.is_ipv4() { 3 } else { 1 });
        let (quoted, udp) = opened(&icmp[8..], app.ip(), remote.ip());
        prop_assert_eq!((quoted, u16::from_be_bytes(native(udp, 0))), (17, app.port()));
        prop_assert_eq!(u16::from_be_bytes(native(udp, 2)), remote.port());
    }

    #[test]
    fn options_and_extension_headers_are_passed_over(
        (from, to) in ends(),
        payload in payload(),
        options in 0..=10_usize,
        headers in prop::collection::vec((prop_oneof![Just(0_u8), Just(43), Just(60)], 0..4_u8), 0..=8),
    ) {
        let packet = packet::udp(from, to, &payload).unwrap();
        let longer = if from.is_ipv4() {
            with_inserted(&packet, &vec![1; options * 4], None)
        } else {
            let (first, bytes) = extensions(&headers, 17);
            with_inserted(&packet, &bytes, Some(first))
        };
        prop_assert_eq!(packet::parse(&longer), Ok(Parsed { from, to, body: Body::Udp { payload: &payload } }));
    }

    #[test]
    fn more_extension_headers_than_anybody_sends_are_refused(from in any::<[u16; 8]>(), more in 9..20_usize) {
        let packet = packet::udp((from, 1).into(), (from, 2).into(), b"x").unwrap();
        let (first, bytes) = extensions(&vec![(60, 0); more], 17);
        let longer = with_inserted(&packet, &bytes, Some(first));
        prop_assert_eq!(packet::parse(&longer), Err(Unreadable::Malformed));
    }

    #[test]
    fn every_fragment_is_refused((from, to) in ends(), payload in payload(), offset in 0..0x2000_u16, more: bool) {
        let packet = packet::udp(from, to, &payload).unwrap();
        let fragment = if from.is_ipv4() {
            let mut packet = packet;
            let field = (offset | if more { 0x2000 } else { 0 }) | 0x4000;
            packet[6..8].copy_from_slice(&field.to_be_bytes());
            packet
        } else {
            let [a, b] = (offset << 3 | u16::from(more)).to_be_bytes();
            with_inserted(&packet, &[17, 0, a, b, 0, 0, 0, 1], Some(44))
        };
        // An IPv4 packet with no offset and nothing to follow is whole, whether or not it may be fragmented.
        let whole = from.is_ipv4() && offset == 0 && !more;
        prop_assert_eq!(packet::parse(&fragment).is_ok(), whole);
    }

    #[test]
    fn the_length_in_the_udp_header_decides((from, to) in ends(), payload in payload(), length: u16) {
        let mut packet = packet::udp(from, to, &payload).unwrap();
        let at = packet.len() - payload.len() - 4;
        packet[at..at + 2].copy_from_slice(&length.to_be_bytes());
        let expected = match usize::from(length) {
            0..8 => Err(Unreadable::Malformed),
            length => payload.get(..length - 8).ok_or(Unreadable::Truncated),
        };
        prop_assert_eq!(packet::parse(&packet), expected.map(|payload| Parsed { from, to, body: Body::Udp { payload } }));
    }
}
