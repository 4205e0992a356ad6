//! The end of a session in its cluster, from whatever step: in order, with nobody refused, for as long as nobody is in a
//! hurry; then at once, with requests alone and no waiting. Both go on while the API server does not answer.

use std::sync::atomic::Ordering;

use super::Session;
use crate::cluster::{ClusterError, Restored, Workload, patiently};
use crate::event::Step;

impl Session {
    /// Has the end, which may be under way, wait for no pods.
    pub fn hurry(&self) {
        self.haste.cancel();
    }

    /// Whether somebody is in a hurry.
    pub fn is_hurried(&self) -> bool {
        self.haste.is_cancelled()
    }

    /// Puts the cluster back. `None` where nothing was to be swapped.
    ///
    /// That includes the end of whom the workload was being taken from: with the record gone, that session has no claim any
    /// more. Somebody who has taken it over from this one meanwhile sees to that himself.
    pub async fn end(&self) -> Result<Option<Restored>, ClusterError> {
        let step = self.reporter.step("restore");
        let tell = |why| self.reporter.warn(why);
        let ended = tokio::select! {
            biased;
            ended = patiently(|| self.end_in_order(&step), tell) => ended,
            () = self.haste.cancelled() => patiently(|| self.end_at_once(), tell).await,
        };
        let (facts, restored) = ended?;
        step.done(facts);
        Ok(restored)
    }

    async fn end_in_order(&self, step: &Step) -> Result<(String, Option<Restored>), ClusterError> {
        let Some(workload) = self.found.stance.workload() else {
            return Ok((self.leave(step).await?, None));
        };
        let ended = self.restore(workload, step).await;
        let others = self.end_of_others(workload).await;
        let (facts, restored) = ended?;
        others?;
        Ok((facts, Some(restored)))
    }

    async fn end_at_once(&self) -> Result<(String, Option<Restored>), ClusterError> {
        let cluster = &self.found.cluster;
        let Some(workload) = self.found.stance.workload() else {
            cluster.delete_proxy_at_once(self.proxy_name()).await?;
            return Ok(("proxy deleted, and not waited for; nothing was swapped".to_owned(), None));
        };
        let reference = &workload.reference;
        if self.deleted.load(Ordering::Relaxed) {
            let deleted = cluster.delete_proxy_at_once(self.proxy_name()).await;
            return self.end_without(reference, deleted).map(|(facts, restored)| (facts, Some(restored)));
        }
        let restored = cluster.restore_at_once(reference, self.identity.id.as_str()).await;
        let others = self.end_of_others(workload).await;
        let restored = restored?;
        others?;
        let facts = if restored.record.is_some() {
            let (name, ready, replicas) = (&reference.name, restored.ready, restored.replicas);
            format!("{name} is scaled to {replicas} and was not waited for, {ready}/{replicas} ready; proxy deleted")
        } else {
            cluster.delete_proxy_at_once(self.proxy_name()).await?;
            format!("{} is {}", reference.name, if restored.missing { "gone" } else { "as it was" })
        };
        Ok((facts, Some(restored)))
    }

    async fn end_of_others(&self, workload: &Workload) -> Result<(), ClusterError> {
        if !self.take_over || self.deleted.load(Ordering::Relaxed) {
            return Ok(());
        }
        let cluster = &self.found.cluster;
        match cluster.swap_of(&workload.reference).await {
            Ok(None) | Err(ClusterError::NotFound { .. }) => {
                cluster.delete_orphans_of(&workload.reference, |_| {}).await.map(drop)
            }
            Ok(Some(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
