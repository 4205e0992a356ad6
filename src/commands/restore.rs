//! `tpdocker restore`: puts workloads back from what the cluster remembers, whoever swapped them, from any machine. Where
//! a session ran on this one, what its process left in the engine goes too.

use std::collections::BTreeSet;
use std::future::ready;

use futures_util::future::join_all;

use super::{leftovers, undo};
use crate::cluster::{Cluster, ClusterError, Holders, Scope, WorkloadRef, patiently};
use crate::docker::Engine;
use crate::error::Error;
use crate::event::Reporter;
use crate::output::Console;
use crate::session::rundir::{self, Known, SessionRecord};
use crate::settings::RestoreSettings;

/// Carries out `tpdocker restore`.
pub async fn restore(settings: RestoreSettings, console: &Console) -> Result<u8, Error> {
    let cluster = Cluster::connect(&settings.cluster).await?;
    match settings.target {
        Some(target) => {
            let reference = cluster.resolve(&target).await?.reference;
            one(&cluster, &reference, &console.reporter()).await
        }
        None => all(&cluster, console).await,
    }
}

async fn one(cluster: &Cluster, reference: &WorkloadRef, reporter: &Reporter) -> Result<u8, Error> {
    let restored = put_back(cluster, reference, reporter).await?;
    cluster.delete_orphans_of(reference, |_| {}).await?;
    if let Some(session) = restored {
        rundir::forget(&session)?;
        match Engine::connect().await {
            Ok(engine) => match engine.remove_all_of(&session).await? {
                0 => {}
                count => reporter.notice(format!("{count} containers of the session were removed")),
            },
            // The session may have run elsewhere, and this machine may have no engine at all.
            Err(error) => reporter.notice(format!("containers of the session were not looked for: {error}")),
        }
    }
    // One that died when the workload was as it was already: before its record, or after it.
    for Known { record, alive } in rundir::sessions()? {
        if !alive && is_here(&record, cluster) && record.workload == reference.slug() {
            leftovers::clean_machine(&record.session, reporter).await?;
        }
    }
    Ok(0)
}

/// Whether the session was in the namespace that is being restored.
fn is_here(record: &SessionRecord, cluster: &Cluster) -> bool {
    record.server == cluster.facts().host && record.namespace == cluster.namespace()
}

/// Every swapped workload of the namespace at the same time, then the proxies of nobody, then what dead sessions on
/// these workloads, and those that nothing more is known of, left on this machine. Goes on past a failure.
async fn all(cluster: &Cluster, console: &Console) -> Result<u8, Error> {
    let reporter = console.reporter();
    let Holders { swaps, .. } = cluster.holders(Scope::Namespace).await?;
    if swaps.is_empty() {
        reporter.notice(format!("nothing is swapped in namespace {}", cluster.namespace()));
    }
    let restored = join_all(swaps.iter().map(|holder| put_back(cluster, &holder.workload, &reporter))).await;
    let mut outcome = Ok(0);
    for one in restored {
        outcome = undo::conclude(console, outcome, one.map(drop).map_err(Error::from));
    }
    match leftovers::Unrecorded::find(&reporter).await {
        Ok(found) => {
            for session in &found.dead {
                outcome = undo::conclude(console, outcome, leftovers::clean_unrecorded(session, &reporter).await);
            }
        }
        Err(error) => outcome = undo::conclude(console, outcome, Err(error)),
    }
    let known = rundir::sessions()?;
    outcome = undo::conclude(console, outcome, proxies(cluster, &known, &reporter).await.map_err(Error::from));
    // Whose workload is not back keeps its record here, by which `stop` finds it.
    let held: BTreeSet<String> = match cluster.swaps().await {
        Ok(swaps) => swaps.into_iter().map(|(_, record)| record.session).collect(),
        Err(error) => return undo::conclude(console, outcome, Err(error.into())),
    };
    for Known { record, alive } in known {
        if alive || held.contains(&record.session) {
            continue;
        }
        if is_here(&record, cluster) {
            let cleaned = leftovers::clean_machine(&record.session, &reporter).await;
            outcome = undo::conclude(console, outcome, cleaned);
        } else {
            reporter.notice(format!(
                "{} in namespace {} of context {} at {} died too: tpdocker stop {}",
                record.told(),
                record.namespace,
                record.context,
                record.server,
                record.session
            ));
        }
    }
    outcome
}

/// The session that had swapped it; `None` when nobody had.
async fn put_back(
    cluster: &Cluster,
    reference: &WorkloadRef,
    reporter: &Reporter,
) -> Result<Option<String>, ClusterError> {
    let step = reporter.step("restore");
    let restore = || cluster.restore(reference, None, || ready(()), |text| step.progress(text));
    let restored = patiently(restore, |why| reporter.warn(why)).await?;
    let Some(record) = restored.record else {
        step.done(format!("{reference} is not swapped"));
        return Ok(None);
    };
    step.done(format!(
        "{reference} is back, {}/{} ready; it was swapped by {} since {}",
        restored.ready, restored.replicas, record.owner, record.since
    ));
    Ok(Some(record.session))
}

/// Deletes the proxies of nobody, and those of sessions that swapped nothing and died on this machine.
async fn proxies(cluster: &Cluster, known: &[Known], reporter: &Reporter) -> Result<(), ClusterError> {
    let Holders { others, orphans, .. } = cluster.holders(Scope::Namespace).await?;
    let died = |session: &str| known.iter().any(|known| !known.alive && known.record.session == session);
    let dead = others.into_iter().filter(|other| died(&other.session)).map(|other| (other.proxy, other.session));
    for (name, session) in orphans.into_iter().map(|orphan| (orphan.name, orphan.session)).chain(dead) {
        let step = reporter.step("proxy");
        cluster.delete_proxy(&name, &session, |text| step.progress(text)).await?;
        step.done(format!("{name} of session {session} was nobody's and is deleted"));
    }
    Ok(())
}
