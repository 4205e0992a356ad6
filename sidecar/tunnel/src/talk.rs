//! What is being said on a relayed connection.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::watch;

/// Bytes each way, and who spoke last: whoever knows no more of a protocol than that can still tell a connection on which
/// somebody waits for an answer from one that rests, and end it without cutting an answer short.
#[derive(Debug, Default)]
pub struct Talk {
    asked: AtomicU64,
    answered: AtomicU64,
    awaited: AtomicBool,
    asking: watch::Sender<Asking>,
}

/// What becomes of more words of the end that opened the connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Asking {
    #[default]
    PassedOn,
    /// They stay in the kernel.
    Held,
    Over,
}

impl Talk {
    /// The end that opened the connection said `length` bytes.
    pub fn ask(&self, length: usize) {
        self.asked.fetch_add(length as u64, Ordering::Relaxed);
        self.awaited.store(true, Ordering::Relaxed);
    }

    /// The other end said `length` bytes.
    pub fn answer(&self, length: usize) {
        self.answered.fetch_add(length as u64, Ordering::Relaxed);
        self.awaited.store(false, Ordering::Relaxed);
    }

    /// Bytes of the end that opened the connection.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Bytes of the other end.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// The end that opened the connection spoke last.
    pub fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::Relaxed)
    }

    /// From now on nothing more is asked: the next question waits, and is nobody's when the connection ends.
    pub fn hold(&self) {
        self.asking.send_if_modified(|asking| {
            let holds = *asking == Asking::PassedOn;
            *asking = if holds { Asking::Held } else { *asking };
            holds
        });
    }

    /// Whether a question waits.
    pub fn is_held(&self) -> bool {
        *self.asking.borrow() != Asking::PassedOn
    }

    /// The end that opened the connection is taken to have ended it.
    pub fn end(&self) {
        self.asking.send_replace(Asking::Over);
    }

    /// Resolves at [`Talk::end`].
    pub(crate) async fn ended(&self) {
        // The sender is here, so this does not fail.
        drop(self.asking.subscribe().wait_for(|asking| *asking == Asking::Over).await);
    }
}
