//! The pod's files in the user's container, at their real paths.
//!
//! ```text
//! kubelet ─→ proxy's mounts ─→ proxy ═ control connection ═ CLI ─→ engine's archive API ─→ volume ─→ app, by bind mount
//!                                                            └──→ sidecar: rename of ..data
//! ```
//! `plan` decides what is mounted; the volumes are made and mounted into the sidecar, which keeps them alive; what the
//! proxy reads is streamed into them before the app is created; and `keeper` does again what the kubelet does when a
//! `ConfigMap`, a Secret or a token changes. Nothing goes the other way: what the app writes stays on the laptop.

mod account;
mod fill;
mod keeper;
pub mod plan;
mod tar;

use std::path::Path;

use tokio_util::task::AbortOnDropHandle;
use tpdocker_protocol::contract::SIDECAR_FILES_DIR;
use tpdocker_protocol::files::{FilesRequest, MountRequest};

use self::keeper::Keeper;
use self::plan::{FilesPlan, Fill, Medium, PlanError, Planned};
use super::sidecar::{Sidecar, SidecarError};
use super::{Attached, Session};
use crate::cluster::{PodModel, PodMount, mounts};
use crate::docker::{Engine, EngineError, VolumeSpec};
use crate::error::{Code, Error, Explain};
use crate::settings::{AppSpec, MountKind, MountSpec, RunSettings};

/// The pod's files cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A mount cannot be read in the pod.
    #[error("cannot read {path} in the pod: {message}")]
    Mount {
        /// The mount.
        path: String,
        /// Why.
        message: String,
    },
    /// The proxy answered something else.
    #[error("the proxy sent the pod's files out of order")]
    OutOfOrder,
}

impl Explain for FilesError {
    fn code(&self) -> Code {
        match self {
            Self::Mount { .. } => Code::Proxy,
            Self::OutOfOrder => Code::Tunnel,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Mount { .. } => Some(format!("leave the volume out: {} NAME=skip", plan::FLAG)),
            Self::OutOfOrder => None,
        }
    }
}

impl Explain for PlanError {
    fn code(&self) -> Code {
        Code::Usage
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown(unknown) if unknown.known.is_empty() => None,
            Self::Unknown(unknown) => Some(format!("its volumes are {}", unknown.known.join(", "))),
            Self::NotCopied(not) => Some(format!("{0} {1}=empty, or {0} {1}=DIRECTORY", plan::FLAG, not.volume)),
        }
    }
}

/// The mounts of the container as the model's template declares them: what can be known before there is a pod.
pub fn declared(model: &PodModel) -> Vec<PodMount> {
    let spec = model.template.spec.as_ref();
    live(spec.map(|spec| mounts::of_container(spec, &model.container)).unwrap_or_default(), model)
}

/// The mounts of the proxy's pod, as those of the original.
pub fn live(mounts: Vec<PodMount>, model: &PodModel) -> Vec<PodMount> {
    mounts::with_claims(mounts, &model.withheld)
}

/// What is mounted, given the pod's mounts.
pub fn plan_for(pod: &[PodMount], settings: &RunSettings) -> Result<FilesPlan, PlanError> {
    plan::plan(pod, &plan::user_mounts(&settings.app, |path| Path::new(path).is_file()), &settings.pod_volumes)
}

/// Volumes that wait for their content.
#[derive(Debug)]
pub struct PodFiles {
    plan: FilesPlan,
    /// By store: the volume's name, and its content's path on the engine's machine.
    volumes: Vec<(String, String)>,
}

/// Goes on to renew filled volumes until it is dropped; nothing where nothing is renewed.
pub type Renewal = Option<AbortOnDropHandle<()>>;

impl PodFiles {
    /// Makes the volumes that `plan` needs.
    pub async fn prepare(engine: &Engine, session: &str, plan: FilesPlan) -> Result<Self, EngineError> {
        let mut volumes = Vec::new();
        for store in &plan.stores {
            let name = format!("tpdocker-{session}-{}", store.name);
            let (memory, size) = match store.medium {
                Medium::Disk => (false, None),
                Medium::Memory { size } => (true, size),
            };
            let spec = VolumeSpec { name, memory, size };
            let path = engine.create_volume(session, &spec).await?;
            volumes.push((spec.name, path));
        }
        Ok(Self { plan, volumes })
    }

    /// For the sidecar: names of volumes, and where they are mounted in it.
    pub fn volumes(&self) -> Vec<(String, String)> {
        let stores = self.plan.stores.iter().zip(&self.volumes);
        stores.map(|(store, (name, _))| (name.clone(), format!("{SIDECAR_FILES_DIR}/{}", store.name))).collect()
    }

    /// For the user's container. They may be mounted once the volumes are filled.
    pub fn mounts(&self) -> Vec<MountSpec> {
        let from_volumes = self.plan.mounts.iter().enumerate().map(|(index, planned)| {
            let (_, content) = &self.volumes[planned.store];
            MountSpec {
                kind: MountKind::Bind,
                source: Some(format!("{content}/{index}")),
                target: planned.path.clone(),
                read_only: planned.read_only,
            }
        });
        from_volumes.chain(self.plan.laptop.iter().cloned()).collect()
    }

    /// The user's container with the pod's files, and with the pod's user and groups, to whom they belong.
    pub fn dress(&self, app: &AppSpec, model: &PodModel) -> AppSpec {
        let mut dressed = account::of_pod(app, model);
        dressed.mounts.extend(self.mounts());
        dressed
    }

    fn request(&self, mounts: &[usize]) -> FilesRequest {
        let request = |index: &usize| {
            let Planned { path, fill, .. } = &self.plan.mounts[*index];
            MountRequest { path: path.clone(), follow: *fill == Fill::Follow }
        };
        FilesRequest { mounts: mounts.iter().map(request).collect() }
    }
}

impl Session {
    /// The sidecar's container, where Compose starts it: waits until it listens.
    pub async fn sidecar_of_compose(&self, engine: &Engine) -> Result<String, Error> {
        Sidecar::connect(&self.run_dir.socket()).await?;
        let found = engine.sidecar_of(self.identity.id.as_str()).await?;
        Ok(found.ok_or_else(|| SidecarError::Failed("its container is gone".into()))?.id)
    }

    /// Fills the volumes, which `sidecar` has mounted, with what the pod has, and renews them until the result is
    /// dropped.
    pub async fn files(
        &self,
        attached: &Attached,
        engine: &Engine,
        sidecar: &str,
        files: PodFiles,
    ) -> Result<Renewal, Error> {
        for notice in &files.plan.notices {
            self.reporter.notice(notice.clone());
        }
        if files.plan.mounts.is_empty() {
            return Ok(None);
        }
        let step = self.reporter.step("files");
        let asked = asked(&files.plan, |fill| fill != Fill::Empty);
        let mut feed = attached.access.control().await?.files(files.request(&asked)).await?;
        let read = fill::fill(engine, sidecar, &files, &asked, &mut feed, &step).await?;
        for warning in read.warnings {
            self.reporter.warn(warning);
        }
        step.done(format!(
            "{} mounts with {} files; changes noticed by {}",
            files.plan.mounts.len(),
            read.count,
            read.watched_by
        ));
        let keeper = Keeper {
            access: attached.access.clone(),
            engine: engine.clone(),
            sidecar: sidecar.to_owned(),
            socket: self.run_dir.socket(),
            files,
            versions: read.versions,
            reporter: self.reporter.clone(),
        };
        Ok(keeper.is_needed().then(|| AbortOnDropHandle::new(tokio::spawn(keeper.keep(feed, asked)))))
    }
}

fn asked(plan: &FilesPlan, wanted: impl Fn(Fill) -> bool) -> Vec<usize> {
    (0..plan.mounts.len()).filter(|index| wanted(plan.mounts[*index].fill)).collect()
}

/// For people: what a mount lacks.
fn incomplete(mount: &Planned, left_out: &[String]) -> String {
    format!("{} is not complete; left out: {}", mount.path, left_out.join("; "))
}
