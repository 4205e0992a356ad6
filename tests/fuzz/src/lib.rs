//! Fuzz targets: everything in tpdocker that parses bytes which others make, each as a function that may be called with
//! anything and panics when a property does not hold: that is what they are for.
//!
//! "Others" are the kernel (netlink, queued packets), the app (those packets' content), the cluster's nameservers, the other
//! end of the tunnel, and whoever reaches the proxy's port. Two drivers call the functions: `tests/bounded.rs` with changed seeds, as part of
//! the ordinary tests; and libFuzzer, guided by coverage, through `fuzz_targets/` (see the README beside the manifest).

#![expect(clippy::missing_panics_doc, reason = "the module says it of all of them")]

pub mod seeds;

use std::sync::LazyLock;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use ed25519_dalek::SigningKey;
use serde::{Serialize, de::DeserializeOwned};
use tpdocker_protocol::addr::ClusterAddr;
use tpdocker_protocol::addr::Target::{Deliver, Dial};
use tpdocker_protocol::admission::{Answer, Challenge};
use tpdocker_protocol::control::{self, ProxyReply, ProxyRequest, SidecarReply, SidecarRequest};
use tpdocker_protocol::frame::{Decoder, Frame, FrameError, StreamId};
use tpdocker_protocol::mux::limits::DEAD_AFTER;
use tpdocker_protocol::mux::{Event, Mux, Recv, Side};
pub use tpdocker_sidecar::capture::foreign::{diagnostics, names, netlink, nfqueue, packet};

/// One target.
pub struct Target {
    /// Its name, which is also that of libFuzzer's binary.
    pub name: &'static str,
    /// May be called with anything.
    pub run: fn(&[u8]),
    /// Inputs that are valid, for others to be made of.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// How much longer one call takes than that of a plain parser.
    pub cost: u64,
}

/// All targets.
pub const TARGETS: [Target; 9] = [
    Target { name: "frames", run: frames, seeds: seeds::frames, cost: 1 },
    Target { name: "mux", run: mux, seeds: seeds::frames, cost: 5 },
    Target { name: "control", run: control, seeds: seeds::control, cost: 1 },
    Target { name: "admission", run: admission, seeds: seeds::admission, cost: 50 },
    Target { name: "netlink", run: netlink, seeds: seeds::netlink, cost: 1 },
    Target { name: "nfqueue", run: nfqueue, seeds: seeds::nfqueue, cost: 1 },
    Target { name: "packet", run: packet, seeds: seeds::packet, cost: 1 },
    Target { name: "names", run: names, seeds: seeds::names, cost: 1 },
    Target { name: "diagnostics", run: diagnostics, seeds: seeds::diagnostics, cost: 1 },
];

/// The tunnel's frames: a stream of bytes means the same however it is cut, and what was read can be written and read
/// again.
pub fn frames(bytes: &[u8]) {
    let whole = decode(bytes.chunks(bytes.len().max(1)));
    assert_eq!(whole, decode(bytes.chunks(1)), "byte by byte");
    assert_eq!(whole, decode(bytes.chunks(7)), "in pieces");
    let mut wire = BytesMut::new();
    for frame in &whole.0 {
        frame.encode(&mut wire);
    }
    assert_eq!(decode(std::iter::once(&wire[..])), (whole.0, None), "written and read again");
}

/// Frames until the bytes end or are none; the parts of one stream's data that follow each other are joined.
fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Frame>, Option<FrameError>) {
    let (mut decoder, mut buffer, mut frames) = (Decoder::default(), BytesMut::new(), Vec::new());
    let mut data: Option<(StreamId, Vec<u8>)> = None;
    let mut failure = None;
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            let frame = match decoder.decode(&mut buffer) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            };
            match (&mut data, frame) {
                (Some((id, bytes)), Frame::Data { stream, payload }) if *id == stream => bytes.extend(&payload),
                (open, Frame::Data { stream, payload }) => {
                    frames.extend(open.replace((stream, payload.to_vec())).into_iter().flat_map(as_frames));
                }
                (open, frame) => {
                    frames.extend(open.take().into_iter().flat_map(as_frames));
                    frames.push(frame);
                }
            }
        }
        if failure.is_some() {
            break;
        }
    }
    frames.extend(data.take().into_iter().flat_map(as_frames));
    (frames, failure)
}

fn as_frames((stream, bytes): (StreamId, Vec<u8>)) -> impl Iterator<Item = Frame> {
    let payload = Bytes::from(bytes);
    // What came in several frames may be too long for one.
    let pieces = (0..payload.len()).step_by(tpdocker_protocol::frame::MAX_DATA);
    pieces.map(move |at| Frame::Data {
        stream,
        payload: payload.slice(at..payload.len().min(at + tpdocker_protocol::frame::MAX_DATA)),
    })
}

/// The whole state machine behind the frames, on either side and with an app that accepts, reads, writes and opens: a
/// peer may end the session, and nothing else; and what the app lets go of is gone.
pub fn mux(bytes: &[u8]) {
    let peer = ClusterAddr(([10, 96, 0, 10], 80).into());
    for (side, target) in [(Side::Sidecar, Dial(peer)), (Side::Proxy, Deliver { port: 80, peer })] {
        let now = Instant::now();
        let mut mux = Mux::new(side, now);
        let mut streams: Vec<StreamId> = (0..2).filter_map(|_| mux.open(target, now).ok()).collect();
        let mut input = BytesMut::new();
        for piece in bytes.chunks(32) {
            input.extend_from_slice(piece);
            mux.handle_input(&mut input, now);
            while let Some(event) = mux.poll_event() {
                if let Event::Offered { stream, .. } = event {
                    mux.accept(stream);
                    streams.push(stream);
                }
            }
            for stream in &streams {
                use_stream(&mut mux, *stream, now);
            }
            while mux.poll_transmit().is_some() {}
        }
        mux.handle_timeout(now + DEAD_AFTER);
        for stream in streams {
            mux.release(stream);
        }
        while mux.poll_ready().is_some() {}
        while mux.poll_transmit().is_some() {}
        if mux.ended().is_some() {
            assert_eq!(mux.stream_count(), 0, "streams of nobody");
        }
    }
}

/// Answers, and reads all there is. Whether the stream takes it is the peer's doing.
fn use_stream(mux: &mut Mux, stream: StreamId, now: Instant) {
    let mut answer = Bytes::from_static(b"answer");
    let _taken = mux.send(stream, &mut answer);
    while let Ok(Recv::Chunk(chunk)) = mux.recv(stream) {
        assert!(!chunk.is_empty());
        mux.consumed(stream, chunk.len(), now);
    }
}

/// The requests of the CLI and the answers to them: what can be read can be written and is then read as the same.
pub fn control(bytes: &[u8]) {
    message::<ProxyRequest>(bytes);
    message::<ProxyReply>(bytes);
    message::<SidecarRequest>(bytes);
    message::<SidecarReply>(bytes);
}

fn message<M: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let mut buffer = BytesMut::from(bytes);
    let Ok(Some(read)) = control::decode::<M>(&mut buffer) else { return };
    let mut again = BytesMut::from(&control::encode(&read).expect("what was read can be written")[..]);
    assert_eq!(control::decode::<M>(&mut again).expect("what was written can be read"), Some(read));
    assert!(again.is_empty());
}

static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::from_bytes(&[7; 32]));
static HONEST: LazyLock<Vec<Vec<u8>>> = LazyLock::new(seeds::admission);

/// The proxy's door: nobody gets in with bytes that were not made with the key.
pub fn admission(bytes: &[u8]) {
    if let Some(bytes) = bytes.first_chunk::<{ Challenge::LEN }>()
        && let Ok(challenge) = Challenge::decode(bytes)
    {
        assert_eq!(&challenge.encode(), bytes);
    }
    if let Some(bytes) = bytes.first_chunk::<{ Answer::LEN }>() {
        let answer = Answer::decode(bytes);
        assert_eq!(&answer.encode(), bytes);
        let verdict = Challenge::new([9; 32]).verify(&answer, &KEY.verifying_key(), "session");
        let honest = HONEST.iter().any(|seed| seed.first_chunk() == Some(bytes));
        assert_eq!(verdict.is_ok(), honest, "{verdict:?}");
    }
}
