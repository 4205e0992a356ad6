//! `tpdocker stop`: ends sessions of this machine. One that goes on is asked to end and undoes its own work; after one
//! that died, the work is done here.

use futures_util::future::join_all;

use super::{leftovers, undo};
use crate::error::{Code, Error, Explain};
use crate::event::Reporter;
use crate::output::Console;
use crate::session::ending;
use crate::session::rundir::{self, Known};
use crate::settings::Which;

/// It is not clear which session is meant.
#[derive(Debug, thiserror::Error)]
enum Unclear {
    #[error("this machine has no session {wanted}; it has {}", listed(.known))]
    Unknown { wanted: String, known: Vec<String> },
    #[error("this machine has several sessions: {}", listed(.known))]
    Several { known: Vec<String> },
}

impl Explain for Unclear {
    fn code(&self) -> Code {
        Code::Usage
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unknown { .. } => "tpdocker status".into(),
            Self::Several { known } => format!("say which, or --all: tpdocker stop {}", known.first()?),
        })
    }
}

/// Carries out `tpdocker stop`.
pub async fn stop(which: Which, console: &Console) -> Result<u8, Error> {
    let reporter = console.reporter();
    let chosen = choose(rundir::sessions()?, which)?;
    if chosen.is_empty() {
        reporter.notice("this machine has no session");
    }
    let ended = join_all(chosen.into_iter().map(|known| end(known, &reporter))).await;
    let mut outcome = Ok(0);
    for one in ended {
        outcome = undo::conclude(console, outcome, one);
    }
    outcome
}

async fn end(known: Known, reporter: &Reporter) -> Result<(), Error> {
    let session = known.record.session.clone();
    if known.alive {
        ending::end(known.record, reporter).await?;
    }
    // One that ended well took its record along.
    match rundir::session(&session)? {
        Some(Known { record, alive: false }) => leftovers::clean(&record, reporter).await,
        _ => Ok(()),
    }
}

fn choose(mut sessions: Vec<Known>, which: Which) -> Result<Vec<Known>, Unclear> {
    let known = |sessions: &[Known]| sessions.iter().map(|known| known.record.session.clone()).collect();
    match which {
        Which::Only if sessions.len() > 1 => return Err(Unclear::Several { known: known(&sessions) }),
        Which::Only | Which::All => {}
        Which::Session(wanted) => {
            let all = known(&sessions);
            sessions.retain(|known| known.record.session == wanted);
            if sessions.is_empty() {
                return Err(Unclear::Unknown { wanted, known: all });
            }
        }
    }
    Ok(sessions)
}

fn listed(sessions: &[String]) -> String {
    if sessions.is_empty() { "none".to_owned() } else { sessions.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::rundir::SessionRecord;

    fn sessions(ids: &[&str]) -> Vec<Known> {
        let record = |id: &&str| SessionRecord {
            session: (*id).to_owned(),
            pid: 1,
            workload: "deployment/web".into(),
            namespace: "staging".into(),
            context: "dev".into(),
            server: "dev.example.com:6443".into(),
            compose_project: None,
        };
        ids.iter().map(|id| Known { record: record(id), alive: true }).collect()
    }

    #[test]
    fn the_only_session_needs_no_name_and_of_several_none_is_guessed() {
        assert_eq!(choose(sessions(&["a"]), Which::Only).unwrap(), sessions(&["a"]));
        assert_eq!(choose(sessions(&[]), Which::Only).unwrap(), []);
        let error = choose(sessions(&["a", "b"]), Which::Only).unwrap_err();
        assert_eq!(error.to_string(), "this machine has several sessions: a, b");
        assert_eq!(error.hint().unwrap(), "say which, or --all: tpdocker stop a");
        assert_eq!(choose(sessions(&["a", "b"]), Which::All).unwrap(), sessions(&["a", "b"]));
    }

    #[test]
    fn a_session_that_is_not_there_is_answered_with_those_that_are() {
        assert_eq!(choose(sessions(&["a", "b"]), Which::Session("b".into())).unwrap(), sessions(&["b"]));
        let error = choose(sessions(&["a", "b"]), Which::Session("c".into())).unwrap_err();
        assert_eq!(error.to_string(), "this machine has no session c; it has a, b");
        assert_eq!(error.code(), Code::Usage);
        let error = choose(sessions(&[]), Which::Session("c".into())).unwrap_err();
        assert_eq!(error.to_string(), "this machine has no session c; it has none");
    }
}
