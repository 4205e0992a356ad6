//! What the pod's nameservers have said, for the time in which they cannot be heard.
//!
//! TCP outlives a tunnel that blinks; a question over UDP does not, and glibc gives up after two of them, ten seconds. So
//! answers are remembered, and given again, stale, as resolvers do it (RFC 8767): better yesterday's address than none.
//!
//! As long as the tunnel carries anything, though, the app is to see what it would see in the pod, a slow nameserver's
//! slowness included. So a stale answer needs more than the 1.8 s without an answer that RFC 8767 wants: nothing at all
//! may have come from the proxy. A tunnel without traffic looks the same as one in a black hole (that a carrier is dead is
//! only known after 15 s), hence the question has to be put:
//!
//! ```text
//!   0 s   query, carried as ever; nothing more happens if it is answered soon
//! 0.6 s   is there an answer in the memory? Then a ping goes to the proxy
//! 1.8 s   not a byte has come since the ping, or the query went into a tunnel that is gone, or into none:
//!         the answer from memory. Otherwise the truth is on its way; asked again, with another ping, each 1.2 s
//!   5 s   after it was last asked, who asked has given up (`timeout` in resolv.conf(5)): nothing more is said
//! ```
//! The truth that comes after a stale answer is remembered and goes no further: who has one answer has closed the socket,
//! or uses it for the next question. Errors other than "no such name" are passed on and not remembered: they are answers,
//! too. What is asked while the tunnel is silent may be carried when it wakes, late, as on any network.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tpdocker_protocol::addr::{AppAddr, ClusterAddr};

use super::exchange::{Answer, Query};
use super::store::{Key, Store};
use super::waiting::{Asker, Phase, Queue, Waiting};
use crate::link::Generation;

/// How long a query goes unanswered until the proxy is asked whether it is there: seldom, where all is well.
const PROBE_AFTER: Duration = Duration::from_millis(600);
/// How long the truth is waited for (RFC 8767 section 5, "client response timer").
const SERVE_AFTER: Duration = Duration::from_millis(1800);
/// How long the proxy may take to say that it is there; round trips of satellites are half of that.
const PULSE_WITHIN: Duration = Duration::from_millis(1200);
/// How long a query is worth an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the answer to a query may still come: a tunnel that is silent for longer is dead and carries it no more.
const FORGET_AFTER: Duration = Duration::from_secs(30);

const _: () = assert!(PROBE_AFTER.as_millis() + PULSE_WITHIN.as_millis() == SERVE_AFTER.as_millis());

/// What is known of the tunnel of the moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pulse {
    pub(crate) tunnel: Generation,
    /// When the last byte came out of it.
    pub(crate) heard: Instant,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Transmit {
    /// Ask the proxy whether it is there.
    Probe,
    /// Answer the app in the nameserver's name.
    Answer { app: AppAddr, nameserver: ClusterAddr, message: Vec<u8> },
}

/// The state machine.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    store: Store,
    queue: Queue,
    transmits: VecDeque<Transmit>,
}

// === impl Memory ===

impl Memory {
    /// The app asks; the query goes into this tunnel, or is lost.
    pub(crate) fn handle_query(
        &mut self,
        app: AppAddr,
        nameserver: ClusterAddr,
        message: &[u8],
        sent: Option<Generation>,
        now: Instant,
    ) {
        let Some(query) = Query::parse(message) else { return };
        let asker = Asker { app, nameserver, id: query.id };
        if let Some(waiting) = self.queue.get_mut(&asker)
            && (&waiting.query.topic, waiting.query.manner) == (&query.topic, query.manner)
            && matches!(waiting.phase, Phase::Asked | Phase::Probed(_))
        {
            // Who asks each second is not to wait for longer than who asks once.
            waiting.repeated = now;
            waiting.sent = sent.or(waiting.sent);
            return;
        }
        let waiting = Waiting { query, sent, asked: now, repeated: now, phase: Phase::Asked };
        self.queue.insert(asker, waiting, now + PROBE_AFTER);
    }

    /// A nameserver answers. Returns whether the app is to have it.
    pub(crate) fn handle_answer(
        &mut self,
        app: AppAddr,
        nameserver: ClusterAddr,
        message: &[u8],
        now: Instant,
    ) -> bool {
        let Some(Answer { id, topic, reply }) = Answer::parse(message) else { return true };
        let asker = Asker { app, nameserver, id };
        // Another topic is that of an earlier query.
        let ours = |waiting: &Waiting| topic.as_ref().is_none_or(|topic| *topic == waiting.query.topic);
        if !self.queue.get(&asker).is_some_and(ours) {
            return true;
        }
        let Some(waiting) = self.queue.remove(&asker) else { return true };
        if let Some(reply) = reply {
            self.store.insert(waiting.key(nameserver), reply, now);
        }
        waiting.phase != Phase::Served
    }

    /// The app is told by ICMP that nobody listens there, which is an answer.
    pub(crate) fn handle_failure(&mut self, app: AppAddr, nameserver: ClusterAddr) {
        self.queue.remove_all(app, nameserver);
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.queue.next_due()
    }

    /// Does what is due. `pulse` is `None` where there is no tunnel.
    pub(crate) fn handle_timeout(&mut self, pulse: Option<Pulse>, now: Instant) {
        while let Some((asker, mut waiting)) = self.queue.pop_due(now) {
            let (phase, due) = match waiting.phase {
                Phase::Left | Phase::Served => continue,
                Phase::Asked | Phase::Probed(_) if now >= waiting.repeated + PATIENCE => {
                    (Phase::Left, now + FORGET_AFTER)
                }
                Phase::Asked if self.store.get(&waiting.key(asker.nameserver), now).is_none() => {
                    (Phase::Left, now + FORGET_AFTER)
                }
                Phase::Probed(at) if !waiting.may_be_answered(pulse, at) => {
                    (self.serve(asker, &waiting, now), now + FORGET_AFTER)
                }
                Phase::Asked | Phase::Probed(_) => {
                    self.probe();
                    (Phase::Probed(now), (waiting.asked + SERVE_AFTER).max(now + PULSE_WITHIN))
                }
            };
            waiting.phase = phase;
            self.queue.insert(asker, waiting, due);
        }
    }

    /// The next thing to do.
    pub(crate) fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    fn serve(&mut self, asker: Asker, waiting: &Waiting, now: Instant) -> Phase {
        let Asker { app, nameserver, .. } = asker;
        let reply = self.store.get(&waiting.key(nameserver), now);
        let Some(message) = reply.and_then(|reply| reply.again(&waiting.query)) else { return Phase::Left };
        self.transmits.push_back(Transmit::Answer { app, nameserver, message });
        Phase::Served
    }

    /// One ping is for all that wait.
    fn probe(&mut self) {
        if !self.transmits.contains(&Transmit::Probe) {
            self.transmits.push_back(Transmit::Probe);
        }
    }
}

// === impl Waiting ===

impl Waiting {
    fn key(&self, nameserver: ClusterAddr) -> Key {
        Key { nameserver, topic: self.query.topic.clone(), manner: self.query.manner }
    }

    /// Whether the tunnel that carries the query has shown a sign of life since it was asked for one.
    fn may_be_answered(&self, pulse: Option<Pulse>, asked: Instant) -> bool {
        pulse.is_some_and(|pulse| self.sent == Some(pulse.tunnel) && pulse.heard > asked)
    }
}

#[cfg(test)]
mod tests;
