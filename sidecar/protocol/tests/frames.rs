//! The codec: what is written is read, however it is cut, and what is not a frame is refused.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;
use tpdocker_protocol::addr::{AppAddr, ClusterAddr, Listener, Port, Scope, Target, Transport};
use tpdocker_protocol::control::PortFailure;
use tpdocker_protocol::errno::Errno;
use tpdocker_protocol::frame::{
    Datagram, Decoder, Echo, Frame, FrameError, HEADER, MAX_DATA, MAX_DATAGRAM, MAX_LISTENING, MAX_REASON, Side,
    StreamId,
};

fn addr() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        (any::<u32>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::from((Ipv4Addr::from(ip), port))),
        (any::<u128>(), any::<u16>(), any::<u32>()).prop_map(|(ip, port, scope)| SocketAddrV6::new(
            Ipv6Addr::from(ip),
            port,
            0,
            scope
        )
        .into()),
    ]
}

fn port() -> impl Strategy<Value = Port> {
    (prop_oneof![Just(Transport::Tcp), Just(Transport::Udp)], 1..=u16::MAX)
        .prop_map(|(transport, number)| Port { transport, number })
}

fn listener() -> impl Strategy<Value = Listener> {
    let scopes = [Scope::AnyV4, Scope::AnyV6, Scope::LoopbackV4, Scope::LoopbackV6];
    (port(), prop::sample::select(scopes.to_vec())).prop_map(|(port, scope)| Listener { port, scope })
}

fn errno() -> impl Strategy<Value = Errno> {
    (1..=u16::MAX).prop_map(Errno)
}

fn payload(range: std::ops::Range<usize>) -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), range).prop_map(Bytes::from)
}

fn frame() -> impl Strategy<Value = Frame> {
    let stream = || (1..=u32::MAX).prop_map(StreamId);
    let app = || addr().prop_map(AppAddr);
    let remote = || addr().prop_map(ClusterAddr);
    let failure = (port(), "\\PC{0,40}").prop_map(|(port, message)| PortFailure { port, message });
    prop_oneof![
        (any::<u16>(), prop_oneof![Just(Side::Sidecar), Just(Side::Proxy)])
            .prop_map(|(version, side)| Frame::Hello { version, side }),
        (stream(), remote()).prop_map(|(stream, addr)| Frame::Open { stream, target: Target::Dial(addr) }),
        (stream(), 1..=u16::MAX, remote())
            .prop_map(|(stream, port, peer)| Frame::Open { stream, target: Target::Deliver { port, peer } }),
        stream().prop_map(|stream| Frame::Opened { stream }),
        (stream(), errno()).prop_map(|(stream, errno)| Frame::Refused { stream, errno }),
        (stream(), payload(1..500)).prop_map(|(stream, payload)| Frame::Data { stream, payload }),
        stream().prop_map(|stream| Frame::Fin { stream }),
        (stream(), errno()).prop_map(|(stream, errno)| Frame::Reset { stream, errno }),
        (stream(), 1..=u32::MAX).prop_map(|(stream, bytes)| Frame::Credit { stream, bytes }),
        (app(), remote(), payload(0..500)).prop_map(|(app, remote, payload)| Frame::Datagram(Datagram {
            app,
            remote,
            payload
        })),
        (app(), remote(), errno()).prop_map(|(app, remote, errno)| Frame::DatagramFailed { app, remote, errno }),
        prop::collection::vec(listener(), 0..20).prop_map(Frame::Listen),
        (prop::collection::vec(port(), 0..20), prop::collection::vec(failure, 0..5))
            .prop_map(|(bound, failed)| Frame::Listening { bound, failed }),
        (app(), remote(), any::<u16>(), payload(0..500))
            .prop_map(|(app, remote, sequence, payload)| Frame::Echo(Echo { app, remote, sequence, payload })),
        (app(), remote(), any::<u16>(), errno()).prop_map(|(app, remote, sequence, errno)| Frame::EchoFailed {
            app,
            remote,
            sequence,
            errno
        }),
        any::<u64>().prop_map(Frame::Ping),
        any::<u64>().prop_map(Frame::Pong),
        "\\PC{0,100}".prop_map(|reason| Frame::Close { reason }),
    ]
}

/// Everything in `buffer`; the parts of one stream's data that follow each other are joined.
fn decode_all(decoder: &mut Decoder, buffer: &mut BytesMut, frames: &mut Vec<Frame>) -> Result<(), FrameError> {
    while let Some(frame) = decoder.decode(buffer)? {
        frames.push(frame);
    }
    Ok(())
}

fn joined(frames: Vec<Frame>) -> Vec<Frame> {
    let mut out: Vec<Frame> = Vec::new();
    for frame in frames {
        if let Frame::Data { stream, payload } = &frame
            && let Some(Frame::Data { stream: before, payload: start }) = out.last_mut()
            && stream == before
        {
            *start = [&start[..], payload].concat().into();
            continue;
        }
        out.push(frame);
    }
    out
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded_however_it_is_cut(
        frames in prop::collection::vec(frame(), 1..10),
        cuts in prop::collection::vec(1..200usize, 1..20),
    ) {
        let mut wire = BytesMut::new();
        for frame in &frames {
            frame.encode(&mut wire);
        }
        let (mut decoder, mut buffer, mut seen) = (Decoder::default(), BytesMut::new(), Vec::new());
        for cut in cuts.iter().cycle() {
            if wire.is_empty() {
                break;
            }
            buffer.extend_from_slice(&wire.split_to((*cut).min(wire.len())));
            decode_all(&mut decoder, &mut buffer, &mut seen).unwrap();
        }
        prop_assert!(buffer.is_empty());
        prop_assert_eq!(joined(seen), joined(frames));
    }

    #[test]
    fn a_frame_that_dribbles_in_byte_by_byte_is_the_same_frame(frame in frame()) {
        let mut wire = BytesMut::new();
        frame.encode(&mut wire);
        let (mut decoder, mut buffer, mut seen) = (Decoder::default(), BytesMut::new(), Vec::new());
        for byte in wire {
            prop_assert!(!seen.iter().any(|seen| !matches!(seen, Frame::Data { .. })), "decoded before its last byte");
            buffer.put_u8(byte);
            decode_all(&mut decoder, &mut buffer, &mut seen).unwrap();
        }
        prop_assert_eq!(joined(seen), vec![frame]);
    }

    #[test]
    fn garbage_is_refused_or_waited_for_but_never_a_panic(garbage in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut buffer = BytesMut::from(&garbage[..]);
        let _whatever = decode_all(&mut Decoder::default(), &mut buffer, &mut Vec::new());
    }

    #[test]
    fn a_frame_with_one_wrong_byte_is_never_a_panic(frame in frame(), place in any::<prop::sample::Index>(), byte: u8) {
        let mut wire = BytesMut::new();
        frame.encode(&mut wire);
        let place = place.index(wire.len());
        wire[place] = byte;
        let _whatever = decode_all(&mut Decoder::default(), &mut wire, &mut Vec::new());
    }
}

fn decode(bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
    Decoder::default().decode(&mut BytesMut::from(bytes))
}

fn header(code: u8, length: usize, stream: u32) -> Vec<u8> {
    let mut out = vec![code];
    out.put_uint(length as u64, 3);
    out.put_u32(stream);
    out
}

#[test]
fn nothing_and_half_a_header_ask_for_more() {
    assert_eq!(decode(&[]), Ok(None));
    assert_eq!(decode(&[6, 0, 0, 0, 0, 0, 0]), Ok(None));
}

#[test]
fn a_length_over_the_limit_is_refused_before_the_payload_comes() {
    const DATA: u8 = 5;
    const DATAGRAM: u8 = 9;
    assert_eq!(decode(&header(DATA, MAX_DATA, 1)), Ok(None));
    assert!(matches!(decode(&header(DATA, MAX_DATA + 1, 1)), Err(FrameError::Oversize { code: DATA, .. })));
    assert!(matches!(decode(&header(DATAGRAM, 1 << 20, 0)), Err(FrameError::Oversize { code: DATAGRAM, .. })));
    for code in [1, 2, 3, 4, 6, 7, 8, 10, 11, 12, 13, 14, 15] {
        let stream = u32::from(matches!(code, 2..=8));
        let refused = decode(&header(code, 0xFF_FFFF, stream));
        assert!(matches!(refused, Err(FrameError::Oversize { .. })), "type {code}: {refused:?}");
    }
}

#[test]
fn a_datagram_is_as_long_as_udp_allows_whatever_its_addresses() {
    let datagram = |length| {
        let mut wire = BytesMut::new();
        let payload = Bytes::from(vec![0; length]);
        let app = AppAddr(SocketAddr::from(([127, 0, 0, 1], 1)));
        Frame::Datagram(Datagram { app, remote: ClusterAddr(app.0), payload }).encode(&mut wire);
        decode(&wire)
    };
    assert!(matches!(datagram(MAX_DATAGRAM), Ok(Some(_))));
    assert!(matches!(datagram(MAX_DATAGRAM + 1), Err(FrameError::Oversize { .. })));
}

#[test]
fn values_out_of_range_are_refused() {
    let with = |code, stream, payload: &[u8]| decode(&[&header(code, payload.len(), stream)[..], payload].concat());
    assert_eq!(with(99, 1, &[]), Err(FrameError::Type(99)));
    assert_eq!(with(3, 0, &[]), Err(FrameError::Stream(3)));
    assert_eq!(with(13, 1, &[0; 8]), Err(FrameError::Stream(13)));
    assert_eq!(with(13, 0, &[0; 7]), Err(FrameError::Short));
    assert_eq!(with(5, 1, &[]), Err(FrameError::Short));
    assert!(matches!(with(1, 0, b"HTTP/1."), Err(FrameError::Field(_))));
    assert!(matches!(with(2, 1, &[9]), Err(FrameError::Field(_))));
    assert!(matches!(with(2, 1, &[1, 5, 0, 0, 0, 0, 0, 0]), Err(FrameError::Field(_))));
    assert_eq!(with(2, 1, &[1, 4, 0, 0, 0, 0, 0, 0, 0]), Err(FrameError::Long));
    assert!(matches!(with(4, 1, &[0, 0]), Err(FrameError::Field(_))));
    assert!(matches!(with(8, 1, &[0, 0, 0, 0]), Err(FrameError::Field(_))));
    assert!(matches!(with(11, 0, &[6, 0, 0]), Err(FrameError::Field(_))));
    assert_eq!(with(12, 0, &[0, 0, 0, 9, 6, 0, 1]), Err(FrameError::Short));
    assert!(matches!(with(15, 0, &[0xFF]), Err(FrameError::Field(_))));
}

#[test]
fn a_greeting_of_another_version_is_understood_whatever_follows_it() {
    let greeting = [&header(1, 10, 0)[..], b"TPMX", &[0xAB, 0xCD, 2, 1, 2, 3]].concat();
    assert_eq!(decode(&greeting), Ok(Some(Frame::Hello { version: 0xABCD, side: Side::Proxy })));
}

#[test]
fn long_texts_are_cut_between_characters_and_no_failed_port_is_left_out() {
    let mut wire = BytesMut::new();
    Frame::Close { reason: "é".repeat(MAX_REASON) }.encode(&mut wire);
    assert_eq!(decode(&wire), Ok(Some(Frame::Close { reason: "é".repeat(MAX_REASON / 2) })));

    let all = |transport| (1..=u16::MAX).map(move |number| Port { transport, number });
    let failed: Vec<_> = all(Transport::Tcp).map(|port| PortFailure { port, message: "x".repeat(300) }).collect();
    wire.clear();
    Frame::Listening { bound: all(Transport::Udp).collect(), failed: failed.clone() }.encode(&mut wire);
    assert!(wire.len() <= HEADER + MAX_LISTENING);
    match decode(&wire) {
        Ok(Some(Frame::Listening { bound, failed: seen })) => {
            assert_eq!(bound.len(), 65_535);
            assert!(seen.iter().map(|failure| failure.port).eq(failed.iter().map(|failure| failure.port)));
            assert_eq!(seen[0].message.len(), 256);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_payload_of_data_is_handed_on_before_the_frame_is_complete_and_without_a_copy() {
    let mut buffer = BytesMut::from(&[&header(5, 1000, 1)[..], &[7; 10]].concat()[..]);
    let place = buffer[HEADER..].as_ptr();
    match Decoder::default().decode(&mut buffer) {
        Ok(Some(Frame::Data { payload, .. })) => assert_eq!((payload.len(), payload.as_ptr()), (10, place)),
        other => panic!("{other:?}"),
    }
}
