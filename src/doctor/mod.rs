//! `tpdocker doctor`: is everything there that a session needs, and is anything left of one?
//!
//! Nothing in the cluster is changed, not even for a moment; in the engine the sidecar's image is loaded and a sidecar runs
//! for a second, since only the kernel itself can tell whether it captures. Each check gives one line, and one that fails
//! hides no other. Nothing about the machine waits for the cluster, nor the other way round.

mod cluster;
mod engine;
mod leftovers;

use std::fmt::Write as _;

use serde::Serialize;

use crate::cluster::Cluster;
use crate::docker::Engine;
use crate::error::{Code, Error};
use crate::event::Reporter;
use crate::settings::DoctorSettings;

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What was checked.
    pub check: &'static str,
    /// How it is.
    pub state: State,
    /// What was found.
    pub text: String,
    /// What to do: a command, or a sentence when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
    /// The exit code of a command that fails for this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Not known, not needed by all, or somebody's business: no failure.
    Note,
    /// To be repaired.
    Fix,
}

/// All lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In the order of a session's steps.
    pub checks: Vec<Line>,
}

/// Checks everything.
pub async fn examine(settings: &DoctorSettings, reporter: &Reporter) -> Report {
    let step = reporter.step("doctor");
    step.progress("looking at the engine and the cluster");
    let machine = async {
        let connected = Engine::connect().await;
        let lines = engine::check(&connected, reporter).await;
        (connected.ok(), lines)
    };
    let cluster = async {
        let connected = Cluster::connect(&settings.cluster).await;
        let lines = cluster::check(&connected, settings).await;
        (connected.ok(), lines)
    };
    let ((engine, mut checks), (cluster, of_cluster)) = tokio::join!(machine, cluster);
    checks.extend(of_cluster);
    // Last: the sidecar that was tried has gone by then.
    checks.extend(leftovers::check(cluster.as_ref(), engine.as_ref()).await);
    let fixes = checks.iter().filter(|line| line.state == State::Fix).count();
    step.done(if fixes == 0 { "all is well".to_owned() } else { format!("{fixes} to repair") });
    Report { checks }
}

// === impl Line ===

impl Line {
    fn new(check: &'static str, state: State, text: impl Into<String>) -> Self {
        Self { check, state, text: text.into(), cure: None, code: None }
    }

    fn ok(check: &'static str, text: impl Into<String>) -> Self {
        Self::new(check, State::Ok, text)
    }

    fn note(check: &'static str, text: impl Into<String>) -> Self {
        Self::new(check, State::Note, text)
    }

    fn fix(check: &'static str, code: Code, text: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { cure: Some(cure.into()), code: Some(code.into()), ..Self::new(check, State::Fix, text) }
    }

    fn failed(check: &'static str, error: impl Into<Error>) -> Self {
        let error = error.into();
        let text = error.chain().join(": ");
        Self { cure: error.hint(), code: Some(error.code().into()), ..Self::new(check, State::Fix, text) }
    }

    fn with_cure(self, cure: impl Into<String>) -> Self {
        Self { cure: Some(cure.into()), ..self }
    }
}

// === impl Report ===

impl Report {
    /// 0, or the code of the first line that is to be repaired.
    pub fn exit_code(&self) -> u8 {
        self.checks.iter().find(|line| line.state == State::Fix).map_or(0, |line| line.code.unwrap_or(Code::Bug.into()))
    }

    /// One line a check, with what to do below it.
    pub fn to_text(&self) -> String {
        let width = self.checks.iter().map(|line| line.check.len()).max().unwrap_or(0);
        let mut out = String::new();
        for Line { check, state, text, cure, .. } in &self.checks {
            let state = match state {
                State::Ok => "ok",
                State::Note => "note",
                State::Fix => "fix",
            };
            let indent = width + 8;
            let text = text.replace('\n', &format!("\n{:indent$}", ""));
            let _infallible = writeln!(out, "{state:<4}  {check:<width$}  {text}");
            for (number, line) in cure.iter().flat_map(|cure| cure.lines().enumerate()) {
                let mark = if number == 0 { "→ " } else { "  " };
                let _infallible = writeln!(out, "{:indent$}{mark}{line}", "");
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_is_to_be_repaired_gives_the_code_and_notes_do_not() {
        let ok = Line::ok("engine", "there");
        let note = Line::note("compose", "not there");
        let fix = |code| Line::fix("rights", code, "missing\ntwice", "ask\nagain");
        let report = |checks: &[Line]| Report { checks: checks.to_vec() };
        assert_eq!(report(&[ok.clone(), note.clone()]).exit_code(), 0);
        let ill = report(&[ok, note, fix(Code::Forbidden), fix(Code::Restore)]);
        assert_eq!(ill.exit_code(), 83);
        let text = ill.to_text();
        assert!(text.starts_with("ok    engine   there\nnote  compose  not there\nfix   rights   missing\n"), "{text}");
        assert!(text.contains("\n               twice\n               → ask\n                 again\n"), "{text}");
    }
}
