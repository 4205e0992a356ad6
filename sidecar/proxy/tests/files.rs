//! The pod's files, read and watched through a proxy, from a tree that is made and changed the kubelet's way.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use support::{PATIENCE, Proxy};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tpdocker_protocol::control::ProxyRequest;
use tpdocker_protocol::files::{FOLLOWED_LIMIT, FilesEvent, FilesRequest, MountRequest, Node, NodeKind};
use tpdocker_tunnel::messages::Messages;

/// What a mount was sent as: its nodes by path, each with its content.
type Tree = BTreeMap<String, (Node, Vec<u8>)>;

struct Feed(Messages<TcpStream>);

#[derive(Debug)]
enum Sent {
    Mount { index: usize, tree: Tree, left_out: Vec<String> },
    Failed(String),
    Watching(String),
}

impl Feed {
    async fn ask(proxy: &Proxy, mounts: &[(&Path, bool)]) -> Self {
        let mut messages = proxy.control().await;
        let mount =
            |(path, follow): &(&Path, bool)| MountRequest { path: path.to_str().unwrap().into(), follow: *follow };
        let request = FilesRequest { mounts: mounts.iter().map(mount).collect() };
        messages.send(&ProxyRequest::Files(request)).await.unwrap();
        Self(messages)
    }

    async fn event(&mut self) -> FilesEvent {
        timeout(PATIENCE, self.0.receive()).await.expect("an event in time").unwrap().expect("the connection stays")
    }

    async fn next(&mut self) -> Sent {
        let index = match self.event().await {
            FilesEvent::Mount { index } => index,
            FilesEvent::Watching { by } => return Sent::Watching(by),
            other => panic!("{other:?}"),
        };
        let mut tree = Tree::new();
        loop {
            match self.event().await {
                FilesEvent::Node(node) => {
                    let mut content = Vec::new();
                    while (content.len() as u64) < node.size() {
                        let left = usize::try_from(node.size()).unwrap() - content.len();
                        content.extend_from_slice(&self.0.receive_raw(left).await.unwrap());
                    }
                    tree.insert(node.path.clone(), (node, content));
                }
                FilesEvent::End { left_out } => return Sent::Mount { index, tree, left_out },
                FilesEvent::Failed { message } => return Sent::Failed(message),
                other => panic!("{other:?}"),
            }
        }
    }

    async fn tree(&mut self) -> Tree {
        match self.next().await {
            Sent::Mount { tree, .. } => tree,
            other => panic!("{other:?}"),
        }
    }
}

/// A volume as the kubelet's `AtomicWriter` makes it.
struct Volume(PathBuf);

impl Volume {
    fn make(root: &Path) -> Self {
        let volume = Self(root.join("volume"));
        fs::create_dir(&volume.0).unwrap();
        fs::set_permissions(&volume.0, fs::Permissions::from_mode(0o3777)).unwrap();
        volume
    }

    /// Puts a version in force.
    fn publish(&self, version: &str, files: &[(&str, &[u8])]) {
        let directory = self.0.join(version);
        fs::create_dir(&directory).unwrap();
        for (name, content) in files {
            fs::write(directory.join(name), content).unwrap();
            fs::set_permissions(directory.join(name), fs::Permissions::from_mode(0o440)).unwrap();
        }
        let old = fs::read_link(self.0.join("..data"));
        symlink(version, self.0.join("..data_tmp")).unwrap();
        fs::rename(self.0.join("..data_tmp"), self.0.join("..data")).unwrap();
        for (name, _) in files {
            let _exists = symlink(format!("..data/{name}"), self.0.join(name));
        }
        if let Ok(old) = old {
            fs::remove_dir_all(self.0.join(old)).unwrap();
        }
    }
}

fn target(tree: &Tree, path: &str) -> String {
    match &tree[path].0.kind {
        NodeKind::Link { target } => target.clone(),
        other => panic!("{path} is {other:?}"),
    }
}

#[tokio::test]
async fn a_volume_is_sent_with_its_links_modes_and_owners_as_they_are() {
    let root = tempfile::tempdir().unwrap();
    let volume = Volume::make(root.path());
    let binary: Vec<u8> = (0..=255).cycle().take(700_000).collect();
    volume.publish("..2026_1", &[("key", b"value\n"), ("binary", &binary), ("empty", b"")]);
    let proxy = Proxy::start(Vec::new()).await;
    let mut feed = Feed::ask(&proxy, &[(&volume.0, true)]).await;
    let tree = feed.tree().await;
    let names: Vec<_> = tree.keys().map(String::as_str).collect();
    let inside = ["..2026_1", "..2026_1/binary", "..2026_1/empty", "..2026_1/key", "..data"];
    assert_eq!(names, [&[""], &inside[..], &["binary", "empty", "key"]].concat());
    assert_eq!((target(&tree, "..data").as_str(), target(&tree, "key").as_str()), ("..2026_1", "..data/key"));
    assert_eq!(tree["..2026_1/binary"].1, binary);
    let (key, content) = &tree["..2026_1/key"];
    let metadata = fs::metadata(volume.0.join("key")).unwrap();
    assert_eq!((key.mode, key.uid, key.gid), (0o440, metadata.uid(), metadata.gid()));
    assert_eq!((key.mtime, content.as_slice()), (metadata.mtime(), &b"value\n"[..]));
    assert_eq!(tree[""].0.mode, 0o3777);
    assert!(matches!(feed.next().await, Sent::Watching(by) if by == "inotify"));
}

#[tokio::test]
async fn each_new_version_is_sent_whole_and_nothing_when_nothing_has_changed() {
    let root = tempfile::tempdir().unwrap();
    let volume = Volume::make(root.path());
    volume.publish("..v0", &[("key", b"0"), ("old", b"x")]);
    let proxy = Proxy::start(Vec::new()).await;
    let mut feed = Feed::ask(&proxy, &[(&volume.0, true)]).await;
    feed.tree().await;
    assert!(matches!(feed.next().await, Sent::Watching(_)));
    for (version, content) in [("..v1", b"1"), ("..v2", b"2")] {
        // A file beside the link is no new version.
        fs::write(volume.0.join("..unrelated"), "x").unwrap();
        fs::remove_file(volume.0.join("..unrelated")).unwrap();
        volume.publish(version, &[("key", content)]);
        let tree = feed.tree().await;
        assert_eq!(target(&tree, "..data"), version);
        assert_eq!(tree[&format!("{version}/key")].1, content);
        assert!(!tree.contains_key(&format!("{version}/old")));
    }
    assert!(timeout(std::time::Duration::from_secs(4), feed.event()).await.is_err(), "nothing has changed");
}

#[tokio::test]
async fn a_version_that_goes_on_to_change_its_modes_is_sent_as_it_settles() {
    let root = tempfile::tempdir().unwrap();
    let volume = Volume::make(root.path());
    volume.publish("..v0", &[("key", b"0")]);
    let proxy = Proxy::start(Vec::new()).await;
    let mut feed = Feed::ask(&proxy, &[(&volume.0, true)]).await;
    feed.tree().await;
    assert!(matches!(feed.next().await, Sent::Watching(_)));
    let changing = volume.0.clone();
    let change = std::thread::spawn(move || {
        // As kubelets do that set the group when the link is in force already.
        std::thread::sleep(std::time::Duration::from_millis(60));
        fs::set_permissions(changing.join("..v1/key"), fs::Permissions::from_mode(0o640)).unwrap();
    });
    volume.publish("..v1", &[("key", b"1")]);
    let tree = feed.tree().await;
    change.join().unwrap();
    assert_eq!(tree["..v1/key"].0.mode, 0o640);
}

#[tokio::test]
async fn a_single_file_is_a_mount_too_and_what_cannot_be_copied_is_left_out_and_said() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("app.conf");
    fs::write(&file, "a = 1\n").unwrap();
    let directory = root.path().join("data");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("row"), "1").unwrap();
    nix::unistd::mkfifo(&directory.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let proxy = Proxy::start(Vec::new()).await;
    let mut feed = Feed::ask(&proxy, &[(&file, false), (&directory, false), (&root.path().join("gone"), false)]).await;
    let tree = feed.tree().await;
    assert_eq!(tree.len(), 1);
    assert_eq!(tree[""].1, b"a = 1\n");
    match feed.next().await {
        Sent::Mount { index: 1, tree, left_out } => {
            assert_eq!(tree["row"].1, b"1");
            assert!(left_out.len() == 1 && left_out[0].contains("data/pipe: neither a file"), "{left_out:?}");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(feed.next().await, Sent::Failed(message) if message.contains("No such file")));
    assert!(matches!(feed.next().await, Sent::Watching(_)));
}

#[tokio::test]
async fn a_volume_over_the_limit_fails_with_the_limit_and_the_connection_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let volume = Volume::make(root.path());
    volume.publish("..v0", &[]);
    let huge = fs::File::create(volume.0.join("..v0/huge")).unwrap();
    huge.set_len(FOLLOWED_LIMIT.bytes + 1).unwrap();
    let proxy = Proxy::start(Vec::new()).await;
    let mut feed = Feed::ask(&proxy, &[(&volume.0, true)]).await;
    assert!(matches!(feed.next().await, Sent::Failed(message) if message.contains("more than 32 MiB")));
    assert!(matches!(feed.next().await, Sent::Watching(_)));
}
