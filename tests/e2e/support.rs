//! What the end-to-end tests share: the cluster through kubectl, the engine through docker, and `tpdocker` as a
//! process whose output is read while it runs.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// The namespace of the staging example.
pub const NAMESPACE: &str = "staging";
/// The image of the service, as the README's reader types it.
pub const SERVICE_IMAGE: &str = "examplecom/servicename";
/// Long enough for anything that a busy machine with two cores does here.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// In the names or the images of what the tests of the engine's half alone make; they may run beside these.
const OTHER_TESTS: &str = "tpdocker-test";

/// Longer than any test takes, and much shorter than whoever runs them will wait.
const LIMIT: Duration = Duration::from_mins(10);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The staging example, in the hands of one test. Whatever that test waits for, it ends: after [`LIMIT`] all of the
/// tests do, with the name of the one and the processes there are.
pub struct Staging {
    _alone: MutexGuard<'static, ()>,
    _ended: mpsc::Sender<()>,
}

/// The staging example belongs to one test at a time. The first one gets the proxy image of the binary under test into
/// the cluster.
pub fn staging() -> Staging {
    static READY: Once = Once::new();
    let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    READY.call_once(|| {
        load_proxy_image();
        // A run that was killed leaves what its sessions had, and these tests look at all that there is. The server that
        // such a session had may have been a test's own relay, which is gone with it.
        for undo in [&["stop", "--all", "--local"][..], &["restore", "-n", NAMESPACE, "--all"]] {
            eprintln!("before the first test:\n{}", Tpdocker::run(undo).code(0).stderr);
        }
    });
    let (ended, running) = mpsc::channel();
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    std::thread::spawn(move || {
        if running.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
            let processes = output(Command::new("ps").args(["-eo", "pid,ppid,pgid,stat,etimes,args"]));
            eprintln!("{test} has not ended within {LIMIT:?}; these are the processes:\n{processes}");
            std::process::exit(1);
        }
    });
    Staging { _alone: alone, _ended: ended }
}

/// Gets the proxy image of the binary under test into the cluster.
pub fn load_proxy_image() {
    let mut image = tempfile::tempfile().unwrap();
    output(Tpdocker::command(&["image", "save"]).stdout(image.try_clone().unwrap()));
    std::io::Seek::rewind(&mut image).unwrap();
    output(Command::new(repo("tests/cluster/load")).arg("-").stdin(image));
}

/// A path in the repository.
pub fn repo(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The kubeconfig of the cluster under test.
pub fn kubeconfig() -> PathBuf {
    let given = std::env::var_os("TPDOCKER_TEST_KUBECONFIG").map(PathBuf::from);
    let path = given.unwrap_or_else(|| repo("target/staging/kubeconfig"));
    assert!(path.exists(), "there is no cluster to test on: run `make cluster`");
    path
}

/// What a command printed; panics with its standard error when it fails.
pub fn output(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}\n{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// `kubectl` in a namespace of the cluster under test.
pub fn kubectl_in(namespace: &str) -> Command {
    let own = repo("target/staging/bin/kubectl");
    let mut command = Command::new(if own.exists() { own } else { "kubectl".into() });
    command.arg("--kubeconfig").arg(kubeconfig()).args(["-n", namespace]);
    command
}

/// `kubectl` in the namespace of the example.
pub fn kubectl(arguments: &[&str]) -> String {
    output(kubectl_in(NAMESPACE).args(arguments))
}

/// `docker`.
pub fn docker(arguments: &[&str]) -> String {
    output(Command::new("docker").args(arguments))
}

/// The answer of `http://SERVICE/` as a pod of thing1 sees it: status and body, or what went wrong.
pub fn get_from_a_pod(url: &str) -> Result<serde_json::Value, String> {
    const SCRIPT: &str = "import sys, urllib.request, urllib.error\n\
        try: print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())\n\
        except urllib.error.HTTPError as e: print(e.read().decode())";
    let Output { status, stdout, stderr } = kubectl_in(NAMESPACE)
        .args(["exec", "deploy/thing1", "--", "python3", "-c", SCRIPT, url])
        .output()
        .map_err(|error| error.to_string())?;
    if !status.success() {
        return Err(String::from_utf8_lossy(&stderr).into_owned());
    }
    serde_json::from_slice(&stdout).map_err(|_| String::from_utf8_lossy(&stdout).into_owned())
}

/// Which copy answers the Service in the cluster.
pub fn copy_that_answers() -> Result<String, String> {
    let answer = get_from_a_pod("http://servicename/")?;
    answer["copy"].as_str().map(str::to_owned).ok_or_else(|| answer.to_string())
}

/// Waits until `condition` gives a value; panics with what it last said.
pub fn until<T>(what: &str, patience: Duration, mut condition: impl FnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        match condition() {
            Ok(value) => return value,
            Err(said) => assert!(began.elapsed() < patience, "waited {patience:?} in vain for {what}: {said}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Everything that a session could leave behind, in the namespace and in the engine.
#[derive(Debug)]
pub struct World {
    objects: Vec<String>,
    containers: Vec<String>,
    networks: Vec<String>,
    volumes: Vec<String>,
    directories: Vec<String>,
}

/// The world as it is now.
pub fn world() -> World {
    let lines = |text: String| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let form = "-o=jsonpath={range .items[*]}{.kind}/{.metadata.name} {.spec.replicas} {.metadata.labels} \
                {.metadata.annotations.tpdocker\\.dev/swap}{\"\\n\"}{end}";
    let kinds = "deployments,statefulsets,services,configmaps,serviceaccounts,roles,rolebindings,networkpolicies";
    World {
        objects: lines(kubectl(&["get", kinds, form])),
        // By the label: other work on the machine may come and go.
        containers: lines(docker(&[
            "ps",
            "-a",
            "--filter",
            "label=tpdocker.dev/session",
            "--format",
            "{{.Names}} {{.Image}}",
        ])),
        networks: lines(docker(&["network", "ls", "--format", "{{.Name}}"])),
        volumes: lines(docker(&["volume", "ls", "--format", "{{.Name}}"])),
        directories: std::fs::read_dir(runtime_dir().join("tpdocker")).map_or_else(
            |_| Vec::new(),
            |entries| entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect(),
        ),
    }
}

/// Where the sessions of the tests keep their directories.
pub fn runtime_dir() -> PathBuf {
    let path = std::env::temp_dir().join("tpdocker-e2e");
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// The nodes hear of endpoints that went a moment later than the API server.
pub fn until_answered_by(copy: &str) {
    until("the right copy to answer", PATIENCE, || match copy_that_answers() {
        Ok(answered) if answered == copy => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// What `tpdocker status` tells of the namespace and this machine.
pub fn status() -> serde_json::Value {
    let ended = Tpdocker::run(&["--output", "json", "status", "-n", NAMESPACE]).code(0);
    serde_json::from_str(&ended.stdout).expect("one JSON object")
}

/// Asserts that the world is as it was, the original is ready, and no pod of a session is left.
pub fn assert_restored(before: &World) {
    assert_put_back(before);
    until("the proxy's pods to be gone", PATIENCE, || {
        let pods = kubectl(&["get", "pods", "-l", "tpdocker.dev/session", "-o", "name"]);
        if pods.is_empty() { Ok(()) } else { Err(pods) }
    });
}

/// As [`assert_restored`], but that pods of a deleted proxy may be about to end: they serve for seconds who still comes.
pub fn assert_put_back(before: &World) {
    until("the original to be ready", PATIENCE, || {
        let ready = kubectl(&["get", "deployment", "servicename", "-o=jsonpath={.status.readyReplicas}"]);
        if ready == "2" { Ok(()) } else { Err(format!("{ready} ready")) }
    });
    let form = "-o=go-template={{range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.name}} {{end}}{{end}}";
    until("the proxy's pods to be deleted", PATIENCE, || {
        let pods = kubectl(&["get", "pods", "-l", "tpdocker.dev/session", form]);
        if pods.is_empty() { Ok(()) } else { Err(pods) }
    });
    // What belonged to the proxy is the garbage collector's, which has a queue.
    until("the namespace to be as it was", PATIENCE, || {
        let after = world();
        if after.objects == before.objects {
            Ok(())
        } else {
            Err(format!("{:?} and not {:?}", after.objects, before.objects))
        }
    });
    let after = world();
    // Other work on the machine may begin and end meanwhile; what counts is what is there now and was not before.
    let left = |before: &[String], after: &[String]| {
        let new = after.iter().filter(|each| !before.contains(each) && !each.contains(OTHER_TESTS));
        new.cloned().collect::<Vec<_>>()
    };
    for (before, after) in [
        (&before.containers, &after.containers),
        (&before.networks, &after.networks),
        (&before.volumes, &after.volumes),
        (&before.directories, &after.directories),
    ] {
        assert_eq!(left(before, after), [""; 0], "something was left behind");
    }
}

#[derive(Default)]
struct Log {
    stdout: String,
    stderr: String,
    ended: u8,
}

/// A running `tpdocker`.
pub struct Tpdocker {
    child: Child,
    log: Arc<(Mutex<Log>, Condvar)>,
}

impl Tpdocker {
    /// The command, with the test's cluster and directories.
    pub fn command(arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tpdocker"));
        command.args(arguments).env("KUBECONFIG", kubeconfig()).env("XDG_RUNTIME_DIR", runtime_dir());
        command
    }

    /// Starts it; what it prints is kept.
    pub fn start(arguments: &[&str]) -> Self {
        Self::spawn(&mut Self::command(arguments))
    }

    /// Starts this command.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tpdocker starts");
        let log = Arc::new((Mutex::new(Log::default()), Condvar::new()));
        keep(child.stdout.take().unwrap(), &log, |log| &mut log.stdout);
        keep(child.stderr.take().unwrap(), &log, |log| &mut log.stderr);
        Self { child, log }
    }

    /// Runs it to its end.
    pub fn run(arguments: &[&str]) -> Ended {
        Self::start(arguments).wait()
    }

    /// Waits until its standard error has a line with `text`.
    pub fn says(&self, text: &str) {
        let (log, changed) = &*self.log;
        let waiting = |log: &mut Log| !log.stderr.contains(text) && log.ended < 2;
        let said = {
            let (log, _timeout) = changed.wait_timeout_while(log.lock().unwrap(), PATIENCE, waiting).unwrap();
            log.stderr.contains(text)
        };
        // Not under the lock: the panic's way out needs it.
        assert!(said, "it never said {text:?}:\n{}", self.stderr());
    }

    /// Sends a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// What it printed on its standard output so far.
    pub fn stdout(&self) -> String {
        self.log.0.lock().unwrap().stdout.clone()
    }

    /// What it printed on its standard error so far.
    pub fn stderr(&self) -> String {
        self.log.0.lock().unwrap().stderr.clone()
    }

    /// Whether its process has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Ended {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(began.elapsed() < PATIENCE, "it does not end:\n{}", self.stderr());
            std::thread::sleep(Duration::from_millis(20));
        };
        let (log, changed) = &*self.log;
        drop(changed.wait_while(log.lock().unwrap(), |log| log.ended < 2).unwrap());
        Ended { status, stdout: self.stdout(), stderr: self.stderr() }
    }

    /// Ctrl-C, and waits for its end.
    pub fn interrupt(self) -> Ended {
        self.signal(nix::sys::signal::Signal::SIGINT);
        self.wait()
    }
}

impl Drop for Tpdocker {
    /// A failed test must not leave the cluster swapped.
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            eprintln!("=== tpdocker said ===\n{}\n{}", self.stderr(), self.stdout());
            self.signal(nix::sys::signal::Signal::SIGINT);
            self.child.wait().expect("tpdocker ends");
        }
    }
}

/// A `tpdocker` that has ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// Asserts its exit code.
    #[track_caller]
    pub fn code(self, expected: i32) -> Self {
        assert_eq!(self.status.code(), Some(expected), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }
}

fn keep(mut from: impl Read + Send + 'static, log: &Arc<(Mutex<Log>, Condvar)>, part: fn(&mut Log) -> &mut String) {
    let log = Arc::clone(log);
    std::thread::spawn(move || {
        let mut reader = BufReader::new(&mut from);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            part(&mut log.0.lock().unwrap()).push_str(&String::from_utf8_lossy(&line));
            log.1.notify_all();
            line.clear();
        }
        log.0.lock().unwrap().ended += 1;
        log.1.notify_all();
    });
}

/// The body of `GET path` from an address on this machine.
pub fn http_get(address: &str, path: &str) -> std::io::Result<String> {
    use std::io::Write;
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or(answer))
}

/// `kubectl apply` of a manifest.
pub fn apply(manifest: &str) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, manifest.as_bytes()).unwrap();
    kubectl(&["apply", "-f", file.path().to_str().unwrap()]);
}

/// Posts an object to a path of the API.
pub fn post(path: &str, object: &serde_json::Value) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, object.to_string().as_bytes()).unwrap();
    kubectl(&["create", "--raw", path, "-f", file.path().to_str().unwrap()]);
}

/// A kubeconfig whose server does not answer.
pub fn kubeconfig_of_a_dead_server() -> tempfile::TempPath {
    let mut config = config_json();
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1".into();
    write_config(&config).into_temp_path()
}

/// The current context of the kubeconfig, alone and as JSON (which is YAML).
pub fn config_json() -> serde_json::Value {
    serde_json::from_str(&kubectl(&["config", "view", "--minify", "--raw", "-o", "json"])).unwrap()
}

/// A kubeconfig of one's own.
pub fn write_config(config: &serde_json::Value) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, config.to_string().as_bytes()).unwrap();
    file
}
