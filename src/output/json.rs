//! A script: one JSON object a line, told apart by `event`. The names are a promise, written down in `docs/cli.md`.

use std::time::Duration;

use serde::Serialize;

use crate::error::Error;
use crate::event::Event;

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Line<'a> {
    StepStarted {
        step: &'a str,
    },
    StepProgress {
        step: &'a str,
        detail: &'a str,
    },
    StepDone {
        step: &'a str,
        facts: &'a str,
        millis: u64,
    },
    StepSkipped {
        step: &'a str,
        why: &'a str,
        millis: u64,
    },
    StepFailed {
        step: &'a str,
        millis: u64,
    },
    Notice {
        text: &'a str,
    },
    Warning {
        text: &'a str,
    },
    Error {
        code: u8,
        name: &'a str,
        message: &'a str,
        causes: &'a [String],
        #[serde(skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
    },
}

/// The line of an event.
pub(super) fn event(event: &Event) -> String {
    line(&match event {
        Event::StepStarted { step } => Line::StepStarted { step },
        Event::StepProgress { step, detail } => Line::StepProgress { step, detail },
        Event::StepDone { step, facts, took } => Line::StepDone { step, facts, millis: millis(*took) },
        Event::StepSkipped { step, why, took } => Line::StepSkipped { step, why, millis: millis(*took) },
        Event::StepFailed { step, took } => Line::StepFailed { step, millis: millis(*took) },
        Event::Notice(text) => Line::Notice { text },
        Event::Warning(text) => Line::Warning { text },
    })
}

/// The line of the error that ends a command.
pub(super) fn error(error: &Error) -> String {
    let chain = error.chain();
    let (message, causes) = chain.split_first().map_or(("", &[][..]), |(message, causes)| (message.as_str(), causes));
    let code = error.code();
    line(&Line::Error { code: code.into(), name: code.name(), message, causes, hint: error.hint() })
}

fn line(line: &Line) -> String {
    // Strings and numbers alone: serde_json has no way to fail on them.
    serde_json::to_string(line).unwrap_or_default()
}

fn millis(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}
