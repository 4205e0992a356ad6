//! A program that prints rows, and asks for something now and then.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::compare::Report;

/// A line of standard error by which the probe asks for its live file to be changed.
const CHANGE: &str = "@change";
/// How long one place may take for all rows.
const PATIENCE: Duration = Duration::from_mins(6);
/// How long tpdocker may take to put everything back when it is interrupted.
const UNDONE: Duration = Duration::from_mins(1);

/// Runs it to its end and reads its rows. `change` is called each time it asks for a change.
pub fn rows(what: &str, command: &mut Command, change: impl Fn()) -> Result<Report, String> {
    let began = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{command:?}: {error}"))?;
    let (line_tx, line_rx) = mpsc::channel();
    let (out, err) = (child.stdout.take().ok_or("no output")?, child.stderr.take().ok_or("no errors")?);
    read(out, line_tx.clone(), Line::Out);
    read(err, line_tx, Line::Err);

    let (mut report, mut errors, mut late) = (Report::new(), String::new(), false);
    loop {
        let limit = if late { PATIENCE + UNDONE } else { PATIENCE };
        match line_rx.recv_timeout(limit.saturating_sub(began.elapsed())) {
            Ok(Line::Out(line)) => {
                if let Some((row, says)) = parse(&line) {
                    report.insert(row, says);
                } else {
                    errors.extend(["not a row: ", &line, "\n"]);
                }
            }
            Ok(Line::Err(line)) if line == CHANGE => change(),
            Ok(Line::Err(line)) => errors.extend([&line, "\n"]),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) if late => {
                child.kill().map_err(|error| error.to_string())?;
                break;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                // So that it puts back what it changed.
                late = true;
                kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).map_err(|error| error.to_string())?;
            }
        }
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    let seconds = began.elapsed().as_secs();
    eprintln!("  {what}: {} rows in {seconds} s", report.len());
    if status.success() && !late {
        return Ok(report);
    }
    let rows: Vec<&str> = report.keys().map(String::as_str).collect();
    Err(format!("{what}: {status} after {seconds} s and {} rows ({}):\n{errors}", rows.len(), rows.join(", ")))
}

enum Line {
    Out(String),
    Err(String),
}

fn read(from: impl Read + Send + 'static, line_tx: mpsc::Sender<Line>, kind: fn(String) -> Line) {
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if line_tx.send(kind(line)).is_err() {
                return; // nobody waits for the rest
            }
        }
    });
}

fn parse(line: &str) -> Option<(String, String)> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    Some((value["row"].as_str()?.to_owned(), value["says"].as_str()?.to_owned()))
}
