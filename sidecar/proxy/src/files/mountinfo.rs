//! What is mounted where, and how, from `/proc/self/mountinfo` (proc(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The mounts of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mounts(Vec<Mount>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    point: PathBuf,
    read_only: bool,
}

impl Mounts {
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
        let mounts = table.split(|byte| *byte == b'\n').filter_map(|line| {
            // id parent major:minor root mount-point options …
            let mut fields = line.split(|byte| *byte == b' ').skip(4);
            let point = PathBuf::from(OsString::from_vec(unescape(fields.next()?)));
            let read_only = fields.next()?.split(|byte| *byte == b',').any(|option| option == b"ro");
            Some(Mount { point, read_only })
        });
        Self(mounts.collect())
    }

    /// Whether something is mounted at `path`.
    pub(super) fn is_mount_point(&self, path: &Path) -> bool {
        self.0.iter().any(|mount| mount.point == path)
    }

    /// Whether what is seen at `path` is mounted read-only.
    pub(super) fn is_read_only(&self, path: &Path) -> bool {
        // The last of several at one place is the one on top.
        let above = self.0.iter().filter(|mount| path.starts_with(&mount.point));
        above.max_by_key(|mount| mount.point.as_os_str().len()).is_some_and(|mount| mount.read_only)
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
        match octal {
            Some(byte) => {
                out.push(byte);
                rest = &after[3..];
            }
            None => {
                out.push(first);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_says_whether_a_path_is_read_only() {
        let table = b"1 0 0:1 / / rw,relatime - overlay overlay rw\n\
                      2 1 0:2 / /etc/my\\040conf ro,relatime - tmpfs tmpfs rw\n\
                      3 2 0:3 / /etc/my\\040conf/inner rw - tmpfs tmpfs rw\n";
        let mounts = Mounts::parse(table);
        for (path, read_only) in [
            ("/", false),
            ("/etc", false),
            ("/etc/my conf", true),
            ("/etc/my conf/key", true),
            ("/etc/my conf/inner/x", false),
            ("/etc/my config", false),
        ] {
            assert_eq!(mounts.is_read_only(Path::new(path)), read_only, "{path}");
        }
        assert!(mounts.is_mount_point(Path::new("/etc/my conf")) && !mounts.is_mount_point(Path::new("/etc")));
    }
}
