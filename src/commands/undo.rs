//! The end of a session: containers gone, the original back. Tried to the end whatever fails on the way, and told as a
//! list; safe to repeat.

use std::fmt;

use crate::cluster::ClusterError;
use crate::docker::{Engine, EngineError};
use crate::error::{Code, Error, Explain};
use crate::event::Reporter;
use crate::output::Console;
use crate::session::Session;
use crate::session::rundir::SessionRecord;
use crate::session::signals::Signals;

/// What could not be undone.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// In the engine.
    #[error("containers of the session are left in the engine")]
    Engine(#[source] EngineError),
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
                "the original was told to come back and was not waited for; the proxy is still there"
            }
            Self::Proxy { .. } => "the proxy's deletion was not waited for",
        }
    }

    fn warning(&self) -> &'static str {
        match self {
            Self::Swapped { .. } => "the original is being put back; once more, and it is left half done",
            Self::Proxy { .. } => "the proxy is being deleted; once more, and it is not waited for",
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
            Self::Engine(error) => error.code(),
            Self::Cluster { .. } | Self::Both { .. } | Self::Impatient { .. } => Code::Restore,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Engine(error) => error.hint(),
            Self::Cluster { left: left @ Left::Proxy { .. }, .. }
            | Self::Both { left: left @ Left::Proxy { .. }, .. }
            | Self::Impatient { left } => Some(left.cure()),
            Self::Cluster { source: error, .. } | Self::Both { cluster: error, .. } => error.hint(),
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
/// as without `--rm`. A first signal meanwhile is answered with what is going on; a second one ends the waiting.
pub async fn containers_and_swap(
    engine: &Engine,
    session: &Session,
    keep_app: bool,
    signals: &mut Signals,
    reporter: &Reporter,
) -> Result<(), Failure> {
    let id = session.identity.id.as_str();
    let containers =
        async { if keep_app { engine.remove_sidecar_of(id).await } else { engine.remove_all_of(id).await } };
    let both = async { tokio::join!(containers, session.finish()) };
    tokio::pin!(both);
    let left = Left::of(&session.record);
    let mut warned = false;
    loop {
        tokio::select! {
            (containers, cluster) = &mut both => {
                let failure = match (containers, cluster) {
                    (Ok(_), Ok(_)) => return Ok(()),
                    (Err(engine), Ok(_)) => return Err(Failure::Engine(engine)),
                    (Ok(_), Err(source)) => Failure::Cluster { left, source },
                    (Err(engine), Err(cluster)) => Failure::Both { left, engine, cluster },
                };
                return Err(kept(session, failure));
            }
            _ = signals.end() => {
                if warned {
                    return Err(kept(session, Failure::Impatient { left }));
                }
                warned = true;
                reporter.warn(left.warning());
            }
        }
    }
}

/// What a session that swaps nothing leaves in the cluster is found by its record alone.
fn kept(session: &Session, failure: Failure) -> Failure {
    if !session.record.swaps() {
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
