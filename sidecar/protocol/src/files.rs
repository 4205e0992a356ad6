//! How the proxy hands the pod's files to the CLI.
//!
//! A control connection on which the CLI has asked for files carries nothing else from then on: for each mount a
//! [`FilesEvent::Mount`], its nodes, parents before children, and [`FilesEvent::End`] or [`FilesEvent::Failed`]. A
//! [`FilesEvent::Node`] of a regular file is followed by as many raw bytes as it has, outside of any message, so that
//! a secret is neither encoded nor copied more often than needed and a file may be larger than a message.
//! After [`FilesEvent::Watching`] a mount that has changed is sent again as a whole.

use serde::{Deserialize, Serialize};

/// Name of the symbolic link by which the kubelet puts a new version of a volume in force: everything that a reader
/// opens goes through it, and it is replaced by a rename.
/// <https://pkg.go.dev/k8s.io/kubernetes/pkg/volume/util#AtomicWriter>
pub const DATA_LINK: &str = "..data";
/// Name that the next [`DATA_LINK`] has before the rename.
pub const NEXT_DATA_LINK: &str = "..data_tmp";

/// How much of a mount is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilesLimit {
    /// Bytes in all files together.
    pub bytes: u64,
    /// Files, directories and links.
    pub nodes: usize,
}

/// A mount that is followed. A `ConfigMap` or Secret holds 1 MiB at most (the API server's limit) and a projected volume
/// a handful of them; the proxy keeps a version in memory while it checks that it is whole.
pub const FOLLOWED_LIMIT: FilesLimit = FilesLimit { bytes: 32 << 20, nodes: 10_000 };
/// A mount that is copied once: what somebody in front of a terminal waits for, over a port-forward.
pub const COPIED_LIMIT: FilesLimit = FilesLimit { bytes: 1 << 30, nodes: 100_000 };

/// What the CLI asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesRequest {
    /// The mounts, to which the answers refer by index.
    pub mounts: Vec<MountRequest>,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRequest {
    /// Where it is in the proxy's container.
    pub path: String,
    /// Send it again whenever the kubelet has put a new version in force.
    pub follow: bool,
}

impl MountRequest {
    /// How much of it is read.
    pub fn limit(&self) -> FilesLimit {
        if self.follow { FOLLOWED_LIMIT } else { COPIED_LIMIT }
    }
}

/// Proxy → CLI, on a connection that carries files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum FilesEvent {
    /// The nodes of this mount follow.
    Mount {
        /// Which of [`FilesRequest::mounts`].
        index: usize,
    },
    /// One node; the content of a regular file comes right behind it.
    Node(Node),
    /// The mount is complete.
    End {
        /// What could not be had, each with its reason: files that the pod's user may not read, sockets, devices.
        left_out: Vec<String>,
    },
    /// The mount cannot be had.
    Failed {
        /// Why, as a lowercase fragment.
        message: String,
    },
    /// Every mount has been sent; changes follow.
    Watching {
        /// How changes are noticed: `inotify` or `polling`.
        by: String,
    },
}

/// A file, directory or symbolic link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Relative to the mount, without a leading slash; empty for the mount itself.
    pub path: String,
    /// Permission bits, with set-id bits and sticky bit.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content, in seconds since 1970.
    pub mtime: i64,
    /// What it is.
    pub kind: NodeKind,
}

impl Node {
    /// Whether the path is one below the mount, by its words alone.
    pub fn is_inside(&self) -> bool {
        self.path.is_empty() || self.path.split('/').all(|part| !matches!(part, "" | "." | ".."))
    }

    /// Bytes of content that follow the node.
    pub fn size(&self) -> u64 {
        match self.kind {
            NodeKind::File { size } => size,
            NodeKind::Directory | NodeKind::Link { .. } => 0,
        }
    }
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeKind {
    /// A directory.
    Directory,
    /// A regular file of so many bytes.
    File {
        /// Its size.
        size: u64,
    },
    /// A symbolic link.
    Link {
        /// Where it leads, byte for byte.
        target: String,
    },
}

/// CLI → sidecar: put a new version of a volume in force, as the kubelet does. The new files and [`NEXT_DATA_LINK`]
/// are there already.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesSwap {
    /// The volume's directory, relative to [`crate::contract::SIDECAR_FILES_DIR`].
    pub directory: String,
    /// Symbolic links to make in it afterwards, by name: keys that are new.
    pub links: Vec<(String, String)>,
    /// Names to remove from it at the end: keys that are gone, and the old version.
    pub remove: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_inside_of_its_mount_unless_its_path_leads_elsewhere() {
        let node =
            |path: &str| Node { path: path.into(), mode: 0o644, uid: 0, gid: 0, mtime: 0, kind: NodeKind::Directory };
        for inside in ["", "key", "..data", "..2026_1/key", "a/b/...c"] {
            assert!(node(inside).is_inside(), "{inside}");
        }
        for outside in ["/etc", "..", "a/../..", "a//b", "./a", "a/"] {
            assert!(!node(outside).is_inside(), "{outside}");
        }
    }
}
