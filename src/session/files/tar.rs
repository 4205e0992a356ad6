//! Nodes of a mount as members of a tar, which the engine extracts: made piece by piece, so that a copy of any size
//! passes through without being kept.
//!
//! GNU format, whose records for long names every extractor knows.

use bytes::{BufMut, Bytes, BytesMut};
use tar::{EntryType, Header};
use tpdocker_protocol::files::{Node, NodeKind};

/// Members begin at multiples of this.
const BLOCK: usize = 512;
/// What fits into the header itself.
const SHORT: usize = 100;

/// The head of a member at `path`; as many bytes as the node has follow, and then [`padding`].
pub fn head(path: &str, node: &Node) -> Bytes {
    let mut out = BytesMut::new();
    let (kind, target) = match &node.kind {
        NodeKind::Directory => (EntryType::Directory, ""),
        NodeKind::File { .. } => (EntryType::Regular, ""),
        NodeKind::Link { target } => (EntryType::Symlink, target.as_str()),
    };
    let path = if kind == EntryType::Directory { format!("{path}/") } else { path.to_owned() };
    if path.len() > SHORT {
        long(&mut out, EntryType::GNULongName, &path);
    }
    if target.len() > SHORT {
        long(&mut out, EntryType::GNULongLink, target);
    }
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(node.mode);
    header.set_uid(node.uid.into());
    header.set_gid(node.gid.into());
    header.set_mtime(node.mtime.try_into().unwrap_or(0));
    header.set_size(node.size());
    put(&mut header.as_old_mut().name, &path);
    put(&mut header.as_old_mut().linkname, target);
    header.set_cksum();
    out.put_slice(header.as_bytes());
    out.freeze()
}

/// What follows `size` bytes of content.
pub fn padding(size: u64) -> Bytes {
    Bytes::from_static(&[0; BLOCK]).slice(..to_the_block(size))
}

/// The end of the archive.
pub fn end() -> Bytes {
    Bytes::from_static(&[0; 2 * BLOCK])
}

fn to_the_block(size: u64) -> usize {
    let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    (BLOCK - over) % BLOCK
}

/// A record with the next member's name or target.
fn long(out: &mut BytesMut, kind: EntryType, text: &str) {
    let size = text.len() as u64 + 1;
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    put(&mut header.as_old_mut().name, "././@LongLink");
    header.set_cksum();
    out.put_slice(header.as_bytes());
    out.put_slice(text.as_bytes());
    out.put_u8(0);
    out.put_bytes(0, to_the_block(size));
}

fn put(field: &mut [u8; SHORT], text: &str) {
    let length = text.len().min(SHORT);
    field[..length].copy_from_slice(&text.as_bytes()[..length]);
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn node(mode: u32, kind: NodeKind) -> Node {
        Node { path: String::new(), mode, uid: 1000, gid: 4_000_000_000, mtime: 1_700_000_000, kind }
    }

    #[test]
    fn an_extractor_reads_back_names_owners_modes_links_and_content() {
        let long = "k".repeat(253);
        let content = vec![7; 1000];
        let nodes = [
            ("memory/0".to_owned(), node(0o3777, NodeKind::Directory)),
            (format!("memory/0/..2026_x/{long}"), node(0o440, NodeKind::File { size: 1000 })),
            ("memory/0/..data".to_owned(), node(0o777, NodeKind::Link { target: "..2026_x".into() })),
            (format!("memory/0/{long}"), node(0o777, NodeKind::Link { target: format!("..data/{long}") })),
            ("memory/0/empty".to_owned(), node(0o600, NodeKind::File { size: 0 })),
        ];
        let mut archive = Vec::new();
        for (path, node) in &nodes {
            archive.extend(head(path, node));
            archive.extend(&content[..usize::try_from(node.size()).unwrap()]);
            archive.extend(padding(node.size()));
        }
        archive.extend(end());
        let mut archive = tar::Archive::new(&archive[..]);
        let mut entries = archive.entries().unwrap();
        for (path, node) in &nodes {
            let mut entry = entries.next().unwrap().unwrap();
            assert_eq!(entry.path().unwrap().to_str().unwrap().trim_end_matches('/'), path);
            let header = entry.header();
            assert_eq!(header.mode().unwrap(), node.mode, "{path}");
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (1000, 4_000_000_000));
            assert_eq!(header.mtime().unwrap(), 1_700_000_000);
            let target = entry.link_name().unwrap().map(|target| target.to_str().unwrap().to_owned());
            match &node.kind {
                NodeKind::Link { target: expected } => assert_eq!(target.as_ref(), Some(expected)),
                NodeKind::File { size } => {
                    let mut read = Vec::new();
                    entry.read_to_end(&mut read).unwrap();
                    assert_eq!(read, content[..usize::try_from(*size).unwrap()]);
                }
                NodeKind::Directory => assert!(entry.header().entry_type().is_dir()),
            }
        }
        assert!(entries.next().is_none());
    }
}
