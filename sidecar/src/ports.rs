//! Which ports the app listens on. (signatures first; bodies follow)
use std::{collections::BTreeSet, time::Duration};

use tpdocker_protocol::addr::Port;

/// Ports of the namespace that the app listens on. `Watch::new(interval)`, then `changed()` in a loop: the first call
/// returns at once with what is there, later calls when it has changed. Cancel-safe.
#[derive(Debug)]
pub struct Watch {
    _interval: Duration,
}

impl Watch {
    /// Polls every `interval` (100–200 ms is cheap). Must be called in the namespace.
    pub fn new(interval: Duration) -> std::io::Result<Self> {
        Ok(Self { _interval: interval })
    }

    /// The next set that differs from the one returned last.
    #[expect(clippy::unused_async, reason = "signature")]
    pub async fn changed(&mut self) -> std::io::Result<BTreeSet<Port>> {
        Ok(BTreeSet::new())
    }
}
