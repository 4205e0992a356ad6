//! Reading a directory tree as it is: symbolic links as links, modes and owners as numbers, and never beyond a limit.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tpdocker_protocol::files::{FilesLimit, Node, NodeKind};

use super::mountinfo::MountPoints;

/// Content is read in pieces of this size.
const PIECE: usize = 256 * 1024;
/// Names of files that are left out; more are counted.
const MAX_LEFT_OUT: usize = 3;
/// Directories in each other; the kernel's own limit on a path is 4096 bytes.
const MAX_DEPTH: usize = 256;

/// A node, or the next piece of the last node's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Node(Node),
    Data(Bytes),
}

/// Why a mount cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum WalkError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it holds more than {} MiB", .0 >> 20)]
    TooLarge(u64),
    #[error("it holds more than {0} files")]
    TooMany(usize),
    #[error("its directories are more than {MAX_DEPTH} deep")]
    TooDeep,
    #[error("the name {0:?} is not UTF-8")]
    Name(PathBuf),
    #[error("{0} changed while it was read")]
    Changed(String),
    #[error("it changes all the time")]
    Restless,
    #[error("nobody wants it any more")]
    Unwanted,
}

impl WalkError {
    /// Something went away between its listing and its reading.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

/// Gives everything below `root`, itself included, to `sink` until that says no; parents before children, in the order
/// of names. Does not cross into other mounts, of which only the mount points are given. What the proxy may not read
/// or nobody can copy is left out, and said.
pub(super) fn walk(
    root: &Path,
    mounts: &MountPoints,
    limit: FilesLimit,
    sink: &mut dyn FnMut(Piece) -> bool,
) -> Result<Vec<String>, WalkError> {
    let mut walk = Walk { root, mounts, limit, bytes: 0, nodes: 0, left_out: Vec::new(), more: 0, sink };
    let metadata = fs::symlink_metadata(root)?;
    walk.visit(root, &metadata, 0)?;
    if walk.more > 0 {
        walk.left_out.push(format!("and {} more", walk.more));
    }
    Ok(walk.left_out)
}

struct Walk<'a> {
    root: &'a Path,
    mounts: &'a MountPoints,
    limit: FilesLimit,
    bytes: u64,
    nodes: usize,
    left_out: Vec<String>,
    more: usize,
    sink: &'a mut dyn FnMut(Piece) -> bool,
}

impl Walk<'_> {
    fn visit(&mut self, path: &Path, metadata: &Metadata, depth: usize) -> Result<(), WalkError> {
        if depth > MAX_DEPTH {
            return Err(WalkError::TooDeep);
        }
        self.nodes += 1;
        if self.nodes > self.limit.nodes {
            return Err(WalkError::TooMany(self.limit.nodes));
        }
        let kind = metadata.file_type();
        if kind.is_symlink() {
            let target = fs::read_link(path)?;
            let target = target.to_str().ok_or_else(|| WalkError::Name(target.clone()))?.to_owned();
            self.give(path, metadata, NodeKind::Link { target })
        } else if kind.is_dir() {
            self.give(path, metadata, NodeKind::Directory)?;
            if path != self.root && self.mounts.contains(path) {
                return Ok(());
            }
            self.children(path, depth)
        } else if kind.is_file() {
            self.file(path, metadata)
        } else {
            self.leave_out(path, "neither a file nor a directory nor a link");
            Ok(())
        }
    }

    fn children(&mut self, path: &Path, depth: usize) -> Result<(), WalkError> {
        let entries = match fs::read_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                self.leave_out(path, "permission denied");
                return Ok(());
            }
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry?.path());
            if self.nodes + names.len() > self.limit.nodes {
                return Err(WalkError::TooMany(self.limit.nodes));
            }
        }
        names.sort_unstable();
        for name in names {
            let visited = fs::symlink_metadata(&name)
                .map_err(WalkError::from)
                .and_then(|metadata| self.visit(&name, &metadata, depth + 1));
            match visited {
                // It went away since the directory was read, as it may in any other.
                Err(error) if error.is_not_found() => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, metadata: &Metadata) -> Result<(), WalkError> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                self.leave_out(path, "permission denied");
                return Ok(());
            }
            file => file?,
        };
        // Of the open file: the one that is read.
        let size = file.metadata()?.len();
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.limit.bytes {
            return Err(WalkError::TooLarge(self.limit.bytes));
        }
        // Read ahead of what is told, so that a small file which shrinks is told as it was read.
        let mut first = Vec::new();
        let mut file = file.take(size);
        file.by_ref().take(PIECE as u64).read_to_end(&mut first)?;
        let size = if (first.len() as u64) < size && first.len() < PIECE { first.len() as u64 } else { size };
        self.give(path, metadata, NodeKind::File { size })?;
        let mut left = size - first.len() as u64;
        self.data(first)?;
        while left > 0 {
            let mut piece = Vec::new();
            file.by_ref().take(PIECE as u64).read_to_end(&mut piece)?;
            if piece.is_empty() {
                return Err(WalkError::Changed(path.display().to_string()));
            }
            left -= piece.len() as u64;
            self.data(piece)?;
        }
        Ok(())
    }

    fn data(&mut self, data: Vec<u8>) -> Result<(), WalkError> {
        if data.is_empty() || (self.sink)(Piece::Data(data.into())) { Ok(()) } else { Err(WalkError::Unwanted) }
    }

    fn give(&mut self, path: &Path, metadata: &Metadata, kind: NodeKind) -> Result<(), WalkError> {
        const PERMISSIONS: u32 = 0o7777;
        let relative = path.strip_prefix(self.root).unwrap_or(path);
        let name = relative.to_str().ok_or_else(|| WalkError::Name(relative.to_owned()))?;
        let node = Node {
            path: name.to_owned(),
            mode: metadata.mode() & PERMISSIONS,
            uid: metadata.uid(),
            gid: metadata.gid(),
            mtime: metadata.mtime(),
            kind,
        };
        if (self.sink)(Piece::Node(node)) { Ok(()) } else { Err(WalkError::Unwanted) }
    }

    fn leave_out(&mut self, path: &Path, why: &str) {
        if self.left_out.len() < MAX_LEFT_OUT {
            self.left_out.push(format!("{}: {why}", path.display()));
        } else {
            self.more += 1;
        }
    }
}
