//! Queries on their way, each with the moment at which something is to be done about it.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use tpdocker_protocol::addr::{AppAddr, ClusterAddr};

use super::exchange::Query;
use crate::link::Generation;

/// Queries that are followed at a time; at most 700 bytes each. Any more are carried all the same, and their answers not
/// remembered.
pub(super) const MAX_WAITING: usize = 2048;

/// By what an answer finds its query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Asker {
    pub(super) app: AppAddr,
    pub(super) nameserver: ClusterAddr,
    pub(super) id: u16,
}

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) query: Query,
    /// The tunnel that it went into. `None`: there was none, and it is lost.
    pub(super) sent: Option<Generation>,
    pub(super) asked: Instant,
    /// The last time that it was asked, by who has not heard an answer.
    pub(super) repeated: Instant,
    pub(super) phase: Phase,
}

/// What has been done about a query, and so what is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing: nameservers answer sooner than that.
    Asked,
    /// The proxy was asked whether it is there.
    Probed(Instant),
    /// All that could be; its answer would be remembered.
    Left,
    /// It was answered from memory. Another answer is one too many.
    Served,
}

/// All of them, and whose turn is next.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: HashMap<Asker, (Waiting, Instant)>,
    due: BTreeSet<(Instant, Asker)>,
}

// === impl Queue ===

impl Queue {
    /// Does nothing where there is no place.
    pub(super) fn insert(&mut self, asker: Asker, waiting: Waiting, due: Instant) {
        self.remove(&asker);
        if self.waiting.len() < MAX_WAITING {
            self.waiting.insert(asker, (waiting, due));
            self.due.insert((due, asker));
        }
    }

    pub(super) fn get(&self, asker: &Asker) -> Option<&Waiting> {
        self.waiting.get(asker).map(|(waiting, _)| waiting)
    }

    pub(super) fn get_mut(&mut self, asker: &Asker) -> Option<&mut Waiting> {
        self.waiting.get_mut(asker).map(|(waiting, _)| waiting)
    }

    pub(super) fn remove(&mut self, asker: &Asker) -> Option<Waiting> {
        let (waiting, due) = self.waiting.remove(asker)?;
        self.due.remove(&(due, *asker));
        Some(waiting)
    }

    /// Forgets the queries of one socket to one nameserver that have not been answered.
    pub(super) fn remove_all(&mut self, app: AppAddr, nameserver: ClusterAddr) {
        self.waiting.retain(|asker, (waiting, due)| {
            let failed = (asker.app, asker.nameserver) == (app, nameserver) && waiting.phase != Phase::Served;
            if failed {
                self.due.remove(&(*due, *asker));
            }
            !failed
        });
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Takes out the one whose time has come first.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(Asker, Waiting)> {
        let (due, asker) = *self.due.first()?;
        if due > now {
            return None;
        }
        Some((asker, self.remove(&asker)?))
    }
}
