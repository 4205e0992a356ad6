//! What is mounted where, from `/proc/self/mountinfo` (proc(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Where a process has something mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct MountPoints(Vec<PathBuf>);

impl MountPoints {
    /// Those of the proxy's container. Without `/proc` nothing counts as a mount of its own.
    pub(super) fn of_this_process() -> Self {
        match std::fs::read("/proc/self/mountinfo") {
            Ok(table) => Self::parse(&table),
            Err(error) => {
                tracing::warn!("cannot read the pod's mounts: {error}");
                Self::default()
            }
        }
    }

    fn parse(table: &[u8]) -> Self {
        // id parent major:minor root mount-point options …
        let points = table.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
        Self(points.map(|point| PathBuf::from(OsString::from_vec(unescape(point)))).collect())
    }

    /// Whether something is mounted at `path`.
    pub(super) fn contains(&self, path: &Path) -> bool {
        self.0.iter().any(|point| point == path)
    }
}

/// Space, tab, newline and backslash are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.first_chunk::<3>().filter(|_| first == b'\\').and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        if let Some(byte) = octal {
            out.push(byte);
            rest = &after[3..];
        } else {
            out.push(first);
            rest = after;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_known_by_its_unescaped_path() {
        let table = b"1 0 0:1 / / rw,relatime - overlay overlay rw\n\
                      2 1 0:2 / /etc/my\\040conf\\134 ro,relatime - tmpfs tmpfs rw\n";
        let mounts = MountPoints::parse(table);
        assert!(mounts.contains(Path::new("/")) && mounts.contains(Path::new("/etc/my conf\\")));
        assert!(!mounts.contains(Path::new("/etc")));
        assert!(MountPoints::of_this_process().contains(Path::new("/proc")));
    }
}
