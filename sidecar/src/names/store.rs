//! Answers that have been heard: as many as there is room for, the ones used last.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tpdocker_protocol::addr::ClusterAddr;

use super::exchange::{MAX_REPLY, Manner, Reply, Topic};

/// Answers. An app asks for tens of names, each in a few types and under each suffix of the search list.
pub(super) const MAX_ENTRIES: usize = 1024;
/// What they may weigh: room for that many of a usual length, and for 200 of the longest.
pub(super) const MAX_BYTES: usize = 1 << 20;
/// What an entry weighs beside its bytes: its keys, and its places in the two maps.
const OVERHEAD: usize = 256;
/// Age at which an answer is worth nothing (RFC 8767 section 5 has one to three days). A laptop's sleep does not count.
pub(super) const MAX_AGE: Duration = Duration::from_hours(24);

const _: () = assert!(MAX_REPLY * 200 < MAX_BYTES, "no answer drives all others out");

/// What has to be the same for an answer to be the one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) nameserver: ClusterAddr,
    pub(super) topic: Topic,
    pub(super) manner: Manner,
}

#[derive(Debug, Default)]
pub(super) struct Store {
    entries: HashMap<Arc<Key>, Entry>,
    /// By their last use.
    order: BTreeMap<u64, Arc<Key>>,
    uses: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    reply: Reply,
    heard: Instant,
    used: u64,
}

impl Store {
    /// In place of what was known, and of what was used least lately where there is no room.
    pub(super) fn insert(&mut self, key: Key, reply: Reply, now: Instant) {
        self.remove(&key);
        self.bytes += weight(&key, &reply);
        let (key, used) = (Arc::new(key), self.next_use());
        self.order.insert(used, Arc::clone(&key));
        self.entries.insert(key, Entry { reply, heard: now, used });
        while (self.entries.len() > MAX_ENTRIES || self.bytes > MAX_BYTES)
            && let Some((_, oldest)) = self.order.first_key_value()
        {
            let oldest = Arc::clone(oldest);
            self.remove(&oldest);
        }
    }

    /// The answer, if it was heard and is not too old.
    pub(super) fn get(&mut self, key: &Key, now: Instant) -> Option<&Reply> {
        if now.saturating_duration_since(self.entries.get(key)?.heard) > MAX_AGE {
            self.remove(key);
            return None;
        }
        let used = self.next_use();
        let entry = self.entries.get_mut(key)?;
        if let Some(key) = self.order.remove(&entry.used) {
            self.order.insert(used, key);
        }
        entry.used = used;
        Some(&entry.reply)
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.order.remove(&entry.used);
            self.bytes -= weight(key, &entry.reply);
        }
    }

    fn next_use(&mut self) -> u64 {
        self.uses += 1;
        self.uses
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> (usize, usize) {
        assert_eq!(self.entries.len(), self.order.len());
        (self.entries.len(), self.bytes)
    }
}

fn weight(key: &Key, reply: &Reply) -> usize {
    key.topic.len() + reply.len() + OVERHEAD
}

#[cfg(test)]
mod tests;
