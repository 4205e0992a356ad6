//! What is left of a session in the engine, removed by its label: safe to repeat, and never stopped by one failure.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use bollard::models::{ContainerSummary, ContainerSummaryStateEnum};
use bollard::query_parameters::{ListContainersOptions, RemoveContainerOptions};
use tpdocker_protocol::contract::{LABEL_ROLE, LABEL_SESSION, ROLE_SIDECAR, SIDECAR_RUN_DIR};

use super::engine::Engine;
use super::error::{EngineError, is_missing, refusal};

/// The engine's answer to a removal that another caller began.
const CONFLICT: u16 = 409;

/// What the engine has of one session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InEngine {
    /// Names of its containers, without an app's that has ended: `docker run` without `--rm` keeps it.
    pub containers: Vec<String>,
    /// Names of its volumes.
    pub volumes: Vec<String>,
    /// The directory of this machine that its sidecar has mounted.
    pub run_dir: Option<PathBuf>,
}

impl Engine {
    /// All that the engine has of sessions, by the session's id.
    pub async fn all_sessions(&self) -> Result<BTreeMap<String, InEngine>, EngineError> {
        let mut found: BTreeMap<String, InEngine> = BTreeMap::new();
        for (session, volume) in self.volumes_of_sessions().await? {
            found.entry(session).or_default().volumes.push(volume);
        }
        for container in self.labelled(LABEL_SESSION.to_owned()).await? {
            let mut labels = container.labels.unwrap_or_default();
            let Some(session) = labels.remove(LABEL_SESSION) else { continue };
            let is_sidecar = labels.get(LABEL_ROLE).is_some_and(|role| role == ROLE_SIDECAR);
            if !is_sidecar && container.state != Some(ContainerSummaryStateEnum::RUNNING) {
                continue;
            }
            let name = container.names.unwrap_or_default().into_iter().next().unwrap_or_default();
            let entry = found.entry(session).or_default();
            entry.containers.push(name.trim_start_matches('/').to_owned());
            let mounts = container.mounts.unwrap_or_default();
            let run_dir = mounts.into_iter().find(|mount| mount.destination.as_deref() == Some(SIDECAR_RUN_DIR));
            entry.run_dir = entry.run_dir.take().or_else(|| run_dir?.source.map(PathBuf::from));
        }
        Ok(found)
    }

    /// Removes every container of `session`, running or not, the sidecar last, and its volumes; gives the number of the
    /// containers.
    pub async fn remove_all_of(&self, session: &str) -> Result<usize, EngineError> {
        self.remove_labelled(session, |_| true).await
    }

    /// Removes the sidecar of `session` and the volumes, and leaves the user's container: `docker run` without `--rm` keeps it.
    pub async fn remove_sidecar_of(&self, session: &str) -> Result<usize, EngineError> {
        self.remove_labelled(session, |role| role == ROLE_SIDECAR).await
    }

    /// The containers with a label, running or not.
    async fn labelled(&self, label: String) -> Result<Vec<ContainerSummary>, EngineError> {
        let filters = HashMap::from([("label".to_owned(), vec![label])]);
        let options = ListContainersOptions { all: true, filters: Some(filters), ..Default::default() };
        let listed = self.api.list_containers(Some(options)).await;
        listed.map_err(|error| EngineError::lost("listing the session's containers", error))
    }

    async fn remove_labelled(&self, session: &str, chosen: impl Fn(&str) -> bool) -> Result<usize, EngineError> {
        let found = self.labelled(format!("{LABEL_SESSION}={session}")).await?;
        let mut containers: Vec<_> = found
            .into_iter()
            .filter_map(|container| {
                let role = container.labels.unwrap_or_default().remove(LABEL_ROLE).unwrap_or_default();
                let name = container.names.unwrap_or_default().into_iter().next().unwrap_or_default();
                chosen(&role).then_some((role == ROLE_SIDECAR, container.id?, name.trim_start_matches('/').to_owned()))
            })
            .collect();
        // The owner of a network namespace goes after those who joined it.
        containers.sort();
        let mut left = Vec::new();
        let mut cures = Vec::new();
        let count = containers.len();
        for (_, id, name) in containers {
            if let Err(error) = self.remove_container(&id).await {
                if refusal(&error).is_none() {
                    return Err(EngineError::lost("removing the session's containers", error));
                }
                left.push(format!("container {name}: {error}"));
                cures.push(format!("docker rm -f {name}"));
            }
        }
        // A container that stays has its files by bind mounts and keeps no volume.
        for (name, reason) in self.remove_volumes_of(session).await? {
            left.push(format!("volume {name}: {reason}"));
            cures.push(format!("docker volume rm {name}"));
        }
        if left.is_empty() { Ok(count) } else { Err(EngineError::LeftBehind { left, cure: cures.join("; ") }) }
    }

    /// Kills and removes one container with its anonymous volumes; one that is gone is removed.
    pub(super) async fn remove_container(&self, id: &str) -> Result<(), bollard::errors::Error> {
        let options = RemoveContainerOptions { force: true, v: true, link: false };
        match self.api.remove_container(id, Some(options)).await {
            Err(error) if is_missing(&error) => Ok(()),
            Err(error)
                if refusal(&error)
                    .is_some_and(|(status, message)| status == CONFLICT && message.contains("already in progress")) =>
            {
                Ok(())
            }
            other => other,
        }
    }
}
