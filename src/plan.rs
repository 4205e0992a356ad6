//! What a session will do, as data: computed from the settings and what was found, printed by `--dry-run`, and carried
//! out in this order otherwise.

use std::fmt::Write as _;

use k8s_openapi::api::apps::v1::Deployment;
use serde::Serialize;
use tpdocker_protocol::contract::ANNOTATION_SWAP;

use crate::cluster::{Facts, Note, Workload};
use crate::session::files::plan::FilesPlan;
use crate::settings::{AppSpec, NetSpec};

/// A session's plan.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// The steps, in order.
    pub steps: Vec<PlanStep>,
    /// What is different about the proxy's pod.
    pub notes: Vec<String>,
    /// The object that is created in the cluster.
    pub proxy: Deployment,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlanStep {
    /// Its name; the same as on the terminal when it is carried out.
    pub step: &'static str,
    /// What it does.
    pub does: String,
}

/// What the plan is made from.
#[derive(Debug)]
pub struct Found<'a> {
    /// The cluster.
    pub cluster: &'a Facts,
    /// What is swapped.
    pub workload: &'a Workload,
    /// The proxy, as it would be created, and what is different about its pod.
    pub proxy: (Deployment, Vec<Note>),
    /// The user's container.
    pub app: &'a AppSpec,
    /// Its network.
    pub net: &'a NetSpec,
    /// The pod's files, as the workload declares them.
    pub files: &'a FilesPlan,
}

/// The plan of `tpdocker run`.
pub fn plan(found: Found<'_>) -> Plan {
    let Found { cluster, workload, proxy: (proxy, notes), app, net, files } = found;
    let original = describe(workload);
    let name = proxy.metadata.name.clone().unwrap_or_default();
    let step = |step, does: String| PlanStep { step, does };
    let steps = vec![
        step("cluster", cluster.to_string()),
        step("workload", original.clone()),
        step("record", format!("annotate it with {ANNOTATION_SWAP}: session, owner, {}", replicas(workload.replicas))),
        step("proxy", format!("create deployment/{name} from its pod template, wait for its pod")),
        step("sidecar", sidecar(net)),
        step("files", mounts(files)),
        step("tunnel", "port-forward to the proxy, admission by the session's key".into()),
        step(
            "app",
            format!("run {} in the sidecar's network namespace with the pod's environment and files", app.image),
        ),
        step("swap", format!("when the app listens on {}: scale the original to 0", ports(workload))),
        step("restore", format!("at the end: scale back to {}, delete the proxy", replicas(workload.replicas))),
    ];
    let notes = notes.iter().map(ToString::to_string).chain(files.notices.iter().cloned());
    Plan { steps, notes: notes.collect(), proxy }
}

impl Plan {
    /// For a person.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for PlanStep { step, does } in &self.steps {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{step:<10}{does}");
        }
        for note in &self.notes {
            let _ = writeln!(text, "{:<10}{note}", "note");
        }
        text
    }
}

/// `deployment/servicename, 2 replicas, container servicename, ports 8080/tcp, service servicename`.
pub fn describe(workload: &Workload) -> String {
    let mut text = format!(
        "{}/{}, {}, container {}, ports {}",
        workload.reference.kind.slug(),
        workload.reference.name,
        replicas(workload.replicas),
        workload.container,
        ports(workload)
    );
    if !workload.services.is_empty() {
        let _ = write!(text, ", service {}", workload.services.join(", "));
    }
    text
}

/// `8080/tcp, 9090/tcp`, or `none`.
pub fn ports(workload: &Workload) -> String {
    match &workload.ports[..] {
        [] => "none".into(),
        ports => ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn mounts(files: &FilesPlan) -> String {
    let paths = files.mounts.iter().map(|mount| &mount.path).chain(files.laptop.iter().map(|mount| &mount.target));
    let paths: Vec<&str> = paths.map(String::as_str).collect();
    let declared = if paths.is_empty() { String::new() } else { format!("{}, and ", paths.join(", ")) };
    format!("mount {declared}what admission adds to the pod, such as a token, at the same paths")
}

fn replicas(number: i32) -> String {
    if number == 1 { "1 replica".into() } else { format!("{number} replicas") }
}

fn sidecar(net: &NetSpec) -> String {
    let mut text = String::from("start it with NET_ADMIN and NET_RAW only");
    for published in &net.publish {
        let _ = write!(text, ", publish {published}");
    }
    if !net.networks.is_empty() {
        let _ = write!(text, ", networks {}", net.networks.join(", "));
    }
    for network in &net.bypass {
        let _ = write!(text, ", {network} reached directly");
    }
    for port in &net.host_ports {
        let _ = write!(text, ", localhost:{} leads to the laptop's localhost:{}", port.container_port, port.host_port);
    }
    text
}
