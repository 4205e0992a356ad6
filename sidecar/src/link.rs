//! The tunnel of the moment. Carriers come and go; connections that are being made wait for the next one.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tpdocker_tunnel::Tunnel;

/// How long a new connection waits for a tunnel before it is told that the host is unreachable. Longer than it takes
/// the CLI to dial a new carrier, shorter than the patience of common clients.
pub(crate) const HOLD_TIMEOUT: Duration = Duration::from_secs(10);

/// Who is attached.
#[derive(Debug, Default)]
pub(crate) struct Link {
    current_tx: watch::Sender<Current>,
}

#[derive(Debug, Default)]
struct Current {
    generation: Generation,
    tunnel: Option<Tunnel>,
}

/// Numbers the tunnels of this process; 0 is before the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Generation(pub(crate) u64);

impl Link {
    /// Makes `tunnel` the current one and returns its number and the one that it replaces.
    pub(crate) fn attach(&self, tunnel: Tunnel) -> (Generation, Option<Tunnel>) {
        let mut older = None;
        let mut generation = Generation::default();
        self.current_tx.send_modify(|current| {
            current.generation.0 += 1;
            generation = current.generation;
            older = current.tunnel.replace(tunnel);
        });
        (generation, older)
    }

    /// Forgets the tunnel of this number, and says whether it was still the current one.
    pub(crate) fn detach(&self, generation: Generation) -> bool {
        self.current_tx.send_if_modified(|current| {
            let ours = current.generation == generation;
            if ours {
                current.tunnel = None;
            }
            ours
        })
    }

    /// Whether the tunnel of this number has neither ended nor been replaced.
    pub(crate) fn is_current(&self, generation: Generation) -> bool {
        let current = self.current_tx.borrow();
        current.generation == generation && current.tunnel.is_some()
    }

    /// The tunnel, if there is one.
    pub(crate) fn tunnel(&self) -> Option<Tunnel> {
        self.current().map(|(_, tunnel)| tunnel)
    }

    /// The tunnel with its number, if there is one.
    pub(crate) fn current(&self) -> Option<(Generation, Tunnel)> {
        let current = self.current_tx.borrow();
        current.tunnel.clone().map(|tunnel| (current.generation, tunnel))
    }

    /// The first tunnel newer than `after`; `None` when there is none until `deadline`.
    pub(crate) async fn newer(&self, after: Generation, deadline: Instant) -> Option<(Generation, Tunnel)> {
        let mut current_rx = self.current_tx.subscribe();
        let arrived = current_rx.wait_for(|current| current.generation > after && current.tunnel.is_some());
        let current = timeout_at(deadline, arrived).await.ok()?.ok()?;
        current.tunnel.clone().map(|tunnel| (current.generation, tunnel))
    }
}
