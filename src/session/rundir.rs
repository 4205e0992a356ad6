//! The session's directory on the laptop: `$XDG_RUNTIME_DIR/tpdocker/<session>`, else `/tmp/tpdocker-<uid>/<session>`.
//!
//! It holds `session.json`, by which another `tpdocker` process finds the session, and a directory that the sidecar's
//! container sees through a bind mount, for the sidecar's socket. Only the user can enter it: whoever can write to the
//! socket can write to the tunnel. Inside of it the mounted directory is open to all, because the sidecar's root has no
//! capability that would let it write into a directory of somebody else.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tpdocker_protocol::contract::SIDECAR_SOCKET;

use super::identity::SessionId;
use crate::error::{Code, Explain};

const RECORD: &str = "session.json";
/// The directory that is mounted into the sidecar.
const SHARED: &str = "sidecar";

/// The directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the session directory {}", path.display())]
pub struct RunDirError {
    path: PathBuf,
    source: io::Error,
}

impl Explain for RunDirError {
    fn code(&self) -> Code {
        Code::Bug
    }

    fn hint(&self) -> Option<String> {
        Some("point XDG_RUNTIME_DIR at a directory that you own".into())
    }
}

/// What `session.json` says: enough for another process to find and end the session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// The session's id.
    pub session: String,
    /// The process that leads it.
    pub pid: i32,
    /// What it swaps, as `kind/name`.
    pub workload: String,
    /// Where.
    pub namespace: String,
    /// The context of the kubeconfig.
    pub context: String,
    /// The Compose project, when Compose started it.
    pub compose_project: Option<String>,
}

/// The directory; removed when dropped.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Makes the directory of a new session.
    pub fn create(session: &SessionId) -> Result<Self, RunDirError> {
        let path = base().join(session.as_str());
        let run_dir = Self { path: path.clone() };
        let shared = run_dir.shared();
        make_private(&path)
            .and_then(|()| fs::create_dir(&shared))
            // Past the umask.
            .and_then(|()| fs::set_permissions(&shared, Permissions::from_mode(0o777)))
            .map_err(|source| RunDirError { path, source })?;
        Ok(run_dir)
    }

    /// The directory on the laptop that is mounted into the sidecar.
    pub fn shared(&self) -> PathBuf {
        self.path.join(SHARED)
    }

    /// The sidecar's socket, once the sidecar listens.
    pub fn socket(&self) -> PathBuf {
        self.shared().join(SIDECAR_SOCKET)
    }

    /// Writes `session.json`.
    pub fn record(&self, record: &SessionRecord) -> Result<(), RunDirError> {
        let failed = |source| RunDirError { path: self.path.clone(), source };
        let text = serde_json::to_vec_pretty(record).map_err(|error| failed(error.into()))?;
        fs::write(self.path.join(RECORD), text).map_err(failed)
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the session directory stays behind");
        }
    }
}

/// Removes the directory of a session whose process died without doing so; a missing one is removed already.
pub fn forget(session: &str) -> Result<(), RunDirError> {
    // The name comes from the cluster, where somebody may have written anything.
    if !session.chars().all(|each| each.is_ascii_alphanumeric()) || session.is_empty() {
        return Ok(());
    }
    let path = base().join(session);
    remove(&path).map_err(|source| RunDirError { path, source })
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The records of this user's sessions on this machine whose process is alive.
pub fn sessions() -> Result<Vec<SessionRecord>, RunDirError> {
    let base = base();
    let entries = match fs::read_dir(&base) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(RunDirError { path: base, source }),
    };
    Ok(entries
        .filter_map(|entry| fs::read(entry.ok()?.path().join(RECORD)).ok())
        .filter_map(|text| serde_json::from_slice::<SessionRecord>(&text).ok())
        .filter(|record| nix::sys::signal::kill(nix::unistd::Pid::from_raw(record.pid), None).is_ok())
        .collect())
}

fn base() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|value| Path::new(value).is_absolute()) {
        Some(runtime) => PathBuf::from(runtime).join("tpdocker"),
        None => std::env::temp_dir().join(format!("tpdocker-{}", nix::unistd::getuid())),
    }
}

/// Makes `path` with its parent, both for this user only. In a shared `/tmp` somebody else may have made the parent
/// first, so its owner is checked.
fn make_private(path: &Path) -> io::Result<()> {
    let parent = path.parent().unwrap_or(path);
    DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    let found = fs::symlink_metadata(parent)?;
    if !found.is_dir() || found.uid() != nix::unistd::getuid().as_raw() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{} belongs to somebody else", parent.display()),
        ));
    }
    fs::set_permissions(parent, Permissions::from_mode(0o700))?;
    DirBuilder::new().mode(0o700).create(path)
}
