//! The pod's files in volumes of a real engine: owners and modes, read-only, in memory, renewed without a gap, and gone.

use std::path::Path;

use bytes::Bytes;
use tar::{EntryType, Header};
use tpdocker::docker::{Sidecar, SidecarSpec, VolumeSpec};
use tpdocker::session::sidecar::Sidecar as Control;
use tpdocker::settings::{AppSpec, MountKind, MountSpec};
use tpdocker_protocol::contract::{SIDECAR_FILES_DIR, SIDECAR_SOCKET};
use tpdocker_protocol::files::FilesSwap;

use crate::support::{Session, docker, reporter, shell, until_says};

/// A tar as the CLI makes them.
struct Members(tar::Builder<Vec<u8>>, u64);

impl Members {
    /// Of files that belong to this user.
    fn of(user: u64) -> Self {
        Self(tar::Builder::new(Vec::new()), user)
    }

    fn add(mut self, path: &str, kind: EntryType, mode: u32, content: &str) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(self.1);
        header.set_gid(2000);
        header.set_mtime(1_700_000_000);
        if kind.is_symlink() {
            header.set_size(0);
            self.0.append_link(&mut header, path, content).unwrap();
        } else {
            header.set_size(content.len() as u64);
            self.0.append_data(&mut header, path, content.as_bytes()).unwrap();
        }
        self
    }

    /// A version of a volume of one key.
    fn version(self, volume: &str, version: &str, data: &str, content: &str) -> Self {
        self.add(&format!("{volume}/{version}/"), EntryType::Directory, 0o755, "")
            .add(&format!("{volume}/{version}/key"), EntryType::Regular, 0o440, content)
            .add(&format!("{volume}/{data}"), EntryType::Symlink, 0o777, version)
    }

    async fn upload(self, session: &Session, sidecar: &Sidecar) {
        let chunk = Ok(Bytes::from(self.0.into_inner().unwrap()));
        let stream = futures_util::stream::iter([chunk]);
        session.engine.upload(&sidecar.id, SIDECAR_FILES_DIR, stream).await.unwrap();
    }
}

/// A running sidecar with a volume in memory and one on disk, and the paths of their content.
async fn sidecar(session: &Session, run_dir: &Path) -> (Sidecar, [String; 2]) {
    session.engine.ensure_sidecar_image(&reporter()).await.unwrap();
    let mut paths = Vec::new();
    let mut volumes = Vec::new();
    for (what, memory) in [("memory", true), ("disk", false)] {
        let spec = VolumeSpec { name: session.name(what), memory, size: memory.then_some(1 << 20) };
        paths.push(session.engine.create_volume(&session.id, &spec).await.unwrap());
        volumes.push((spec.name, format!("{SIDECAR_FILES_DIR}/{what}")));
    }
    let spec = SidecarSpec { volumes, ..crate::sidecar::spec(session, run_dir) };
    (session.engine.start_sidecar(&spec).await.unwrap(), paths.try_into().unwrap())
}

fn bind(source: String, target: &str, read_only: bool) -> MountSpec {
    MountSpec { kind: MountKind::Bind, source: Some(source), target: target.to_owned(), read_only }
}

#[tokio::test]
async fn directories_and_single_files_have_their_owners_and_modes_and_are_read_only_where_they_should_be() {
    let Some(session) = Session::begin().await else { return };
    let run_dir = tempfile::tempdir().unwrap();
    let (sidecar, [memory, disk]) = sidecar(&session, run_dir.path()).await;
    let members = Members::of(1000)
        .add("memory/0/", EntryType::Directory, 0o3777, "")
        .version("memory/0", "..2026_a", "..data", "secret")
        .add("memory/0/key", EntryType::Symlink, 0o777, "..data/key")
        .add("memory/1", EntryType::Regular, 0o444, "one file")
        .add("disk/2/", EntryType::Directory, 0o2777, "");
    members.upload(&session, &sidecar).await;
    // The engine mounts what is equally deep in any order.
    let script = "id -u; id -G; stat -c '%a %u %g' /v /v/..data/key /one /scratch; readlink /v/key; readlink /v/..data; \
        cat /v/key /one; echo; grep -oE '^tmpfs /(v|one) tmpfs r[ow]' /proc/mounts | sort; touch /v/x 2>&1; touch /one 2>&1; \
        touch /scratch/x && echo written";
    let app = AppSpec {
        user: Some("1000".into()),
        groups: vec!["2000".into()],
        mounts: vec![
            bind(format!("{memory}/0"), "/v", true),
            bind(format!("{memory}/1"), "/one", true),
            bind(format!("{disk}/2"), "/scratch", false),
        ],
        ..shell(script)
    };
    let talk = session.run_in(&sidecar, &app, &[]).await.unwrap();
    let inspected =
        docker(&["inspect", talk.app.id(), &sidecar.id]) + &docker(&["volume", "inspect", &session.name("memory")]);
    let said = String::from_utf8(talk.end().await.stdout).unwrap();
    assert_eq!(
        said,
        "1000\n0 2000\n3777 1000 2000\n440 1000 2000\n444 1000 2000\n2777 1000 2000\n..data/key\n..2026_a\n\
         secretone file\ntmpfs /one tmpfs ro\ntmpfs /v tmpfs ro\ntouch: /v/x: Read-only file system\n\
         touch: /one: Read-only file system\nwritten\n"
    );
    assert!(!inspected.contains("one file"), "{inspected}");
}

#[tokio::test]
async fn a_new_version_is_put_in_force_while_an_app_reads_and_it_never_misses_a_file() {
    use std::os::unix::fs::PermissionsExt;
    let Some(session) = Session::begin().await else { return };
    let run_dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(run_dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let (sidecar, [memory, _]) = sidecar(&session, run_dir.path()).await;
    // As the kubelet makes it: root's own.
    let members = Members::of(0)
        .add("memory/0/", EntryType::Directory, 0o777, "")
        .version("memory/0", "..1", "..data", "version 1")
        .add("memory/0/key", EntryType::Symlink, 0o777, "..data/key");
    members.upload(&session, &sidecar).await;
    // A version is in force a moment before the one before it is removed.
    let script = "echo up; while :; do v=$(readlink /v/..data) || echo MISSED; \
        [ \"$v\" = \"$last\" ] || echo $v; last=$v; [ \"$v\" = ..4 ] && break; done; \
        while [ -e /v/..3 ]; do :; done; cat /v/key; ls -A /v | sort";
    let app = AppSpec { mounts: vec![bind(format!("{memory}/0"), "/v", true)], ..shell(script) };
    let talk = session.run_in(&sidecar, &app, &[]).await.unwrap();
    until_says(&talk.app, "..1").await;
    for version in 2..=4 {
        let name = format!("..{version}");
        let members = Members::of(0).version("memory/0", &name, "..data_tmp", &format!("version {version}"));
        members.upload(&session, &sidecar).await;
        let remove = vec![format!("..{}", version - 1)];
        let swap = FilesSwap { directory: "memory/0".into(), links: vec![], remove };
        let mut control = Control::connect(&run_dir.path().join(SIDECAR_SOCKET)).await.unwrap();
        control.swap_files(swap).await.unwrap();
        until_says(&talk.app, &name).await;
    }
    let said = String::from_utf8(talk.end().await.stdout).unwrap();
    assert_eq!(said, "up\n..1\n..2\n..3\n..4\nversion 4..4\n..data\nkey\n");
}

#[tokio::test]
async fn the_volumes_go_with_the_session_even_when_the_app_stays() {
    let Some(session) = Session::begin().await else { return };
    let run_dir = tempfile::tempdir().unwrap();
    let (sidecar, [memory, _]) = sidecar(&session, run_dir.path()).await;
    Members::of(0).add("memory/0/", EntryType::Directory, 0o755, "").upload(&session, &sidecar).await;
    let app = AppSpec { mounts: vec![bind(format!("{memory}/0"), "/v", true)], ..shell("true") };
    let talk = session.run_in(&sidecar, &app, &[]).await.unwrap();
    let id = talk.app.id().to_owned();
    talk.end().await;
    let volumes = || docker(&["volume", "ls", "-q", "--filter", &format!("label=tpdocker.dev/session={}", session.id)]);
    assert_eq!(volumes().lines().count(), 2);
    assert_eq!(session.engine.remove_sidecar_of(&session.id).await.unwrap(), 1);
    assert_eq!(volumes(), "");
    assert_eq!(docker(&["inspect", "-f", "{{.State.Status}}", &id]), "exited");
    session.engine.remove_all_of(&session.id).await.unwrap();
}
