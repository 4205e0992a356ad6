//! Ending a session from another process of the same user: it is asked by a signal, as Ctrl-C would, and undoes its
//! own work; whoever asks waits until its lock is free.

use std::time::{Duration, Instant};

use super::rundir::SessionRecord;
use crate::error::{Code, Error, Explain};
use crate::event::Reporter;

/// How long a session may take: a restore waits for the original's pods, and tries for ten minutes to reach the cluster.
const SESSION_ENDS_WITHIN: Duration = Duration::from_mins(12);
/// Between two looks whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A session in another terminal does not end.
#[derive(Debug, thiserror::Error)]
#[error("session {session} (process {pid}) was asked to end and does not")]
struct StillThere {
    session: String,
    pid: u32,
}

impl Explain for StillThere {
    fn code(&self) -> Code {
        Code::Restore
    }

    fn hint(&self) -> Option<String> {
        let Self { session, pid } = self;
        Some(format!("kill -9 {pid}; tpdocker stop {session}"))
    }
}

/// Asks a session that goes on to end, and waits until it has.
pub async fn end(record: SessionRecord, reporter: &Reporter) -> Result<(), Error> {
    let step = reporter.step("session");
    let asked = Instant::now();
    record.ask_to_end()?;
    let (waiting, ended) = if record.swaps() {
        (format!("put {} back", record.workload), format!(", {} is back", record.workload))
    } else {
        ("end".to_owned(), String::new())
    };
    step.progress(format!("waiting for process {} to {waiting}", record.pid));
    while record.is_alive()? {
        if asked.elapsed() > SESSION_ENDS_WITHIN {
            return Err(StillThere { session: record.session, pid: record.pid }.into());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    step.done(format!("{} has ended{ended}", record.session));
    Ok(())
}
