//! The first reading of all mounts, as one tar that streams from the proxy through to the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc;
use tpdocker_protocol::contract::SIDECAR_FILES_DIR;
use tpdocker_protocol::files::{FilesEvent, Node, NodeKind};

use super::keeper::Version;
use super::plan::Fill;
use super::{FilesError, PodFiles, asked, incomplete, tar};
use crate::cluster::{FilesFeed, PortForward};
use crate::docker::Engine;
use crate::error::{Error, Explain};
use crate::event::Step;

/// Pieces of a tar between the proxy and the engine; a piece is at most what one read of the connection gives.
const AHEAD: usize = 16;
/// Copies of claims take a while; so many bytes are told at a time.
const PROGRESS: u64 = 4 << 20;
/// As the kubelet makes an `emptyDir`.
const EMPTY_MODE: u32 = 0o777;

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
#[derive(Debug, Default)]
pub(super) struct FirstReading {
    /// What is in force, by mount that is followed.
    pub(super) versions: BTreeMap<usize, Version>,
    /// Regular files in all of them.
    pub(super) count: usize,
    /// What the user should look at.
    pub(super) warnings: Vec<String>,
    /// How the proxy notices changes.
    pub(super) watched_by: String,
}

/// Reads the mounts `asked`, which `feed` is about, and makes the empty ones, into the volumes that `sidecar` has mounted.
pub(super) async fn fill(
    engine: &Engine,
    sidecar: &str,
    files: &PodFiles,
    asked: &[usize],
    feed: &mut FilesFeed<PortForward>,
    step: &Step,
) -> Result<FirstReading, Error> {
    let (tar_tx, tar_rx) = mpsc::channel(AHEAD);
    let mut filling = Filling { files, asked, tar: Tar(tar_tx), found: FirstReading::default(), step, bytes: 0 };
    let reading = async {
        let read = filling.fill(feed).await;
        filling.tar.finish(read.is_ok()).await;
        read.map(|()| filling.found)
    };
    match tokio::join!(reading, engine.upload(sidecar, SIDECAR_FILES_DIR, chunks(tar_rx))) {
        (Err(Interrupted::Read(error)), _) => Err(error),
        (_, Err(error)) => Err(error.into()),
        (Err(Interrupted::Upload), Ok(())) => Err(FilesError::OutOfOrder.into()),
        (Ok(found), Ok(())) => Ok(found),
    }
}

struct Filling<'a> {
    files: &'a PodFiles,
    asked: &'a [usize],
    tar: Tar,
    found: FirstReading,
    step: &'a Step,
    bytes: u64,
}

impl Filling<'_> {
    async fn fill(&mut self, feed: &mut FilesFeed<PortForward>) -> Result<(), Interrupted> {
        for index in asked(&self.files.plan, |fill| fill == Fill::Empty) {
            self.tar.node(&self.files.plan.place(index), &directory("", EMPTY_MODE)).await?;
            self.mount_points(index, &BTreeSet::new()).await?;
        }
        loop {
            match feed.event().await? {
                FilesEvent::Watching { by } => {
                    self.found.watched_by = by;
                    return Ok(());
                }
                FilesEvent::Mount { index } => {
                    let index = *self.asked.get(index).ok_or(FilesError::OutOfOrder)?;
                    let left_out = self.mount(feed, index).await?;
                    if !left_out.is_empty() {
                        self.found.warnings.push(incomplete(&self.files.plan.mounts[index], &left_out));
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
                FilesEvent::Node(node) if node.is_inside() => {
                    let path = if node.path.is_empty() { place.clone() } else { format!("{place}/{}", node.path) };
                    self.tar.node(&path, &node).await?;
                    let mut left = node.size();
                    while left > 0 {
                        let piece = feed.content(left).await?;
                        left -= piece.len() as u64;
                        self.progress(&planned.path, piece.len() as u64);
                        self.tar.send(piece).await?;
                    }
                    self.tar.send(tar::padding(node.size())).await?;
                    self.found.count += usize::from(matches!(node.kind, NodeKind::File { .. }));
                    version.note(&node);
                    if !planned.below.is_empty() {
                        seen.insert(node.path);
                    }
                }
                FilesEvent::End { left_out } => {
                    self.mount_points(index, &seen).await?;
                    if planned.fill == Fill::Follow {
                        self.found.versions.insert(index, version);
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

    fn progress(&mut self, path: &str, more: u64) {
        let told = self.bytes / PROGRESS;
        self.bytes += more;
        if self.bytes / PROGRESS > told {
            self.step.progress(format!("{path}: {} MiB", self.bytes >> 20));
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

fn directory(path: &str, mode: u32) -> Node {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let mtime = i64::try_from(now).unwrap_or(0);
    Node { path: path.to_owned(), mode, uid: 0, gid: 0, mtime, kind: NodeKind::Directory }
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
