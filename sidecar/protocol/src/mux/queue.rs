//! Queues whose memory follows from the bytes in them and not from how they were cut.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::limits::{COPY_RECEIVE, DATAGRAM_OVERHEAD, DATAGRAM_QUEUE};

/// Received bytes of one stream. Large payloads are kept as they are; small ones are copied together, so a peer that
/// sends single bytes cannot make each of them cost an allocation or pin a read buffer.
#[derive(Debug, Default)]
pub(super) struct Received {
    whole: VecDeque<Bytes>,
    tail: BytesMut,
}

impl Received {
    pub(super) fn push(&mut self, payload: Bytes) {
        if payload.len() < COPY_RECEIVE {
            self.tail.extend_from_slice(&payload);
            if self.tail.len() >= COPY_RECEIVE {
                self.seal();
            }
        } else {
            self.seal();
            self.whole.push_back(payload);
        }
    }

    pub(super) fn pop(&mut self) -> Option<Bytes> {
        self.whole.pop_front().or_else(|| (!self.tail.is_empty()).then(|| std::mem::take(&mut self.tail).freeze()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.tail.is_empty()
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.whole.push_back(std::mem::take(&mut self.tail).freeze());
        }
    }
}

/// Datagrams that wait. When there are too many the oldest go: late is worse than lost for what uses UDP.
#[derive(Debug)]
pub(super) struct DropOldest<T> {
    items: VecDeque<(T, usize)>,
    cost: usize,
}

impl<T> Default for DropOldest<T> {
    fn default() -> Self {
        Self { items: VecDeque::new(), cost: 0 }
    }
}

impl<T> DropOldest<T> {
    /// `length` is that of the payload.
    pub(super) fn push(&mut self, item: T, length: usize) {
        let cost = length + DATAGRAM_OVERHEAD;
        self.items.push_back((item, cost));
        self.cost += cost;
        while self.cost > DATAGRAM_QUEUE {
            let Some((_, cost)) = self.items.pop_front() else { break };
            self.cost -= cost;
        }
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        let (item, cost) = self.items.pop_front()?;
        self.cost -= cost;
        Some(item)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
