//! What the engine has of all sessions, by their label: for whoever asks what is there, not for a session itself.

use std::collections::HashMap;

use bollard::query_parameters::ListContainersOptions;
use serde::Serialize;
use tpdocker_protocol::contract::{LABEL_ROLE, LABEL_SESSION};

use super::engine::Engine;
use super::error::EngineError;

/// A container of a session.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct SessionContainer {
    /// The session's id.
    pub session: String,
    /// `sidecar` or `app`.
    pub role: String,
    /// Its name.
    pub name: String,
    /// Its image, as it was named.
    pub image: String,
    /// Whether its process runs.
    pub running: bool,
    /// As `docker ps` says it: `Up 3 minutes`, `Exited (137) 2 hours ago`.
    pub status: String,
}

impl Engine {
    /// The containers of all sessions, running or not, sorted by session.
    pub async fn session_containers(&self) -> Result<Vec<SessionContainer>, EngineError> {
        let filters = HashMap::from([("label".to_owned(), vec![LABEL_SESSION.to_owned()])]);
        let options = ListContainersOptions { all: true, filters: Some(filters), ..Default::default() };
        let listed = self.api.list_containers(Some(options)).await;
        let listed = listed.map_err(|error| EngineError::lost("listing the sessions' containers", error))?;
        let mut containers: Vec<_> = listed
            .into_iter()
            .map(|container| {
                let mut labels = container.labels.unwrap_or_default();
                let name = container.names.unwrap_or_default().into_iter().next().unwrap_or_default();
                SessionContainer {
                    session: labels.remove(LABEL_SESSION).unwrap_or_default(),
                    role: labels.remove(LABEL_ROLE).unwrap_or_default(),
                    name: name.trim_start_matches('/').to_owned(),
                    image: container.image.unwrap_or_default(),
                    running: container.state.is_some_and(|state| state.to_string() == "running"),
                    status: container.status.unwrap_or_default(),
                }
            })
            .collect();
        containers.sort();
        Ok(containers)
    }
}
