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
mod keeper;
pub mod plan;
mod tar;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tpdocker_protocol::contract::SIDECAR_FILES_DIR;
use tpdocker_protocol::files::{FilesEvent, FilesRequest, MountRequest, Node, NodeKind};

use self::keeper::{Keeper, Version};
use self::plan::{FilesPlan, Fill, Medium, PlanError, Planned};
use super::sidecar::{Sidecar, SidecarError};
use super::{Attached, Session};
use crate::cluster::{FilesFeed, PodMount, PortForward, Workload, mounts};
use crate::docker::{Engine, EngineError, VolumeSpec};
use crate::error::{Code, Error, Explain};
use crate::settings::{AppSpec, MountKind, MountSpec, RunSettings};

/// Pieces of a tar between the proxy and the engine; a piece is at most what one read of the connection gives.
const AHEAD: usize = 16;
/// As the kubelet makes an `emptyDir`.
const EMPTY_MODE: u32 = 0o777;

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

/// The mounts of the swapped container as its workload declares them: what can be known before there is a pod.
pub fn declared(workload: &Workload) -> Vec<PodMount> {
    let spec = workload.template.spec.as_ref();
    live(spec.map(|spec| mounts::of_container(spec, &workload.container)).unwrap_or_default(), workload)
}

/// The mounts of the proxy's pod, as those of the original.
pub fn live(mounts: Vec<PodMount>, workload: &Workload) -> Vec<PodMount> {
    let claims = workload.stateful.as_ref().map_or(&[][..], |stateful| &stateful.claims);
    mounts::with_claims(mounts, claims)
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
    pub fn dress(&self, app: &AppSpec, workload: &Workload) -> AppSpec {
        let mut dressed = account::of_pod(app, workload);
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
        Ok(found.ok_or_else(|| SidecarError::Failed("its container is gone".into()))?)
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
        let (tar_tx, tar_rx) = mpsc::channel(AHEAD);
        let asked = asked(&files.plan, |fill| fill != Fill::Empty);
        let mut feed = attached.access.control().await?.files(files.request(&asked)).await?;
        let mut filling =
            Filling { files: &files, asked: &asked, tar: Tar(tar_tx), versions: BTreeMap::new(), count: 0 };
        let read = async {
            let read = filling.fill(&mut feed).await;
            filling.tar.finish(read.is_ok()).await;
            (read, filling.versions, filling.count)
        };
        let upload = engine.upload(sidecar, SIDECAR_FILES_DIR, chunks(tar_rx));
        let ((read, versions, count), uploaded) = tokio::join!(read, upload);
        let read = match (read, uploaded) {
            (Err(Interrupted::Read(error)), _) => return Err(error),
            (_, Err(error)) => return Err(error.into()),
            (Err(Interrupted::Upload), Ok(())) => return Err(FilesError::OutOfOrder.into()),
            (Ok(read), Ok(())) => read,
        };
        for warning in read.warnings {
            self.reporter.warn(warning);
        }
        step.done(format!(
            "{} mounts with {count} files; changes noticed by {}",
            files.plan.mounts.len(),
            read.watched_by
        ));
        let keeper = Keeper {
            access: attached.access.clone(),
            engine: engine.clone(),
            sidecar: sidecar.to_owned(),
            socket: self.run_dir.socket(),
            files,
            versions,
            reporter: self.reporter.clone(),
        };
        Ok(keeper.is_needed().then(|| AbortOnDropHandle::new(tokio::spawn(keeper.keep(feed, asked)))))
    }
}

fn asked(plan: &FilesPlan, wanted: impl Fn(Fill) -> bool) -> Vec<usize> {
    (0..plan.mounts.len()).filter(|index| wanted(plan.mounts[*index].fill)).collect()
}

/// Why the filling ended early: the reading failed, or the engine does not take any more and says why itself.
enum Interrupted {
    Read(Error),
    Upload,
}

impl<E: Explain> From<E> for Interrupted {
    fn from(error: E) -> Self {
        Self::Read(error.into())
    }
}

/// What was found on the way.
struct Read {
    warnings: Vec<String>,
    watched_by: String,
}

/// The first reading of all mounts, as one tar.
struct Filling<'a> {
    files: &'a PodFiles,
    asked: &'a [usize],
    tar: Tar,
    versions: BTreeMap<usize, Version>,
    count: usize,
}

impl Filling<'_> {
    async fn fill(&mut self, feed: &mut FilesFeed<PortForward>) -> Result<Read, Interrupted> {
        let mut read = Read { warnings: Vec::new(), watched_by: String::new() };
        for index in asked(&self.files.plan, |fill| fill == Fill::Empty) {
            self.tar.node(&self.files.plan.place(index), &directory("", EMPTY_MODE)).await?;
            self.mount_points(index, &BTreeSet::new()).await?;
        }
        loop {
            match feed.event().await? {
                FilesEvent::Watching { by } => {
                    read.watched_by = by;
                    return Ok(read);
                }
                FilesEvent::Mount { index } => {
                    let index = *self.asked.get(index).ok_or(FilesError::OutOfOrder)?;
                    let left_out = self.mount(feed, index).await?;
                    if !left_out.is_empty() {
                        read.warnings.push(incomplete(&self.files.plan.mounts[index], &left_out));
                    }
                }
                _ => return Err(FilesError::OutOfOrder.into()),
            }
        }
    }

    /// One mount, up to its end; gives what is left out.
    async fn mount(&mut self, feed: &mut FilesFeed<PortForward>, index: usize) -> Result<Vec<String>, Interrupted> {
        let planned = &self.files.plan.mounts[index];
        let place = self.files.plan.place(index);
        let mut version = Version::default();
        let mut seen = BTreeSet::new();
        loop {
            match feed.event().await? {
                FilesEvent::Node(node) => {
                    let path = if node.path.is_empty() { place.clone() } else { format!("{place}/{}", node.path) };
                    self.tar.node(&path, &node).await?;
                    let mut left = node.size();
                    while left > 0 {
                        let piece = feed.content(left).await?;
                        left -= piece.len() as u64;
                        self.tar.send(piece).await?;
                    }
                    self.tar.send(tar::padding(node.size())).await?;
                    self.count += usize::from(matches!(node.kind, NodeKind::File { .. }));
                    version.note(&node);
                    if !planned.below.is_empty() {
                        seen.insert(node.path);
                    }
                }
                FilesEvent::End { left_out } => {
                    self.mount_points(index, &seen).await?;
                    if planned.fill == Fill::Follow {
                        self.versions.insert(index, version);
                    }
                    return Ok(left_out);
                }
                FilesEvent::Failed { message } => {
                    return Err(FilesError::Mount { path: planned.path.clone(), message }.into());
                }
                _ => return Err(FilesError::OutOfOrder.into()),
            }
        }
    }

    /// The engine cannot make a mount point in a mount that is read-only.
    async fn mount_points(&mut self, index: usize, seen: &BTreeSet<String>) -> Result<(), Interrupted> {
        const FILE: u32 = 0o644;
        const DIRECTORY: u32 = 0o755;
        let place = self.files.plan.place(index);
        for below in &self.files.plan.mounts[index].below {
            let parents = below.path.match_indices('/').map(|(at, _)| &below.path[..at]);
            for parent in parents.filter(|parent| !seen.contains(*parent)) {
                self.tar.node(&format!("{place}/{parent}"), &directory(parent, DIRECTORY)).await?;
            }
            if seen.contains(&below.path) {
                continue;
            }
            let node = if below.is_file {
                Node { kind: NodeKind::File { size: 0 }, ..directory(&below.path, FILE) }
            } else {
                directory(&below.path, DIRECTORY)
            };
            self.tar.node(&format!("{place}/{}", below.path), &node).await?;
        }
        Ok(())
    }
}

fn incomplete(mount: &Planned, left_out: &[String]) -> String {
    format!("{} is not complete; left out: {}", mount.path, left_out.join("; "))
}

fn directory(path: &str, mode: u32) -> Node {
    Node { path: path.to_owned(), mode, uid: 0, gid: 0, mtime: 0, kind: NodeKind::Directory }
}

/// A tar on its way to the engine.
struct Tar(mpsc::Sender<io::Result<Bytes>>);

impl Tar {
    async fn send(&self, bytes: Bytes) -> Result<(), Interrupted> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.0.send(Ok(bytes)).await.map_err(|_| Interrupted::Upload)
    }

    async fn node(&self, path: &str, node: &Node) -> Result<(), Interrupted> {
        self.send(tar::head(path, node)).await
    }

    /// Ends the archive, or breaks it off so that the engine does not take a part for the whole.
    async fn finish(self, whole: bool) {
        let last = if whole { Ok(tar::end()) } else { Err(io::ErrorKind::Interrupted.into()) };
        if self.0.send(last).await.is_err() {
            tracing::debug!("the engine had stopped to read the tar");
        }
    }
}

fn chunks(tar_rx: mpsc::Receiver<io::Result<Bytes>>) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    futures_util::stream::unfold(tar_rx, |mut tar_rx| async { tar_rx.recv().await.map(|chunk| (chunk, tar_rx)) })
}
