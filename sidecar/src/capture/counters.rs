//! What the capture had to drop, for the logs and for whoever wonders.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the start. Nothing here is fatal: TCP repeats, and datagrams may get lost.
#[derive(Debug, Default)]
pub struct Counters {
    /// Times that the kernel dropped packets since they were not read fast enough.
    pub overflows: AtomicU64,
    /// Repeated SYNs of connections that are held already.
    pub repeated_syns: AtomicU64,
    /// SYNs beyond [`super::MAX_HELD_SYNS`].
    pub excess_syns: AtomicU64,
    /// Packets that contradict themselves, or were longer than the kernel's copy.
    pub unreadable: AtomicU64,
    /// Datagrams to multicast or broadcast addresses, which a cluster's network does not carry.
    pub multicast: AtomicU64,
    /// Verdicts that the kernel did not take.
    pub lost_verdicts: AtomicU64,
    /// Connections to the listener that did not come by the redirect.
    pub strangers: AtomicU64,
}

impl Counters {
    /// Counts one; the number before it.
    pub(super) fn add(counter: &AtomicU64) -> u64 {
        counter.fetch_add(1, Ordering::Relaxed)
    }
}
