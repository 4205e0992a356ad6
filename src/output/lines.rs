//! The lines that people read, on a terminal and in a file.

use std::time::Duration;

use super::palette::{Ink, Palette};
use crate::error::Error;
use crate::event::Event;

/// Steps' names are padded to this, so that their facts stand in one column.
const NAME_WIDTH: usize = 12;

/// The line of an event that people see once; `None` for those that only move the live line.
pub(super) fn event(event: &Event, palette: Palette) -> Option<String> {
    Some(match event {
        Event::StepStarted { .. } | Event::StepProgress { .. } => return None,
        Event::StepDone { step, facts, took } => {
            let took = palette.paint(Ink::Faint, &format!("({})", duration(*took)));
            let facts = clean(facts);
            let gap = if facts.is_empty() { "" } else { "  " };
            format!("{} {step:NAME_WIDTH$}  {facts}{gap}{took}", palette.paint(Ink::Good, "✔"))
        }
        Event::StepSkipped { step, why, took } => {
            let took = palette.paint(Ink::Faint, &format!("({})", duration(*took)));
            format!("{} {step:NAME_WIDTH$}  {}  {took}", palette.paint(Ink::Faint, "-"), why)
        }
        Event::StepFailed { step, took } => {
            let took = palette.paint(Ink::Faint, &format!("({})", duration(*took)));
            format!("{} {step:NAME_WIDTH$}  {took}", palette.paint(Ink::Bad, "✘"))
        }
        Event::Notice(text) => format!("{} {}", palette.paint(Ink::Faint, "·"), clean(text)),
        Event::Warning(text) => format!("{} {}", palette.paint(Ink::Caution, "warning:"), clean(text)),
    })
}

/// `error:`, a `caused by:` for each cause, and `hint:`.
pub(super) fn error(error: &Error, palette: Palette) -> String {
    let mut lines = Vec::new();
    for (index, text) in error.chain().iter().enumerate() {
        let label = if index == 0 { palette.paint(Ink::Bad, "error:") } else { "caused by:".to_owned() };
        lines.push(format!("{label} {}", clean(text)));
    }
    if let Some(hint) = error.hint() {
        lines.push(format!("{} {}", palette.paint(Ink::Good, "hint:"), clean(&hint)));
    }
    lines.join("\n")
}

/// Names and messages come from clusters and engines: whoever writes them must not steer the terminal.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// `12ms`, `1.2s`, `2m05s`.
pub(super) fn duration(took: Duration) -> String {
    match took.as_secs() {
        0 if took.as_millis() < 100 => format!("{}ms", took.as_millis()),
        0..60 => format!("{:.1}s", took.as_secs_f64()),
        seconds => format!("{}m{:02}s", seconds / 60, seconds % 60),
    }
}
