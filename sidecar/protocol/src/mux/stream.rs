//! One stream, as one end sees it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::limits::{INITIAL_WINDOW, MAX_WINDOW, SEND_QUEUE};
use super::queue::Received;
use crate::errno::Errno;

/// How far the opening has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// We asked, the other end has not answered.
    Asked,
    /// The other end asked, we have not answered.
    Offered,
    /// Both ends may send.
    Open,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) phase: Phase,
    pub(super) send: Sending,
    pub(super) recv: Receiving,
    /// The stream was reset, by either end, or refused.
    pub(super) failed: Option<Errno>,
    /// The app has let go of it.
    pub(super) released: bool,
}

impl Stream {
    pub(super) fn new(phase: Phase, now: Instant) -> Self {
        Self { phase, send: Sending::default(), recv: Receiving::new(now), failed: None, released: false }
    }

    /// No frame will be sent or expected any more.
    pub(super) fn is_over(&self) -> bool {
        self.failed.is_some() || (self.send.fin_sent && self.recv.fin)
    }

    /// Something can be put on the carrier.
    pub(super) fn is_sendable(&self) -> bool {
        self.failed.is_none() && self.phase == Phase::Open && self.send.is_sendable()
    }
}

/// The direction towards the other end.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) queue: VecDeque<Bytes>,
    pub(super) queued: usize,
    /// What the other end still lets us send.
    pub(super) credit: u32,
    /// The app has finished.
    pub(super) fin: bool,
    pub(super) fin_sent: bool,
    /// In one of the scheduler's lists.
    pub(super) scheduled: bool,
    /// The app wants to hear of room in the queue.
    pub(super) waiting: bool,
}

impl Default for Sending {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            queued: 0,
            credit: INITIAL_WINDOW,
            fin: false,
            fin_sent: false,
            scheduled: false,
            waiting: false,
        }
    }
}

impl Sending {
    fn is_sendable(&self) -> bool {
        if self.queued == 0 { self.fin && !self.fin_sent } else { self.credit > 0 }
    }

    /// Takes as much of `data` as there is room for.
    pub(super) fn push(&mut self, data: &mut Bytes) {
        let room = SEND_QUEUE.saturating_sub(self.queued).min(data.len());
        if room > 0 {
            self.queue.push_back(data.split_to(room));
            self.queued += room;
        }
        self.waiting = !data.is_empty();
    }

    pub(super) fn clear(&mut self) {
        self.queue.clear();
        self.queued = 0;
    }
}

/// The direction from the other end.
#[derive(Debug)]
pub(super) struct Receiving {
    pub(super) queue: Received,
    /// The other end has finished.
    pub(super) fin: bool,
    /// The app wants to hear of data.
    pub(super) waiting: bool,
    /// What the other end may still send.
    allowance: u32,
    /// What it sent and the app has not consumed.
    unread: u32,
    window: u32,
    granted: Instant,
}

impl Receiving {
    fn new(now: Instant) -> Self {
        Self {
            queue: Received::default(),
            fin: false,
            waiting: false,
            allowance: INITIAL_WINDOW,
            unread: 0,
            window: INITIAL_WINDOW,
            granted: now,
        }
    }

    /// False if the other end had no credit for it.
    pub(super) fn push(&mut self, payload: Bytes) -> bool {
        let Some((length, left)) =
            u32::try_from(payload.len()).ok().and_then(|length| Some((length, self.allowance.checked_sub(length)?)))
        else {
            return false;
        };
        self.allowance = left;
        self.unread += length;
        self.queue.push(payload);
        true
    }

    /// The app has consumed `bytes`; what to grant for it, if it is worth a frame.
    pub(super) fn consume(&mut self, bytes: usize) -> Option<u32> {
        self.unread = self.unread.saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX));
        let grant = self.window - self.allowance - self.unread;
        (!self.fin && grant >= self.window / 4).then_some(grant)
    }

    /// Notes that credit is granted now, for a window that `growth` bytes more may be added to if the app reads
    /// faster than the window turns around. Returns the credit and how much the window grew.
    pub(super) fn grant(&mut self, grant: u32, rtt: Option<Duration>, growth: usize, now: Instant) -> (u32, usize) {
        let took = now.saturating_duration_since(self.granted);
        self.granted = now;
        // The whole window within two round trips, judged from the part of it that was consumed.
        let fast =
            rtt.is_some_and(|rtt| took.as_nanos() * u128::from(self.window) <= 2 * rtt.as_nanos() * u128::from(grant));
        let more = if fast {
            self.window.min(MAX_WINDOW - self.window).min(u32::try_from(growth).unwrap_or(u32::MAX))
        } else {
            0
        };
        self.window += more;
        self.allowance += grant + more;
        (grant + more, more as usize)
    }

    /// By how much the window has grown.
    pub(super) fn grown(&self) -> usize {
        (self.window - INITIAL_WINDOW) as usize
    }
}
