//! `tpdocker status`: what this machine runs, and who holds what in the cluster.
//!
//! Three that are asked, of which any may be away: the records on this machine, the engine, the cluster. What can be
//! seen is shown in any case; what could not be asked is said, and is the exit code.

mod text;

use std::collections::BTreeSet;

use serde::Serialize;
use tpdocker_protocol::contract::ROLE_SIDECAR;

use super::undo;
use crate::cluster::{Cluster, ClusterError, Holders, Orphan, Other, ProxyState, Scope};
use crate::docker::{Engine, EngineError, SessionContainer};
use crate::error::Error;
use crate::output::{Console, result};
use crate::session::rundir::{self, Known};
use crate::settings::{OutputFormat, StatusSettings};

/// All of it, as `--output json` prints it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    machine: Machine,
    /// `None` when it could not be asked.
    cluster: Option<ClusterStatus>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Machine {
    sessions: Vec<MachineSession>,
    /// The engine answered; otherwise nothing is known about containers.
    engine: bool,
    /// Containers whose session has no record of this user here.
    strangers: Vec<SessionContainer>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct MachineSession {
    session: String,
    pid: u32,
    alive: bool,
    workload: String,
    namespace: String,
    context: String,
    compose_project: Option<String>,
    containers: Vec<SessionContainer>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ClusterStatus {
    context: String,
    /// `None` for all of them.
    namespace: Option<String>,
    swaps: Vec<Swap>,
    /// Sessions that swap nothing.
    others: Vec<Other>,
    orphans: Vec<Orphan>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Swap {
    namespace: String,
    workload: String,
    session: String,
    owner: String,
    since: String,
    replicas: i32,
    proxy: String,
    proxy_state: ProxyState,
}

/// Carries out `tpdocker status`.
pub async fn status(settings: StatusSettings, output: OutputFormat, console: &Console) -> Result<u8, Error> {
    let known = rundir::sessions()?;
    let (containers, cluster) = tokio::join!(containers(), cluster(&settings));
    let (containers, no_engine) = apart(containers);
    let (cluster, no_cluster) = apart(cluster);
    let status = Status { machine: Machine::of(known, containers), cluster };
    result::report(output, &status, || status.to_text())?;
    undo::conclude(console, no_engine.map_or(Ok(0), Err), no_cluster.map_or(Ok(()), Err))
}

fn apart<T, E: Into<Error>>(outcome: Result<T, E>) -> (Option<T>, Option<Error>) {
    match outcome {
        Ok(value) => (Some(value), None),
        Err(error) => (None, Some(error.into())),
    }
}

async fn containers() -> Result<Vec<SessionContainer>, EngineError> {
    Engine::connect().await?.session_containers().await
}

async fn cluster(settings: &StatusSettings) -> Result<ClusterStatus, ClusterError> {
    let cluster = Cluster::connect(&settings.cluster).await?;
    let scope = if settings.all_namespaces { Scope::Everywhere } else { Scope::Namespace };
    let Holders { swaps, others, orphans } = cluster.holders(scope).await?;
    let swaps = swaps.into_iter().map(|holder| Swap {
        namespace: holder.workload.namespace,
        workload: format!("{}/{}", holder.workload.kind.slug(), holder.workload.name),
        session: holder.record.session,
        owner: holder.record.owner,
        since: holder.record.since,
        replicas: holder.record.replicas,
        proxy: holder.record.proxy,
        proxy_state: holder.proxy,
    });
    Ok(ClusterStatus {
        context: cluster.facts().context.clone(),
        namespace: (scope == Scope::Namespace).then(|| cluster.namespace().to_owned()),
        swaps: swaps.collect(),
        others,
        orphans,
    })
}

impl Machine {
    fn of(known: Vec<Known>, containers: Option<Vec<SessionContainer>>) -> Self {
        let engine = containers.is_some();
        let mut strangers = containers.unwrap_or_default();
        let sessions = known.into_iter().map(|Known { record, alive }| {
            let own = strangers.extract_if(.., |container| container.session == record.session).collect();
            MachineSession {
                session: record.session,
                pid: record.pid,
                alive,
                workload: record.workload,
                namespace: record.namespace,
                context: record.context,
                compose_project: record.compose_project,
                containers: own,
            }
        });
        let sessions = sessions.collect();
        // `docker run` without `--rm` keeps its container, and so does a session that ended well: no session is that.
        let at_work: BTreeSet<String> = strangers
            .iter()
            .filter(|container| container.running || container.role == ROLE_SIDECAR)
            .map(|container| container.session.clone())
            .collect();
        strangers.retain(|container| at_work.contains(&container.session));
        Self { sessions, engine, strangers }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::rundir::SessionRecord;

    fn known(session: &str, alive: bool) -> Known {
        Known { record: SessionRecord::example(session), alive }
    }

    fn container(session: &str, role: &str) -> SessionContainer {
        SessionContainer {
            session: session.into(),
            role: role.into(),
            name: format!("tpdocker-{session}"),
            image: "img".into(),
            running: true,
            status: "Up 3 minutes".into(),
        }
    }

    fn swap(state: ProxyState) -> Swap {
        Swap {
            namespace: "staging".into(),
            workload: "deployment/web".into(),
            session: "alive".into(),
            owner: "ann@laptop".into(),
            since: "2026-01-02T03:04:05Z".into(),
            replicas: 2,
            proxy: "web-tpdocker-alive".into(),
            proxy_state: state,
        }
    }

    #[test]
    fn each_container_is_shown_with_its_session_or_as_a_strangers() {
        let kept = SessionContainer { running: false, ..container("ended", "app") };
        let containers = vec![container("alive", "sidecar"), kept, container("other", "app")];
        let machine = Machine::of(vec![known("alive", true), known("dead", false)], Some(containers));
        assert_eq!(machine.sessions[0].containers, [container("alive", "sidecar")]);
        assert_eq!(machine.sessions[1].containers, []);
        assert_eq!(machine.strangers, [container("other", "app")]);
        let cluster = ClusterStatus {
            context: "dev".into(),
            namespace: Some("staging".into()),
            swaps: vec![swap(ProxyState::Attached)],
            others: vec![Other {
                namespace: "staging".into(),
                stance: "like deployment/web".into(),
                session: "beside".into(),
                owner: "bob@desk".into(),
                since: "2026-01-02T03:04:06Z".into(),
                proxy: "web-tpdocker-beside".into(),
                proxy_state: ProxyState::NotReady,
            }],
            orphans: vec![Orphan {
                namespace: "staging".into(),
                name: "api-tpdocker-gone".into(),
                session: "gone".into(),
            }],
        };
        let text = Status { machine, cluster: Some(cluster) }.to_text();
        let expected = "\
Sessions of this machine
  SESSION  STATE         NAMESPACE  WORKLOAD        CONTAINERS
  alive    process 4711  staging    deployment/web  tpdocker-alive (sidecar, Up 3 minutes)
  dead     died          staging    deployment/web  none
  `tpdocker stop SESSION` cleans up after one that died

Containers of sessions that this user has no record of
  SESSION  CONTAINER       ROLE  STATUS
  other    tpdocker-other  app   Up 3 minutes
  `tpdocker stop --all` removes those of dead ones

Swapped in namespace staging of context dev
  NAMESPACE  WORKLOAD        SINCE                 BY          SESSION  BACK TO  PROXY
  staging    deployment/web  2026-01-02T03:04:05Z  ann@laptop  alive    2        attached

Sessions that swap nothing in namespace staging of context dev
  NAMESPACE  SESSION  WHAT                 SINCE                 BY        PROXY
  staging    beside   like deployment/web  2026-01-02T03:04:06Z  bob@desk  not attached, or its app does not listen

Proxies of nobody
  NAMESPACE  DEPLOYMENT         SESSION
  staging    api-tpdocker-gone  gone
  `tpdocker restore --all` removes them
";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_could_not_be_asked_is_said_and_not_shown_as_nothing() {
        let machine = Machine::of(vec![known("alive", true)], None);
        let status = Status { machine, cluster: None };
        let text = status.to_text();
        assert!(text.contains("deployment/web  unknown: the engine does not answer\n"), "{text}");
        assert!(text.ends_with("\nThe cluster could not be asked\n"), "{text}");
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!((&json["machine"]["engine"], &json["cluster"]), (&false.into(), &serde_json::Value::Null));
        assert_eq!(json["machine"]["sessions"][0]["alive"], true);
    }

    #[test]
    fn nothing_at_all_is_said_in_words() {
        let machine = Machine::of(Vec::new(), Some(Vec::new()));
        let cluster = ClusterStatus {
            context: "dev".into(),
            namespace: None,
            swaps: Vec::new(),
            others: Vec::new(),
            orphans: Vec::new(),
        };
        let text = Status { machine, cluster: Some(cluster) }.to_text();
        assert_eq!(text, "This machine has no session\n\nNothing is swapped in context dev\n");
    }
}
