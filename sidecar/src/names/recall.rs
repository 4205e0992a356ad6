//! The [`Memory`] with its clock, its tunnel and the app.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;
use tpdocker_protocol::addr::{AppAddr, ClusterAddr};

use super::memory::{Memory, Pulse, Transmit};
use super::{DNS_PORT, Names};
use crate::capture::Injector;
use crate::link::{Generation, Link};

/// What passes between the app and the pod's nameservers is shown to this.
#[derive(Debug)]
pub(crate) struct Recall {
    memory: Mutex<Memory>,
    /// What is due first is due earlier than it was.
    sooner: Notify,
    names: Arc<Names>,
    link: Arc<Link>,
    injector: Injector,
}

impl Recall {
    pub(crate) fn new(names: Arc<Names>, link: Arc<Link>, injector: Injector) -> Self {
        Self { memory: Mutex::default(), sooner: Notify::new(), names, link, injector }
    }

    /// To be called with every datagram of the app, before it goes into this tunnel.
    pub(crate) fn asked(&self, app: AppAddr, remote: ClusterAddr, payload: &[u8], sent: Option<Generation>) {
        if !self.names.is_nameserver(remote.0) {
            return;
        }
        let mut memory = self.memory();
        let before = memory.poll_timeout();
        memory.handle_query(app, remote, payload, sent, Instant::now());
        let sooner = memory.poll_timeout().is_some_and(|after| before.is_none_or(|before| after < before));
        drop(memory);
        if sooner {
            self.sooner.notify_one();
        }
    }

    /// To be called with every datagram for the app. Returns whether it is to have it.
    pub(crate) fn answered(&self, app: AppAddr, remote: ClusterAddr, payload: &[u8]) -> bool {
        remote.0.port() != DNS_PORT || self.memory().handle_answer(app, remote, payload, Instant::now())
    }

    /// To be called when the app is told that its datagrams to `remote` do not arrive.
    pub(crate) fn failed(&self, app: AppAddr, remote: ClusterAddr) {
        self.memory().handle_failure(app, remote);
    }

    /// Keeps the time.
    pub(crate) async fn run(&self) -> Infallible {
        loop {
            let due = self.memory().poll_timeout();
            let due = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => self.remind(),
                () = self.sooner.notified() => {}
            }
        }
    }

    fn remind(&self) {
        let current = self.link.current();
        let pulse = current.as_ref().map(|(number, tunnel)| Pulse { tunnel: *number, heard: tunnel.heard() });
        let mut memory = self.memory();
        memory.handle_timeout(pulse, Instant::now());
        let transmits: Vec<Transmit> = std::iter::from_fn(|| memory.poll_transmit()).collect();
        drop(memory);
        for transmit in transmits {
            match transmit {
                Transmit::Probe => {
                    if let Some((_, tunnel)) = &current {
                        tunnel.probe();
                    }
                }
                Transmit::Answer { app, nameserver, message } => {
                    tracing::debug!("{} hears from memory what {} said", app.0, nameserver.0);
                    if let Err(error) = self.injector.udp_reply(app, nameserver, &message) {
                        tracing::debug!("a stale answer did not reach the app: {error}");
                    }
                }
            }
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // At worst an answer is forgotten.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
