//! `tpdocker restore`: puts a workload back from what the cluster remembers, whoever swapped it, from any machine. Where
//! the session ran on this one, what its process left in the engine goes too.

use std::future::ready;

use crate::cluster::Cluster;
use crate::docker::Engine;
use crate::error::Error;
use crate::event::Reporter;
use crate::session::rundir;
use crate::settings::RestoreSettings;

/// Carries out `tpdocker restore NAME`.
pub async fn restore(settings: RestoreSettings, reporter: &Reporter) -> Result<u8, Error> {
    let cluster = Cluster::connect(&settings.cluster).await?;
    let reference = cluster.resolve(&settings.target).await?.reference;
    let step = reporter.step("restore");
    let restored = cluster.restore(&reference, None, || ready(()), |text| step.progress(text)).await?;
    let Some(record) = restored.record else {
        step.done(format!("{reference} is not swapped"));
        return Ok(0);
    };
    step.done(format!(
        "{reference} is back, {}/{} ready; it was swapped by {} since {}",
        restored.ready, restored.replicas, record.owner, record.since
    ));
    rundir::forget(&record.session)?;
    match Engine::connect().await {
        Ok(engine) => match engine.remove_all_of(&record.session).await? {
            0 => {}
            count => reporter.notice(format!("{count} containers of the session were removed")),
        },
        // The session may have run elsewhere, and this machine may have no engine at all.
        Err(error) => reporter.notice(format!("containers of the session were not looked for: {error}")),
    }
    Ok(0)
}
