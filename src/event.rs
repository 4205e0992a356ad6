//! What the engine of a command tells while it works. It emits events; [`crate::output`] renders them, so the same
//! command speaks to a terminal, a pipe or a script.

use std::sync::Arc;
use std::time::{Duration, Instant};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A step began.
    StepStarted {
        /// Its name: one or two words, such as `proxy pod`.
        step: &'static str,
    },
    /// A step goes on; shown on a terminal, and on a pipe when it takes long.
    StepProgress {
        /// Its name.
        step: &'static str,
        /// What it waits for.
        detail: String,
    },
    /// A step is done.
    StepDone {
        /// Its name.
        step: &'static str,
        /// The facts found: names, numbers, ports.
        facts: String,
        /// How long it took.
        took: Duration,
    },
    /// A step turned out to be needless.
    StepSkipped {
        /// Its name.
        step: &'static str,
        /// Why.
        why: &'static str,
        /// How long it took to find out.
        took: Duration,
    },
    /// A step did not finish.
    StepFailed {
        /// Its name.
        step: &'static str,
        /// How long it tried.
        took: Duration,
    },
    /// Something that the user should know and need not act on.
    Notice(String),
    /// Something that the user should look at.
    Warning(String),
}

/// Whoever shows events.
pub trait Sink: Send + Sync {
    /// Shows one event; must not block for long.
    fn event(&self, event: &Event);
}

/// The way of a command to its [`Sink`]; clones share it.
#[derive(Clone)]
pub struct Reporter(Arc<dyn Sink>);

impl std::fmt::Debug for Reporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reporter")
    }
}

impl Reporter {
    /// Reports to `sink`.
    pub fn new(sink: Arc<dyn Sink>) -> Self {
        Self(sink)
    }

    /// Begins a step; it has failed if the returned value is dropped before [`Step::done`].
    pub fn step(&self, name: &'static str) -> Step {
        self.0.event(&Event::StepStarted { step: name });
        Step { reporter: self.clone(), name, began: Instant::now(), needless: None, done: false }
    }

    /// Tells something that needs no action.
    pub fn notice(&self, text: impl Into<String>) {
        self.0.event(&Event::Notice(text.into()));
    }

    /// Tells something that needs a look.
    pub fn warn(&self, text: impl Into<String>) {
        self.0.event(&Event::Warning(text.into()));
    }
}

/// A step under way.
#[derive(Debug)]
pub struct Step {
    reporter: Reporter,
    name: &'static str,
    began: Instant,
    needless: Option<&'static str>,
    done: bool,
}

impl Step {
    /// Tells what the step waits for.
    pub fn progress(&self, detail: impl Into<String>) {
        self.reporter.0.event(&Event::StepProgress { step: self.name, detail: detail.into() });
    }

    /// Makes a step that is dropped count as needless, for this reason, and not as failed.
    #[must_use]
    pub fn unless(mut self, needless: &'static str) -> Self {
        self.needless = Some(needless);
        self
    }

    /// Ends the step as failed.
    pub fn fail(mut self) {
        self.needless = None;
    }

    /// Ends the step with the facts it found.
    pub fn done(mut self, facts: impl Into<String>) {
        self.done = true;
        let took = self.began.elapsed();
        self.reporter.0.event(&Event::StepDone { step: self.name, facts: facts.into(), took });
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        let (step, took) = (self.name, self.began.elapsed());
        match self.needless {
            _ if self.done => {}
            Some(why) => self.reporter.0.event(&Event::StepSkipped { step, why, took }),
            None => self.reporter.0.event(&Event::StepFailed { step, took }),
        }
    }
}
