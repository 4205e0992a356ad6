//! `tpdocker compose up` and `down`.
//!
//! `up` brings each session as far as a pod that can be asked for its environment, rewrites the project with it, and
//! starts Compose; the sidecars are Compose's containers then, and the tunnels are built as they appear. Each service
//! starts when its sidecar is healthy, which is when its tunnel carries traffic.

use std::time::{Duration, Instant};

use futures_util::future::{join_all, try_join_all};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Child;

use super::undo;
use crate::compose::client::{Compose, ComposeError};
use crate::compose::project::{Attachment, Project, SwapService, sidecar_name};
use crate::docker::Engine;
use crate::error::{Code, Error, Explain};
use crate::event::Reporter;
use crate::image;
use crate::output::{Console, TerminalMode};
use crate::session::identity::Identity;
use crate::session::rundir::{self, SessionRecord};
use crate::session::signals::Signals;
use crate::session::{Attached, Session, environment, find, proxy_of};
use crate::settings::{ClusterSettings, ComposeAction, ComposeSettings, Hold};

/// How long `down` waits for a session in another terminal: a restore waits for the original's pods.
const SESSION_ENDS_WITHIN: Duration = Duration::from_mins(4);
/// Between two looks whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A session in another terminal does not end.
#[derive(Debug, thiserror::Error)]
#[error("session {session} (process {pid}) was asked to end and does not")]
struct StillThere {
    session: String,
    pid: u32,
}

impl Explain for StillThere {
    fn code(&self) -> Code {
        Code::Restore
    }
}

/// Carries out `tpdocker compose …`.
pub async fn compose(settings: ComposeSettings, console: &Console) -> Result<u8, Error> {
    let compose = Compose::new(&settings);
    let project = compose.project().await?;
    match settings.action {
        ComposeAction::Up => up(&settings, &compose, project, console).await,
        ComposeAction::Down => down(&compose, project.name()?, &console.reporter()).await,
    }
}

/// One swapped service.
struct Member {
    service: String,
    session: Session,
    hold: Hold,
}

async fn up(
    settings: &ComposeSettings,
    compose: &Compose<'_>,
    mut project: Project,
    console: &Console,
) -> Result<u8, Error> {
    let reporter = console.reporter();
    let mut signals = Signals::take()?;
    let prepared = tokio::select! {
        prepared = prepare(settings, &project, &reporter) => prepared?,
        received = signals.end() => return Ok(received.exit_code()),
    };
    let (engine, members) = prepared;
    let outcome = attend(compose, &mut project, &members, &mut signals, console).await;
    console.resume();
    let services: Vec<String> = members
        .iter()
        .flat_map(|member| [member.service.clone(), sidecar_name(&member.service)])
        // An `up` that ended early has no sidecars yet.
        .filter(|service| project.has(service))
        .collect();
    // Compose knows the containers as its own and says goodbye to them; what it leaves goes by its label.
    let mut undone = compose.remove(&project, &services).await;
    for member in &members {
        let one = undo::containers_and_swap(&engine, &member.session, false, &mut signals, &reporter).await;
        undone = undo::conclude(console, undone, one.map_err(Error::from));
    }
    undo::conclude(console, outcome, undone)
}

/// Everything that can be found out before anything is changed.
async fn prepare(
    settings: &ComposeSettings,
    project: &Project,
    reporter: &Reporter,
) -> Result<(Engine, Vec<Member>), Error> {
    let swaps = project.swaps()?;
    let name = project.name()?;
    let engine = Engine::connect().await?;
    engine.ensure_sidecar_image(reporter).await?;
    let mut members = Vec::new();
    for SwapService { service, swap, cluster, hold } in swaps {
        let cluster = ClusterSettings {
            context: cluster.context.or_else(|| settings.cluster.context.clone()),
            namespace: cluster.namespace.or_else(|| settings.cluster.namespace.clone()),
        };
        let found = find(&cluster, &swap, reporter).await?;
        let identity = Identity::new()?;
        let (deployment, notes) = proxy_of(&identity, &found.workload, settings.proxy_image.as_deref())?;
        for note in notes {
            reporter.notice(note.to_string());
        }
        let session = Session::new(identity, found, deployment, Some(name.to_owned()), reporter.clone())?;
        members.push(Member { service, session, hold });
    }
    Ok((engine, members))
}

/// From the first change to the end of `docker compose up`.
async fn attend(
    compose: &Compose<'_>,
    project: &mut Project,
    members: &[Member],
    signals: &mut Signals,
    console: &Console,
) -> Result<u8, Error> {
    let attached = tokio::select! {
        attached = try_join_all(members.iter().map(|member| async {
            let proxy = member.session.begin().await?;
            member.session.attach(proxy).await
        })) => attached?,
        received = signals.end() => return Ok(received.exit_code()),
    };
    for (member, attached) in members.iter().zip(&attached) {
        project.attach(&Attachment {
            service: &member.service,
            session: member.session.identity.id.as_str(),
            sidecar_image: image::sidecar().reference(),
            run_dir: &member.session.run_dir.shared(),
            hostname: &attached.pod.hostname,
            env: &environment::of_pod(&attached.pod, member.session.original()),
        })?;
    }
    console.quiet_live(TerminalMode::Cooked);
    let mut child = compose.up(project).await?;
    let mut links = std::pin::pin!(keep_swapped(members, &attached));
    let mut linked = false;
    loop {
        tokio::select! {
            status = child.wait() => {
                let status = status.map_err(ComposeError::Pipe)?;
                return Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1));
            }
            outcome = &mut links, if !linked => {
                linked = true;
                if let Err(error) = outcome {
                    stop(&mut child).await?;
                    return Err(error);
                }
            }
            received = signals.next() => send(&child, received.name()),
        }
    }
}

/// Builds the tunnels as the sidecars appear, and swaps as the apps listen; then keeps the tunnels until dropped.
async fn keep_swapped(members: &[Member], attached: &[Attached]) -> Result<(), Error> {
    let each = members.iter().zip(attached).map(|(member, attached)| async {
        let link = member.session.link(attached, false, member.hold).await?;
        member.session.swap(attached).await?;
        Ok::<_, Error>(link)
    });
    let _links = try_join_all(each).await?;
    std::future::pending().await
}

/// Passes a signal on to Compose, which stops its containers in order on the first and at once on the second.
fn send(child: &Child, name: &str) {
    let signal = name.parse::<Signal>().ok();
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    if let (Some(signal), Some(pid)) = (signal, pid)
        && let Err(error) = kill(Pid::from_raw(pid), signal)
    {
        tracing::debug!(%error, "docker compose has ended already");
    }
}

async fn stop(child: &mut Child) -> Result<(), Error> {
    send(child, "SIGTERM");
    child.wait().await.map_err(ComposeError::Pipe)?;
    Ok(())
}

/// Ends the sessions of the project, wherever they run on this machine, and then the project.
async fn down(compose: &Compose<'_>, project: &str, reporter: &Reporter) -> Result<u8, Error> {
    let sessions = rundir::sessions()?.into_iter().filter(|record| record.compose_project.as_deref() == Some(project));
    let ended = join_all(sessions.map(|record| end(record, reporter))).await;
    compose.down().await?;
    for outcome in ended {
        outcome?;
    }
    Ok(0)
}

async fn end(record: SessionRecord, reporter: &Reporter) -> Result<(), Error> {
    let step = reporter.step("session");
    let asked = Instant::now();
    record.ask_to_end()?;
    step.progress(format!("waiting for process {} to put {} back", record.pid, record.workload));
    while record.is_alive()? {
        if asked.elapsed() > SESSION_ENDS_WITHIN {
            return Err(StillThere { session: record.session, pid: record.pid }.into());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    step.done(format!("{} has ended, {} is back", record.session, record.workload));
    Ok(())
}
