//! Volumes of the engine that hold the pod's files for the length of a session.
//!
//! They are mounted into the sidecar, which keeps them mounted, and filled through the engine's archive API: it extracts as
//! the engine's root, so owners and modes come out as they are in the pod, and no secret passes through the sidecar's own
//! process. What holds secrets is a tmpfs and never touches the laptop's disk.
//!
//! The user's container does not use the volumes as volumes: it gets a bind mount of a directory *in* a volume for each
//! mount of the pod. That gives single files too, which is what a `subPath` mount is, and which engines older than 26
//! cannot mount from a volume; and a stopped container that `docker run` without `--rm` keeps does not keep the volume.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use bollard::models::{Volume, VolumeCreateRequest};
use bollard::query_parameters::{ListVolumesOptions, RemoveVolumeOptions, UploadToContainerOptions};
use bytes::Bytes;
use futures_util::Stream;
use tpdocker_protocol::contract::LABEL_SESSION;

use super::engine::Engine;
use super::error::{EngineError, is_missing, refusal};

/// A copy of a cluster's volume arrives at the speed of a port-forward; the engine answers when it is complete.
const UPLOAD_TIMEOUT: Duration = Duration::from_hours(1);
/// Everybody may pass through the volume's root, which names nothing but numbers; what lies in it has modes of its own. With
/// user namespaces in the engine, the sidecar's root is one of everybody.
const TMPFS_OPTIONS: &str = "mode=0711";

/// A volume to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Its name in the engine.
    pub name: String,
    /// In memory rather than on disk.
    pub memory: bool,
    /// The most that it holds, in bytes, where it is in memory; half of the machine's memory when absent.
    pub size: Option<u64>,
}

impl Engine {
    /// Makes a volume of `session`; gives the path of its content on the engine's machine.
    pub async fn create_volume(&self, session: &str, spec: &VolumeSpec) -> Result<String, EngineError> {
        let mut options = TMPFS_OPTIONS.to_owned();
        if let Some(size) = spec.size {
            options = format!("{options},size={size}");
        }
        let options = [("type", "tmpfs".to_owned()), ("device", "tmpfs".to_owned()), ("o", options)];
        let request = VolumeCreateRequest {
            name: Some(spec.name.clone()),
            driver: Some("local".to_owned()),
            driver_opts: spec.memory.then(|| options.map(|(key, value)| (key.to_owned(), value)).into()),
            labels: Some([(LABEL_SESSION.to_owned(), session.to_owned())].into()),
            ..VolumeCreateRequest::default()
        };
        match self.api.create_volume(request).await {
            Ok(volume) => Ok(volume.mountpoint),
            Err(error) => Err(match refusal(&error) {
                Some((_, message)) => EngineError::Volume { name: spec.name.clone(), message: message.to_owned() },
                None => EngineError::lost("making a volume", error),
            }),
        }
    }

    /// Extracts a tar into `directory` of a running container, volumes included; what has the name of a member is
    /// replaced, and not atomically.
    pub async fn upload(
        &self,
        container: &str,
        directory: &str,
        tar: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<(), EngineError> {
        let options = UploadToContainerOptions { path: directory.to_owned(), ..UploadToContainerOptions::default() };
        let api = self.api.clone().with_timeout(UPLOAD_TIMEOUT);
        let uploaded = api.upload_to_container(container, Some(options), bollard::body_try_stream(tar)).await;
        uploaded.map_err(|error| match refusal(&error) {
            Some((_, message)) => EngineError::Volume { name: directory.to_owned(), message: message.to_owned() },
            None => EngineError::lost("writing the pod's files", error),
        })
    }

    /// Removes the volumes of `session`, whose containers are gone; gives what is left, each with its reason.
    pub(super) async fn remove_volumes_of(&self, session: &str) -> Result<Vec<(String, String)>, EngineError> {
        let mut left = Vec::new();
        for volume in self.volumes_labelled(format!("{LABEL_SESSION}={session}")).await? {
            match self.api.remove_volume(&volume.name, None::<RemoveVolumeOptions>).await {
                Err(error) if !is_missing(&error) => left.push((volume.name, error.to_string())),
                _ => {}
            }
        }
        Ok(left)
    }

    /// Session and name of each volume that a session made.
    pub(super) async fn volumes_of_sessions(&self) -> Result<Vec<(String, String)>, EngineError> {
        let found = self.volumes_labelled(LABEL_SESSION.to_owned()).await?;
        Ok(found.into_iter().filter_map(|mut it| Some((it.labels.remove(LABEL_SESSION)?, it.name))).collect())
    }

    async fn volumes_labelled(&self, label: String) -> Result<Vec<Volume>, EngineError> {
        let filters = HashMap::from([("label".to_owned(), vec![label])]);
        let options = ListVolumesOptions { filters: Some(filters) };
        let listed = self.api.list_volumes(Some(options)).await;
        let listed = listed.map_err(|error| EngineError::lost("listing the session's volumes", error))?;
        Ok(listed.volumes.unwrap_or_default())
    }
}
