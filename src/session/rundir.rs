//! The session's directory on the laptop: `$XDG_RUNTIME_DIR/tpdocker/<session>`, else `/tmp/tpdocker-<uid>/<session>`.
//!
//! It holds `session.json`, by which another `tpdocker` process finds the session, and a directory that the sidecar's
//! container sees through a bind mount, for the sidecar's socket. Only the user can enter it: whoever can write to the
//! socket can write to the tunnel. Inside of it the mounted directory is open to all, because the sidecar's root has no
//! capability that would let it write into a directory of somebody else.
//!
//! The session holds a lock on its record as long as its process lives: a process id alone would, after a crash, soon
//! be that of some other program, and that one would be told to end.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tpdocker_protocol::contract::SIDECAR_SOCKET;

use super::identity::SessionId;
use crate::cluster::stance::swaps_nothing;
use crate::docker::InEngine;
use crate::error::{Code, Explain};

const RECORD: &str = "session.json";
/// The record on its way: nobody may see one that is half written, or not locked yet.
const UNFINISHED: &str = "session.json.new";
/// A session writes its record as soon as it has its directory, and `doctor` tries a sidecar for seconds.
const RECORDED_WITHIN: Duration = Duration::from_mins(1);
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
        Code::Host
    }

    fn hint(&self) -> Option<String> {
        Some("point XDG_RUNTIME_DIR at a directory of yours that can be written to".into())
    }
}

/// What `session.json` says: enough for another process to find and end the session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// The session's id.
    pub session: String,
    /// The process that leads it.
    pub pid: u32,
    /// What it swaps, as `kind/name`, or what it is instead: `like kind/name`, `only outgoing`.
    pub workload: String,
    /// Where.
    pub namespace: String,
    /// The context of the kubeconfig.
    pub context: String,
    /// Host and port of the API server: contexts of different kubeconfigs have the same name.
    pub server: String,
    /// The Compose project, when Compose started it.
    pub compose_project: Option<String>,
}

/// The directory; removed when dropped, unless it is kept.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    kept: AtomicBool,
    /// Of the record.
    lock: Option<File>,
}

impl RunDir {
    /// Makes the directory of a new session.
    pub fn create(session: &SessionId) -> Result<Self, RunDirError> {
        Self::create_in(&base(), session)
    }

    fn create_in(base: &Path, session: &SessionId) -> Result<Self, RunDirError> {
        let path = base.join(session.as_str());
        let run_dir = Self { path: path.clone(), kept: AtomicBool::new(false), lock: None };
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

    /// Has it stay behind, so that `tpdocker stop` finds what the session could not undo.
    pub fn keep(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    /// Writes `session.json`, and is alive for others from then on until it is dropped.
    pub fn record(&mut self, record: &SessionRecord) -> Result<(), RunDirError> {
        let written =
            write_locked(&self.path, record).map_err(|source| RunDirError { path: self.path.clone(), source });
        self.lock = Some(written?);
        Ok(())
    }
}

fn write_locked(directory: &Path, record: &SessionRecord) -> io::Result<File> {
    let unfinished = directory.join(UNFINISHED);
    let mut file = File::create(&unfinished)?;
    file.lock()?;
    file.write_all(&serde_json::to_vec_pretty(record)?)?;
    fs::rename(&unfinished, directory.join(RECORD))?;
    Ok(file)
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if *self.kept.get_mut() {
            return;
        }
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

/// A session of this user on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// What it wrote about itself.
    pub record: SessionRecord,
    /// Its process is alive. Otherwise it died without undoing anything: a session that ends takes its record along.
    pub alive: bool,
}

/// This user's sessions on this machine, alive or dead, sorted by id.
pub fn sessions() -> Result<Vec<Known>, RunDirError> {
    let base = base();
    sessions_in(&base).map_err(|source| RunDirError { path: base, source })
}

/// The one of this id.
pub fn session(id: &str) -> Result<Option<Known>, RunDirError> {
    Ok(sessions()?.into_iter().find(|known| known.record.session == id))
}

fn sessions_in(base: &Path) -> io::Result<Vec<Known>> {
    // Others can make a directory of this name in `/tmp`, and a record in it tells whom to send a signal.
    match require_own(base) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        checked => checked?,
    }
    let mut sessions = Vec::new();
    for entry in fs::read_dir(base)? {
        let path = entry?.path().join(RECORD);
        match known(&path) {
            Ok(known) => sessions.extend(known),
            // Of a release that writes it otherwise; the sessions that can be read are ended all the same.
            Err(error) => tracing::warn!(path = %path.display(), %error, "a session's record cannot be read"),
        }
    }
    sessions.sort_by(|one, other| one.record.session.cmp(&other.record.session));
    Ok(sessions)
}

/// What the process of a session left behind when it died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dead {
    /// The session's id, as far as the directory's name tells.
    pub session: String,
    /// Its directory.
    pub path: PathBuf,
    /// Its record, where it got that far and can be read.
    pub record: Option<SessionRecord>,
}

/// The directories of this user's sessions on this machine whose process is dead.
pub fn dead() -> Result<Vec<Dead>, RunDirError> {
    let base = base();
    dead_in(&base).map_err(|source| RunDirError { path: base, source })
}

fn dead_in(base: &Path) -> io::Result<Vec<Dead>> {
    match require_own(base) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        checked => checked?,
    }
    let mut dead = Vec::new();
    for entry in fs::read_dir(base)? {
        let entry = entry?;
        let path = entry.path();
        if is_alive(&path.join(RECORD)).unwrap_or(false) {
            continue;
        }
        let record = fs::read(path.join(RECORD)).ok().and_then(|text| serde_json::from_slice(&text).ok());
        if record.is_some() || entry.metadata().is_ok_and(|metadata| !is_young(&metadata)) {
            let session = entry.file_name().to_string_lossy().into_owned();
            dead.push(Dead { session, path, record });
        }
    }
    dead.sort_by(|a, b| a.session.cmp(&b.session));
    Ok(dead)
}

/// What the engine has of sessions whose process is gone; `dead` are those whose directory says so. Another user's session,
/// or one with another `XDG_RUNTIME_DIR`, is found by what its sidecar has mounted.
pub fn without_process(
    mut found: BTreeMap<String, InEngine>,
    known: &[Known],
    dead: &BTreeSet<String>,
) -> BTreeMap<String, InEngine> {
    found.retain(|session, found| {
        let alive = known.iter().any(|known| known.alive && known.record.session == *session);
        !alive && (dead.contains(session) || !found.run_dir.as_deref().is_some_and(is_in_use))
    });
    found
}

/// Whether the session that mounted `shared` into its sidecar goes on. What cannot be seen is somebody else's, and is
/// taken to go on.
fn is_in_use(shared: &Path) -> bool {
    let Some(directory) = shared.parent() else { return false };
    match known(&directory.join(RECORD)) {
        Ok(Some(known)) => known.alive,
        Ok(None) => fs::metadata(directory).is_ok_and(|metadata| is_young(&metadata)),
        Err(_) => true,
    }
}

/// Whether this is the directory of a session that may be about to write its record.
fn is_young(directory: &fs::Metadata) -> bool {
    let age = directory.modified().map(|made| made.elapsed());
    !matches!(age, Ok(Ok(age)) if age > RECORDED_WITHIN)
}

fn is_alive(record: &Path) -> io::Result<bool> {
    Ok(known(record)?.is_some_and(|known| known.alive))
}

/// The session of this record; its directory goes with its end, and its lock with its process.
fn known(path: &Path) -> io::Result<Option<Known>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let alive = match file.try_lock_shared() {
        Ok(()) => false,
        Err(TryLockError::Error(error)) => return Err(error),
        Err(TryLockError::WouldBlock) => true,
    };
    Ok(Some(Known { record: serde_json::from_reader(file)?, alive }))
}

impl SessionRecord {
    /// For tests: of this session in process 4711.
    #[cfg(test)]
    pub(crate) fn example(session: &str) -> Self {
        Self {
            session: session.into(),
            pid: 4711,
            workload: "deployment/web".into(),
            namespace: "staging".into(),
            context: "dev".into(),
            server: "dev.example.com:6443".into(),
            compose_project: None,
        }
    }

    /// Whether it has a workload to put back.
    pub fn swaps(&self) -> bool {
        !swaps_nothing(&self.workload)
    }

    /// For people: `session ID on deployment/web`, `session ID, only outgoing,`.
    pub fn told(&self) -> String {
        if self.swaps() {
            format!("session {} on {}", self.session, self.workload)
        } else {
            format!("session {}, {},", self.session, self.workload)
        }
    }

    /// Whether the session goes on.
    pub fn is_alive(&self) -> Result<bool, RunDirError> {
        let path = base().join(&self.session).join(RECORD);
        match known(&path) {
            Ok(found) => Ok(found.is_some_and(|known| known.alive)),
            Err(source) => Err(RunDirError { path, source }),
        }
    }

    /// Asks the session's process to end it. One that has ended meanwhile needs no asking.
    pub fn ask_to_end(&self) -> Result<(), RunDirError> {
        // 0 and what does not fit would be whole groups of processes.
        let process = i32::try_from(self.pid).ok().filter(|pid| *pid > 0).map(Pid::from_raw);
        match process.ok_or(Errno::EINVAL).and_then(|pid| kill(pid, Signal::SIGTERM)) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(RunDirError { path: base().join(&self.session).join(RECORD), source: errno.into() }),
        }
    }
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
    require_own(parent)?;
    fs::set_permissions(parent, Permissions::from_mode(0o700))?;
    DirBuilder::new().mode(0o700).create(path)
}

fn require_own(directory: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(directory)?;
    if found.is_dir() && found.uid() == nix::unistd::getuid().as_raw() {
        return Ok(());
    }
    let why = format!("{} is not a directory of this user", directory.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::identity::Identity;

    fn record(session: &str) -> SessionRecord {
        SessionRecord { pid: std::process::id(), ..SessionRecord::example(session) }
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_the_machines_fault_and_has_a_cure() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = RunDir::create_in(file.path(), &Identity::new().unwrap().id).unwrap_err();
        assert_eq!(error.code(), Code::Host);
        assert!(error.hint().is_some());
    }

    #[test]
    fn a_session_is_alive_as_long_as_its_lock_is_held_and_no_longer() {
        let base = tempfile::tempdir().unwrap();
        let (alive, dead) = (base.path().join("alive"), base.path().join("dead"));
        fs::create_dir(&alive).unwrap();
        fs::create_dir(&dead).unwrap();
        let lock = write_locked(&alive, &record("alive")).unwrap();
        // What a crash leaves: the record of a process id that somebody may have.
        drop(write_locked(&dead, &record("dead")).unwrap());
        fs::create_dir(base.path().join("young")).unwrap();
        let of = |session: &str, alive| Known { record: record(session), alive };
        assert_eq!(sessions_in(base.path()).unwrap(), [of("alive", true), of("dead", false)]);
        let left = Dead { session: "dead".into(), path: dead.clone(), record: Some(record("dead")) };
        assert_eq!(dead_in(base.path()).unwrap(), [left]);
        assert!(is_in_use(&alive.join(SHARED)) && !is_in_use(&dead.join(SHARED)));
        assert!(
            is_in_use(&base.path().join("young").join(SHARED)) && !is_in_use(&base.path().join("gone").join(SHARED))
        );
        drop(lock);
        assert_eq!(sessions_in(base.path()).unwrap(), [of("alive", false), of("dead", false)]);
    }

    #[test]
    fn a_record_that_cannot_be_read_hides_no_other_session() {
        let base = tempfile::tempdir().unwrap();
        let (bad, good) = (base.path().join("a"), base.path().join("b"));
        fs::create_dir(&bad).unwrap();
        fs::create_dir(&good).unwrap();
        let _lock = write_locked(&good, &record("b")).unwrap();
        fs::write(bad.join(RECORD), "{").unwrap();
        let held = File::open(bad.join(RECORD)).unwrap();
        held.lock().unwrap();
        assert_eq!(sessions_in(base.path()).unwrap(), [Known { record: record("b"), alive: true }]);
    }

    #[test]
    fn a_directory_of_somebody_else_is_not_believed() {
        let base = tempfile::tempdir().unwrap();
        let link = base.path().join("link");
        std::os::unix::fs::symlink("/", &link).unwrap();
        assert_eq!(sessions_in(&link).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(sessions_in(&base.path().join("none")).unwrap(), []);
    }

    #[test]
    fn a_record_that_names_a_group_of_processes_ends_none() {
        for pid in [0, u32::MAX] {
            SessionRecord { pid, ..record("x") }.ask_to_end().unwrap_err();
        }
    }
}
