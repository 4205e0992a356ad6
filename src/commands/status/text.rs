//! The status for people: a table for each thing there is something of, and a sentence where there is nothing.

use std::fmt::Write as _;

use super::{ClusterStatus, Machine, MachineSession, Status};

/// Between two columns.
const GAP: &str = "  ";

impl Status {
    /// For a person.
    pub(super) fn to_text(&self) -> String {
        let mut parts = self.machine.parts();
        match &self.cluster {
            Some(cluster) => parts.extend(cluster.parts()),
            None => parts.push("The cluster could not be asked\n".into()),
        }
        parts.join("\n")
    }
}

impl Machine {
    fn parts(&self) -> Vec<String> {
        let mut parts = Vec::new();
        if self.sessions.is_empty() {
            parts.push("This machine has no session\n".into());
        } else {
            let rows = self.sessions.iter().map(|session| session.row(self.engine));
            let mut part = table(
                "Sessions of this machine",
                ["SESSION", "STATE", "NAMESPACE", "WORKLOAD", "CONTAINERS"],
                rows.collect(),
            );
            if self.sessions.iter().any(|session| !session.alive) {
                part.push_str("  `tpdocker stop SESSION` cleans up after one that died\n");
            }
            parts.push(part);
        }
        if !self.strangers.is_empty() {
            let rows = self.strangers.iter().map(|container| {
                [&container.session, &container.name, &container.role, &container.status].map(Clone::clone)
            });
            let title = "Containers of sessions that this user has no record of";
            let part = table(title, ["SESSION", "CONTAINER", "ROLE", "STATUS"], rows.collect());
            parts.push(part + "  `tpdocker stop --all` removes those of dead ones\n");
        }
        parts
    }
}

impl MachineSession {
    fn row(&self, engine: bool) -> [String; 5] {
        let state = if self.alive { format!("process {}", self.pid) } else { "died".into() };
        let containers = self.containers.iter().map(|it| format!("{} ({}, {})", it.name, it.role, it.status));
        let containers = match (engine, self.containers.is_empty()) {
            (false, _) => "unknown: the engine does not answer".into(),
            (true, true) => "none".into(),
            (true, false) => containers.collect::<Vec<_>>().join(", "),
        };
        [self.session.clone(), state, self.namespace.clone(), self.workload.clone(), containers]
    }
}

impl ClusterStatus {
    fn parts(&self) -> Vec<String> {
        let place = match &self.namespace {
            Some(namespace) => format!("namespace {namespace} of context {}", self.context),
            None => format!("context {}", self.context),
        };
        let mut parts = Vec::new();
        if self.swaps.is_empty() {
            parts.push(format!("Nothing is swapped in {place}\n"));
        } else {
            let rows = self.swaps.iter().map(|swap| {
                let (replicas, proxy) = (swap.replicas.to_string(), swap.proxy_state.to_string());
                [&swap.namespace, &swap.workload, &swap.since, &swap.owner, &swap.session, &replicas, &proxy]
                    .map(Clone::clone)
            });
            let heads = ["NAMESPACE", "WORKLOAD", "SINCE", "BY", "SESSION", "BACK TO", "PROXY"];
            parts.push(table(&format!("Swapped in {place}"), heads, rows.collect()));
        }
        if !self.others.is_empty() {
            let rows = self.others.iter().map(|other| {
                let proxy = other.proxy_state.to_string();
                [&other.namespace, &other.session, &other.stance, &other.since, &other.owner, &proxy].map(Clone::clone)
            });
            let heads = ["NAMESPACE", "SESSION", "WHAT", "SINCE", "BY", "PROXY"];
            parts.push(table(&format!("Sessions that swap nothing in {place}"), heads, rows.collect()));
        }
        if !self.orphans.is_empty() {
            let rows =
                self.orphans.iter().map(|orphan| [&orphan.namespace, &orphan.name, &orphan.session].map(Clone::clone));
            let title = "Proxies of nobody";
            let part = table(title, ["NAMESPACE", "DEPLOYMENT", "SESSION"], rows.collect());
            parts.push(part + "  `tpdocker restore --all` removes them\n");
        }
        parts
    }
}

/// A title, and below it the rows in columns as wide as their widest cell.
fn table<const N: usize>(title: &str, heads: [&str; N], rows: Vec<[String; N]>) -> String {
    let mut all = vec![heads.map(str::to_owned)];
    all.extend(rows);
    let mut widths = [0; N];
    for row in &all {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = format!("{title}\n");
    for row in &all {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            let _infallible = write!(line, "{GAP}{cell:<width$}");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
