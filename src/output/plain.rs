//! A file or a pipe: lines alone. A step that takes long tells what it waits for, but not at every change.

use std::time::{Duration, Instant};

use super::lines::{self, clean};
use super::palette::Palette;
use crate::event::Event;

/// A step is silent this long before its progress is told, and between two such lines.
const PATIENCE: Duration = Duration::from_secs(3);

/// When each running step was last heard of.
#[derive(Debug, Default)]
pub(super) struct Plain(Vec<(&'static str, Instant)>);

impl Plain {
    /// Takes an event in; answers with its line, if it has one.
    pub(super) fn event(&mut self, event: &Event, now: Instant) -> Option<String> {
        match event {
            Event::StepStarted { step } => self.0.push((step, now)),
            Event::StepProgress { step, detail } => {
                let (_, heard) = self.0.iter_mut().find(|(name, _)| name == step)?;
                if now.saturating_duration_since(*heard) < PATIENCE {
                    return None;
                }
                *heard = now;
                return Some(format!("· {step}: {}", clean(detail)));
            }
            Event::StepDone { step, .. } | Event::StepSkipped { step, .. } | Event::StepFailed { step, .. } => {
                if let Some(index) = self.0.iter().position(|(name, _)| name == step) {
                    self.0.remove(index);
                }
            }
            Event::Notice(_) | Event::Warning(_) => {}
        }
        lines::event(event, Palette::NONE)
    }
}
