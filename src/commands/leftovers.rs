//! What a session left whose process died without undoing anything: found by its record on this machine, and undone as
//! the session itself would have. The record goes last: as long as anything is left, it is how that is found.

use std::future::ready;

use super::undo::{Failure, Left};
use crate::cluster::{Cluster, ClusterError, Holders, Scope, patiently};
use crate::docker::{Engine, EngineError};
use crate::error::Error;
use crate::event::Reporter;
use crate::session::rundir::{self, SessionRecord};
use crate::settings::ClusterSettings;

/// Cleans up after a dead session, in the engine and in its cluster. Goes on past a failure; safe to repeat.
pub async fn clean(record: &SessionRecord, reporter: &Reporter) -> Result<(), Error> {
    let step = reporter.step("leftovers");
    step.progress(format!("{} died", record.told()));
    match tokio::join!(containers(&record.session), cluster(record, reporter, |text| step.progress(text))) {
        (Ok(_), Ok(())) => {}
        (Err(engine), Ok(())) => return Err(Failure::Engine { session: record.session.clone(), source: engine }.into()),
        (Ok(_), Err(source)) => return Err(Failure::Cluster { left: Left::of(record), source }.into()),
        (Err(engine), Err(cluster)) => return Err(Failure::Both { left: Left::of(record), engine, cluster }.into()),
    }
    rundir::forget(&record.session)?;
    let back =
        if record.swaps() { format!("{} is as it was", record.workload) } else { "its proxy is gone".to_owned() };
    step.done(format!("{} had died; {back}, its containers are gone", record.session));
    Ok(())
}

/// Removes the containers, volumes and directory of a dead session whose workload is back.
pub async fn clean_machine(session: &str, reporter: &Reporter) -> Result<(), Error> {
    let removed = containers(session).await?;
    rundir::forget(session)?;
    if removed > 0 {
        reporter.notice(format!("{removed} containers of session {session} were removed"));
    }
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
