//! What a peer may not do, and what only looks as if it may not.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tpdocker_protocol::addr::{ClusterAddr, Target};
use tpdocker_protocol::contract::PROTOCOL_VERSION;
use tpdocker_protocol::errno::Errno;
use tpdocker_protocol::frame::{Decoder, Frame};
use tpdocker_protocol::mux::limits::{DEAD_AFTER, INITIAL_WINDOW, PING_AFTER};
use tpdocker_protocol::mux::{End, Mux, Recv, Side, StreamId, Violation};

fn target() -> Target {
    Target::Dial(ClusterAddr("10.0.0.1:80".parse().unwrap()))
}

fn feed(mux: &mut Mux, frames: &[Frame]) {
    let mut input = BytesMut::new();
    for frame in frames {
        frame.encode(&mut input);
    }
    mux.handle_input(&mut input, Instant::now());
}

/// A proxy that was greeted and has accepted stream 1.
fn proxy() -> Mux {
    let mut mux = Mux::new(Side::Proxy, Instant::now());
    let id = StreamId(1);
    feed(
        &mut mux,
        &[
            Frame::Hello { version: PROTOCOL_VERSION, side: Side::Sidecar },
            Frame::Open { stream: id, target: target() },
        ],
    );
    mux.accept(id);
    mux
}

fn data(stream: u32, length: usize) -> Frame {
    Frame::Data { stream: StreamId(stream), payload: vec![0; length].into() }
}

#[test]
fn what_breaks_the_rules_ends_the_session_with_a_reason_that_is_said() {
    let id = StreamId;
    let window = INITIAL_WINDOW as usize;
    let cases = [
        (vec![data(1, window), data(1, 1)], Violation::BeyondCredit(id(1))),
        (vec![data(3, 1)], Violation::NeverOpened(id(3))),
        (vec![data(2, 1)], Violation::NeverOpened(id(2))),
        (vec![Frame::Open { stream: id(2), target: target() }], Violation::Parity(id(2))),
        (vec![Frame::Open { stream: id(1), target: target() }], Violation::Reopened(id(1))),
        (vec![Frame::Fin { stream: id(1) }, data(1, 1)], Violation::AfterFin(id(1))),
        (vec![Frame::Fin { stream: id(1) }, Frame::Fin { stream: id(1) }], Violation::AfterFin(id(1))),
        (vec![Frame::Credit { stream: id(1), bytes: u32::MAX }], Violation::Overcredit(id(1))),
        (vec![Frame::Opened { stream: id(1) }], Violation::NotAsked(id(1))),
        (vec![Frame::Open { stream: id(3), target: target() }, data(3, 1)], Violation::NotOpen(id(3))),
        (vec![Frame::Pong(77)], Violation::Pong),
        (vec![Frame::Listening { bound: vec![], failed: vec![] }], Violation::Direction),
    ];
    for (frames, violation) in cases {
        let mut mux = proxy();
        feed(&mut mux, &frames);
        assert_eq!(mux.ended(), Some(&End::Protocol(violation.clone())));
        let mut wire = BytesMut::new();
        while let Some(piece) = mux.poll_transmit() {
            wire.extend_from_slice(&piece);
        }
        let (mut decoder, mut last) = (Decoder::default(), None);
        while let Some(frame) = decoder.decode(&mut wire).unwrap() {
            last = Some(frame);
        }
        assert_eq!(last, Some(Frame::Close { reason: violation.to_string() }));
        assert_eq!(mux.open(target(), Instant::now()), Err(Errno::ECONNRESET));
    }
}

#[test]
fn another_version_and_the_same_side_are_refused() {
    for (frame, violation) in [
        (Frame::Hello { version: 99, side: Side::Sidecar }, Violation::Version(99)),
        (Frame::Hello { version: PROTOCOL_VERSION, side: Side::Proxy }, Violation::SameSide(Side::Proxy)),
        (Frame::Ping(1), Violation::NotGreeted),
    ] {
        let mut mux = Mux::new(Side::Proxy, Instant::now());
        feed(&mut mux, &[frame]);
        assert_eq!(mux.ended(), Some(&End::Protocol(violation)));
    }
}

#[test]
fn frames_that_crossed_our_reset_or_our_fin_are_dropped() {
    let id = StreamId(1);
    let mut mux = proxy();
    mux.reset(id, Errno::ECONNRESET);
    mux.release(id);
    assert_eq!(mux.stream_count(), 0);
    let credit = Frame::Credit { stream: id, bytes: 1 };
    feed(&mut mux, &[data(1, 1), credit, Frame::Fin { stream: id }, Frame::Reset { stream: id, errno: Errno::EPIPE }]);
    assert_eq!(mux.ended(), None);
}

#[test]
fn what_arrived_before_a_reset_is_read_before_it() {
    let id = StreamId(1);
    let mut mux = proxy();
    feed(&mut mux, &[data(1, 3), Frame::Reset { stream: id, errno: Errno::ETIMEDOUT }]);
    assert_eq!(mux.recv(id), Ok(Recv::Chunk(Bytes::from_static(&[0; 3]))));
    assert_eq!(mux.recv(id), Err(Errno::ETIMEDOUT));
}

#[test]
fn a_small_answer_waits_for_one_quantum_of_bulk_at_most() {
    let mut mux = proxy();
    feed(&mut mux, &[Frame::Open { stream: StreamId(3), target: target() }]);
    mux.accept(StreamId(3));
    while mux.poll_transmit().is_some() {}
    mux.send(StreamId(1), &mut Bytes::from(vec![0; 250_000])).unwrap();
    assert!(mux.poll_transmit().is_some());
    mux.send(StreamId(3), &mut Bytes::from_static(b"small")).unwrap();
    let mut before = 0;
    while let Some(piece) = mux.poll_transmit() {
        if piece.windows(5).any(|bytes| bytes == b"small") {
            break;
        }
        before += piece.len();
    }
    assert!(before <= 70_000, "{before} bytes of bulk went first");
}

#[test]
fn a_silent_peer_is_asked_after_five_seconds_and_dead_after_fifteen() {
    let start = Instant::now();
    let mut mux = Mux::new(Side::Proxy, start);
    feed(&mut mux, &[Frame::Hello { version: PROTOCOL_VERSION, side: Side::Sidecar }, Frame::Pong(0)]);
    while mux.poll_transmit().is_some() {}
    let asked = mux.poll_timeout().unwrap();
    assert!(asked >= start + PING_AFTER);
    mux.handle_timeout(asked);
    assert!(mux.poll_transmit().is_some());
    let dead = mux.poll_timeout().unwrap();
    assert!(dead >= start + DEAD_AFTER && dead <= asked + DEAD_AFTER);
    mux.handle_timeout(asked + Duration::from_millis(1));
    assert_eq!(mux.ended(), None);
    mux.handle_timeout(dead);
    assert_eq!(mux.ended(), Some(&End::Silent));
    assert_eq!(mux.poll_timeout(), None);
}
