//! What a session will do, as data: computed from the settings and what was found, printed by `--dry-run`, and carried
//! out in this order otherwise.

use std::fmt::Write as _;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use serde::Serialize;
use tpdocker_protocol::contract::ANNOTATION_SWAP;

use crate::cluster::{Facts, Likeness, Note, PodModel, Stance, Workload};
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
    /// What the session is to the workloads there.
    pub stance: &'a Stance,
    /// The proxy, as it would be created, and what is different about its pod.
    pub proxy: (Deployment, Vec<Note>),
    /// The user's container.
    pub app: &'a AppSpec,
    /// Its network.
    pub net: &'a NetSpec,
    /// How long after its client is gone the proxy restores by itself, if it may.
    pub letter: Option<Duration>,
    /// The pod's files, as the workload declares them.
    pub files: &'a FilesPlan,
}

/// The plan of `tpdocker run`.
pub fn plan(found: Found<'_>) -> Plan {
    let Found { cluster, stance, proxy: (proxy, notes), app, net, letter, files } = found;
    let name = proxy.metadata.name.clone().unwrap_or_default();
    let step = |step, does: String| PlanStep { step, does };
    let mut steps = vec![step("cluster", cluster.to_string()), step("workload", describe(stance))];
    let made = match stance {
        Stance::Swap(Workload { replicas: number, .. }) => {
            let record = format!("annotate it with {ANNOTATION_SWAP}: session, owner, {}", replicas(*number));
            steps.push(step("record", record));
            "from its pod template"
        }
        Stance::Like(_) => "from its pod template, without its labels and ports",
        Stance::Outgoing { .. } => "with nothing but the proxy in it",
    };
    steps.extend([
        step("proxy", format!("create deployment/{name} {made}, wait for its pod")),
        step("sidecar", sidecar(net)),
        step("files", mounts(files)),
        step("tunnel", "port-forward to the proxy, admission by the session's key".into()),
    ]);
    if let (Some(grace), Stance::Swap(_)) = (letter, stance) {
        let objects = format!("create serviceaccount/{name}, role/{name} and rolebinding/{name}");
        let what = "so that the proxy restores by itself when this process is gone for";
        steps.push(step("letter", format!("{objects}, {what} {grace:?}")));
    }
    steps.push(step(
        "app",
        format!("run {} in the sidecar's network namespace with the pod's environment and files", app.image),
    ));
    match stance {
        Stance::Swap(Workload { pod, replicas: number, .. }) => steps.extend([
            step("swap", format!("when the app listens on {}: scale the original to 0", ports(pod))),
            step("restore", format!("at the end: scale back to {}, delete the proxy", replicas(*number))),
        ]),
        Stance::Like(_) | Stance::Outgoing { .. } => {
            steps.push(step("restore", "at the end: delete the proxy; nothing is swapped".to_owned()));
        }
    }
    let notes = notes.iter().map(ToString::to_string).chain(files.notices.iter().cloned());
    Plan { steps, notes: notes.collect(), proxy }
}

impl Plan {
    /// For a person.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for PlanStep { step, does } in &self.steps {
            let _infallible = writeln!(text, "{step:<10}{does}");
        }
        for note in &self.notes {
            let _infallible = writeln!(text, "{:<10}{note}", "note");
        }
        text
    }
}

/// What is swapped, or that nothing is.
pub fn describe(stance: &Stance) -> String {
    match stance {
        Stance::Swap(workload) => swapped(workload),
        Stance::Like(Likeness { pod, .. }) => {
            format!("{}, container {}; nothing is swapped, and no traffic taken", stance.told(), pod.container)
        }
        Stance::Outgoing { .. } => format!("{}; nothing is swapped", stance.told()),
    }
}

/// `deployment/servicename, 2 replicas, container servicename, ports 8080/tcp, service servicename`.
fn swapped(workload: &Workload) -> String {
    let mut text = format!(
        "{}/{}, {}, container {}, ports {}",
        workload.reference.kind.slug(),
        workload.reference.name,
        replicas(workload.replicas),
        workload.pod.container,
        ports(&workload.pod)
    );
    if !workload.services.is_empty() {
        let _infallible = write!(text, ", service {}", workload.services.join(", "));
    }
    text
}

/// `8080/tcp, 9090/tcp`, or `none`.
pub fn ports(pod: &PodModel) -> String {
    match &pod.ports[..] {
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
        let _infallible = write!(text, ", publish {published}");
    }
    if !net.networks.is_empty() {
        let _infallible = write!(text, ", networks {}", net.networks.join(", "));
    }
    for network in &net.bypass {
        let _infallible = write!(text, ", {network} reached directly");
    }
    for port in &net.host_ports {
        let _infallible =
            write!(text, ", localhost:{} leads to the laptop's localhost:{}", port.container_port, port.host_port);
    }
    text
}
