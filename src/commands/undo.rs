//! The end of a session: containers gone, the original back. Tried to the end whatever fails on the way, and told as a
//! list; safe to repeat. Whoever does not want to wait says so with another Ctrl-C:
//!
//! ```text
//! in order ──Ctrl-C──→ at once: no pod is waited for ──Ctrl-C, when that takes long──→ given up, with the command for the rest
//! ```

use std::fmt;
use std::time::{Duration, Instant};

use crate::cluster::ClusterError;
use crate::docker::{Engine, EngineError};
use crate::error::{Code, Error, Explain};
use crate::event::Reporter;
use crate::output::Console;
use crate::session::Session;
use crate::session::rundir::SessionRecord;
use crate::session::signals::Signals;

/// How long an engine that does not answer is tried again: one that is restarted gives each container 10 s to end first.
const ENGINE_BACK_WITHIN: Duration = Duration::from_mins(1);
/// Between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// What is done at once is done within a few round trips. A signal before that is the same wish: a key that is held
/// repeats, and nobody shall give up by that.
const AT_ONCE: Duration = Duration::from_secs(3);

/// What could not be undone.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// In the engine.
    #[error("containers of the session are left in the engine")]
    Engine {
        /// The session's id.
        session: String,
        /// Why.
        source: EngineError,
    },
    /// In the cluster.
    #[error("{left}")]
    Cluster {
        /// What is left.
        left: Left,
        /// Why.
        source: ClusterError,
    },
    /// In both.
    #[error("{left}, and containers are left in the engine: {engine}")]
    Both {
        /// What is left in the cluster.
        left: Left,
        /// In the engine.
        engine: EngineError,
        /// In the cluster.
        #[source]
        cluster: ClusterError,
    },
    /// The user did not want to wait for the rest.
    #[error("{}", left.unfinished())]
    Impatient {
        /// What is left.
        left: Left,
    },
}

/// What a session that did not end well leaves in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    /// A workload that was swapped: `kind/name`.
    Swapped {
        /// Its namespace.
        namespace: String,
        /// The workload, as `kind/name`.
        workload: String,
    },
    /// A proxy, and nothing else: no workload was touched.
    Proxy {
        /// The session's id.
        session: String,
    },
}

impl Left {
    /// What the session of this record may leave.
    pub fn of(record: &SessionRecord) -> Self {
        if record.swaps() {
            Self::Swapped { namespace: record.namespace.clone(), workload: record.workload.clone() }
        } else {
            Self::Proxy { session: record.session.clone() }
        }
    }

    /// The command that does the rest.
    fn cure(&self) -> String {
        match self {
            Self::Swapped { namespace, workload } => format!("tpdocker restore -n {namespace} {workload}"),
            Self::Proxy { session } => format!("tpdocker stop {session}"),
        }
    }

    fn unfinished(&self) -> &'static str {
        match self {
            Self::Swapped { .. } => {
                "the end was given up: the original may not be back, and the proxy may be there still"
            }
            Self::Proxy { .. } => "the end was given up: the proxy may be there still",
        }
    }

    fn hurried(&self) -> &'static str {
        match self {
            Self::Swapped { .. } => {
                "the original is put back at once, without waiting for its pods: who calls before one is ready is refused"
            }
            Self::Proxy { .. } => "the proxy is deleted, and its end is not waited for",
        }
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Swapped { .. } => "the original is not back",
            Self::Proxy { .. } => "the proxy is still in the cluster",
        })
    }
}

impl Explain for Failure {
    fn code(&self) -> Code {
        match self {
            Self::Engine { source, .. } => source.code(),
            Self::Cluster { .. } | Self::Both { .. } | Self::Impatient { .. } => Code::Restore,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Engine { session, source } => source.hint().or_else(|| Some(format!("tpdocker stop {session}"))),
            Self::Cluster { left: left @ Left::Proxy { .. }, .. }
            | Self::Both { left: left @ Left::Proxy { .. }, .. }
            | Self::Impatient { left } => Some(left.cure()),
            Self::Cluster { left, source: error } | Self::Both { left, cluster: error, .. } => {
                error.hint().or_else(|| Some(left.cure()))
            }
        }
    }
}

/// How a command ends that had something to undo. When both failed, the first is told here and the second is the
/// result: what is left in the cluster concerns more people than what led to it.
pub fn conclude<T>(console: &Console, outcome: Result<T, Error>, undone: Result<(), Error>) -> Result<T, Error> {
    match (outcome, undone) {
        (Err(error), Err(left)) => {
            console.error(&error);
            Err(left)
        }
        (outcome, undone) => undone.and(outcome),
    }
}

/// Puts the cluster back and, at the same time, removes the session's containers; with `keep_app` the user's own stays,
/// as without `--rm`. A first Ctrl-C meanwhile has it done at once; one that comes when that takes long ends it.
pub async fn containers_and_swap(
    engine: &Engine,
    session: &Session,
    keep_app: bool,
    signals: &mut Signals,
    reporter: &Reporter,
) -> Result<(), Failure> {
    let both = async { tokio::join!(containers(engine, session, keep_app, reporter), session.end()) };
    tokio::pin!(both);
    let left = Left::of(&session.record);
    let mut hurried: Option<Instant> = None;
    loop {
        tokio::select! {
            (containers, cluster) = &mut both => {
                let failure = match (containers, cluster) {
                    (Ok(()), Ok(_)) => return Ok(()),
                    (Err(source), Ok(_)) => Failure::Engine { session: session.record.session.clone(), source },
                    (Ok(()), Err(source)) => Failure::Cluster { left, source },
                    (Err(engine), Err(cluster)) => Failure::Both { left, engine, cluster },
                };
                return Err(kept(session, failure));
            }
            received = signals.end() => match hurried {
                _ if !received.is_typed() => {}
                None => {
                    hurried = Some(Instant::now());
                    reporter.warn(left.hurried());
                    session.hurry();
                }
                Some(since) if since.elapsed() < AT_ONCE => {}
                Some(_) => return Err(kept(session, Failure::Impatient { left })),
            }
        }
    }
}

/// Removes the session's containers, also from an engine that is just being restarted.
async fn containers(
    engine: &Engine,
    session: &Session,
    keep_app: bool,
    reporter: &Reporter,
) -> Result<(), EngineError> {
    let id = session.identity.id.as_str();
    let began = Instant::now();
    let mut told = false;
    loop {
        let removed = if keep_app { engine.remove_sidecar_of(id).await } else { engine.remove_all_of(id).await };
        match removed {
            Err(error @ EngineError::Lost { .. }) if began.elapsed() < ENGINE_BACK_WITHIN && !session.is_hurried() => {
                if !std::mem::replace(&mut told, true) {
                    reporter.warn(format!("{error}; trying until it answers"));
                }
            }
            removed => return removed.map(drop),
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}

/// What is left is found by the session's record, on this machine: in the engine, and in the cluster where nothing is
/// swapped.
fn kept(session: &Session, failure: Failure) -> Failure {
    if !session.record.swaps()
        || matches!(failure, Failure::Engine { .. } | Failure::Both { .. } | Failure::Impatient { .. })
    {
        session.run_dir.keep();
    }
    failure
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::error::{Bug, HostError};
    use crate::output::Audience;

    /// What a console has told.
    #[derive(Clone, Default)]
    struct Told(Arc<Mutex<Vec<u8>>>);

    impl Write for Told {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn when_work_and_undoing_fail_both_are_told_and_what_is_left_behind_decides() {
        let told = Told::default();
        let console = Console::new(Box::new(told.clone()), Audience::Pipe);
        let bug = || Err::<u8, Error>(Bug::new("the work failed").into());
        let left = || Err::<(), Error>(HostError::new("the undoing failed", "no").into());
        assert_eq!(conclude(&console, bug(), left()).unwrap_err().code(), Code::Host);
        assert!(String::from_utf8(told.0.lock().unwrap().clone()).unwrap().contains("the work failed"));
        assert_eq!(conclude(&console, bug(), Ok(())).unwrap_err().code(), Code::Bug);
        assert_eq!(conclude(&console, Ok(7), left()).unwrap_err().code(), Code::Host);
        assert_eq!(conclude(&console, Ok(7), Ok(())).unwrap(), 7);
    }
}
