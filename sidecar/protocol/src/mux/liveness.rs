//! Is the other end there, and how far away is it?
//!
//! Both questions have one answer, a PING. It travels with the data, because what has to be proven is that data
//! travels: an idle stream looks the same whether the cluster is silent or the laptop's VPN is gone. One ping is under
//! way at a time; it is sent after a silence, or when a window may have to grow and the round trip is not known.

use std::time::{Duration, Instant};

use super::limits::{ANSWER_WITHIN, DEAD_AFTER, PING_AFTER, RTT_FRESH};

#[derive(Debug)]
pub(super) struct Liveness {
    heard: Instant,
    asked: Option<(u64, Instant)>,
    next: u64,
    rtt: Option<Duration>,
    measured: Instant,
}

/// What the time has come for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Ping,
    Dead,
}

impl Liveness {
    pub(super) fn new(now: Instant) -> Self {
        Self { heard: now, asked: None, next: 0, rtt: None, measured: now }
    }

    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    pub(super) fn last_heard(&self) -> Instant {
        self.heard
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// The number of a ping to send, unless one is under way.
    pub(super) fn ping(&mut self, now: Instant) -> Option<u64> {
        if self.asked.is_some() {
            return None;
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.asked = Some((number, now));
        Some(number)
    }

    /// Like [`Self::ping`], if the round trip is not known well enough.
    pub(super) fn ping_for_rtt(&mut self, now: Instant) -> Option<u64> {
        let fresh = self.rtt.is_some() && now.saturating_duration_since(self.measured) < RTT_FRESH;
        if fresh { None } else { self.ping(now) }
    }

    /// Whether this pong answers the ping under way.
    pub(super) fn pong(&mut self, number: u64, now: Instant) -> bool {
        let Some((asked, at)) = self.asked else { return false };
        if asked != number {
            return false;
        }
        let sample = now.saturating_duration_since(at);
        self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt + sample) / 2));
        self.measured = now;
        self.asked = None;
        true
    }

    pub(super) fn deadline(&self) -> Instant {
        match self.asked {
            None => self.heard + PING_AFTER,
            // A process that was stopped finds an old `heard`; the other end still gets its time to answer.
            Some((_, at)) => (self.heard + DEAD_AFTER).max(at + ANSWER_WITHIN),
        }
    }

    pub(super) fn due(&self, now: Instant) -> Due {
        match self.asked {
            _ if now < self.deadline() => Due::Nothing,
            None => Due::Ping,
            Some(_) => Due::Dead,
        }
    }
}
