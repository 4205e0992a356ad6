//! The state that the handles and the tasks of one tunnel share.
//!
//! One mutex guards the multiplexer and the wakers; it is held for microseconds and never across an await. Whoever
//! changes the state does so in [`Core::update`], which afterwards finds out whom the change concerns and wakes them
//! with the lock released.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use tokio::sync::{Notify, watch};
use tpdocker_protocol::errno::Errno;
use tpdocker_protocol::frame::{Side, StreamId};
use tpdocker_protocol::mux::{End, Event, Mux, Ready};

use crate::tunnel::Closed;

#[derive(Debug)]
pub(crate) struct Core {
    state: Mutex<State>,
    /// Wakes the writer task; notified only while it sleeps.
    pub(crate) writer: Notify,
    /// Wakes the reader task when the session has ended here.
    pub(crate) stop: Notify,
    ended: watch::Sender<Option<Closed>>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) mux: Mux,
    pub(crate) writer_sleeps: bool,
    wakers: HashMap<StreamId, Wakers>,
    events: Option<Waker>,
    /// Nobody will ask for events any more, so offers are refused.
    events_dropped: bool,
    /// What became of the carrier, if that is what ended the tunnel.
    carrier: Option<String>,
}

/// Who waits for one stream.
#[derive(Debug, Default)]
pub(crate) struct Wakers {
    recv: Option<Waker>,
    send: Option<Waker>,
    failed: Option<Waker>,
}

/// What one waits for on a stream.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wait {
    /// Data, or the answer to an open.
    Recv,
    /// Room to send.
    Send,
    /// A failure.
    Failed,
}

// === impl Core ===

impl Core {
    pub(crate) fn new(side: Side) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                mux: Mux::new(side, std::time::Instant::now()),
                writer_sleeps: false,
                wakers: HashMap::new(),
                events: None,
                events_dropped: false,
                carrier: None,
            }),
            writer: Notify::new(),
            stop: Notify::new(),
            ended: watch::Sender::new(None),
        })
    }

    /// Changes the state and wakes whom it concerns.
    pub(crate) fn update<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut wake = Vec::new();
        let mut state = self.lock();
        let result = change(&mut state);
        state.refuse_what_nobody_takes();
        state.collect(&mut wake);
        let wake_writer =
            (state.mux.wants_transmit() || state.mux.ended().is_some()) && std::mem::take(&mut state.writer_sleeps);
        let ended = state.mux.ended().map(|end| state.closed(end));
        drop(state);
        wake.into_iter().for_each(Waker::wake);
        if wake_writer {
            self.writer.notify_one();
        }
        if let Some(closed) = ended {
            self.announce(closed);
        }
        result
    }

    fn announce(&self, closed: Closed) {
        let first = self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(closed);
            }
            first
        });
        if first {
            self.stop.notify_one();
        }
    }

    pub(crate) fn watch_end(&self) -> watch::Receiver<Option<Closed>> {
        self.ended.subscribe()
    }

    /// The carrier failed or ended.
    pub(crate) fn carrier_lost(&self, why: String) {
        self.update(|state| {
            if state.mux.ended().is_none() {
                state.carrier = Some(why);
                state.mux.close("the carrier was lost");
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a bug that its own thread reports; the state machine stays consistent enough to
        // close the others' streams.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    /// Registers the task of `context`; a later one for the same takes its place.
    pub(crate) fn wait(&mut self, id: StreamId, wait: Wait, context: &Context<'_>) {
        let wakers = self.wakers.entry(id).or_default();
        let slot = match wait {
            Wait::Recv => &mut wakers.recv,
            Wait::Send => &mut wakers.send,
            Wait::Failed => &mut wakers.failed,
        };
        register(slot, context);
    }

    pub(crate) fn wait_for_event(&mut self, context: &Context<'_>) {
        register(&mut self.events, context);
    }

    pub(crate) fn drop_events(&mut self) {
        self.events_dropped = true;
        self.events = None;
    }

    /// The app lets go of a stream. The wakers are to be dropped when the lock is released: they may be the last that
    /// holds a task, and that task a stream.
    pub(crate) fn release(&mut self, id: StreamId) -> Option<Wakers> {
        self.mux.release(id);
        self.wakers.remove(&id)
    }

    fn refuse_what_nobody_takes(&mut self) {
        while self.events_dropped
            && let Some(event) = self.mux.poll_event()
        {
            if let Event::Offered { stream, .. } = event {
                self.mux.refuse(stream, Errno::ECONNABORTED);
            }
        }
    }

    fn collect(&mut self, wake: &mut Vec<Waker>) {
        while let Some(ready) = self.mux.poll_ready() {
            let (Ready::Recv(id) | Ready::Send(id) | Ready::Failed(id)) = ready;
            let Some(wakers) = self.wakers.get_mut(&id) else { continue };
            match ready {
                Ready::Recv(_) => wake.extend(wakers.recv.take()),
                Ready::Send(_) => wake.extend(wakers.send.take()),
                Ready::Failed(_) => {
                    wake.extend(wakers.recv.take().into_iter().chain(wakers.send.take()).chain(wakers.failed.take()));
                }
            }
        }
        if self.mux.has_event() || self.mux.ended().is_some() {
            wake.extend(self.events.take());
        }
    }

    fn closed(&self, end: &End) -> Closed {
        match (end, &self.carrier) {
            (_, Some(why)) => Closed::Carrier(why.clone()),
            (End::Silent, None) => Closed::Carrier(end.to_string()),
            (End::Peer(reason), None) => Closed::Peer(reason.clone()),
            (End::Protocol(violation), None) => Closed::Protocol(violation.to_string()),
            (End::Here, None) => Closed::Local,
        }
    }
}

fn register(slot: &mut Option<Waker>, context: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(context.waker()),
        None => *slot = Some(context.waker().clone()),
    }
}
