//! New versions of the pod's volumes, put in force as the kubelet does it.
//!
//! The CLI uploads a version's files through the engine, which can set owners and modes where this process cannot: it is
//! root without `CAP_CHOWN`. But the engine replaces a name by removing it first, and a reader would find nothing in
//! between. So the step that counts is done here: the link `..data` is replaced by rename(2), which is atomic. The
//! directory is root's own, so that takes no capability.
//! The order is that of the kubelet's `AtomicWriter`: link, names of new keys, then away with what is old.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use tpdocker_protocol::files::{DATA_LINK, FilesSwap, NEXT_DATA_LINK};

/// Why a version could not be put in force; the one before it stays.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// A name that leads elsewhere.
    #[error("{0:?} is not a name in a volume")]
    Name(String),
    /// The file system said no.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Carries out `swap` below `root`.
pub fn swap(root: &Path, swap: &FilesSwap) -> Result<(), SwapError> {
    let directory = swap.directory.split('/').try_fold(root.to_owned(), |path, part| Ok(path.join(name(part)?)))?;
    let links = swap.links.iter().map(|(link, target)| Ok((directory.join(name(link)?), target)));
    let links = links.collect::<Result<Vec<_>, SwapError>>()?;
    let remove = swap.remove.iter().map(|old| Ok(directory.join(name(old)?)));
    let remove = remove.collect::<Result<Vec<_>, SwapError>>()?;

    let next = directory.join(NEXT_DATA_LINK);
    fs::rename(&next, directory.join(DATA_LINK)).map_err(failed("put in force", &next))?;
    for (link, target) in links {
        match symlink(target, &link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed("make", &link)(error)),
            _ => {}
        }
    }
    for old in remove {
        let removed = match fs::symlink_metadata(&old) {
            Ok(found) if found.is_dir() => fs::remove_dir_all(&old),
            Ok(_) => fs::remove_file(&old),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &old)(error)),
            _ => {}
        }
    }
    Ok(())
}

fn failed(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> SwapError {
    let path = path.to_owned();
    move |source| SwapError::Io { doing, path: path.clone(), source }
}

/// One normal component of a path.
fn name(text: &str) -> Result<&str, SwapError> {
    let mut components = Path::new(text).components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(only)), None) if only.len() == text.len() => Ok(text),
        _ => Err(SwapError::Name(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// A volume with one key in version `a`, the kubelet's way.
    fn volume(root: &Path) -> PathBuf {
        let directory = root.join("memory/0");
        fs::create_dir_all(directory.join("..a")).unwrap();
        fs::write(directory.join("..a/key"), "a").unwrap();
        symlink("..a", directory.join(DATA_LINK)).unwrap();
        symlink("..data/key", directory.join("key")).unwrap();
        directory
    }

    fn upload(directory: &Path, version: &str, keys: &[&str]) {
        fs::create_dir(directory.join(version)).unwrap();
        for key in keys {
            fs::write(directory.join(version).join(key), &version[2..]).unwrap();
        }
        symlink(version, directory.join(NEXT_DATA_LINK)).unwrap();
    }

    #[test]
    fn a_reader_never_misses_a_key_while_versions_come_and_go() {
        let root = tempfile::tempdir().unwrap();
        let directory = volume(root.path());
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut seen = std::collections::BTreeSet::new();
                while !stop.load(Ordering::Relaxed) {
                    // Opened within one version, which may be gone before it is read: the link is what must be there.
                    seen.insert(fs::read_link(directory.join(DATA_LINK)).unwrap());
                }
                seen
            });
            let mut old = "..a".to_owned();
            for number in 0..200 {
                let version = format!("..v{number}");
                upload(&directory, &version, &["key"]);
                let remove = vec![std::mem::replace(&mut old, version)];
                swap(root.path(), &FilesSwap { directory: "memory/0".into(), links: vec![], remove }).unwrap();
            }
            stop.store(true, Ordering::Relaxed);
            assert!(reader.join().unwrap().len() > 1);
        });
        assert_eq!(fs::read_to_string(directory.join("key")).unwrap(), "v199");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 3, "one version, ..data and the key");
    }

    #[test]
    fn new_keys_appear_and_old_ones_go_and_a_repetition_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let directory = volume(root.path());
        upload(&directory, "..b", &["new"]);
        let request = FilesSwap {
            directory: "memory/0".into(),
            links: vec![("new".into(), "..data/new".into())],
            remove: vec!["key".into(), "..a".into(), "never-there".into()],
        };
        swap(root.path(), &request).unwrap();
        assert_eq!(fs::read_to_string(directory.join("new")).unwrap(), "b");
        assert!(fs::symlink_metadata(directory.join("key")).is_err() && !directory.join("..a").exists());
        assert!(matches!(swap(root.path(), &request), Err(SwapError::Io { .. })), "there is no next version");
        assert_eq!(fs::read_to_string(directory.join("new")).unwrap(), "b");
    }

    #[test]
    fn a_name_that_leads_out_of_the_volume_is_refused_before_anything_changes() {
        let root = tempfile::tempdir().unwrap();
        let directory = volume(root.path());
        upload(&directory, "..b", &["key"]);
        for bad in ["..", ".", "", "a/b", "/etc", "a/"] {
            for request in [
                FilesSwap { directory: format!("memory/{bad}"), ..FilesSwap::default() },
                FilesSwap { directory: "memory/0".into(), remove: vec![bad.into()], ..FilesSwap::default() },
                FilesSwap { directory: "memory/0".into(), links: vec![(bad.into(), "x".into())], remove: vec![] },
            ] {
                // A slash in the directory is a further part, and there is no such directory.
                let refused = swap(root.path(), &request);
                assert!(refused.is_err(), "{request:?}");
            }
        }
        assert_eq!(fs::read_link(directory.join(DATA_LINK)).unwrap(), Path::new("..a"));
    }
}
