//! What frames do.

use std::time::Instant;

use bytes::Bytes;

use super::limits::{MAX_STREAMS, MAX_WINDOW};
use super::stream::{Phase, Stream};
use super::{End, Event, Mux, Ready, Violation};
use crate::addr::Target;
use crate::contract::PROTOCOL_VERSION;
use crate::errno::Errno;
use crate::frame::{Frame, Side, StreamId};

impl Mux {
    pub(super) fn receive(&mut self, frame: Frame, now: Instant) -> Result<(), Violation> {
        if !self.greeted {
            return self.greet(&frame);
        }
        match frame {
            Frame::Hello { .. } => return Err(Violation::GreetedTwice),
            Frame::Open { stream, target } => return self.on_open(stream, target, now),
            Frame::Opened { stream } => {
                if let Some(asked) = self.asked(stream)? {
                    asked.phase = Phase::Open;
                    self.ready.push_back(Ready::Recv(stream));
                }
            }
            Frame::Refused { stream, errno } => {
                if self.asked(stream)?.is_some() {
                    self.fail(stream, errno);
                }
            }
            Frame::Data { stream, payload } => return self.on_data(stream, payload),
            Frame::Fin { stream } => return self.on_fin(stream),
            Frame::Reset { stream, errno } => {
                if self.known(stream)?.is_some() {
                    self.fail(stream, errno);
                }
            }
            Frame::Credit { stream, bytes } => return self.on_credit(stream, bytes),
            Frame::Datagram(datagram) => {
                let length = datagram.payload.len();
                // A copy: a slice would hold the whole read buffer for as long as the app does not ask.
                let payload = Bytes::copy_from_slice(&datagram.payload);
                self.datagrams_in.push(Event::Datagram(super::Datagram { payload, ..datagram }), length);
            }
            Frame::DatagramFailed { app, remote, errno } => {
                self.from(Side::Proxy)?;
                self.datagrams_in.push(Event::DatagramFailed { app, remote, errno }, 0);
            }
            Frame::Echo(echo) => {
                let length = echo.payload.len();
                let payload = Bytes::copy_from_slice(&echo.payload);
                self.datagrams_in.push(Event::Echo(super::Echo { payload, ..echo }), length);
            }
            Frame::EchoFailed { app, remote, sequence, errno } => {
                self.from(Side::Proxy)?;
                self.datagrams_in.push(Event::EchoFailed { app, remote, sequence, errno }, 0);
            }
            Frame::Listen(listeners) => {
                self.from(Side::Sidecar)?;
                self.replace_event(Event::Listen(listeners));
            }
            Frame::Listening { bound, failed } => {
                self.from(Side::Proxy)?;
                self.replace_event(Event::Listening { bound, failed });
            }
            Frame::Ping(number) => self.control(&Frame::Pong(number)),
            Frame::Pong(number) => {
                if !self.liveness.pong(number, now) {
                    return Err(Violation::Pong);
                }
            }
            Frame::Close { reason } => self.end(End::Peer(reason), None),
        }
        Ok(())
    }

    fn greet(&mut self, frame: &Frame) -> Result<(), Violation> {
        match *frame {
            Frame::Hello { version, .. } if version != PROTOCOL_VERSION => Err(Violation::Version(version)),
            Frame::Hello { side, .. } if side == self.side => Err(Violation::SameSide(side)),
            Frame::Hello { .. } => {
                self.greeted = true;
                Ok(())
            }
            _ => Err(Violation::NotGreeted),
        }
    }

    /// The frame is one that only `side` sends.
    fn from(&self, side: Side) -> Result<(), Violation> {
        if self.side == side { Err(Violation::Direction) } else { Ok(()) }
    }

    /// The newest complete set is the only one that matters.
    fn replace_event(&mut self, event: Event) {
        self.events.retain(|waiting| std::mem::discriminant(waiting) != std::mem::discriminant(&event));
        self.events.push_back(event);
    }

    /// The stream that a frame is for; `None` if it is over and the frame is late.
    fn known(&mut self, id: StreamId) -> Result<Option<&mut Stream>, Violation> {
        let used = if self.is_own(id) { self.next_own.is_none_or(|next| id < next) } else { id <= self.highest_theirs };
        if !used {
            return Err(Violation::NeverOpened(id));
        }
        Ok(self.streams.get_mut(&id).filter(|stream| stream.failed.is_none()))
    }

    /// Our stream that an answer is for.
    fn asked(&mut self, id: StreamId) -> Result<Option<&mut Stream>, Violation> {
        let own = self.is_own(id);
        match self.known(id)? {
            Some(stream) if stream.phase != Phase::Asked => Err(Violation::NotAsked(id)),
            _ if !own => Err(Violation::NotAsked(id)),
            stream => Ok(stream),
        }
    }

    /// The stream that data or credit is for.
    fn open_stream(&mut self, id: StreamId) -> Result<Option<&mut Stream>, Violation> {
        match self.known(id)? {
            Some(stream) if stream.phase != Phase::Open => Err(Violation::NotOpen(id)),
            stream => Ok(stream),
        }
    }

    fn on_open(&mut self, id: StreamId, target: Target, now: Instant) -> Result<(), Violation> {
        if self.is_own(id) {
            return Err(Violation::Parity(id));
        }
        if id <= self.highest_theirs {
            return Err(Violation::Reopened(id));
        }
        self.from(match target {
            Target::Dial(_) => Side::Sidecar,
            Target::Deliver { .. } => Side::Proxy,
        })?;
        self.highest_theirs = id;
        if self.their_streams >= MAX_STREAMS {
            self.control(&Frame::Refused { stream: id, errno: Errno::EADDRNOTAVAIL });
        } else {
            self.insert(id, Phase::Offered, now);
            self.events.push_back(Event::Offered { stream: id, target });
        }
        Ok(())
    }

    fn on_data(&mut self, id: StreamId, payload: Bytes) -> Result<(), Violation> {
        let Some(stream) = self.open_stream(id)? else { return Ok(()) };
        if stream.recv.fin {
            return Err(Violation::AfterFin(id));
        }
        if !stream.recv.push(payload) {
            return Err(Violation::BeyondCredit(id));
        }
        self.tell_reader(id);
        Ok(())
    }

    fn on_fin(&mut self, id: StreamId) -> Result<(), Violation> {
        let Some(stream) = self.open_stream(id)? else { return Ok(()) };
        if std::mem::replace(&mut stream.recv.fin, true) {
            return Err(Violation::AfterFin(id));
        }
        self.tell_reader(id);
        self.forget_if_over(id);
        Ok(())
    }

    fn on_credit(&mut self, id: StreamId, bytes: u32) -> Result<(), Violation> {
        let Some(stream) = self.open_stream(id)? else { return Ok(()) };
        stream.send.credit = stream
            .send
            .credit
            .checked_add(bytes)
            .filter(|credit| *credit <= MAX_WINDOW)
            .ok_or(Violation::Overcredit(id))?;
        self.schedule(id);
        Ok(())
    }

    fn tell_reader(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && std::mem::take(&mut stream.recv.waiting)
        {
            self.ready.push_back(Ready::Recv(id));
        }
    }
}
