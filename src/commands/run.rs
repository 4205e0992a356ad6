//! `tpdocker run`: make a proxy, run the container, put everything back; with `--swap`, in the place of a workload.
//!
//! ```text
//! find ─→ begin ─→ proxy ∥ sidecar ─→ tunnel ─→ app ─→ attend (swap when the app listens; signals; exit) ─→ undo
//!   └── an error or a signal, wherever it comes: straight to undo ────────────────────────────────────────┘
//! ```

use std::pin::Pin;
use std::time::Duration;

use super::undo;
use crate::cluster::PodMount;
use crate::docker::{App, Engine, Exit, Fate, Running, Sidecar, SidecarSpec, Stdio};
use crate::error::{Error, HostError};
use crate::event::Reporter;
use crate::output::{Console, TerminalMode, result};
use crate::plan::{self, plan};
use crate::session::files::{self, PodFiles, Renewal};
use crate::session::identity::Identity;
use crate::session::link::Link;
use crate::session::signals::{Received, Signals};
use crate::session::takeover::Lost;
use crate::session::{Attached, Session, environment, find, proxy_of};
use crate::settings::{OutputFormat, RunSettings};

/// How long an app may take to end by itself after it was asked to: `docker stop`'s default.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// No deadline: a timer needs one.
const FAR: Duration = Duration::from_hours(365 * 24);
/// How long the scheduler may take to choose a node; [`Session::attach`], which runs beside, says why it does not.
const SCHEDULED_WITHIN: Duration = Duration::from_mins(5);

/// Carries out `tpdocker run`; the exit code is the app's.
pub async fn run(settings: RunSettings, output: OutputFormat, console: &Console) -> Result<u8, Error> {
    let reporter = console.reporter();
    let mut signals = Signals::take()?;
    let prepared = tokio::select! {
        prepared = prepare(&settings, output, &reporter) => prepared?,
        received = signals.end() => return Ok(received.exit_code()),
    };
    let Some(Prepared { engine, session, stdio }) = prepared else { return Ok(0) };
    let outcome = {
        let work = Work { settings: &settings, engine: &engine, session: &session, console };
        Box::pin(work.carry_out(stdio, &mut signals)).await
    };
    // The app has let go of the terminal, or never got to it.
    console.resume();
    let keep_app = !settings.app.rm && outcome.as_ref().is_ok_and(|ended| ended.ran);
    let undone = undo::containers_and_swap(&engine, &session, keep_app, &mut signals, &reporter).await;
    undo::conclude(console, outcome.map(|ended| ended.code), undone.map_err(Error::from))
}

struct Prepared {
    engine: Engine,
    session: Session,
    stdio: Stdio,
}

/// Everything that can be found out before anything is changed; `None` after a dry run.
async fn prepare(settings: &RunSettings, output: OutputFormat, reporter: &Reporter) -> Result<Option<Prepared>, Error> {
    let stdio =
        Stdio::of_this_process().map_err(|error| HostError::new("the standard streams cannot be used", error))?;
    let app = &settings.app;
    let engine = async {
        let step = reporter.step("engine");
        let engine = Engine::connect().await?;
        step.done(format!("Docker {} at {}", engine.version(), engine.socket().display()));
        Ok::<_, Error>(engine)
    };
    // Both to their end, so that each step tells its own outcome.
    let (engine, found) =
        tokio::join!(engine, find(&settings.cluster, &settings.intent, settings.init_containers, reporter));
    let (engine, found) = (engine?, found?);
    if !settings.dry_run {
        stdio.check(app.interactive, app.tty)?;
        tokio::try_join!(
            engine.ensure_sidecar_image(reporter),
            engine.ensure_image(&app.image, app.pull, app.platform.as_deref(), reporter)
        )?;
    }
    // What is wrong with the choices shows here, before anything is changed.
    let files = files::plan_for(&files::declared(found.stance.pod()), settings)?;
    let identity = Identity::new()?;
    let (deployment, notes) = proxy_of(&identity, &found.stance, settings.proxy_image.as_deref())?;
    if settings.dry_run {
        let may_restore = !settings.grace.0.is_zero() && found.lacking.letter.is_empty();
        let plan = plan(plan::Found {
            cluster: found.cluster.facts(),
            stance: &found.stance,
            proxy: (deployment, notes),
            app,
            net: &settings.net,
            letter: may_restore.then_some(settings.grace.0),
            files: &files,
        });
        result::report(output, &plan, || plan.to_text())?;
        return Ok(None);
    }
    for note in notes {
        reporter.notice(note.to_string());
    }
    let session = Session::new(identity, found, deployment, None, reporter.clone())?.taking_over(settings.take_over);
    let session = session.restored_after(settings.grace);
    Ok(Some(Prepared { engine, session, stdio }))
}

/// How the work ended.
struct Ended {
    code: u8,
    /// There was an app.
    ran: bool,
}

struct Work<'a> {
    settings: &'a RunSettings,
    engine: &'a Engine,
    session: &'a Session,
    console: &'a Console,
}

/// What runs.
struct Up {
    attached: Attached,
    app: App,
    running: Running,
    link: Link,
    _renewal: Renewal,
}

impl Work<'_> {
    async fn carry_out(&self, stdio: Stdio, signals: &mut Signals) -> Result<Ended, Error> {
        let mut lost = std::pin::pin!(self.session.lost());
        let up = tokio::select! {
            up = self.bring_up(stdio) => up,
            lost = &mut lost => Err(lost.into()),
            received = signals.end() => return Ok(Ended { code: received.exit_code(), ran: false }),
        }?;
        Ok(Ended { code: Box::pin(self.attend(up, lost, signals)).await?, ran: true })
    }

    async fn bring_up(&self, stdio: Stdio) -> Result<Up, Error> {
        let RunSettings { app, net, hold, .. } = self.settings;
        let reporter = self.console.reporter();
        let proxy = self.session.begin().await?;
        // The pod's name is its host name; it is known as soon as the pod exists.
        let scheduled = proxy.wait_scheduled(SCHEDULED_WITHIN, |_| {});
        let sidecar = async {
            let pod = scheduled.await?;
            let files = self.prepare_files(pod.mounts).await?;
            let hostname = net.hostname.clone().unwrap_or_else(|| hostname_of(self.session, pod.name));
            let sidecar = self.start_sidecar(hostname, files.volumes(), &reporter).await?;
            Ok::<_, Error>((sidecar, files))
        };
        let (attached, (sidecar, files)) = tokio::try_join!(self.session.attach(proxy.clone()), sidecar)?;
        let dressed = files.dress(app, self.session.pod());
        let entrusted = async {
            self.session.entrust(&attached).await;
            Ok(())
        };
        let (link, renewal, ()) = tokio::try_join!(
            self.session.link(&attached, self.engine, net, *hold),
            self.session.files(&attached, self.engine, &sidecar.id, files),
            entrusted
        )?;
        let env = environment::merged(environment::of_pod(&attached.pod, self.session.pod().original()), app, net);
        let step = reporter.step("app");
        let session = self.session.identity.id.as_str();
        let window = stdio.window();
        let created = self.engine.create_app(session, &sidecar, &dressed, env, window).await?;
        self.console.quiet_live(if app.tty { TerminalMode::Raw } else { TerminalMode::Cooked });
        let running = created.run(stdio).await?;
        step.done(format!("{} in container {}", app.image, &created.id()[..12.min(created.id().len())]));
        Ok(Up { attached, app: created, running, link, _renewal: renewal })
    }

    /// The volumes for the pod's files; admission has added to the pod what it adds.
    async fn prepare_files(&self, mounts: Vec<PodMount>) -> Result<PodFiles, Error> {
        let plan = files::plan_for(&files::live(mounts, self.session.pod()), self.settings)?;
        Ok(PodFiles::prepare(self.engine, self.session.identity.id.as_str(), plan).await?)
    }

    async fn start_sidecar(
        &self,
        hostname: String,
        volumes: Vec<(String, String)>,
        reporter: &Reporter,
    ) -> Result<Sidecar, Error> {
        let RunSettings { app, net, .. } = self.settings;
        let step = reporter.step("sidecar");
        let id = &self.session.identity.id;
        let spec = SidecarSpec {
            session: id.to_string(),
            name: format!("tpdocker-{id}"),
            hostname: Some(hostname.clone()),
            net: net.clone(),
            aliases: app.name.iter().cloned().collect(),
            run_dir: self.session.run_dir.shared(),
            volumes,
        };
        let sidecar = self.engine.start_sidecar(&spec).await?;
        let published: Vec<String> = net.publish.iter().map(ToString::to_string).collect();
        let published =
            if published.is_empty() { String::new() } else { format!(", publishes {}", published.join(", ")) };
        step.done(format!("container {}, host name {hostname}{published}", sidecar.name));
        Ok(sidecar)
    }

    /// From the app's start to its end: one loop puts the app, the swap and the signals in order.
    async fn attend(
        &self,
        up: Up,
        mut lost: Pin<&mut impl Future<Output = Lost>>,
        signals: &mut Signals,
    ) -> Result<u8, Error> {
        let Up { attached, app, mut running, link, _renewal } = up;
        let mut sidecar_ended = std::pin::pin!(link.sidecar_ended());
        let mut swap = std::pin::pin!(self.session.swap(&attached));
        let mut swapped = false;
        let mut reader_gone = std::pin::pin!(running.reader_gone());
        let mut reading = true;
        let mut ending = false;
        let mut deadline = std::pin::pin!(tokio::time::sleep(FAR));
        loop {
            tokio::select! {
                ended = running.wait() => {
                    // As long as there is a tunnel: who waits at its end for the app is taken along.
                    self.session.hand_over(&attached).await;
                    return Ok(self.ended(ended?));
                }
                outcome = &mut swap, if !swapped => match outcome {
                    Ok(()) => swapped = true,
                    Err(error) => {
                        self.session.hand_over(&attached).await;
                        stop(&app).await;
                        return Err(error);
                    }
                },
                lost = &mut lost => {
                    stop(&app).await;
                    return Err(lost.into());
                }
                lost = &mut sidecar_ended => {
                    stop(&app).await;
                    return Err(lost.into());
                }
                received = signals.next() => {
                    // As `docker compose up` has it: the second one does not wait.
                    let kill = ending && received.is_typed();
                    app.signal(if kill { "SIGKILL" } else { received.name() }).await?;
                    if received.ends() && !std::mem::replace(&mut ending, true) {
                        deadline.as_mut().reset(tokio::time::Instant::now() + STOP_GRACE);
                    }
                }
                () = &mut reader_gone, if reading => {
                    // As a shell would have it: whoever writes to a closed pipe ends.
                    reading = false;
                    app.signal(Received::Terminate.name()).await?;
                    deadline.as_mut().reset(tokio::time::Instant::now() + STOP_GRACE);
                }
                () = &mut deadline => {
                    app.signal("SIGKILL").await?;
                    deadline.as_mut().reset(tokio::time::Instant::now() + FAR);
                }
            }
        }
    }

    fn ended(&self, exit: Exit) -> u8 {
        match exit.fate {
            Fate::Ended => {}
            Fate::OutOfMemory => {
                self.console.reporter().warn("the app was out of memory, and the kernel killed it");
            }
            Fate::Removed => self.console.reporter().warn("somebody removed the app's container"),
        }
        exit.code
    }
}

/// Asks the app to end. What follows removes the container in any case; what matters is why.
async fn stop(app: &App) {
    if let Err(unstopped) = app.stop(STOP_GRACE).await {
        tracing::warn!(error = %unstopped, "the app was not asked to end");
    }
}

/// The pod's host name: its `hostname` field, else its name (cut to what a host name may have, as the kubelet does).
fn hostname_of(session: &Session, pod: String) -> String {
    let spec = session.pod().template.spec.as_ref();
    let own = spec.and_then(|spec| spec.hostname.clone());
    let name = own.unwrap_or(pod);
    name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()
}
