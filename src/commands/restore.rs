//! `tpdocker restore`: puts a workload back from what the cluster remembers, whoever swapped it, from any machine.

use crate::cluster::Cluster;
use crate::error::Error;
use crate::event::Reporter;
use crate::settings::RestoreSettings;

/// Carries out `tpdocker restore NAME`.
pub async fn restore(settings: RestoreSettings, reporter: &Reporter) -> Result<u8, Error> {
    let cluster = Cluster::connect(&settings.cluster).await?;
    let reference = cluster.resolve(&settings.target).await?.reference;
    let step = reporter.step("restore");
    let restored = cluster.restore(&reference, None, |text| step.progress(text)).await?;
    step.done(match restored.record {
        Some(record) => format!(
            "{reference} is back, {}/{} ready; it was swapped by {} since {}",
            restored.ready, restored.replicas, record.owner, record.since
        ),
        None => format!("{reference} is not swapped"),
    });
    Ok(0)
}
