//! What a session left whose process died without undoing anything: found by its record on this machine, and undone as
//! the session itself would have. The record goes last: as long as anything is left, it is how that is found.

use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;

use super::undo::{Failure, Left};
use crate::cluster::{Cluster, ClusterError, Holders, Scope, patiently};
use crate::docker::{Engine, EngineError, InEngine};
use crate::error::Error;
use crate::event::Reporter;
use crate::session::rundir::{self, Known, SessionRecord};
use crate::settings::ClusterSettings;

/// Cleans up after a dead session, in the engine and in its cluster. Goes on past a failure; safe to repeat.
pub async fn clean(record: &SessionRecord, reporter: &Reporter) -> Result<(), Error> {
    let step = reporter.step("leftovers");
    step.progress(format!("{} died", record.told()));
    match tokio::join!(containers(&record.session), cluster(record, reporter, |text| step.progress(text))) {
        (Ok(_), Ok(())) => {}
        (Err(engine), Ok(())) => return Err(Failure::Engine { session: record.session.clone(), source: engine }.into()),
        (Ok(_), Err(source)) => {
            reporter.notice(cluster_gone(record));
            return Err(Failure::Cluster { left: Left::of(record), source }.into());
        }
        (Err(engine), Err(cluster)) => return Err(Failure::Both { left: Left::of(record), engine, cluster }.into()),
    }
    rundir::forget(&record.session)?;
    let back =
        if record.swaps() { format!("{} is as it was", record.workload) } else { "its proxy is gone".to_owned() };
    step.done(format!("{} had died; {back}, its containers are gone", record.session));
    Ok(())
}

/// A cluster of a test, say: nothing can be put back there any more.
fn cluster_gone(record: &SessionRecord) -> String {
    let SessionRecord { session, server, .. } = record;
    format!("if the cluster at {server} is gone for good: tpdocker stop {session} --local")
}

/// Removes the containers, volumes and directory of a dead session whose workload is back, or out of reach for ever.
pub async fn clean_machine(session: &str, reporter: &Reporter) -> Result<(), Error> {
    let removed = containers(session).await?;
    rundir::forget(session)?;
    reporter.notice(format!("session {session} has nothing left on this machine: {removed} containers were removed"));
    Ok(())
}

/// What is left of sessions that died and have no record on this machine: a restart empties `XDG_RUNTIME_DIR`, and the
/// engine keeps what it has.
#[derive(Debug, Default)]
pub struct Unrecorded {
    /// What certainly is a dead session's.
    pub dead: BTreeSet<String>,
    /// What does not tell whose it is: no sidecar is there any more, or not yet.
    pub unclear: BTreeSet<String>,
}

impl Unrecorded {
    /// Looks on this machine; without an engine, in the directories alone.
    pub async fn find(reporter: &Reporter) -> Result<Self, Error> {
        let (known, directories) = (rundir::sessions()?, rundir::dead()?);
        let found = match Engine::connect().await {
            Ok(engine) => engine.all_sessions().await?,
            Err(error) => {
                reporter.notice(format!("containers of sessions without a record were not looked for: {error}"));
                BTreeMap::new()
            }
        };
        let directories = directories.into_iter().map(|directory| directory.session).collect();
        Ok(Self::among(found, &known, directories))
    }

    fn among(found: BTreeMap<String, InEngine>, known: &[Known], directories: BTreeSet<String>) -> Self {
        let recorded = |session: &str| known.iter().any(|known| known.record.session == session);
        let mut unrecorded = Self::default();
        for (session, left) in rundir::without_process(found, known, &directories) {
            let certain = left.run_dir.is_some() || directories.contains(&session);
            let which = if certain { &mut unrecorded.dead } else { &mut unrecorded.unclear };
            which.insert(session);
        }
        unrecorded.dead.extend(directories);
        unrecorded.dead.retain(|session| !recorded(session));
        unrecorded.unclear.retain(|session| !recorded(session));
        unrecorded
    }
}

/// Removes what is left of a dead session that has no record. Its workload, if it had one, is found by what the cluster
/// remembers.
pub async fn clean_unrecorded(session: &str, reporter: &Reporter) -> Result<(), Error> {
    let removed = containers(session).await?;
    rundir::forget(session)?;
    reporter.notice(format!("session {session} had died without a record here: {removed} containers were removed"));
    Ok(())
}

async fn containers(session: &str) -> Result<usize, EngineError> {
    Engine::connect().await?.remove_all_of(session).await
}

async fn cluster(record: &SessionRecord, reporter: &Reporter, progress: impl Fn(String)) -> Result<(), ClusterError> {
    let settings = ClusterSettings { context: Some(record.context.clone()), namespace: Some(record.namespace.clone()) };
    let cluster = match Cluster::connect(&settings).await {
        // With the namespace, all that was in it is gone.
        Err(ClusterError::NoNamespace { .. }) => return Ok(()),
        connected => connected?,
    };
    let server = &cluster.facts().host;
    if *server != record.server {
        let SessionRecord { context, server: wanted, .. } = record;
        let what = format!("its context `{context}` leads to {server}, and the session was at {wanted}");
        return Err(ClusterError::BadKubeconfig(what));
    }
    patiently(|| put_back(&cluster, record, &progress), |why| reporter.warn(why)).await
}

async fn put_back(cluster: &Cluster, record: &SessionRecord, progress: &impl Fn(String)) -> Result<(), ClusterError> {
    let Holders { swaps, others, orphans } = cluster.holders(Scope::Namespace).await?;
    if let Some(holder) = swaps.iter().find(|holder| holder.record.session == record.session) {
        cluster.restore(&holder.workload, Some(&record.session), || ready(()), progress).await?;
    }
    let proxies = orphans.iter().map(|orphan| (&orphan.name, &orphan.session));
    let proxies = proxies.chain(others.iter().map(|other| (&other.proxy, &other.session)));
    for (name, session) in proxies.filter(|(_, session)| **session == record.session) {
        cluster.delete_proxy(name, session, progress).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_record_is_dead_by_its_directory_or_its_sidecars_and_unclear_without_both() {
        let directory = tempfile::tempdir().unwrap();
        let gone = InEngine { run_dir: Some(directory.path().join("gone/sidecar")), ..InEngine::default() };
        let found = BTreeMap::from([
            ("rebooted".to_owned(), gone.clone()),
            ("recorded".to_owned(), gone),
            ("unmounted".to_owned(), InEngine::default()),
            ("volumes".to_owned(), InEngine::default()),
        ]);
        let known = [Known { record: SessionRecord::example("recorded"), alive: false }];
        let directories = ["directory", "recorded", "unmounted"].map(str::to_owned).into();
        let Unrecorded { dead, unclear } = Unrecorded::among(found, &known, directories);
        assert_eq!(dead, ["directory", "rebooted", "unmounted"].map(str::to_owned).into());
        assert_eq!(unclear, ["volumes".to_owned()].into());
    }
}
