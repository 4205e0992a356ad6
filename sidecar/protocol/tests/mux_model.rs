//! Two multiplexers face to face, with the bytes between them cut and delayed at random.
//!
//! Whatever the interleaving of opens, writes, reads, finishes and resets: every byte arrives once, in order, in its
//! stream; nothing waits for ever; a reader that stalls holds up only itself; and nothing is left in the tables.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use tpdocker_protocol::addr::{ClusterAddr, Target};
use tpdocker_protocol::errno::Errno;
use tpdocker_protocol::mux::{Event, Mux, Recv, Side, StreamId};

#[derive(Debug, Clone)]
enum Action {
    Open { end: usize, stalled: bool },
    Write { stream: prop::sample::Index, end: usize, length: usize },
    Read { stream: prop::sample::Index, end: usize },
    Finish { stream: prop::sample::Index, end: usize },
    Reset { stream: prop::sample::Index, end: usize, behind_data: bool },
    Deliver { from: usize, length: usize },
}

fn action() -> impl Strategy<Value = Action> {
    let index = || any::<prop::sample::Index>();
    prop_oneof![
        2 => (0..2usize, prop::bool::weighted(0.2)).prop_map(|(end, stalled)| Action::Open { end, stalled }),
        8 => (index(), 0..2usize, prop_oneof![1..100usize, 1..700_000usize])
            .prop_map(|(stream, end, length)| Action::Write { stream, end, length }),
        6 => (index(), 0..2usize).prop_map(|(stream, end)| Action::Read { stream, end }),
        1 => (index(), 0..2usize).prop_map(|(stream, end)| Action::Finish { stream, end }),
        1 => (index(), 0..2usize, any::<bool>())
            .prop_map(|(stream, end, behind_data)| Action::Reset { stream, end, behind_data }),
        10 => (0..2usize, prop_oneof![1..50usize, 1..300_000usize])
            .prop_map(|(from, length)| Action::Deliver { from, length }),
    ]
}

/// One stream as the test sees it; arrays are indexed by the end that writes.
#[derive(Debug)]
struct Expected {
    id: StreamId,
    opener: usize,
    accepted: bool,
    /// Accepted by the mux.
    written: [usize; 2],
    read: [usize; 2],
    finished: [bool; 2],
    fin_seen: [bool; 2],
    failed: [bool; 2],
    /// Reset at once, so that bytes may be missing.
    cut: bool,
    /// Reset behind the data of this end, which all has to arrive.
    reset_behind: [bool; 2],
    /// Nobody reads until the others are done.
    stalled: bool,
}

struct World {
    ends: [Mux; 2],
    wires: [BytesMut; 2],
    inputs: [BytesMut; 2],
    now: Instant,
    streams: Vec<Expected>,
}

fn byte(id: StreamId, writer: usize, offset: usize) -> u8 {
    (offset.wrapping_mul(31) ^ (offset >> 8) ^ (id.0 as usize * 7) ^ (writer * 101)).to_le_bytes()[0]
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            ends: [Mux::new(Side::Sidecar, now), Mux::new(Side::Proxy, now)],
            wires: Default::default(),
            inputs: Default::default(),
            now,
            streams: Vec::new(),
        }
    }

    fn act(&mut self, action: &Action) {
        match *action {
            Action::Open { end, stalled } => self.open(end, stalled),
            Action::Deliver { from, length } => {
                self.deliver(from, length);
            }
            Action::Write { stream, end, length } => self.with(stream, |world, at| world.write(at, end, length)),
            Action::Read { stream, end } => self.with(stream, |world, at| {
                if !world.streams[at].stalled {
                    world.read(at, end);
                }
            }),
            Action::Finish { stream, end } => self.with(stream, |world, at| world.finish(at, end)),
            Action::Reset { stream, end, behind_data } => {
                self.with(stream, |world, at| world.reset(at, end, behind_data));
            }
        }
    }

    fn with(&mut self, stream: prop::sample::Index, act: impl FnOnce(&mut Self, usize)) {
        if !self.streams.is_empty() {
            let at = stream.index(self.streams.len());
            act(self, at);
        }
    }

    fn open(&mut self, end: usize, stalled: bool) {
        let addr = ClusterAddr("10.0.0.1:80".parse().unwrap());
        let target = if end == 0 { Target::Dial(addr) } else { Target::Deliver { port: 80, peer: addr } };
        let id = self.ends[end].open(target, self.now).unwrap();
        self.streams.push(Expected {
            id,
            opener: end,
            accepted: false,
            written: [0; 2],
            read: [0; 2],
            finished: [false; 2],
            fin_seen: [false; 2],
            failed: [false; 2],
            cut: false,
            reset_behind: [false; 2],
            stalled,
        });
    }

    /// Whether this end may use the stream: it has accepted it, or heard that it was.
    fn is_open(&self, at: usize, end: usize) -> bool {
        let stream = &self.streams[at];
        stream.accepted && (end != stream.opener || self.ends[end].answer(stream.id) == Ok(true))
    }

    fn write(&mut self, at: usize, end: usize, length: usize) {
        if !self.is_open(at, end) {
            return;
        }
        let stream = &mut self.streams[at];
        let start = stream.written[end];
        let mut data: Bytes = (start..start + length).map(|offset| byte(stream.id, end, offset)).collect();
        if self.ends[end].send(stream.id, &mut data).is_ok() {
            stream.written[end] += length - data.len();
        }
    }

    /// True if there was anything to read.
    fn read(&mut self, at: usize, end: usize) -> bool {
        if !self.is_open(at, end) {
            return false;
        }
        let stream = &mut self.streams[at];
        let writer = 1 - end;
        match self.ends[end].recv(stream.id) {
            Ok(Recv::Chunk(chunk)) => {
                for (i, seen) in chunk.iter().enumerate() {
                    assert_eq!(*seen, byte(stream.id, writer, stream.read[writer] + i), "{stream:?}");
                }
                stream.read[writer] += chunk.len();
                assert!(stream.read[writer] <= stream.written[writer]);
                self.ends[end].consumed(stream.id, chunk.len(), self.now);
                true
            }
            Ok(Recv::Fin) => !std::mem::replace(&mut stream.fin_seen[writer], true),
            Ok(Recv::Wait) => false,
            Err(_) => !std::mem::replace(&mut stream.failed[writer], true),
        }
    }

    fn finish(&mut self, at: usize, end: usize) {
        if self.is_open(at, end) && !self.streams[at].finished[end] {
            self.streams[at].finished[end] = true;
            self.ends[end].finish(self.streams[at].id);
        }
    }

    fn reset(&mut self, at: usize, end: usize, behind_data: bool) {
        if !self.is_open(at, end) {
            return;
        }
        let stream = &mut self.streams[at];
        // A second reset races with the first one; then anything may be missing.
        if behind_data && !stream.finished[end] && !stream.reset_behind[1 - end] {
            stream.reset_behind[end] = true;
            stream.finished[end] = true;
            self.ends[end].finish_with_reset(stream.id, Errno::ECONNRESET);
        } else {
            stream.cut = true;
            self.ends[end].reset(stream.id, Errno::ECONNRESET);
        }
    }

    /// Carries up to `length` bytes; true if there were any.
    fn deliver(&mut self, from: usize, length: usize) -> bool {
        self.now += Duration::from_millis(1);
        while self.wires[from].len() < length
            && let Some(piece) = self.ends[from].poll_transmit()
        {
            self.wires[from].extend_from_slice(&piece);
        }
        let length = length.min(self.wires[from].len());
        let to = 1 - from;
        self.inputs[to].extend_from_slice(&self.wires[from].split_to(length));
        self.ends[to].handle_input(&mut self.inputs[to], self.now);
        while let Some(event) = self.ends[to].poll_event() {
            let Event::Offered { stream, .. } = event else { panic!("{event:?}") };
            self.ends[to].accept(stream);
            self.streams.iter_mut().find(|expected| expected.id == stream).unwrap().accepted = true;
        }
        length > 0
    }

    /// Carries and reads until nothing moves.
    fn settle(&mut self) {
        loop {
            let mut moved = false;
            for end in 0..2 {
                moved |= self.deliver(end, 100_000);
                for at in 0..self.streams.len() {
                    moved |= !self.streams[at].stalled && self.read(at, end);
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// All that was written on streams that are read has come, except what a reset took.
    fn check(&self) {
        for stream in self.streams.iter().filter(|stream| !stream.stalled && !stream.cut) {
            for writer in 0..2 {
                // A reset behind the data of one end takes what the other end has under way.
                if !stream.reset_behind[1 - writer] {
                    assert_eq!(stream.read[writer], stream.written[writer], "{stream:?}");
                }
                if stream.reset_behind == [false; 2] {
                    assert_eq!(stream.fin_seen[writer], stream.finished[writer], "{stream:?}");
                }
            }
        }
        for end in &self.ends {
            assert_eq!(end.ended(), None);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_arrives_once_and_in_order(actions in prop::collection::vec(action(), 1..250)) {
        let mut world = World::new();
        for action in &actions {
            world.act(action);
        }
        world.settle();
        world.check();
        for stream in &mut world.streams {
            stream.stalled = false;
        }
        world.settle();
        for at in 0..world.streams.len() {
            for end in 0..2 {
                world.finish(at, end);
            }
        }
        world.settle();
        world.check();
        for stream in &world.streams {
            world.ends[0].release(stream.id);
            world.ends[1].release(stream.id);
        }
        world.settle();
        prop_assert_eq!((world.ends[0].stream_count(), world.ends[1].stream_count()), (0, 0));
    }

    #[test]
    fn a_hostile_peer_ends_the_session_and_nothing_else(garbage in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut mux = Mux::new(Side::Proxy, Instant::now());
        let mut input = BytesMut::from(&b"\x01\0\0\x07\0\0\0\0TPMX\0\x01\x01"[..]);
        // Streams that exist, so that frames find something to break.
        for id in [1u8, 3, 5] {
            input.extend_from_slice(&[2, 0, 0, 8, 0, 0, 0, id, 1, 4, 10, 0, 0, 1, 0, 80]);
        }
        mux.handle_input(&mut input, Instant::now());
        prop_assert!(mux.ended().is_none());
        mux.accept(StreamId(1));
        mux.refuse(StreamId(3), Errno::ECONNREFUSED);
        // Plausible headers: small types, lengths and ids.
        for header in garbage.chunks(4) {
            let [code, length, id, ..] = *header else { continue };
            input.extend_from_slice(&[code % 17, 0, 0, length % 12, 0, 0, 0, id % 8]);
            input.extend_from_slice(&garbage[..usize::from(length % 12).min(garbage.len())]);
            mux.handle_input(&mut input, Instant::now());
        }
        while mux.poll_transmit().is_some() {}
    }
}
