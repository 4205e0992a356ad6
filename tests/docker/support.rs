//! What these tests share: an engine, a namespace for apps to join, and pipes for them to speak through.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::Duration;

use nix::unistd::pipe;
use tpdocker::docker::{App, Engine, EngineError, Exit, Running, Sidecar, Stdio};
use tpdocker::event::{Event, Reporter, Sink};
use tpdocker::settings::AppSpec;
use tpdocker_protocol::contract::LABEL_SESSION;

/// Long enough for anything that a busy machine with two cores does here.
pub const PATIENCE: Duration = Duration::from_mins(1);

const NO_ENGINE: &str = "TPDOCKER_TEST_NO_ENGINE";

/// Some container's image, with a shell in it.
pub static BUSYBOX: LazyLock<String> = LazyLock::new(|| {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/busybox-image");
    output(&mut Command::new(script))
});

static SESSIONS: AtomicU32 = AtomicU32::new(0);

struct Silent;

impl Sink for Silent {
    fn event(&self, _: &Event) {}
}

pub fn reporter() -> Reporter {
    Reporter::new(Arc::new(Silent))
}

/// The standard output of a command that succeeds, without the last newline.
pub fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

pub fn docker(arguments: &[&str]) -> String {
    output(Command::new("docker").args(arguments))
}

/// Everything that a test makes in the engine carries its label, and goes with it.
pub struct Session {
    pub id: String,
    pub engine: Engine,
}

impl Session {
    /// `None` where the caller has said that there is no engine.
    pub async fn begin() -> Option<Self> {
        if std::env::var_os(NO_ENGINE).is_some() {
            eprintln!("skipped: {NO_ENGINE} is set");
            return None;
        }
        let engine = Engine::connect().await.expect("an engine (see tests/cluster/engine)");
        let number = SESSIONS.fetch_add(1, Ordering::Relaxed);
        Some(Self { id: format!("test-{}-{number}", std::process::id()), engine })
    }

    pub fn name(&self, what: &str) -> String {
        format!("tpdocker-{}-{what}", self.id)
    }

    fn label(&self) -> String {
        format!("{LABEL_SESSION}={}", self.id)
    }

    /// A running container of nothing but a network namespace, for one app.
    pub fn namespace(&self) -> Sidecar {
        let name = self.name(&format!("namespace-{}", SESSIONS.fetch_add(1, Ordering::Relaxed)));
        let label = self.label();
        let id =
            docker(&["run", "-d", "--network", "none", "--name", &name, "--label", &label, &BUSYBOX, "sleep", "600"]);
        Sidecar { id, name }
    }

    /// Creates an app in a namespace.
    pub async fn create(&self, spec: &AppSpec) -> App {
        self.engine.create_app(&self.id, &self.namespace(), spec, vec![], None).await.unwrap()
    }

    /// Creates and runs an app in a namespace, with a pipe at each of its descriptors.
    pub async fn run(&self, spec: &AppSpec, env: &[&str]) -> Result<Talk, EngineError> {
        self.run_in(&self.namespace(), spec, env).await
    }

    /// The same in the namespace of `sidecar`.
    pub async fn run_in(&self, sidecar: &Sidecar, spec: &AppSpec, env: &[&str]) -> Result<Talk, EngineError> {
        let env = env.iter().map(ToString::to_string).collect();
        let app = self.engine.create_app(&self.id, sidecar, spec, env, None).await?;
        Talk::begin(app).await
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let left = docker(&["ps", "-aq", "--filter", &format!("label={}", self.label())]);
        for id in left.lines() {
            docker(&["rm", "-f", "-v", id]);
        }
        let left = docker(&["volume", "ls", "-q", "--filter", &format!("label={}", self.label())]);
        for name in left.lines() {
            docker(&["volume", "rm", name]);
        }
    }
}

/// `sh -c SCRIPT` in busybox.
pub fn shell(script: &str) -> AppSpec {
    AppSpec { image: BUSYBOX.clone(), command: ["sh", "-c", script].map(str::to_owned).to_vec(), ..Default::default() }
}

/// Waits until the app has said `word`: it is up then.
pub async fn until_says(app: &App, word: &str) {
    let waiting = async {
        while !docker(&["logs", app.id()]).contains(word) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the app says that it is up");
}

/// A running app with a pipe at each of its descriptors.
pub struct Talk {
    pub app: App,
    pub running: Running,
    pub stdin: Option<File>,
    stdout: thread::JoinHandle<Vec<u8>>,
    stderr: thread::JoinHandle<Vec<u8>>,
}

/// What an app said until its end.
#[derive(Debug)]
pub struct Said {
    pub exit: Exit,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Talk {
    async fn begin(app: App) -> Result<Self, EngineError> {
        let (stdin, stdin_tx) = pipe().unwrap();
        let (stdout_rx, stdout) = pipe().unwrap();
        let (stderr_rx, stderr) = pipe().unwrap();
        let running = app.run(Stdio { stdin, stdout, stderr }).await?;
        let read = |rx| {
            thread::spawn(move || {
                let mut said = Vec::new();
                File::from(rx).read_to_end(&mut said).unwrap();
                said
            })
        };
        Ok(Self { app, running, stdin: Some(stdin_tx.into()), stdout: read(stdout_rx), stderr: read(stderr_rx) })
    }

    /// Writes `input` and closes stdin, while the app runs.
    pub fn tell(&mut self, input: Vec<u8>) -> thread::JoinHandle<()> {
        let mut stdin = self.stdin.take().unwrap();
        thread::spawn(move || stdin.write_all(&input).unwrap())
    }

    pub async fn end(mut self) -> Said {
        let exit = tokio::time::timeout(PATIENCE, self.running.wait()).await.expect("the app ends").unwrap();
        // The writing ends belong to the threads of `running`.
        drop(self.running);
        Said { exit, stdout: self.stdout.join().unwrap(), stderr: self.stderr.join().unwrap() }
    }
}
