//! What dead sessions have left, on this machine and in the namespace.

use std::collections::BTreeSet;

use super::Line;
use crate::cluster::{Cluster, ClusterError, Holder, Holders, Other, ProxyState, Scope};
use crate::docker::{Engine, EngineError, InEngine};
use crate::error::Code;
use crate::session::rundir::{self, RunDirError};

/// The lines about what is left; what cannot be asked has its line already.
pub(super) async fn check(cluster: Option<&Cluster>, engine: Option<&Engine>) -> Vec<Line> {
    let mut lines = Vec::new();
    let dead = match rundir::dead() {
        Ok(dead) => dead,
        Err(error) => {
            lines.push(Line::failed("directories", error));
            Vec::new()
        }
    };
    let sessions: BTreeSet<String> = dead.iter().map(|dead| dead.session.clone()).collect();
    lines.push(match cluster {
        Some(cluster) => in_namespace(cluster, &sessions).await.unwrap_or_else(|error| Line::failed("swaps", error)),
        None => Line::note("swaps", "not checked: it needs the cluster"),
    });
    lines.push(match engine {
        Some(engine) => in_engine(engine, &sessions).await.unwrap_or_else(|error| error),
        None => Line::note("containers", "not checked: it needs the engine"),
    });
    lines.push(if dead.is_empty() {
        Line::ok("directories", "none of a dead session")
    } else {
        let what = |dead: &rundir::Dead| match &dead.record {
            Some(record) => {
                format!("{} in namespace {}", record.told(), record.namespace)
            }
            None => format!("session {}", dead.session),
        };
        let paths: Vec<String> = dead.iter().map(|dead| dead.path.display().to_string()).collect();
        let whose: Vec<String> = dead.iter().map(what).collect();
        let text = format!("left by {}, whose process is gone: {}", whose.join("; "), paths.join(" "));
        Line::fix("directories", Code::Restore, text, stops(dead.iter().map(|dead| &dead.session)))
    });
    lines
}

/// What removes all that these sessions left on this machine, and puts back what they have a record of.
fn stops<'a>(sessions: impl Iterator<Item = &'a String>) -> String {
    let lines: Vec<String> = sessions.map(|session| format!("tpdocker stop {session}")).collect();
    lines.join("\n")
}

async fn in_namespace(cluster: &Cluster, dead: &BTreeSet<String>) -> Result<Line, ClusterError> {
    const CHECK: &str = "swaps";
    let Holders { swaps, others: swap_nothing, orphans } = cluster.holders(Scope::Namespace).await?;
    let sees_all = cluster.may_list_workloads().await?;
    let (mut left, mut cures, mut others) = (Vec::new(), Vec::new(), Vec::new());
    for Holder { workload, record, proxy } in &swaps {
        let text = format!("{workload} is swapped by {} since {}", record.owner, record.since);
        let why = if dead.contains(&record.session) {
            "its process on this machine is gone"
        } else if *proxy == ProxyState::Missing {
            "its proxy is gone"
        } else {
            others.push(text);
            continue;
        };
        left.push(format!("{text}, and {why}"));
        cures.push(format!("tpdocker restore -n {} {}/{}", workload.namespace, workload.kind.slug(), workload.name));
    }
    for Other { stance, session, owner, since, .. } in &swap_nothing {
        let text = format!("{owner} has a session, {stance}, since {since}");
        if dead.contains(session) {
            left.push(format!("{text}, and its process on this machine is gone"));
            cures.push(format!("tpdocker stop {session}"));
        } else {
            others.push(text);
        }
    }
    for proxy in &orphans {
        if sees_all || dead.contains(&proxy.session) {
            left.push(format!("Deployment `{}` is a proxy of no swap", proxy.name));
            cures.push(format!("kubectl -n {} delete deployment {}", cluster.namespace(), proxy.name));
        } else {
            others.push(format!("the proxy `{}` is of a workload that this login may not list", proxy.name));
        }
    }
    Ok(match (left.is_empty(), others.is_empty()) {
        (true, true) => Line::ok(CHECK, "none in the namespace"),
        (true, false) => Line::ok(CHECK, others.join("; ")),
        (false, _) => Line::fix(CHECK, Code::Restore, left.join("; "), cures.join("\n")),
    })
}

async fn in_engine(engine: &Engine, dead: &BTreeSet<String>) -> Result<Line, Line> {
    const CHECK: &str = "containers";
    let known = rundir::sessions().map_err(|error: RunDirError| Line::failed(CHECK, error))?;
    let found = engine.all_sessions().await.map_err(|error: EngineError| Line::failed(CHECK, error))?;
    let left = rundir::without_process(found, &known, dead);
    if left.is_empty() {
        return Ok(Line::ok(CHECK, "none of a dead session"));
    }
    let names = |of: fn(&InEngine) -> &Vec<String>| left.values().flat_map(of).cloned().collect::<Vec<_>>();
    let (containers, volumes) = (names(|left| &left.containers), names(|left| &left.volumes));
    let what = [("containers", containers), ("volumes", volumes)].into_iter().filter(|(_, names)| !names.is_empty());
    let what: Vec<String> =
        what.map(|(kind, names)| format!("{} {kind} ({})", names.len(), names.join(", "))).collect();
    let text = format!("{} of dead sessions", what.join(" and "));
    Ok(Line::fix(CHECK, Code::Restore, text, stops(left.keys())))
}
