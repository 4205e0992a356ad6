//! What is left of a session in the engine, removed by its label: safe to repeat, and never stopped by one failure.

use std::collections::HashMap;

use bollard::models::ContainerSummary;
use bollard::query_parameters::{ListContainersOptions, RemoveContainerOptions};
use tpdocker_protocol::contract::{LABEL_ROLE, LABEL_SESSION, ROLE_SIDECAR};

use super::engine::Engine;
use super::error::{EngineError, is_missing, refusal};

/// The engine's answer to a removal that another caller began.
const CONFLICT: u16 = 409;

impl Engine {
    /// Removes every container of `session`, running or not, the sidecar last, and its volumes; gives the number of the
    /// containers.
    pub async fn remove_all_of(&self, session: &str) -> Result<usize, EngineError> {
        self.remove_labelled(session, |_| true).await
    }

    /// Removes the sidecar of `session` and the volumes, and leaves the user's container: `docker run` without `--rm` keeps it.
    pub async fn remove_sidecar_of(&self, session: &str) -> Result<usize, EngineError> {
        self.remove_labelled(session, |role| role == ROLE_SIDECAR).await
    }

    async fn labelled(&self, session: &str) -> Result<Vec<ContainerSummary>, EngineError> {
        let filters = HashMap::from([("label".to_owned(), vec![format!("{LABEL_SESSION}={session}")])]);
        let options = ListContainersOptions { all: true, filters: Some(filters), ..Default::default() };
        let listed = self.api.list_containers(Some(options)).await;
        listed.map_err(|error| EngineError::lost("listing the session's containers", error))
    }

    async fn remove_labelled(&self, session: &str, chosen: impl Fn(&str) -> bool) -> Result<usize, EngineError> {
        let found = self.labelled(session).await?;
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
