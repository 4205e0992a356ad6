//! The Docker engine is restarted under a session. The engine of the tests has the cluster in it, so this is another one,
//! in a network namespace of its own so that it changes no rule of the first one's.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{NAMESPACE, PATIENCE, Tpdocker, assert_restored, output, repo, staging, until, world};

/// Listens where the Service sends to, and takes its time when it is told to end, so that the sidecar ends first.
const APP: &str = "trap 'sleep 2; exit' TERM; httpd -p 8080; while :; do sleep 0.1; done";

/// An engine of its own.
struct SecondEngine {
    directory: tempfile::TempDir,
    process: Child,
}

impl SecondEngine {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let process = dockerd(directory.path());
        let engine = Self { directory, process };
        engine.until_it_answers();
        engine
    }

    fn host(&self) -> String {
        format!("unix://{}/docker.sock", self.directory.path().display())
    }

    fn docker(&self, arguments: &[&str]) -> String {
        output(Command::new("docker").args(arguments).env("DOCKER_HOST", self.host()).env_remove("DOCKER_CONTEXT"))
    }

    fn until_it_answers(&self) {
        until("the second engine to answer", PATIENCE, || {
            let mut asked = Command::new("docker");
            let asked = asked.arg("version").env("DOCKER_HOST", self.host()).env_remove("DOCKER_CONTEXT");
            let Ok(answer) = asked.output() else { return Err("no client".to_owned()) };
            if answer.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&answer.stderr).into_owned()) }
        });
    }

    fn stop(&mut self) {
        kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM).unwrap();
        self.process.wait().unwrap();
    }

    fn restart(&mut self) {
        self.stop();
        self.process = dockerd(self.directory.path());
        self.until_it_answers();
    }
}

impl Drop for SecondEngine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// `unshare` and `sh` become it. Its namespaces in a containerd that is there already are its own, too.
fn dockerd(directory: &Path) -> Child {
    let path = |name: &str| directory.join(name).display().to_string();
    let log = std::fs::File::options().create(true).append(true).open(path("log")).unwrap();
    Command::new("unshare")
        .args(["--net", "sh", "-c", "ip link set lo up && exec dockerd \"$@\"", "dockerd", "--iptables=false"])
        .args(["--data-root", &path("data"), "--exec-root", &path("exec"), "--pidfile", &path("pid")])
        .args(["--host", &format!("unix://{}", path("docker.sock"))])
        .args(["--containerd-namespace", "tpdocker-test", "--containerd-plugins-namespace", "tpdocker-test-plugins"])
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn an_engine_that_is_restarted_ends_the_session_and_nothing_is_left_in_it() {
    let here = Command::new("dockerd").arg("--version").output().is_ok_and(|it| it.status.success());
    if !here || !nix::unistd::getuid().is_root() {
        println!("skipped: only root can start another engine, where there is one to start");
        return;
    }
    let _staging = staging();
    let before = world();
    let mut engine = SecondEngine::start();
    let image = output(&mut Command::new(repo("tests/support/busybox-image"))).trim_end().to_owned();
    let tar = engine.directory.path().join("image.tar").display().to_string();
    output(Command::new("docker").args(["save", "--output", &tar, &image]));
    engine.docker(&["load", "--input", &tar]);

    let swap = ["run", "--swap", "servicename", "-n", NAMESPACE, "--rm", "--entrypoint", "sh", &image, "-c", APP];
    let mut command = Tpdocker::command(&swap);
    let session = Tpdocker::spawn(command.env("DOCKER_HOST", engine.host()).env_remove("DOCKER_CONTEXT"));
    session.says("is answered here");
    engine.restart();
    let ended = session.wait().code(88);
    for words in ["trying until it answers", "was stopped or removed, and the app's network went with it"] {
        assert!(ended.stderr.contains(words), "{}", ended.stderr);
    }
    assert_restored(&before);
    let left = engine.docker(&["ps", "-aq", "--filter", "label=tpdocker.dev/session"]);
    assert_eq!(left, "", "containers of the session");
    let left = engine.docker(&["volume", "ls", "-q", "--filter", "label=tpdocker.dev/session"]);
    assert_eq!(left, "", "volumes of the session");
}
