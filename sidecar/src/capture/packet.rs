//! IP packets: what is read of those that the kernel hands over, and how those are made that are injected.
//!
//! RFC 791 (IPv4), RFC 8200 (IPv6), RFC 768 (UDP), RFC 9293 (TCP), RFC 792 and RFC 4443 (ICMP), RFC 1071 (checksum).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tpdocker_protocol::errno::Errno;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const UDP_HEADER: usize = 8;
/// Of an echo message.
const ICMP_HEADER: usize = 8;
/// What Linux gives to packets of its own (`net.ipv4.ip_default_ttl`).
const TTL: u8 = 64;
/// More extension headers than that are nobody's honest packet.
const MAX_EXTENSION_HEADERS: usize = 8;

/// Why a captured packet cannot be carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// It contradicts itself, is a fragment, or is of another protocol.
    Malformed,
    /// The kernel's copy ends before the packet does.
    Truncated,
}

/// A packet of the app, `from` its socket. An echo request has its identifier in the place of the port that it comes
/// from, as in a NAT (RFC 5508), and goes to port 0.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parsed<'a> {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) body: Body<'a>,
}

/// What it carries.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Body<'a> {
    /// A TCP segment with this sequence number.
    Tcp { sequence: u32 },
    /// A datagram.
    Udp { payload: &'a [u8] },
    /// An ICMP echo request.
    Echo { sequence: u16, payload: &'a [u8] },
}

/// Reads a packet that starts with its IP header.
pub(crate) fn parse(packet: &[u8]) -> Result<Parsed<'_>, Unreadable> {
    let (source, destination, protocol, transport) = match packet.first().map(|byte| byte >> 4) {
        Some(4) => parse_v4(packet)?,
        Some(6) => parse_v6(packet)?,
        _ => return Err(Unreadable::Malformed),
    };
    let ports = |from, to| (SocketAddr::new(source, from), SocketAddr::new(destination, to));
    let (first, second) = (u16_at(transport, 0)?, u16_at(transport, 2)?);
    let ((from, to), body) = match protocol {
        TCP => (ports(first, second), Body::Tcp { sequence: u32::from_be_bytes(array_at(transport, 4)?) }),
        UDP => {
            let length = usize::from(u16_at(transport, 4)?);
            if length < UDP_HEADER {
                return Err(Unreadable::Malformed);
            }
            let payload = transport.get(UDP_HEADER..length).ok_or(Unreadable::Truncated)?;
            (ports(first, second), Body::Udp { payload })
        }
        ICMP | ICMPV6 if (protocol, first) == echo_request(&source) => {
            if packet.len() < declared_length(packet)? {
                return Err(Unreadable::Truncated);
            }
            let payload = transport.get(ICMP_HEADER..).ok_or(Unreadable::Truncated)?;
            (ports(u16_at(transport, 4)?, 0), Body::Echo { sequence: u16_at(transport, 6)?, payload })
        }
        _ => return Err(Unreadable::Malformed),
    };
    Ok(Parsed { from, to, body })
}

type Transport<'a> = (IpAddr, IpAddr, u8, &'a [u8]);

fn parse_v4(packet: &[u8]) -> Result<Transport<'_>, Unreadable> {
    let header = usize::from(packet[0] & 0xf) * 4;
    // "More fragments" or an offset.
    if header < 20 || u16_at(packet, 6)? & 0x3fff != 0 {
        return Err(Unreadable::Malformed);
    }
    let [source, destination] = [array_at(packet, 12)?, array_at(packet, 16)?].map(|a: [u8; 4]| IpAddr::from(a));
    Ok((source, destination, packet[9], packet.get(header..).ok_or(Unreadable::Truncated)?))
}

fn parse_v6(packet: &[u8]) -> Result<Transport<'_>, Unreadable> {
    let [source, destination] = [array_at(packet, 8)?, array_at(packet, 24)?].map(|a: [u8; 16]| IpAddr::from(a));
    let mut next = packet[6];
    let mut rest = packet.get(40..).ok_or(Unreadable::Truncated)?;
    for _ in 0..=MAX_EXTENSION_HEADERS {
        match next {
            // Hop-by-hop options, routing, destination options.
            0 | 43 | 60 => {
                let [following, length] = array_at(rest, 0)?;
                next = following;
                rest = rest.get((usize::from(length) + 1) * 8..).ok_or(Unreadable::Truncated)?;
            }
            _ => return Ok((source, destination, next, rest)),
        }
    }
    Err(Unreadable::Malformed)
}

/// With its IP header. ICMP has no length of its own by which a cut would show.
fn declared_length(packet: &[u8]) -> Result<usize, Unreadable> {
    if packet.first().is_some_and(|byte| byte >> 4 == 4) {
        u16_at(packet, 2).map(usize::from)
    } else {
        u16_at(packet, 4).map(|length| 40 + usize::from(length))
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Unreadable> {
    array_at(bytes, at).map(u16::from_be_bytes)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Unreadable> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(Unreadable::Truncated)
}

/// Why a packet cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unwritable {
    /// IPv4 to IPv6 or the other way round.
    #[error("the two addresses are of different families")]
    Families,
    /// The length fields have 16 bits.
    #[error("a payload of {0} bytes is too long for a datagram")]
    TooLong(usize),
}

/// A UDP datagram with its IP header.
pub(crate) fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Result<Vec<u8>, Unwritable> {
    let length = u16::try_from(UDP_HEADER + payload.len()).map_err(|_| Unwritable::TooLong(payload.len()))?;
    let mut segment = Vec::with_capacity(usize::from(length));
    segment.extend(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend(length.to_be_bytes());
    segment.extend([0; 2]);
    segment.extend(payload);
    let sum = match checksum(pseudo_header(from.ip(), to.ip(), UDP, segment.len())?, &segment) {
        0 => 0xffff, // 0 says that there is no checksum
        sum => sum,
    };
    segment[6..8].copy_from_slice(&sum.to_be_bytes());
    ip(from.ip(), to.ip(), UDP, &segment)
}

/// The ICMP error by which `remote`'s side tells `app` that its datagram to `remote` failed with `errno`; `None` if
/// ICMP has no word for it. It quotes the headers of such a datagram, by which the kernel finds the app's socket.
pub(crate) fn unreachable(app: SocketAddr, remote: SocketAddr, errno: Errno) -> Result<Option<Vec<u8>>, Unwritable> {
    let v4 = app.is_ipv4();
    let Some(code) = unreachable_code(v4, errno) else { return Ok(None) };
    let quoted = udp(app, remote, &[])?;
    let kind = if v4 { 3 } else { 1 };
    icmp(remote.ip(), app.ip(), [kind, code, 0, 0, 0, 0, 0, 0], &quoted).map(Some)
}

/// The reply to an echo request of `app` (its port is the identifier).
pub(crate) fn echo_reply(
    app: SocketAddr,
    remote: SocketAddr,
    sequence: u16,
    payload: &[u8],
) -> Result<Vec<u8>, Unwritable> {
    icmp(remote.ip(), app.ip(), echo_header(if app.is_ipv4() { 0 } else { 129 }, app.port(), sequence), payload)
}

/// The ICMP error by which the app's own host tells that its echo request failed with `errno`; `None` if ICMP has no
/// word for it. It is the host that says so and not `remote`: nobody out there is made to say what they did not.
pub(crate) fn echo_failed(
    app: SocketAddr,
    remote: SocketAddr,
    sequence: u16,
    errno: Errno,
) -> Result<Option<Vec<u8>>, Unwritable> {
    let Some(code) = unreachable_code(app.is_ipv4(), errno) else { return Ok(None) };
    let (kind, request) = if app.is_ipv4() { (3, 8) } else { (1, 128) };
    let quoted = icmp(app.ip(), remote.ip(), echo_header(request, app.port(), sequence), &[])?;
    icmp(app.ip(), app.ip(), [kind, code, 0, 0, 0, 0, 0, 0], &quoted).map(Some)
}

/// The code of "destination unreachable" that Linux reads as `errno`.
fn unreachable_code(v4: bool, errno: Errno) -> Option<u8> {
    match errno {
        Errno::ECONNREFUSED if v4 => Some(3),
        Errno::ECONNREFUSED => Some(4),
        Errno::EHOSTUNREACH if v4 => Some(1),
        Errno::EHOSTUNREACH => Some(3),
        Errno::ENETUNREACH => Some(0),
        Errno::EPERM | Errno::EACCES if v4 => Some(13),
        Errno::EPERM | Errno::EACCES => Some(1),
        _ => None,
    }
}

fn echo_header(kind: u8, identifier: u16, sequence: u16) -> [u8; ICMP_HEADER] {
    let ([a, b], [c, d]) = (identifier.to_be_bytes(), sequence.to_be_bytes());
    [kind, 0, 0, 0, a, b, c, d]
}

/// Protocol of an echo request, and its type and code 0 in one number.
fn echo_request(source: &IpAddr) -> (u8, u16) {
    if source.is_ipv4() { (ICMP, 8 << 8) } else { (ICMPV6, 128 << 8) }
}

/// An ICMP message whose checksum in `header` is still to be filled.
fn icmp(from: IpAddr, to: IpAddr, header: [u8; ICMP_HEADER], body: &[u8]) -> Result<Vec<u8>, Unwritable> {
    let mut message = [&header, body].concat();
    let (protocol, pseudo) =
        if from.is_ipv4() { (ICMP, 0) } else { (ICMPV6, pseudo_header(from, to, ICMPV6, message.len())?) };
    let sum = checksum(pseudo, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ip(from, to, protocol, &message)
}

fn ip(source: IpAddr, destination: IpAddr, protocol: u8, body: &[u8]) -> Result<Vec<u8>, Unwritable> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4(source, destination, protocol, body),
        (IpAddr::V6(source), IpAddr::V6(destination)) => ipv6(source, destination, protocol, body),
        _ => Err(Unwritable::Families),
    }
}

fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, body: &[u8]) -> Result<Vec<u8>, Unwritable> {
    let length = u16::try_from(20 + body.len()).map_err(|_| Unwritable::TooLong(body.len()))?;
    let mut out = Vec::with_capacity(usize::from(length));
    out.extend([0x45, 0]);
    out.extend(length.to_be_bytes());
    out.extend([0, 0, 0, 0, TTL, protocol, 0, 0]);
    out.extend(source.octets());
    out.extend(destination.octets());
    let sum = checksum(0, &out);
    out[10..12].copy_from_slice(&sum.to_be_bytes());
    out.extend(body);
    Ok(out)
}

fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, body: &[u8]) -> Result<Vec<u8>, Unwritable> {
    let length = u16::try_from(body.len()).map_err(|_| Unwritable::TooLong(body.len()))?;
    let mut out = Vec::with_capacity(40 + body.len());
    out.extend([0x60, 0, 0, 0]);
    out.extend(length.to_be_bytes());
    out.extend([protocol, TTL]);
    out.extend(source.octets());
    out.extend(destination.octets());
    out.extend(body);
    Ok(out)
}

/// The sum over what a transport's checksum covers besides the segment.
fn pseudo_header(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> Result<u64, Unwritable> {
    let addresses = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => sum(&from.octets()) + sum(&to.octets()),
        (IpAddr::V6(from), IpAddr::V6(to)) => sum(&from.octets()) + sum(&to.octets()),
        _ => return Err(Unwritable::Families),
    };
    Ok(addresses + u64::from(protocol) + length as u64)
}

/// Sum of 16-bit words, the last one padded with zeros.
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(2);
    let odd = words.remainder().first().map_or(0, |byte| u64::from(*byte) << 8);
    odd + words.map(|word| u64::from(u16::from_be_bytes([word[0], word[1]]))).sum::<u64>()
}

fn checksum(start: u64, bytes: &[u8]) -> u16 {
    let mut total = start + sum(bytes);
    while total > 0xffff {
        total = (total >> 16) + (total & 0xffff);
    }
    !u16::try_from(total).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addresses() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
        let v4 = (any::<[u8; 4]>(), any::<u16>()).prop_map(SocketAddr::from);
        let v6 = (any::<[u16; 8]>(), any::<u16>()).prop_map(SocketAddr::from);
        prop_oneof![(v4.clone(), v4), (v6.clone(), v6)]
    }

    /// RFC 1071: the sum over data with its checksum is all ones.
    fn adds_up(packet: &[u8], from: IpAddr, to: IpAddr, protocol: u8) -> bool {
        let header = if from.is_ipv4() { 20 } else { 40 };
        let pseudo =
            if protocol == ICMP { 0 } else { pseudo_header(from, to, protocol, packet.len() - header).unwrap() };
        checksum(pseudo, &packet[header..]) == 0 && (from.is_ipv6() || checksum(0, &packet[..header]) == 0)
    }

    proptest! {
        #[test]
        fn a_datagram_reads_as_it_was_written_and_its_checksums_add_up((from, to) in addresses(), payload in prop::collection::vec(any::<u8>(), 0..2000)) {
            let packet = udp(from, to, &payload).unwrap();
            prop_assert!(adds_up(&packet, from.ip(), to.ip(), UDP));
            prop_assert_eq!(parse(&packet), Ok(Parsed { from, to, body: Body::Udp { payload: &payload } }));
            for cut in [0, 1, 19, 20, packet.len() / 2, packet.len() - 1] {
                prop_assert!(parse(&packet[..cut]).is_err());
            }
        }

        #[test]
        fn an_icmp_error_quotes_the_datagram_of_the_app((app, remote) in addresses()) {
            let packet = unreachable(app, remote, Errno::ECONNREFUSED).unwrap().unwrap();
            let (header, protocol) = if app.is_ipv4() { (20, ICMP) } else { (40, ICMPV6) };
            prop_assert!(adds_up(&packet, remote.ip(), app.ip(), protocol));
            let quoted = parse(&packet[header + 8..]).unwrap();
            prop_assert_eq!((quoted.from, quoted.to), (app, remote));
        }

        #[test]
        fn an_echo_request_reads_as_it_was_written((app, remote) in addresses(), sequence in any::<u16>(), payload in prop::collection::vec(any::<u8>(), 0..2000)) {
            let kind = if app.is_ipv4() { 8 } else { 128 };
            let packet = icmp(app.ip(), remote.ip(), echo_header(kind, app.port(), sequence), &payload).unwrap();
            let to = SocketAddr::new(remote.ip(), 0);
            prop_assert_eq!(parse(&packet), Ok(Parsed { from: app, to, body: Body::Echo { sequence, payload: &payload } }));
            for cut in [0, 1, 19, 20, packet.len() / 2, packet.len() - 1] {
                prop_assert!(parse(&packet[..cut]).is_err());
            }
        }

        #[test]
        fn an_echo_reply_adds_up_and_has_identifier_sequence_and_payload((app, remote) in addresses(), sequence in any::<u16>(), payload in prop::collection::vec(any::<u8>(), 0..2000)) {
            let packet = echo_reply(app, remote, sequence, &payload).unwrap();
            let (header, protocol, kind) = if app.is_ipv4() { (20, ICMP, 0) } else { (40, ICMPV6, 129) };
            prop_assert!(adds_up(&packet, remote.ip(), app.ip(), protocol));
            let message = &packet[header..];
            prop_assert_eq!(message[..2].to_vec(), vec![kind, 0]);
            prop_assert_eq!(&message[4..6], app.port().to_be_bytes());
            prop_assert_eq!(&message[6..8], sequence.to_be_bytes());
            prop_assert_eq!(&message[8..], payload);
        }

        #[test]
        fn a_refused_echo_quotes_the_request_of_the_app((app, remote) in addresses(), sequence in any::<u16>()) {
            let packet = echo_failed(app, remote, sequence, Errno::EACCES).unwrap().unwrap();
            let (header, protocol) = if app.is_ipv4() { (20, ICMP) } else { (40, ICMPV6) };
            prop_assert!(adds_up(&packet, app.ip(), app.ip(), protocol));
            let quoted = parse(&packet[header + ICMP_HEADER..]).unwrap();
            prop_assert_eq!(quoted, Parsed { from: app, to: SocketAddr::new(remote.ip(), 0), body: Body::Echo { sequence, payload: &[] } });
        }

        #[test]
        fn garbage_is_refused_instead_of_panicking(bytes in prop::collection::vec(any::<u8>(), 0..200), first in prop_oneof![Just(0x45_u8), Just(0x60), any::<u8>()], next in prop_oneof![Just(0_u8), Just(43), Just(6), Just(17), Just(58)]) {
            let mut bytes = bytes;
            for (at, value) in [(0, first), (6, next)] {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn the_longest_datagram_fits_and_one_byte_more_is_an_error() {
        let (from, to) = (SocketAddr::from(([1, 2, 3, 4], 5)), SocketAddr::from(([6, 7, 8, 9], 10)));
        assert!(udp(from, to, &vec![0; 65_507]).is_ok());
        assert_eq!(udp(from, to, &vec![0; 65_508]), Err(Unwritable::TooLong(65_516)));
        assert_eq!(udp(from, "[::1]:1".parse().unwrap(), b""), Err(Unwritable::Families));
    }

    #[test]
    fn errors_that_icmp_cannot_say_are_not_said() {
        let (app, remote) = (SocketAddr::from(([1, 2, 3, 4], 5)), SocketAddr::from(([6, 7, 8, 9], 10)));
        assert_eq!(unreachable(app, remote, Errno::ETIMEDOUT), Ok(None));
    }

    #[test]
    fn fragments_are_refused() {
        let (from, to) = (SocketAddr::from(([1, 2, 3, 4], 5)), SocketAddr::from(([6, 7, 8, 9], 10)));
        let mut packet = udp(from, to, b"x").unwrap();
        packet[7] = 1;
        assert_eq!(parse(&packet), Err(Unreadable::Malformed));
    }
}
