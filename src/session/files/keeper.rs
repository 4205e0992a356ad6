//! Keeping the files as new as the pod's: when the proxy reports a new version of a volume, its directory is uploaded
//! beside the old one, and the sidecar puts it in force by a rename. A reader sees the one or the other.
//!
//! When the proxy is lost the next one is asked for everything that is followed; what is in force already is skipped.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use tpdocker_protocol::contract::SIDECAR_FILES_DIR;
use tpdocker_protocol::files::{DATA_LINK, FilesEvent, FilesSwap, NEXT_DATA_LINK, Node, NodeKind};

use super::plan::Fill;
use super::{FilesError, PodFiles, tar};
use crate::cluster::{FilesFeed, PortForward};
use crate::docker::Engine;
use crate::error::Error;
use crate::event::Reporter;
use crate::session::access::Access;
use crate::session::sidecar::Sidecar;

/// First and longest pause between two attempts to reach the proxy again: files that change once an hour are in no
/// hurry, and the tunnel is built again at the same time.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// A version of a volume, as far as the next one has to know it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Version {
    /// The directory that is in force.
    data: Option<String>,
    /// Names in the volume's directory, with the targets of those that are links.
    names: BTreeMap<String, Option<String>>,
}

impl Version {
    /// Takes note of a node.
    pub(super) fn note(&mut self, node: &Node) {
        if node.path.is_empty() || node.path.contains('/') {
            return;
        }
        let target = match &node.kind {
            NodeKind::Link { target } => Some(target.clone()),
            _ => None,
        };
        if node.path == DATA_LINK {
            self.data = target;
        } else {
            self.names.insert(node.path.clone(), target);
        }
    }

    /// What the sidecar has to do to get from here to `next`.
    fn swap_to(&self, next: &Self, directory: String) -> FilesSwap {
        let new = next.names.iter().filter(|(name, _)| !self.names.contains_key(*name));
        let links = new.filter_map(|(name, target)| Some((name.clone(), target.clone()?))).collect();
        let remove = self.names.keys().filter(|name| !next.names.contains_key(*name)).cloned().collect();
        FilesSwap { directory, links, remove }
    }
}

/// Renews the followed mounts.
pub(super) struct Keeper {
    pub(super) access: Arc<Access>,
    pub(super) engine: Engine,
    /// The sidecar's container.
    pub(super) sidecar: String,
    /// The sidecar's socket.
    pub(super) socket: PathBuf,
    pub(super) files: PodFiles,
    /// What is in force, by mount.
    pub(super) versions: BTreeMap<usize, Version>,
    pub(super) reporter: Reporter,
}

/// A mount, read to its end.
struct Reading {
    index: usize,
    version: Version,
    /// Members of the tar that brings the new directory.
    tar: Bytes,
}

impl Keeper {
    /// Whether anything is followed.
    pub(super) fn is_needed(&self) -> bool {
        !self.versions.is_empty()
    }

    /// Goes on until dropped. `asked` are the mounts that `feed` is about.
    pub(super) async fn keep(mut self, mut feed: FilesFeed<PortForward>, mut asked: Vec<usize>) {
        let mut said = String::new();
        loop {
            let error = self.follow(&mut feed, &asked).await;
            tracing::info!(error = error.chain().join(": "), "the pod's files are not followed for now");
            let mut pause = RETRY.0;
            loop {
                tokio::time::sleep(pause).await;
                asked = super::asked(&self.files.plan, |fill| fill == Fill::Follow);
                match self.reach(&asked).await {
                    Ok(next) => {
                        feed = next;
                        break;
                    }
                    Err(error) => {
                        let text = error.chain().join(": ");
                        if text != said {
                            self.reporter.warn(format!("the pod's files are not renewed: {text}"));
                            said = text;
                        }
                    }
                }
                pause = (pause * 2).min(RETRY.1);
            }
        }
    }

    async fn reach(&self, asked: &[usize]) -> Result<FilesFeed<PortForward>, Error> {
        Ok(self.access.control().await?.files(self.files.request(asked)).await?)
    }

    async fn follow(&mut self, feed: &mut FilesFeed<PortForward>, asked: &[usize]) -> Error {
        loop {
            let outcome = match self.reading(feed, asked).await {
                Ok(Some(reading)) => self.apply(reading).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                return error;
            }
        }
    }

    /// The next mount that the proxy sends; `None` for what is not one, or is not followed.
    async fn reading(&self, feed: &mut FilesFeed<PortForward>, asked: &[usize]) -> Result<Option<Reading>, Error> {
        let index = match feed.event().await? {
            FilesEvent::Mount { index } => *asked.get(index).ok_or(FilesError::OutOfOrder)?,
            FilesEvent::Watching { .. } => return Ok(None),
            _ => return Err(FilesError::OutOfOrder.into()),
        };
        let place = self.files.plan.place(index);
        let mut version = Version::default();
        let mut members = BTreeMap::new();
        loop {
            match feed.event().await? {
                FilesEvent::Node(node) if node.is_inside() => {
                    let mut member = BytesMut::from(&tar::head(&format!("{place}/{}", node.path), &node)[..]);
                    let mut left = node.size();
                    while left > 0 {
                        let piece = feed.content(left).await?;
                        left -= piece.len() as u64;
                        member.extend_from_slice(&piece);
                    }
                    member.extend_from_slice(&tar::padding(node.size()));
                    version.note(&node);
                    members.insert(node.path.clone(), (node, member));
                }
                FilesEvent::End { left_out } => {
                    if !left_out.is_empty() {
                        self.reporter.warn(super::incomplete(&self.files.plan.mounts[index], &left_out));
                    }
                    break;
                }
                FilesEvent::Failed { message } => {
                    let path = self.files.plan.mounts[index].path.clone();
                    return Err(FilesError::Mount { path, message }.into());
                }
                _ => return Err(FilesError::OutOfOrder.into()),
            }
        }
        let Some(data) = version.data.clone() else { return Ok(None) };
        let mut tar = BytesMut::new();
        let inside = format!("{data}/");
        for (path, (_, member)) in &members {
            if *path == data || path.starts_with(&inside) {
                tar.extend_from_slice(member);
            }
        }
        if let Some((link, _)) = members.get(DATA_LINK) {
            tar.extend_from_slice(&tar::head(&format!("{place}/{NEXT_DATA_LINK}"), link));
        }
        tar.extend_from_slice(&tar::end());
        Ok(Some(Reading { index, version, tar: tar.freeze() }))
    }

    async fn apply(&mut self, reading: Reading) -> Result<(), Error> {
        let Reading { index, version, tar } = reading;
        let Some(before) = self.versions.get(&index) else { return Ok(()) };
        if before.data == version.data {
            return Ok(());
        }
        let swap = before.swap_to(&version, self.files.plan.place(index));
        self.engine.upload(&self.sidecar, SIDECAR_FILES_DIR, stream::iter([Ok(tar)])).await?;
        Sidecar::connect(&self.socket).await?.swap_files(swap).await?;
        tracing::info!(path = self.files.plan.mounts[index].path, "renewed");
        self.versions.insert(index, version);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(data: &str, keys: &[&str]) -> Version {
        let node = |path: &str, kind| Node { path: path.into(), mode: 0o755, uid: 0, gid: 0, mtime: 0, kind };
        let mut version = Version::default();
        version.note(&node("", NodeKind::Directory));
        version.note(&node(data, NodeKind::Directory));
        version.note(&node(DATA_LINK, NodeKind::Link { target: data.into() }));
        for key in keys {
            version.note(&node(&format!("{data}/{key}"), NodeKind::File { size: 1 }));
            version.note(&node(key, NodeKind::Link { target: format!("..data/{key}") }));
        }
        version
    }

    #[test]
    fn a_new_version_brings_its_new_keys_and_takes_the_old_ones_and_the_old_directory_away() {
        let swap = version("..1", &["a", "b"]).swap_to(&version("..2", &["b", "c"]), "memory/0".into());
        assert_eq!(
            swap,
            FilesSwap {
                directory: "memory/0".into(),
                links: vec![("c".into(), "..data/c".into())],
                remove: vec!["..1".into(), "a".into()],
            }
        );
    }
}
