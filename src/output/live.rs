//! A terminal: finished steps as lines, and below them one live line for all that run.

use std::time::{Duration, Instant};

use super::lines::{self, clean, duration};
use super::palette::{Ink, Palette};
use crate::event::Event;

/// To the line's beginning, and erase it (ECMA-48 EL).
pub(super) const CLEAR: &str = "\r\x1b[2K";
/// DECAWM off and on: a live line longer than the terminal is cut off there and not wrapped, so that erasing one line
/// erases all of it, whatever the terminal's width.
const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";
const SPINNER: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];
/// A step younger than this shows no time: most are over by then.
const SHOW_TIME_AFTER: Duration = Duration::from_secs(2);

/// The steps that run.
#[derive(Debug)]
pub(super) struct Live {
    palette: Palette,
    running: Vec<Running>,
    since: Instant,
}

#[derive(Debug)]
struct Running {
    step: &'static str,
    began: Instant,
    detail: String,
}

impl Live {
    pub(super) fn new(palette: Palette) -> Self {
        Self { palette, running: Vec::new(), since: Instant::now() }
    }

    pub(super) fn palette(&self) -> Palette {
        self.palette
    }

    /// Whether there is nothing to draw.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Takes an event in; answers with its line, if it has one.
    pub(super) fn event(&mut self, event: &Event, now: Instant) -> Option<String> {
        match event {
            Event::StepStarted { step } => self.running.push(Running { step, began: now, detail: String::new() }),
            Event::StepProgress { step, detail } => {
                if let Some(running) = self.running.iter_mut().find(|running| running.step == *step) {
                    running.detail = clean(detail).replace('\n', " ");
                }
            }
            Event::StepDone { step, .. } | Event::StepSkipped { step, .. } | Event::StepFailed { step, .. } => {
                if let Some(index) = self.running.iter().position(|running| running.step == *step) {
                    self.running.remove(index);
                }
            }
            Event::Notice(_) | Event::Warning(_) => {}
        }
        lines::event(event, self.palette)
    }

    /// The live line as of `now`; empty when nothing runs.
    pub(super) fn bar(&self, now: Instant) -> String {
        if self.running.is_empty() {
            return String::new();
        }
        let frame = now.saturating_duration_since(self.since).as_millis() / super::FRAME.as_millis();
        let spinner = SPINNER[usize::try_from(frame % SPINNER.len() as u128).unwrap_or_default()];
        let steps: Vec<String> = self.running.iter().map(|running| self.one(running, now)).collect();
        format!("{NO_WRAP}{spinner} {}{WRAP}", steps.join(&self.palette.paint(Ink::Faint, " · ")))
    }

    fn one(&self, running: &Running, now: Instant) -> String {
        let mut text = running.step.to_owned();
        if !running.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&running.detail);
        }
        let age = now.saturating_duration_since(running.began);
        if age >= SHOW_TIME_AFTER {
            text.push(' ');
            text.push_str(&self.palette.paint(Ink::Faint, &format!("({})", duration(age))));
        }
        text
    }
}
