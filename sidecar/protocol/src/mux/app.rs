//! What the app's side of the driver does with streams and datagrams.

use std::time::Instant;

use bytes::Bytes;

use super::limits::MAX_STREAMS;
use super::liveness::Liveness;
use super::stream::{Last, Phase, Stream};
use super::{Mux, Recv};
use crate::addr::{AppAddr, ClusterAddr, Listener, Port, Target};
use crate::control::PortFailure;
use crate::errno::Errno;
use crate::frame::{Datagram, Echo, Frame, MAX_DATAGRAM, StreamId};

impl Mux {
    /// Asks the other end for a stream; [`Self::answer`] tells what it said. `EADDRNOTAVAIL`, which Linux gives when
    /// the ports are used up, when there are too many streams; `ECONNRESET` after the end.
    pub fn open(&mut self, target: Target, now: Instant) -> Result<StreamId, Errno> {
        if self.ended.is_some() {
            return Err(Errno::ECONNRESET);
        }
        let Some(id) = self.next_own.filter(|_| self.own_streams < MAX_STREAMS) else {
            return Err(Errno::EADDRNOTAVAIL);
        };
        self.next_own = id.0.checked_add(2).map(StreamId);
        self.insert(id, Phase::Asked, now);
        self.control(&Frame::Open { stream: id, target });
        Ok(id)
    }

    /// Whether an opened stream was accepted; `Ok(false)` while there is no answer, the errno if it was refused.
    pub fn answer(&self, id: StreamId) -> Result<bool, Errno> {
        let stream = self.streams.get(&id).ok_or(Errno::ECONNRESET)?;
        match (stream.phase, stream.failed) {
            (Phase::Open, _) => Ok(true),
            (_, Some(errno)) => Err(errno),
            (_, None) => Ok(false),
        }
    }

    /// Why the stream failed, if it did.
    pub fn failure(&self, id: StreamId) -> Option<Errno> {
        self.streams.get(&id).map_or(Some(Errno::ECONNRESET), |stream| stream.failed)
    }

    /// Accepts an offered stream. If it was taken back meanwhile, the next call on it says so.
    pub fn accept(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.phase == Phase::Offered && stream.failed.is_none() {
            stream.phase = Phase::Open;
            self.control(&Frame::Opened { stream: id });
        }
    }

    /// Refuses an offered stream and lets go of it.
    pub fn refuse(&mut self, id: StreamId, errno: Errno) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.released = true;
        if stream.phase == Phase::Offered && stream.failed.is_none() {
            stream.failed = Some(errno);
            self.control(&Frame::Refused { stream: id, errno });
        }
        self.forget_if_over(id);
    }

    /// Takes as much of `data` as there is room for; if some is left, [`super::Ready::Send`] tells when to go on.
    /// `EPIPE` after [`Self::finish`].
    pub fn send(&mut self, id: StreamId, data: &mut Bytes) -> Result<(), Errno> {
        let stream = self.streams.get_mut(&id).ok_or(Errno::ECONNRESET)?;
        if let Some(errno) = stream.failed {
            return Err(errno);
        }
        if stream.send.last.is_some() {
            return Err(Errno::EPIPE);
        }
        stream.send.push(data);
        self.schedule(id);
        Ok(())
    }

    /// Nothing more will be sent; what is queued still goes out.
    pub fn finish(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.send.last.get_or_insert(Last::Fin);
            self.schedule(id);
        }
    }

    /// Like [`Self::reset`], but the other end gets what is queued first: that is what a socket does whose peer wrote,
    /// closed without reading, and so reset the connection behind its answer.
    pub fn finish_with_reset(&mut self, id: StreamId, errno: Errno) {
        match self.streams.get_mut(&id) {
            Some(stream) if stream.send.queued > 0 && stream.failed.is_none() => {
                stream.send.last = Some(Last::Reset(errno));
                self.schedule(id);
            }
            _ => self.reset(id, errno),
        }
    }

    /// The next bytes, the end, or the errno of a reset once everything that had arrived was read.
    pub fn recv(&mut self, id: StreamId) -> Result<Recv, Errno> {
        let stream = self.streams.get_mut(&id).ok_or(Errno::ECONNRESET)?;
        if let Some(chunk) = stream.recv.queue.pop() {
            return Ok(Recv::Chunk(chunk));
        }
        if stream.recv.fin {
            return Ok(Recv::Fin);
        }
        if let Some(errno) = stream.failed {
            return Err(errno);
        }
        stream.recv.waiting = true;
        Ok(Recv::Wait)
    }

    /// `bytes` of what [`Self::recv`] gave are out of the way; the other end may send as many again.
    pub fn consumed(&mut self, id: StreamId, bytes: usize, now: Instant) {
        if self.ended.is_some() {
            return;
        }
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.failed.is_some() {
            return;
        }
        let Some(grant) = stream.recv.consume(bytes) else { return };
        let (credit, growth) = stream.recv.grant(grant, self.liveness.rtt(), self.window_budget, now);
        self.window_budget -= growth;
        self.control(&Frame::Credit { stream: id, bytes: credit });
        self.ask(now, Liveness::ping_for_rtt);
    }

    /// Ends both directions at once. What waits to be sent or read is dropped.
    pub fn reset(&mut self, id: StreamId, errno: Errno) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.recv.queue = super::queue::Received::default();
        if stream.is_over() {
            return;
        }
        let frame = match stream.phase {
            Phase::Asked | Phase::Open => Frame::Reset { stream: id, errno },
            Phase::Offered => Frame::Refused { stream: id, errno },
        };
        self.fail(id, errno);
        self.control(&frame);
    }

    /// The app lets go of a stream. If both ends have finished and everything was read, or after
    /// [`Self::finish_with_reset`], what is queued still goes out; otherwise the stream is reset with `ECONNRESET`, or, if it was never accepted, taken back with `ECONNABORTED`.
    pub fn release(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.released = true;
        if !is_done(stream) {
            let errno = if stream.phase == Phase::Open { Errno::ECONNRESET } else { Errno::ECONNABORTED };
            self.reset(id, errno);
        }
        self.forget_if_over(id);
    }

    /// Queues a datagram; the oldest one is dropped when the queue is full, and this one if it is too long for UDP.
    pub fn send_datagram(&mut self, datagram: Datagram) {
        let length = datagram.payload.len();
        if self.ended.is_none() && length <= MAX_DATAGRAM {
            self.datagrams_out.push(Frame::Datagram(datagram), length);
        }
    }

    /// Tells the sidecar of an ICMP error; queued like a datagram.
    pub fn send_datagram_failed(&mut self, app: AppAddr, remote: ClusterAddr, errno: Errno) {
        if self.ended.is_none() {
            self.datagrams_out.push(Frame::DatagramFailed { app, remote, errno }, 0);
        }
    }

    /// Queues an echo request or its reply like a datagram.
    pub fn send_echo(&mut self, echo: Echo) {
        let length = echo.payload.len();
        if self.ended.is_none() && length <= MAX_DATAGRAM {
            self.datagrams_out.push(Frame::Echo(echo), length);
        }
    }

    /// Tells the sidecar that an echo request was refused; queued like a datagram.
    pub fn send_echo_failed(&mut self, app: AppAddr, remote: ClusterAddr, sequence: u16, errno: Errno) {
        if self.ended.is_none() {
            self.datagrams_out.push(Frame::EchoFailed { app, remote, sequence, errno }, 0);
        }
    }

    /// Tells the proxy the complete set of sockets to listen on; takes the place of a set that was not sent yet.
    pub fn listen(&mut self, listeners: Vec<Listener>) {
        if self.ended.is_none() {
            self.listen = Some(Frame::Listen(listeners));
        }
    }

    /// Tells the sidecar what became of [`Self::listen`]; takes the place of an answer that was not sent yet.
    pub fn listening(&mut self, bound: Vec<Port>, failed: Vec<PortFailure>) {
        if self.ended.is_none() {
            self.listening = Some(Frame::Listening { bound, failed });
        }
    }
}

/// Both ends have said their last word and it was heard.
fn is_done(stream: &Stream) -> bool {
    match stream.send.last {
        Some(Last::Fin) => stream.recv.fin && stream.recv.queue.is_empty(),
        Some(Last::Reset(_)) => true,
        None => false,
    }
}
