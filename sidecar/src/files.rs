//! The pod's `/etc/resolv.conf` and `/etc/hosts`, written where the app sees them.
//!
//! Docker bind-mounts one file into the sidecar and into every container that joins its network namespace. Such a
//! mount follows the inode, so the files are written in place and never replaced.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Around our lines in `/etc/hosts`, so that they can be replaced.
const BEGIN: &str = "# begin of the pod's hosts, by tpdocker";
const END: &str = "# end of the pod's hosts";
/// Before a line of Docker's that ours takes the place of.
const HIDDEN: &str = "# Docker's: ";

/// The container's own name in `/etc/hosts`. Docker gives it the container's address; in the pod it has the pod's, and
/// libraries that look for their own address find it there.
#[derive(Debug, Clone, Default)]
pub struct OwnName {
    /// The host name.
    pub hostname: String,
    /// All names, as in [`tpdocker_protocol::control::SidecarConfig::own_names`].
    pub names: Vec<String>,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// The container's addresses, which Docker gives to the name.
    pub docker: Vec<IpAddr>,
}

impl OwnName {
    fn lines(&self) -> impl Iterator<Item = String> {
        // The user's own `--hostname` has no other names.
        let known = self.names.contains(&self.hostname);
        let names = if known { self.names.join("\t") } else { self.hostname.clone() };
        self.addresses.iter().map(move |address| format!("{address}\t{names}"))
    }

    fn is_dockers(&self, line: &str) -> bool {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let address = words.next().and_then(|word| word.parse().ok());
        !self.addresses.is_empty()
            && address.is_some_and(|address| self.docker.contains(&address) && !self.addresses.contains(&address))
            && words.any(|word| word == self.hostname)
    }
}

/// A file that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}: {error}")]
pub struct FileError {
    path: PathBuf,
    error: io::Error,
}

/// Gives `path` a new content and keeps its inode. One that has it already is left alone: while a file is being written
/// its readers see a part of it.
pub fn write_in_place(path: &Path, content: &str) -> Result<(), FileError> {
    if fs::read(path).is_ok_and(|old| old == content.as_bytes()) {
        return Ok(());
    }
    let write = || OpenOptions::new().write(true).truncate(true).open(path)?.write_all(content.as_bytes());
    write().map_err(|error| FileError { path: path.to_owned(), error })
}

/// The addresses of `names` in what the engine has written into the hosts file at `path` (hosts(5)); what
/// [`set_extra_hosts`] has added is the cluster's.
pub fn addresses_of(path: &Path, names: &[String]) -> Result<Vec<IpAddr>, FileError> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let hosts = fs::read_to_string(path).map_err(|error| FileError { path: path.to_owned(), error })?;
    let address = |line: &str| {
        let mut words = line.split('#').next()?.split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|word| names.iter().any(|name| name.eq_ignore_ascii_case(word))).then_some(address)
    };
    Ok(with_extra_hosts(&hosts, &OwnName::default(), &[]).lines().filter_map(address).collect())
}

/// Puts the own name and `lines` at the end of the hosts file at `path`, instead of those of an earlier call.
pub fn set_extra_hosts(path: &Path, own: &OwnName, lines: &[String]) -> Result<(), FileError> {
    let old = fs::read_to_string(path).map_err(|error| FileError { path: path.to_owned(), error })?;
    let new = with_extra_hosts(&old, own, lines);
    if new == old { Ok(()) } else { write_in_place(path, &new) }
}

fn with_extra_hosts(old: &str, own: &OwnName, lines: &[String]) -> String {
    let mut new = String::new();
    let mut ours = false;
    for line in old.lines() {
        ours = ours || line == BEGIN;
        if !ours {
            let line = line.strip_prefix(HIDDEN).unwrap_or(line);
            new.push_str(if own.is_dockers(line) { HIDDEN } else { "" });
            new.push_str(line);
            new.push('\n');
        }
        ours = ours && line != END;
    }
    let ours: Vec<String> = own.lines().chain(lines.iter().cloned()).collect();
    if !ours.is_empty() {
        for line in [BEGIN].into_iter().chain(ours.iter().map(String::as_str)).chain([END]) {
            new.push_str(line);
            new.push('\n');
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_file_written_in_place_keeps_its_inode_and_loses_its_old_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let inode = || fs::metadata(file.path()).unwrap().ino();
        let before = inode();
        write_in_place(file.path(), "nameserver 127.0.0.11\noptions ndots:0\n").unwrap();
        write_in_place(file.path(), "nameserver 10.96.0.10\n").unwrap();
        assert_eq!(fs::read_to_string(file.path()).unwrap(), "nameserver 10.96.0.10\n");
        assert_eq!(inode(), before);
    }

    #[test]
    fn extra_hosts_replace_the_earlier_ones_and_leave_dockers_alone() {
        let docker = "127.0.0.1\tlocalhost\n172.17.0.2\tabc\n";
        let with_extra_hosts = |old: &str, lines: &[String]| with_extra_hosts(old, &OwnName::default(), lines);
        let first = with_extra_hosts(docker, &["10.0.0.1 one".into(), "10.0.0.2 two".into()]);
        assert!(first.starts_with(docker) && first.contains("\n10.0.0.2 two\n"));
        let second = with_extra_hosts(&first, &["10.0.0.3 three".into()]);
        assert!(second.starts_with(docker) && !second.contains("one") && second.contains("\n10.0.0.3 three\n"));
        assert_eq!(with_extra_hosts(&second, &["10.0.0.3 three".into()]), second);
        assert_eq!(with_extra_hosts(&second, &[]), docker);
    }

    #[test]
    fn the_own_name_has_the_pods_address_and_docker_gets_its_line_back() {
        let docker = "127.0.0.1\tlocalhost\n172.17.0.1\tweb-0.example\n172.17.0.2\tweb-0\n";
        let own = OwnName {
            hostname: "web-0".into(),
            names: vec!["web-0.web.staging.svc".into(), "web-0".into()],
            addresses: vec!["10.244.0.7".parse().unwrap()],
            docker: vec!["172.17.0.2".parse().unwrap()],
        };
        let first = with_extra_hosts(docker, &own, &[]);
        assert!(first.starts_with("127.0.0.1\tlocalhost\n172.17.0.1\tweb-0.example\n# Docker's: 172.17.0.2\tweb-0\n"));
        assert!(first.contains("\n10.244.0.7\tweb-0.web.staging.svc\tweb-0\n"), "{first}");
        assert_eq!(with_extra_hosts(&first, &own, &[]), first);
        let moved = OwnName { addresses: vec!["10.244.0.8".parse().unwrap()], ..own.clone() };
        assert_eq!(with_extra_hosts(&first, &moved, &[]), first.replace("0.7\t", "0.8\t"));
        let renamed = with_extra_hosts(docker, &OwnName { hostname: "mine".into(), ..own }, &[]);
        assert!(renamed.contains("\n10.244.0.7\tmine\n") && renamed.contains("\n172.17.0.2\tweb-0\n"));
        assert_eq!(with_extra_hosts(&first, &OwnName::default(), &[]), docker);
    }

    #[test]
    fn addresses_of_names_are_read_as_resolvers_read_them() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let hosts = "127.0.0.1 localhost\n172.17.0.1\tother HOST.docker.internal\n# 1.1.1.1 host.docker.internal\n\
                     fd00::1 host.docker.internal # and so on\n2.2.2.2 x # host.docker.internal\n";
        write_in_place(file.path(), hosts).unwrap();
        let names = ["host.docker.internal".to_owned()];
        let expected: [IpAddr; 2] = ["172.17.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        set_extra_hosts(file.path(), &OwnName::default(), &["10.0.0.1 host.docker.internal".into()]).unwrap();
        assert_eq!(addresses_of(file.path(), &names).unwrap(), expected);
        assert!(addresses_of(Path::new("/nowhere"), &[]).unwrap().is_empty());
    }

    #[test]
    fn a_file_that_is_not_there_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let error = write_in_place(&path, "x").unwrap_err().to_string();
        assert!(error.contains("resolv.conf"), "{error}");
        assert!(!path.exists());
    }
}
