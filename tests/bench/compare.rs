//! `make bench`: the same measurement through `kubectl port-forward`, through tpdocker, and inside of the cluster.
//!
//! The arms take turns, round after round, so that a busy machine is busy for all of them; medians over the rounds are
//! printed, and the ratio of tpdocker to port-forward. The load (`tests/support/load.rs`) is the same static program on
//! every arm: in a container beside the sidecar for tpdocker, on the host for port-forward, in a pod for `in the
//! cluster`. What the bench needs in the cluster, it makes in a namespace of its own, which is gone after it.

#[path = "../e2e/support.rs"]
#[allow(dead_code, reason = "shared with the end-to-end tests, which use all of it")]
mod support;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use support::{PATIENCE, Tpdocker, docker, kubectl_in, load_proxy_image, output, repo, until};

const NAMESPACE: &str = "tpdocker-bench";
const IMAGE: &str = "tpdocker-test/load:latest";
/// Where the load is answered.
const SERVER: &str = "load";
const PORT: &str = "7000";
/// What is swapped.
const CLIENT: &str = "load-client";

/// One row of the table: its name, where its number is in the measurement, its unit, and whether more is better.
const ROWS: [(&str, &str, &str, bool); 7] = [
    ("one stream down", "/down", "MB/s", true),
    ("one stream up", "/up", "MB/s", true),
    ("new connection p50", "/new/0", "ms", false),
    ("new connection p99", "/new/1", "ms", false),
    ("keep-alive p50", "/keep/0", "ms", false),
    ("keep-alive p99", "/keep/1", "ms", false),
    ("new connections, 16 threads", "/rate", "1/s", true),
];

fn main() {
    let rounds = std::env::var("TPDOCKER_BENCH_ROUNDS").map_or(3, |text| text.parse().expect("a number of rounds"));
    let program = build();
    let place = Place::make();
    let mut arms: [(&str, Vec<Value>); 3] =
        [("port-forward", vec![]), ("tpdocker", vec![]), ("in the cluster", vec![])];
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        arms[0].1.push(through_port_forward(&program));
        arms[1].1.push(place.through_tpdocker());
        arms[2].1.push(in_the_cluster());
        for (name, rounds) in &arms {
            eprintln!("  {name}: {}", rounds[round - 1]);
        }
    }
    print(&arms);
}

/// Builds the program and its image, and loads the image into the cluster, and that of the proxy.
fn build() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("load");
    std::fs::create_dir_all(&directory).expect("a directory for the image");
    let program = directory.join("load");
    output(
        Command::new("rustc")
            .args(["--edition", "2024", "--target"])
            .arg(format!("{}-unknown-linux-musl", std::env::consts::ARCH))
            .args(["-O", "-o"])
            .arg(&program)
            .arg(repo("tests/support/load.rs")),
    );
    std::fs::write(directory.join("Dockerfile"), "FROM scratch\nCOPY load /load\nENTRYPOINT [\"/load\"]\n")
        .expect("a Dockerfile");
    docker(&["build", "-q", "-t", IMAGE, directory.to_str().expect("UTF-8")]);
    output(Command::new(repo("tests/cluster/load")).arg(IMAGE));
    load_proxy_image();
    program
}

fn kubectl(arguments: &[&str]) -> String {
    output(kubectl_in(NAMESPACE).args(arguments))
}

/// The namespace with the server and the workload that is swapped, and a directory for tpdocker; gone when dropped.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn make() -> Self {
        let place = Self { directory: tempfile::tempdir().expect("a temporary directory") };
        // What an interrupted bench left behind.
        delete_namespace();
        kubectl(&["create", "namespace", NAMESPACE]);
        let manifest = place.directory.path().join("bench.json");
        let deployment = |name: &str| {
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
                        "name": "load", "image": IMAGE, "imagePullPolicy": "Never", "args": ["serve", PORT],
                    }]},
                },
            }})
        };
        let port: u16 = PORT.parse().expect("a port");
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": SERVER},
            "spec": {"selector": {"app": SERVER}, "ports": [{"port": port}]}});
        let list =
            json!({"apiVersion": "v1", "kind": "List", "items": [deployment(SERVER), deployment(CLIENT), service]});
        std::fs::write(&manifest, list.to_string()).expect("a manifest");
        kubectl(&["apply", "-f", manifest.to_str().expect("UTF-8")]);
        for name in [SERVER, CLIENT] {
            kubectl(&["rollout", "status", &format!("deployment/{name}"), "--timeout=60s"]);
        }
        place
    }

    fn through_tpdocker(&self) -> Value {
        let address = format!("{SERVER}:{PORT}");
        let arguments = ["run", "--swap", CLIENT, "-n", NAMESPACE, "--rm", IMAGE, "measure", &address];
        let mut command = Tpdocker::command(&arguments);
        let session = Tpdocker::spawn(command.env("XDG_RUNTIME_DIR", self.directory.path()));
        parse(&session.wait().code(0).stdout)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        delete_namespace();
    }
}

fn delete_namespace() {
    kubectl(&["delete", "namespace", NAMESPACE, "--ignore-not-found"]);
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn in_the_cluster() -> Value {
    let workload = format!("deployment/{CLIENT}");
    kubectl(&["rollout", "status", &workload, "--timeout=60s"]);
    // The proxy's pod has the original's labels, and is leaving still.
    let selector = format!("app={CLIENT},!tpdocker.dev/session");
    let pod = kubectl(&["get", "pods", "-l", &selector, "-o", "name"]);
    parse(&kubectl(&["exec", pod.trim(), "--", "/load", "measure", &format!("{SERVER}:{PORT}")]))
}

struct PortForward(Child);

impl Drop for PortForward {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).expect("kubectl ends");
    }
}

fn through_port_forward(program: &Path) -> Value {
    let mut child = kubectl_in(NAMESPACE)
        .args(["port-forward", &format!("deployment/{SERVER}"), &format!(":{PORT}")])
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped"));
    let _forward = PortForward(child);
    let mut line = String::new();
    lines.read_line(&mut line).expect("a line of kubectl");
    let address = line.split_whitespace().nth(2).unwrap_or_else(|| panic!("kubectl said {line:?}")).to_owned();
    // It prints a line for each connection, and stops when nobody reads them.
    std::thread::spawn(move || lines.lines().for_each(drop));
    until("the forwarded port", PATIENCE, || std::net::TcpStream::connect(&address).map_err(|error| error.to_string()));
    parse(&output(Command::new(program).args(["measure", &address])))
}

fn print(arms: &[(&str, Vec<Value>); 3]) {
    println!("{:<34}{:>14}{:>14}{:>16}   tpdocker / port-forward", "median", arms[0].0, arms[1].0, arms[2].0);
    for (name, pointer, unit, more_is_better) in ROWS {
        let [forward, ours, inside] = [0, 1, 2].map(|arm: usize| median(&arms[arm].1, pointer));
        let verdict = if (ours >= forward) == more_is_better { "better" } else { "worse" };
        println!(
            "{:<34}{forward:>14.2}{ours:>14.2}{inside:>16.2}   {:.2} {verdict}",
            format!("{name}, {unit}"),
            ours / forward
        );
    }
}

fn median(rounds: &[Value], pointer: &str) -> f64 {
    let mut numbers: Vec<f64> = rounds.iter().filter_map(|round| round.pointer(pointer)?.as_f64()).collect();
    assert!(!numbers.is_empty(), "no measurement has {pointer}");
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
