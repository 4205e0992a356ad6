//! `make bench`: the same measurement through `kubectl port-forward`, through tpdocker, and inside of the cluster.
//!
//! The arms take turns, round after round, so that a busy machine is busy for all of them; medians over the rounds are
//! printed, and the ratio of tpdocker to port-forward. The load (`tests/support/load.rs`) is the same static program on
//! every arm: in a container beside the sidecar for tpdocker, on the host for port-forward, in the pod for `in the pod`.

#[path = "../e2e/support.rs"]
#[allow(dead_code, reason = "shared with the end-to-end tests, which use all of it")]
mod support;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use support::{NAMESPACE, PATIENCE, Tpdocker, docker, kubectl, output, repo, until};

const IMAGE: &str = "tpdocker-test/load:latest";
const PORT: &str = "7000";

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
    let _server = Server::start();
    let mut arms: [(&str, Vec<Value>); 3] = [("port-forward", vec![]), ("tpdocker", vec![]), ("in the pod", vec![])];
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        arms[0].1.push(through_port_forward(&program));
        arms[1].1.push(through_tpdocker());
        arms[2].1.push(in_the_pod());
    }
    print(&arms.map(|(name, rounds)| (name, rounds)));
}

/// Builds the program and its image, and loads the image into the cluster.
fn build() -> std::path::PathBuf {
    let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("load");
    std::fs::create_dir_all(&directory).expect("a directory for the image");
    let program = directory.join("load");
    output(
        Command::new("rustc")
            .args(["--edition", "2024", "--target", "x86_64-unknown-linux-musl", "-O", "-o"])
            .arg(&program)
            .arg(repo("tests/support/load.rs")),
    );
    std::fs::write(directory.join("Dockerfile"), "FROM scratch\nCOPY load /load\nENTRYPOINT [\"/load\"]\n")
        .expect("a Dockerfile");
    docker(&["build", "-q", "-t", IMAGE, directory.to_str().expect("UTF-8")]);
    output(Command::new(repo("tests/cluster/load")).arg(IMAGE));
    program
}

/// The server's pod and Service, gone when dropped.
struct Server;

impl Server {
    fn start() -> Self {
        drop(Self);
        kubectl(&["run", "load", "--image", IMAGE, "--image-pull-policy=Never", "--port", PORT, "--", "serve", PORT]);
        kubectl(&["expose", "pod", "load", "--port", PORT]);
        kubectl(&["wait", "--for=condition=Ready", "pod/load", "--timeout=60s"]);
        Self
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        kubectl(&["delete", "pod,service", "load", "--ignore-not-found", "--now"]);
    }
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn in_the_pod() -> Value {
    parse(&kubectl(&["exec", "load", "--", "/load", "measure", "load:7000"]))
}

fn through_tpdocker() -> Value {
    let arguments = ["run", "--swap", "servicename", "-n", NAMESPACE, "--rm", IMAGE, "measure", "load:7000"];
    parse(&Tpdocker::run(&arguments).code(0).stdout)
}

struct PortForward(Child);

impl Drop for PortForward {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).expect("kubectl ends");
    }
}

fn through_port_forward(program: &std::path::Path) -> Value {
    let own = repo("target/staging/bin/kubectl");
    let kubectl = if own.exists() { own } else { "kubectl".into() };
    let mut child = Command::new(kubectl)
        .arg("--kubeconfig")
        .arg(support::kubeconfig())
        .args(["-n", NAMESPACE, "port-forward", "pod/load", &format!(":{PORT}")])
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
    println!("{:<30}{:>14}{:>14}{:>14}   tpdocker / port-forward", "median", arms[0].0, arms[1].0, arms[2].0);
    for (name, pointer, unit, more_is_better) in ROWS {
        let [forward, ours, pod] = [0, 1, 2].map(|arm: usize| median(&arms[arm].1, pointer));
        let verdict = if (ours >= forward) == more_is_better { "better" } else { "worse" };
        println!(
            "{:<30}{forward:>14.2}{ours:>14.2}{pod:>14.2}   {:.2} {verdict}",
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
