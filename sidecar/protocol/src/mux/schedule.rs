//! Who sends next.
//!
//! Control goes first: an OPEN, a CREDIT or a PONG that waits holds up somebody at the other end. Then what is small,
//! because a person waits for it: datagrams and streams with little in their queue. Then bulk, one quantum each in
//! turn. Small ones that keep coming give way to one quantum of bulk now and then. All of it is decided piece by piece
//! as the driver asks, so a request waits for what the driver has taken already and not for what is queued here.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::limits::{COPY_SEND, GATHER, QUANTUM, SEND_QUEUE, SMALL, SMALL_BURST};
use super::{Mux, Ready};
use crate::frame::{Frame, HEADER, StreamId, put_data_header};

/// The order of sending.
#[derive(Debug, Default)]
pub(super) struct Scheduler {
    small: VecDeque<StreamId>,
    bulk: VecDeque<StreamId>,
    /// What small ones have sent since bulk had its last turn.
    burst: usize,
    /// Datagrams had the last turn among the small.
    after_datagram: bool,
    /// Frames being gathered.
    gather: BytesMut,
    /// Pieces in the order of the wire.
    pieces: VecDeque<Bytes>,
}

impl Scheduler {
    /// Forgets what waits. Pieces stay: the frame that they are part of has begun.
    pub(super) fn clear(&mut self) {
        self.small.clear();
        self.bulk.clear();
    }

    fn flush(&mut self) {
        if !self.gather.is_empty() {
            self.pieces.push_back(self.gather.split().freeze());
        }
    }
}

impl Mux {
    /// The next bytes for the carrier, in pieces to be written one after the other; `None` until something happens.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        if self.scheduler.pieces.is_empty() {
            self.gather_pieces();
        }
        self.scheduler.pieces.pop_front()
    }

    /// Whether [`Self::poll_transmit`] has something.
    pub fn wants_transmit(&self) -> bool {
        let scheduler = &self.scheduler;
        !(self.control.is_empty()
            && scheduler.pieces.is_empty()
            && scheduler.small.is_empty()
            && scheduler.bulk.is_empty()
            && self.datagrams_out.is_empty()
            && self.listen.is_none()
            && self.listening.is_none())
    }

    /// Puts a stream that has something to send into its list.
    pub(super) fn schedule(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.is_sendable() && !std::mem::replace(&mut stream.send.scheduled, true) {
            let list = if stream.send.queued <= SMALL { &mut self.scheduler.small } else { &mut self.scheduler.bulk };
            list.push_back(id);
        }
    }

    fn gather_pieces(&mut self) {
        if !self.control.is_empty() {
            self.scheduler.pieces.push_back(self.control.split().freeze());
            return;
        }
        while self.scheduler.pieces.is_empty() && self.scheduler.gather.len() < GATHER {
            if !self.gather_one() {
                break;
            }
        }
        self.scheduler.flush();
    }

    /// Gathers one frame; false if there is none.
    fn gather_one(&mut self) -> bool {
        if let Some(frame) = self.listen.take().or_else(|| self.listening.take()) {
            frame.encode(&mut self.scheduler.gather);
            return true;
        }
        if self.scheduler.burst < SMALL_BURST || self.scheduler.bulk.is_empty() {
            let stream_first = std::mem::take(&mut self.scheduler.after_datagram);
            if (stream_first && self.gather_small()) || self.gather_datagram() || self.gather_small() {
                return true;
            }
        }
        self.scheduler.burst = 0;
        let Some(id) = self.scheduler.bulk.pop_front() else { return false };
        self.gather_stream(id);
        true
    }

    fn gather_datagram(&mut self) -> bool {
        let Some(datagram) = self.datagrams_out.pop() else { return false };
        let before = self.scheduler.gather.len();
        datagram.encode(&mut self.scheduler.gather);
        self.scheduler.burst += self.scheduler.gather.len() - before;
        self.scheduler.after_datagram = true;
        true
    }

    fn gather_small(&mut self) -> bool {
        let Some(id) = self.scheduler.small.pop_front() else { return false };
        self.scheduler.burst += HEADER + self.gather_stream(id);
        true
    }

    /// One quantum of a stream, and its FIN if that was all; returns the bytes of data.
    fn gather_stream(&mut self, id: StreamId) -> usize {
        let Some(stream) = self.streams.get_mut(&id) else { return 0 };
        stream.send.scheduled = false;
        if !stream.is_sendable() {
            return 0;
        }
        let send = &mut stream.send;
        let length = send.queued.min(send.credit as usize).min(QUANTUM);
        if length > 0 {
            put_data_header(&mut self.scheduler.gather, id, length);
            send.queued -= length;
            send.credit -= u32::try_from(length).unwrap_or(u32::MAX);
        }
        let mut left = length;
        while left > 0 {
            let Some(front) = send.queue.front_mut() else { break };
            let chunk = if front.len() <= left { send.queue.pop_front() } else { Some(front.split_to(left)) };
            let Some(chunk) = chunk else { break };
            left -= chunk.len();
            if chunk.len() <= COPY_SEND {
                self.scheduler.gather.extend_from_slice(&chunk);
            } else {
                self.scheduler.flush();
                self.scheduler.pieces.push_back(chunk);
            }
        }
        if send.queued == 0 && send.fin && !send.fin_sent {
            send.fin_sent = true;
            Frame::Fin { stream: id }.encode(&mut self.scheduler.gather);
        }
        if send.waiting && send.queued < SEND_QUEUE {
            send.waiting = false;
            self.ready.push_back(Ready::Send(id));
        }
        if stream.is_sendable() {
            stream.send.scheduled = true;
            self.scheduler.bulk.push_back(id);
        }
        self.forget_if_over(id);
        length
    }
}
