//! `tpdocker compose up` and `down`.
//!
//! `up` brings each session as far as a pod that can be asked for its environment, rewrites the project with it, and
//! starts Compose; the sidecars are Compose's containers then, and the tunnels are built as they appear. Each service
//! starts when its sidecar is healthy, which is when its tunnel carries traffic.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::time::timeout;

use super::undo;
use crate::compose::attach::{Attachment, sidecar_name};
use crate::compose::client::{Compose, ComposeError};
use crate::compose::extension::PodService;
use crate::compose::project::Project;
use crate::docker::{Engine, EngineError};
use crate::error::{Bug, Error};
use crate::event::Reporter;
use crate::image;
use crate::output::{Console, TerminalMode};
use crate::session::files::{self, PodFiles};
use crate::session::identity::Identity;
use crate::session::rundir::{self, Known};
use crate::session::signals::Signals;
use crate::session::{Attached, Session, ending, environment, find, proxy_of};
use crate::settings::{AppSpec, ClusterSettings, ComposeAction, ComposeSettings, Hold, NetSpec, VolumeChoice};

/// How long Compose may take from the end of a sidecar to its own, when it was Compose that stopped it: the time that
/// other containers have to stop, and some.
const COMPOSE_ENDS_WITHIN: Duration = Duration::from_secs(15);

/// Carries out `tpdocker compose …`.
pub async fn compose(settings: ComposeSettings, console: &Console) -> Result<u8, Error> {
    let compose = Compose::find(&settings).await?;
    let project = compose.project().await?;
    match settings.action {
        ComposeAction::Up => up(&settings, &compose, project, console).await,
        ComposeAction::Down => down(&compose, project.name()?, &console.reporter()).await,
    }
}

/// One service that runs as a pod.
struct Member {
    service: String,
    session: Session,
    hold: Hold,
    net: NetSpec,
    pod_volumes: BTreeMap<String, VolumeChoice>,
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
    let outcome = attend(&engine, compose, &mut project, &members, &mut signals, console).await;
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
    let services = project.pod_services()?;
    let name = project.name()?;
    let engine = Engine::connect().await?;
    engine.ensure_sidecar_image(reporter).await?;
    let mut members = Vec::new();
    for PodService { service, intent, init_containers, cluster, net, hold, grace, pod_volumes } in services {
        let cluster = ClusterSettings {
            context: cluster.context.or_else(|| settings.cluster.context.clone()),
            namespace: cluster.namespace.or_else(|| settings.cluster.namespace.clone()),
        };
        let found = Box::pin(find(&cluster, &intent, init_containers, reporter)).await?;
        // What is wrong with the choices shows here, before anything is changed.
        files::plan::plan(&files::declared(found.stance.pod()), &project.mounts_of(&service), &pod_volumes)?;
        let identity = Identity::new()?;
        let (deployment, notes) = proxy_of(&identity, &found.stance, settings.proxy_image.as_deref())?;
        for note in notes {
            reporter.notice(note.to_string());
        }
        let session = Session::new(identity, found, deployment, Some(name.to_owned()), reporter.clone())?;
        let session = session.taking_over(settings.take_over).restored_after(grace);
        members.push(Member { service, session, hold, net, pod_volumes });
    }
    Ok((engine, members))
}

/// From the first change to the end of `docker compose up`.
async fn attend(
    engine: &Engine,
    compose: &Compose<'_>,
    project: &mut Project,
    members: &[Member],
    signals: &mut Signals,
    console: &Console,
) -> Result<u8, Error> {
    let attached = tokio::select! {
        attached = try_join_all(members.iter().map(|member| async {
            let up = async {
                let proxy = member.session.begin().await?;
                let attached = member.session.attach(proxy).await?;
                member.session.entrust(&attached).await;
                Ok::<_, Error>(attached)
            };
            tokio::select! {
                up = up => up,
                lost = member.session.lost() => Err(lost.into()),
            }
        })) => attached?,
        received = signals.end() => return Ok(received.exit_code()),
    };
    let host_gateway = engine.has_host_gateway().await?;
    let mut files = Vec::new();
    for (member, attached) in members.iter().zip(&attached) {
        let (session, pod) = (member.session.identity.id.as_str(), member.session.pod());
        let mounts = files::live(attached.mounts.clone(), pod);
        let plan = files::plan::plan(&mounts, &project.mounts_of(&member.service), &member.pod_volumes)?;
        let prepared = PodFiles::prepare(engine, session, plan).await?;
        project.attach(&Attachment {
            service: &member.service,
            session: member.session.identity.id.as_str(),
            sidecar_image: image::sidecar().reference(),
            run_dir: &member.session.run_dir.shared(),
            hostname: &attached.pod.hostname,
            host_gateway,
            env: &environment::of_pod(&attached.pod, pod.original()),
            volumes: &prepared.volumes(),
            pod: &prepared.dress(&AppSpec::default(), pod),
        })?;
        files.push(prepared);
    }
    console.quiet_live(TerminalMode::Cooked);
    let mut child = compose.up(project).await?;
    let mut links = std::pin::pin!(keep_swapped(engine, members, &attached, files));
    let mut ending = false;
    loop {
        tokio::select! {
            status = child.wait() => {
                // The services have ended by themselves; their sidecars have not.
                hand_over(members, &attached).await;
                return exit_code(status);
            }
            end = &mut links => {
                // When Compose stops all of its containers it stops the sidecars among them, and ends.
                if let End::SidecarGone(_) = &end {
                    hand_over(members, &attached).await;
                    if let Ok(status) = timeout(COMPOSE_ENDS_WITHIN, child.wait()).await {
                        return exit_code(status);
                    }
                }
                stop(&mut child).await?;
                return Err(match end {
                    End::SidecarGone(error) => error.into(),
                    End::Failed(error) => error,
                });
            }
            received = signals.next() => {
                if received.ends() {
                    // Compose stops the sidecars with the rest.
                    hand_over(members, &attached).await;
                }
                send(&child, received.signal());
                if received.ends() && std::mem::replace(&mut ending, true) && received.is_typed() {
                    let sidecars: Vec<String> = members.iter().map(|member| sidecar_name(&member.service)).collect();
                    let services = project.services().filter(|service| !sidecars.iter().any(|sidecar| sidecar == service));
                    compose.kill(project, &services.map(str::to_owned).collect::<Vec<_>>()).await?;
                }
            }
        }
    }
}

/// Has who calls from now on wait for the originals.
async fn hand_over(members: &[Member], attached: &[Attached]) {
    join_all(members.iter().zip(attached).map(|(member, attached)| member.session.hand_over(attached))).await;
}

fn exit_code(status: io::Result<ExitStatus>) -> Result<u8, Error> {
    let status = status.map_err(ComposeError::Pipe)?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// Builds the tunnels as the sidecars appear, and swaps as the apps listen; then keeps the tunnels until one of the
/// sidecars is gone.
async fn keep_swapped(engine: &Engine, members: &[Member], attached: &[Attached], files: Vec<PodFiles>) -> End {
    let each = members.iter().zip(attached).zip(files).map(|((member, attached), files)| async move {
        let Member { session, net, hold, .. } = member;
        let sidecar = session.sidecar_of_compose(engine).await.map_err(End::Failed)?;
        // Before the link: the tunnel makes the sidecar healthy, and then Compose starts the app.
        let _renewal = session.files(attached, engine, &sidecar, files).await.map_err(End::Failed)?;
        let link = session.link(attached, engine, net, *hold).await.map_err(End::Failed)?;
        let swapped = async {
            session.swap(attached).await.map_err(End::Failed)?;
            std::future::pending::<Result<Infallible, End>>().await
        };
        tokio::select! {
            ended = swapped => ended,
            gone = link.sidecar_ended() => Err(End::SidecarGone(gone)),
            lost = session.lost() => Err(End::Failed(lost.into())),
        }
    });
    match try_join_all(each).await {
        Err(end) => end,
        Ok(_) => End::Failed(Bug::new("a Compose project without a session").into()),
    }
}

/// Why the tunnels of a project are not kept any more.
enum End {
    /// A container that is not ours to bring back.
    SidecarGone(EngineError),
    /// A tunnel or a swap.
    Failed(Error),
}

/// Passes a signal on to Compose, which stops its containers in order.
fn send(child: &Child, signal: Signal) {
    // It has no number any more once it has been waited for.
    if let Some(pid) = child.id()
        && let Err(error) = kill(Pid::from_raw(pid.cast_signed()), signal)
    {
        tracing::debug!(%error, "docker compose has ended already");
    }
}

async fn stop(child: &mut Child) -> Result<(), Error> {
    send(child, Signal::SIGTERM);
    child.wait().await.map_err(ComposeError::Pipe)?;
    Ok(())
}

/// Ends the sessions of the project, wherever they run on this machine, and then the project.
async fn down(compose: &Compose<'_>, project: &str, reporter: &Reporter) -> Result<u8, Error> {
    let ours = |known: &Known| known.alive && known.record.compose_project.as_deref() == Some(project);
    let sessions = rundir::sessions()?.into_iter().filter(ours);
    let ended = join_all(sessions.map(|known| ending::end(known.record, reporter))).await;
    compose.down().await?;
    for outcome in ended {
        outcome?;
    }
    Ok(0)
}
