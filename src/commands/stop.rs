//! `tpdocker stop`: ends sessions of this machine. One that goes on is asked to end and undoes its own work; after one
//! that died, the work is done here.

use std::collections::BTreeSet;

use futures_util::future::join_all;

use super::leftovers::{self, Unrecorded};
use super::undo;
use crate::error::{Code, Error, Explain};
use crate::event::Reporter;
use crate::output::Console;
use crate::session::ending;
use crate::session::rundir::{self, Known};
use crate::settings::{StopSettings, Which};

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
pub async fn stop(StopSettings { which, local }: StopSettings, console: &Console) -> Result<u8, Error> {
    let reporter = console.reporter();
    let sessions = rundir::sessions()?;
    let recorded = |wanted: &String| sessions.iter().any(|known| known.record.session == *wanted);
    let unrecorded = match &which {
        Which::Only => Unrecorded::default(),
        Which::Session(wanted) if recorded(wanted) => Unrecorded::default(),
        Which::Session(_) | Which::All => Unrecorded::find(&reporter).await?,
    };
    let Chosen { known, unrecorded } = choose(sessions, unrecorded, which)?;
    if known.is_empty() && unrecorded.is_empty() {
        reporter.notice("this machine has no session");
    }
    let (ended, cleaned) = tokio::join!(
        join_all(known.into_iter().map(|known| end(known, local, &reporter))),
        join_all(unrecorded.iter().map(|session| leftovers::clean_unrecorded(session, &reporter)))
    );
    let mut outcome = Ok(0);
    for one in ended.into_iter().chain(cleaned) {
        outcome = undo::conclude(console, outcome, one);
    }
    outcome
}

async fn end(known: Known, local: bool, reporter: &Reporter) -> Result<(), Error> {
    let session = known.record.session.clone();
    if known.alive {
        ending::end(known.record, reporter).await?;
    }
    // One that ended well took its record along.
    match rundir::session(&session)? {
        Some(Known { record, alive: false }) if local => leftovers::clean_machine(&record.session, reporter).await,
        Some(Known { record, alive: false }) => leftovers::clean(&record, reporter).await,
        _ => Ok(()),
    }
}

/// What is to be ended, and what is only to be removed.
#[derive(Debug, PartialEq, Eq)]
struct Chosen {
    known: Vec<Known>,
    unrecorded: BTreeSet<String>,
}

fn choose(mut known: Vec<Known>, found: Unrecorded, which: Which) -> Result<Chosen, Unclear> {
    let ids = |known: &[Known]| known.iter().map(|known| known.record.session.clone()).collect::<Vec<_>>();
    let Unrecorded { dead: mut unrecorded, unclear } = found;
    match which {
        Which::Only if known.len() > 1 => return Err(Unclear::Several { known: ids(&known) }),
        Which::Only | Which::All => {}
        Which::Session(wanted) => {
            unrecorded.extend(unclear);
            let all = ids(&known).into_iter().chain(unrecorded.iter().cloned()).collect();
            known.retain(|known| known.record.session == wanted);
            unrecorded.retain(|session| *session == wanted);
            if known.is_empty() && unrecorded.is_empty() {
                return Err(Unclear::Unknown { wanted, known: all });
            }
        }
    }
    Ok(Chosen { known, unrecorded })
}

fn listed(sessions: &[String]) -> String {
    if sessions.is_empty() { "none".to_owned() } else { sessions.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::rundir::SessionRecord;

    fn sessions(ids: &[&str]) -> Vec<Known> {
        ids.iter().map(|id| Known { record: SessionRecord::example(id), alive: true }).collect()
    }

    fn unrecorded(dead: &[&str], unclear: &[&str]) -> Unrecorded {
        let set = |ids: &[&str]| ids.iter().map(ToString::to_string).collect();
        Unrecorded { dead: set(dead), unclear: set(unclear) }
    }

    fn chosen(known: &[&str], removed: &[&str]) -> Chosen {
        Chosen { known: sessions(known), unrecorded: unrecorded(removed, &[]).dead }
    }

    #[test]
    fn the_only_session_needs_no_name_and_of_several_none_is_guessed() {
        let choose = |ids: &[&str], which| choose(sessions(ids), Unrecorded::default(), which);
        assert_eq!(choose(&["a"], Which::Only).unwrap(), chosen(&["a"], &[]));
        assert_eq!(choose(&[], Which::Only).unwrap(), chosen(&[], &[]));
        let error = choose(&["a", "b"], Which::Only).unwrap_err();
        assert_eq!(error.to_string(), "this machine has several sessions: a, b");
        assert_eq!(error.hint().unwrap(), "say which, or --all: tpdocker stop a");
        assert_eq!(choose(&["a", "b"], Which::All).unwrap(), chosen(&["a", "b"], &[]));
    }

    #[test]
    fn a_session_that_is_not_there_is_answered_with_those_that_are() {
        let choose = |ids: &[&str], which: &str| {
            choose(sessions(ids), unrecorded(&["x"], &["y"]), Which::Session(which.to_owned()))
        };
        assert_eq!(choose(&["a", "b"], "b").unwrap(), chosen(&["b"], &[]));
        let error = choose(&["a", "b"], "c").unwrap_err();
        assert_eq!(error.to_string(), "this machine has no session c; it has a, b, x, y");
        assert_eq!(error.code(), Code::Usage);
        let error = super::choose(sessions(&[]), Unrecorded::default(), Which::Session("c".into())).unwrap_err();
        assert_eq!(error.to_string(), "this machine has no session c; it has none");
    }

    #[test]
    fn what_has_no_record_is_removed_by_its_id_and_by_all_only_what_is_certainly_dead() {
        let choose = |which| choose(sessions(&["a"]), unrecorded(&["x"], &["y"]), which).unwrap();
        assert_eq!(choose(Which::All), chosen(&["a"], &["x"]));
        assert_eq!(choose(Which::Session("x".into())), chosen(&[], &["x"]));
        assert_eq!(choose(Which::Session("y".into())), chosen(&[], &["y"]));
    }
}
