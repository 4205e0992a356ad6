//! The user's container, from its creation to its exit code.
//!
//! It is attached before it is started, so nothing that it says is lost; it is waited for after it was started, for
//! "not running", which is true of a container that has long ended too. The engine never removes it by itself
//! (`AutoRemove`), because the exit code would go with it: [`App::remove`] does what `--rm` asks.

use std::collections::HashMap;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bollard::errors::Error as ApiError;
use bollard::models::{ContainerCreateBody, ContainerStateStatusEnum, HostConfig, Mount, MountType};
use bollard::query_parameters::{
    CreateContainerOptions, KillContainerOptions, ResizeContainerTTYOptions, StopContainerOptions, WaitContainerOptions,
};
use futures_util::StreamExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tpdocker_protocol::contract::{LABEL_ROLE, LABEL_SESSION, ROLE_APP};

use super::engine::Engine;
use super::error::{EngineError, is_missing, refusal};
use super::sidecar::Sidecar;
use super::stdio::Stdio;
use super::streams::{Side, Streams};
use super::terminal::{Window, window};
use crate::settings::{AppSpec, MountKind, MountSpec};

/// How much longer than the app's own time to stop the engine may take to say that it has.
const STOP_MARGIN: Duration = Duration::from_secs(30);

/// The engine's answer to a signal for a container that does not run.
const CONFLICT: u16 = 409;

/// A container of the user; clones are the same container.
#[derive(Debug, Clone)]
pub struct App {
    engine: Engine,
    id: String,
    interactive: bool,
    tty: bool,
}

/// How an app ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code, 128 + N after signal N.
    pub code: u8,
    /// What ended it.
    pub fate: Fate,
}

/// What ended an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Itself, or a signal.
    Ended,
    /// The kernel killed it: it needed more memory than its container, or the machine, has.
    OutOfMemory,
    /// Its container is gone, and so it is.
    Removed,
}

/// A started app; dropping it detaches, and puts the terminal back.
#[derive(Debug)]
pub struct Running {
    waiter: AbortOnDropHandle<Result<Exit, EngineError>>,
    side: Option<Side>,
    reader_gone: CancellationToken,
    _window: Option<AbortOnDropHandle<()>>,
}

impl Engine {
    /// Creates the user's container in the network namespace of `sidecar`. `env` is complete, as `K=V`; `window` is
    /// the terminal's, for engines that take it this early.
    pub async fn create_app(
        &self,
        session: &str,
        sidecar: &Sidecar,
        spec: &AppSpec,
        env: Vec<String>,
        window: Option<Window>,
    ) -> Result<App, EngineError> {
        let options =
            CreateContainerOptions { name: spec.name.clone(), platform: spec.platform.clone().unwrap_or_default() };
        let body = body(session, sidecar, spec, env, window);
        let created = match self.api.create_container(Some(options), body).await {
            Ok(created) => created,
            Err(error) => return Err(self.explain_creation(spec, error).await),
        };
        for warning in &created.warnings {
            tracing::warn!(%warning, "from the Docker engine");
        }
        Ok(App { engine: self.clone(), id: created.id, interactive: spec.interactive, tty: spec.tty })
    }

    async fn explain_creation(&self, spec: &AppSpec, error: ApiError) -> EngineError {
        let Some((status, message)) = refusal(&error) else {
            return EngineError::lost("creating the container", error);
        };
        let message = message.to_owned();
        if let Some(name) = &spec.name
            && let Some(taken) = self.explain_name(name, status).await
        {
            return taken;
        }
        if is_missing(&error) && message.contains("No such image") {
            return EngineError::ImageAbsent { image: spec.image.clone() };
        }
        if is_about_mounts(&message) { EngineError::Mount { message } } else { EngineError::Daemon { message } }
    }
}

// === impl App ===

impl App {
    /// The container's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Attaches `stdio`, starts the container, and keeps its TTY at the size of ours.
    pub async fn run(&self, stdio: Stdio) -> Result<Running, EngineError> {
        stdio.check(self.interactive, self.tty)?;
        let screen = match (self.tty, stdio.window()) {
            (true, Some(size)) => Some((duplicate(&stdio)?, size)),
            _ => None,
        };
        let hijacked = self.engine.hijack(&self.id, self.interactive).await?;
        let streams = Streams::begin(hijacked, stdio, self.interactive, self.tty)
            .map_err(|error| EngineError::Lost { doing: "attaching to the container", source: Box::new(error) })?;
        self.engine.api.start_container(&self.id, None).await.map_err(start_failure)?;
        let Streams { output, reader_gone, side } = streams;
        let window =
            screen.map(|(screen, size)| AbortOnDropHandle::new(tokio::spawn(follow(self.clone(), screen, size))));
        let app = self.clone();
        let waiter = AbortOnDropHandle::new(tokio::spawn(async move {
            let code = app.wait().await?;
            match output.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(lost_output(error)),
                Err(error) => return Err(lost_output(error)),
            }
            Ok(Exit { code, fate: app.fate().await })
        }));
        Ok(Running { waiter, side: Some(side), reader_gone, _window: window })
    }

    /// Sends a signal, by name or number, to the app's first process; one that has ended needs none.
    pub async fn signal(&self, name: &str) -> Result<(), EngineError> {
        let options = KillContainerOptions { signal: name.to_owned() };
        settle(self.engine.api.kill_container(&self.id, Some(options)).await, "signalling the container")
    }

    /// Asks the app to end, with the signal that its image names, and kills it after `timeout`.
    pub async fn stop(&self, timeout: Duration) -> Result<(), EngineError> {
        let seconds = i32::try_from(timeout.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptions { t: Some(seconds), signal: None };
        let api = self.engine.api.clone().with_timeout(timeout.saturating_add(STOP_MARGIN));
        settle(api.stop_container(&self.id, Some(options)).await, "stopping the container")
    }

    /// Removes the container and its anonymous volumes, as `--rm` asks; it is killed if it runs.
    pub async fn remove(&self) -> Result<(), EngineError> {
        self.engine.remove_container(&self.id).await.map_err(|error| EngineError::lost("removing the container", error))
    }

    async fn wait(&self) -> Result<u8, EngineError> {
        let options = WaitContainerOptions { condition: "not-running".to_owned() };
        let answer = self.engine.api.wait_container(&self.id, Some(options)).boxed().next().await;
        let code = match answer {
            Some(Ok(ended)) => ended.status_code,
            // The client library's word for an exit code other than 0.
            Some(Err(ApiError::DockerContainerWaitError { code, .. })) => code,
            Some(Err(error)) => return Err(EngineError::lost("waiting for the container", error)),
            None => {
                let source = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
                return Err(EngineError::Lost { doing: "waiting for the container", source: Box::new(source) });
            }
        };
        // The kernel has 8 bits for it (wait(2)).
        Ok(u8::try_from(code & 0xff).unwrap_or(u8::MAX))
    }

    async fn fate(&self) -> Fate {
        use ContainerStateStatusEnum::{DEAD, REMOVING};

        let state = match self.engine.api.inspect_container(&self.id, None).await {
            Ok(found) => found.state.unwrap_or_default(),
            Err(error) if is_missing(&error) => return Fate::Removed,
            // An engine that does not answer is told by whatever needs it next.
            Err(_) => return Fate::Ended,
        };
        match state.status {
            // A forced removal kills first, and is under way.
            Some(REMOVING | DEAD) => Fate::Removed,
            _ if state.oom_killed == Some(true) => Fate::OutOfMemory,
            _ => Fate::Ended,
        }
    }

    async fn resize(&self, window: Window) {
        let options = ResizeContainerTTYOptions { h: i32::from(window.rows), w: i32::from(window.columns) };
        if let Err(error) = self.engine.api.resize_container_tty(&self.id, options).await {
            // Most often the app has ended already.
            tracing::debug!(%error, "the container's terminal could not be resized");
        }
    }
}

// === impl Running ===

impl Running {
    /// Waits until the app has ended and everything that it wrote has been written out; the terminal is as before then.
    /// Cancel safe. Not to be called again after it has returned.
    pub async fn wait(&mut self) -> Result<Exit, EngineError> {
        let ended = (&mut self.waiter).await;
        self.side = None;
        ended.unwrap_or_else(|error| Err(lost_output(error)))
    }

    /// Resolves when whoever read our stdout has gone (EPIPE). The app does not notice: what it writes is thrown away,
    /// and it is up to the session to end it.
    pub fn reader_gone(&self) -> impl Future<Output = ()> + Send + use<> {
        self.reader_gone.clone().cancelled_owned()
    }
}

/// Sets the size of the app's terminal, and again whenever ours changes.
async fn follow(app: App, screen: OwnedFd, size: Window) {
    // Registered first: a change while the first size is being set is not lost.
    let changes = signal(SignalKind::window_change());
    app.resize(size).await;
    let mut changes = match changes {
        Ok(changes) => changes,
        Err(error) => return tracing::warn!(%error, "the app's terminal keeps its size when this one changes"),
    };
    while changes.recv().await.is_some() {
        if let Some(size) = window(&screen) {
            app.resize(size).await;
        }
    }
}

fn duplicate(stdio: &Stdio) -> Result<OwnedFd, EngineError> {
    let screen = if window(&stdio.stdout).is_some() { &stdio.stdout } else { &stdio.stdin };
    screen.try_clone().map_err(lost_output)
}

fn lost_output(error: impl std::error::Error + Send + Sync + 'static) -> EngineError {
    EngineError::Lost { doing: "carrying the container's output", source: Box::new(error) }
}

/// A container that is gone or does not run has nothing left to be told.
fn settle(result: Result<(), ApiError>, doing: &'static str) -> Result<(), EngineError> {
    match result {
        Err(error) if refusal(&error).is_some_and(|(status, _)| matches!(status, 404 | CONFLICT)) => Ok(()),
        other => other.map_err(|error| EngineError::lost(doing, error)),
    }
}

fn body(
    session: &str,
    sidecar: &Sidecar,
    spec: &AppSpec,
    env: Vec<String>,
    window: Option<Window>,
) -> ContainerCreateBody {
    let mut labels: HashMap<_, _> = spec.labels.clone().into_iter().collect();
    labels.insert(LABEL_SESSION.to_owned(), session.to_owned());
    labels.insert(LABEL_ROLE.to_owned(), ROLE_APP.to_owned());
    let host_config = HostConfig {
        network_mode: Some(format!("container:{}", sidecar.id)),
        binds: Some(spec.binds.clone()),
        mounts: Some(spec.mounts.iter().map(mount).collect()),
        group_add: (!spec.groups.is_empty()).then(|| spec.groups.clone()),
        init: spec.init.then_some(true),
        console_size: window.filter(|_| spec.tty).map(|size| vec![size.rows.into(), size.columns.into()]),
        ..Default::default()
    };
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        cmd: (!spec.command.is_empty()).then(|| spec.command.clone()),
        entrypoint: spec.entrypoint.clone().map(|entrypoint| vec![entrypoint]),
        env: Some(env),
        working_dir: spec.workdir.clone(),
        user: spec.user.clone(),
        labels: Some(labels),
        tty: Some(spec.tty),
        attach_stdin: Some(spec.interactive),
        open_stdin: Some(spec.interactive),
        // The end of our stdin is the end of the app's.
        stdin_once: Some(spec.interactive),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        host_config: Some(host_config),
        ..Default::default()
    }
}

fn mount(mount: &MountSpec) -> Mount {
    Mount {
        typ: Some(match mount.kind {
            MountKind::Bind => MountType::BIND,
            MountKind::Volume => MountType::VOLUME,
            MountKind::Tmpfs => MountType::TMPFS,
        }),
        source: mount.source.clone(),
        target: Some(mount.target.clone()),
        read_only: Some(mount.read_only),
        ..Default::default()
    }
}

fn is_about_mounts(message: &str) -> bool {
    const WORDS: [&str; 6] = [
        "invalid mount config",
        "invalid volume specification",
        "Duplicate mount point",
        "error mounting",
        "error while creating mount source path",
        "error while mounting volume",
    ];
    WORDS.iter().any(|words| message.contains(words))
}

/// Exit codes of `docker run`: 127 for a command that is not there, 126 for one that cannot be invoked, else 125.
/// <https://docs.docker.com/reference/cli/docker/container/run/#exit-status>
fn start_failure(error: ApiError) -> EngineError {
    const NOT_FOUND: [&str; 2] = ["executable file not found", "no such file or directory"];
    const CANNOT_INVOKE: [&str; 3] = ["permission denied", "is a directory", "exec format error"];
    let Some((_, message)) = refusal(&error) else {
        return EngineError::lost("starting the container", error);
    };
    let message = message.to_owned();
    let says = |words: &[&str]| words.iter().any(|words| message.contains(words));
    if is_about_mounts(&message) {
        EngineError::Mount { message }
    } else if says(&NOT_FOUND) {
        EngineError::NotFound { message }
    } else if says(&CANNOT_INVOKE) {
        EngineError::CannotInvoke { message }
    } else {
        EngineError::Daemon { message }
    }
}
