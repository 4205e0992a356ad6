//! Many streams and datagrams over one carrier, as a state machine without I/O.
//!
//! The driver feeds it what it read ([`Mux::handle_input`]) and the time ([`Mux::handle_timeout`], due at
//! [`Mux::poll_timeout`]), and takes from it what to write ([`Mux::poll_transmit`]), what the other end asks for
//! ([`Mux::poll_event`]) and whom to wake ([`Mux::poll_ready`]). In between the app opens, sends, receives, finishes
//! and resets. Input and output are plain bytes in order: whether one connection carries them or a session that
//! replays over several is not visible here.
//!
//! Rules that make it hold together:
//! - **Always read the carrier.** What a stream may cost is bounded by the credit it was given, so a stalled reader
//!   holds up itself and nobody else.
//! - **Credit is granted for what the app has consumed** ([`Mux::consumed`]), not for what has arrived.
//! - **Ids rise and are never used again.** So a frame for a stream that is not in the table is either late, if the id
//!   was used, and is dropped; or wrong, and ends the session. Late frames are normal: our RESET and the other end's
//!   DATA cross, and so do its CREDIT and our FIN.
//! - **The other end can break only the session.** Whatever it sends ends in a reason and never in a panic.
//! - **A reset overtakes the data that waits here, but not the data that has arrived:** the app reads that first,
//!   as from a socket of Linux.

mod app;
pub mod limits;
mod liveness;
mod queue;
mod receive;
mod schedule;
mod stream;

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use bytes::{Bytes, BytesMut};

pub use crate::frame::{Datagram, Echo, Side, StreamId};

use crate::addr::{AppAddr, ClusterAddr, Listener, Port, Target};
use crate::contract::PROTOCOL_VERSION;
use crate::control::PortFailure;
use crate::errno::Errno;
use crate::frame::{Decoder, Frame, FrameError};
use limits::{MAX_CONTROL, MAX_STREAMS, WINDOW_BUDGET};
use liveness::{Due, Liveness};
use queue::DropOldest;
use schedule::Scheduler;
use stream::{Phase, Stream};

/// One end of a session.
#[derive(Debug)]
pub struct Mux {
    side: Side,
    decoder: Decoder,
    /// The other end's HELLO has come.
    greeted: bool,
    ended: Option<End>,
    streams: HashMap<StreamId, Stream>,
    /// The id of our next stream; `None` when they are used up.
    next_own: Option<StreamId>,
    /// The highest id that the other end used.
    highest_theirs: StreamId,
    own_streams: usize,
    their_streams: usize,
    window_budget: usize,
    liveness: Liveness,
    /// Frames that go before all others, encoded.
    control: BytesMut,
    listen: Option<Frame>,
    listening: Option<Frame>,
    datagrams_out: DropOldest<Frame>,
    scheduler: Scheduler,
    datagrams_in: DropOldest<Event>,
    events: VecDeque<Event>,
    ready: VecDeque<Ready>,
}

/// What the other end asks for or tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A stream is offered: [`Mux::accept`] or [`Mux::refuse`] it.
    Offered {
        /// Its id.
        stream: StreamId,
        /// What it is for.
        target: Target,
    },
    /// See [`Datagram`].
    Datagram(Datagram),
    /// An ICMP error came back for a datagram from `app` to `remote`.
    DatagramFailed {
        /// The app's socket.
        app: AppAddr,
        /// Whom the datagram was for.
        remote: ClusterAddr,
        /// `ECONNREFUSED` for port unreachable, and so on.
        errno: Errno,
    },
    /// See [`Echo`].
    Echo(Echo),
    /// An echo request was not answered but refused.
    EchoFailed {
        /// Who asked; its port is the echo's identifier.
        app: AppAddr,
        /// Who was asked.
        remote: ClusterAddr,
        /// Which request.
        sequence: u16,
        /// `EHOSTUNREACH`, or `EACCES` where the pod may not ask.
        errno: Errno,
    },
    /// The complete set of ports the app listens on.
    Listen(Vec<Listener>),
    /// What became of it.
    Listening {
        /// Ports bound in the pod.
        bound: Vec<Port>,
        /// Ports that could not be.
        failed: Vec<PortFailure>,
    },
}

/// Whom to wake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// [`Mux::recv`] or [`Mux::answer`] has something that it did not have.
    Recv(StreamId),
    /// [`Mux::send`] has room again.
    Send(StreamId),
    /// The stream failed; every call on it says so.
    Failed(StreamId),
}

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// The other end sent CLOSE.
    #[error("the other end closed the tunnel: {0}")]
    Peer(String),
    /// The other end sent what it may not.
    #[error("the other end broke the protocol: {0}")]
    Protocol(#[from] Violation),
    /// The other end is silent.
    #[error("the other end has been silent for {} s", limits::DEAD_AFTER.as_secs())]
    Silent,
    /// [`Mux::close`].
    #[error("closed at this end")]
    Here,
}

/// What the other end did wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Violation {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("it speaks protocol version {0}, this end {PROTOCOL_VERSION}")]
    Version(u16),
    #[error("both ends are the {0:?}")]
    SameSide(Side),
    #[error("its first frame is no greeting")]
    NotGreeted,
    #[error("it greeted twice")]
    GreetedTwice,
    #[error("a stream {} of the wrong parity", .0.0)]
    Parity(StreamId),
    #[error("stream {} opened again", .0.0)]
    Reopened(StreamId),
    #[error("a frame for stream {}, which was never opened", .0.0)]
    NeverOpened(StreamId),
    #[error("data beyond the credit of stream {}", .0.0)]
    BeyondCredit(StreamId),
    #[error("data after the end of stream {}", .0.0)]
    AfterFin(StreamId),
    #[error("more credit for stream {} than a window", .0.0)]
    Overcredit(StreamId),
    #[error("an answer to stream {}, which was not asked for", .0.0)]
    NotAsked(StreamId),
    #[error("data or credit on stream {} before it was accepted", .0.0)]
    NotOpen(StreamId),
    #[error("a pong without a ping")]
    Pong,
    #[error("a frame that only the other side sends")]
    Direction,
    #[error("it does not read its answers")]
    DoesNotRead,
}

// === impl Mux ===

impl Mux {
    /// The greeting and a first ping, to learn the round trip, are ready to be sent.
    pub fn new(side: Side, now: Instant) -> Self {
        let mut mux = Self {
            side,
            decoder: Decoder::default(),
            greeted: false,
            ended: None,
            streams: HashMap::new(),
            next_own: Some(StreamId(match side {
                Side::Sidecar => 1,
                Side::Proxy => 2,
            })),
            highest_theirs: StreamId(0),
            own_streams: 0,
            their_streams: 0,
            window_budget: WINDOW_BUDGET,
            liveness: Liveness::new(now),
            control: BytesMut::new(),
            listen: None,
            listening: None,
            datagrams_out: DropOldest::default(),
            scheduler: Scheduler::default(),
            datagrams_in: DropOldest::default(),
            events: VecDeque::new(),
            ready: VecDeque::new(),
        };
        mux.control(&Frame::Hello { version: PROTOCOL_VERSION, side });
        mux.ask(now, Liveness::ping);
        mux
    }

    /// Which end this is.
    pub fn side(&self) -> Side {
        self.side
    }

    /// Takes all complete frames off `input`; what remains is the beginning of one that is to be completed.
    pub fn handle_input(&mut self, input: &mut BytesMut, now: Instant) {
        self.liveness.heard(now);
        while self.ended.is_none() {
            match self.decoder.decode(input) {
                Ok(None) => return,
                Ok(Some(frame)) => {
                    if let Err(violation) = self.receive(frame, now) {
                        self.violation(violation);
                    }
                }
                Err(error) => self.violation(error.into()),
            }
        }
        input.clear();
    }

    /// When [`Self::handle_timeout`] is due. Changes with every input; `None` after the end.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.ended.is_none().then(|| self.liveness.deadline())
    }

    /// To be called at [`Self::poll_timeout`] or at any other time.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.ended.is_some() {
            return;
        }
        match self.liveness.due(now) {
            Due::Nothing => {}
            Due::Ping => self.ask(now, Liveness::ping),
            Due::Dead => self.end(End::Silent, Some("no answer")),
        }
    }

    /// When the last byte came from the other end, or when this was made.
    pub fn heard(&self) -> Instant {
        self.liveness.last_heard()
    }

    /// Asks the other end for a sign of life, unless it has been asked and has not answered.
    pub fn probe(&mut self, now: Instant) {
        self.ask(now, Liveness::ping);
    }

    /// The next thing that the other end asks for or tells. What had come before the session ended is still told.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front().or_else(|| self.datagrams_in.pop())
    }

    /// Whether [`Self::poll_event`] has something.
    pub fn has_event(&self) -> bool {
        !self.events.is_empty() || !self.datagrams_in.is_empty()
    }

    /// Whom to wake.
    pub fn poll_ready(&mut self) -> Option<Ready> {
        self.ready.pop_front()
    }

    /// Why the session ended, if it has. [`Self::poll_transmit`] may still have a CLOSE to say.
    pub fn ended(&self) -> Option<&End> {
        self.ended.as_ref()
    }

    /// Streams in the table, for tests and logs.
    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// Ends the session; open streams fail at both ends.
    pub fn close(&mut self, reason: &str) {
        if self.ended.is_none() {
            self.end(End::Here, Some(reason));
        }
    }

    fn violation(&mut self, violation: Violation) {
        let reason = violation.to_string();
        self.end(End::Protocol(violation), Some(&reason));
    }

    /// Streams keep what the app has not read yet; everything else goes.
    fn end(&mut self, end: End, say: Option<&str>) {
        self.ended = Some(end);
        if let Some(reason) = say {
            Frame::Close { reason: reason.to_owned() }.encode(&mut self.control);
        }
        self.scheduler.clear();
        self.datagrams_out.clear();
        (self.listen, self.listening) = (None, None);
        let open: Vec<StreamId> = self.streams.keys().copied().collect();
        for id in open {
            self.fail(id, Errno::ECONNRESET);
        }
    }

    /// Marks a stream as reset; the app hears of it when it has read what has arrived.
    fn fail(&mut self, id: StreamId, errno: Errno) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        // A stream that both ends have finished has nothing to fail; the app may still read from it.
        if !stream.is_over() {
            stream.failed = Some(errno);
            stream.send.clear();
            self.ready.push_back(Ready::Failed(id));
        }
        self.forget_if_over(id);
    }

    /// Drops a stream that is over for the app and on the wire.
    fn forget_if_over(&mut self, id: StreamId) {
        let std::collections::hash_map::Entry::Occupied(entry) = self.streams.entry(id) else { return };
        if !(entry.get().released && entry.get().is_over()) {
            return;
        }
        let stream = entry.remove();
        self.window_budget += stream.recv.grown();
        if self.is_own(id) {
            self.own_streams -= 1;
        } else {
            self.their_streams -= 1;
        }
    }

    fn is_own(&self, id: StreamId) -> bool {
        (id.0 % 2 == 1) == (self.side == Side::Sidecar)
    }

    /// Queues a frame that goes before all data.
    fn control(&mut self, frame: &Frame) {
        if self.ended.is_some() {
            return;
        }
        frame.encode(&mut self.control);
        if self.control.len() > MAX_CONTROL {
            self.violation(Violation::DoesNotRead);
        }
    }

    fn ask(&mut self, now: Instant, which: impl FnOnce(&mut Liveness, Instant) -> Option<u64>) {
        if let Some(number) = which(&mut self.liveness, now) {
            self.control(&Frame::Ping(number));
        }
    }

    fn insert(&mut self, id: StreamId, phase: Phase, now: Instant) {
        let count = if self.is_own(id) { &mut self.own_streams } else { &mut self.their_streams };
        *count += 1;
        debug_assert!(*count <= MAX_STREAMS, "more streams than allowed");
        self.streams.insert(id, Stream::new(phase, now));
    }
}

/// Something the app may have to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recv {
    /// Bytes; tell [`Mux::consumed`] when they are out of the way.
    Chunk(Bytes),
    /// The other end has finished and everything was read.
    Fin,
    /// Not yet: [`Ready::Recv`] will tell.
    Wait,
}
