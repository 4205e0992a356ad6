//! What happens to a cluster's machines: an eviction takes the proxy's pod, a kubelet that dies takes the port-forward, an
//! API server that hangs takes everything for a minute. The session finds its way to the proxy again.

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{
    NAMESPACE, PATIENCE, SERVICE_IMAGE, Tpdocker, assert_restored, docker, kubectl, output, post, staging, until,
    until_answered_by, world,
};
use crate::swap::{SWAP, swapped};

/// The container that is the test cluster's node.
const NODE: &str = "tpdocker-staging-node";
const OUTAGE: Duration = Duration::from_mins(1);
/// Listens where thing2 does as soon as it is told to.
const LATE: &str = "import pathlib, socket, time\n\
    while not pathlib.Path('/tmp/go').exists(): time.sleep(0.05)\n\
    s = socket.create_server(('', 9090)); time.sleep(600)";

/// Whether the nodes may be touched: only those of the test cluster.
fn nodes_are_ours() -> bool {
    let ours = std::env::var_os("TPDOCKER_TEST_KUBECONFIG").is_none();
    if !ours {
        println!("skipped: the nodes of another cluster are not ours");
    }
    ours
}

/// An API server that is stopped, until this is dropped.
struct Stopped;

impl Stopped {
    fn now() -> Self {
        signal("STOP", "kube-apiserver");
        Self
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal("CONT", "kube-apiserver");
    }
}

fn signal(name: &str, program: &str) {
    output(Command::new("docker").args(["exec", NODE, "pkill", &format!("-{name}"), "-x", program]));
}

/// Waits until everything in the namespace has been ready for a while: the pods of a kubelet that starts, or of a node of
/// which nothing was heard, count as unready for a moment.
fn settled() {
    const LONG_ENOUGH: Duration = Duration::from_secs(8);
    let mut since = Instant::now();
    until("the example to be ready, and to stay so", PATIENCE, || {
        let form = "-o=jsonpath={range .items[*]}{.metadata.name} {.spec.replicas}={.status.readyReplicas} {end}";
        let all = kubectl(&["get", "deployments", form]);
        let ready = |pair: &str| pair.split_once('=').is_none_or(|(wanted, ready)| wanted == ready);
        if !all.split(' ').all(ready) {
            since = Instant::now();
        }
        if since.elapsed() > LONG_ENOUGH { Ok(()) } else { Err(all) }
    });
}

#[test]
fn a_proxy_that_is_evicted_is_replaced_and_the_session_goes_on() {
    let _staging = staging();
    let before = world();
    let session = swapped();
    let pod = kubectl(&["get", "pods", "-l", "tpdocker.dev/role=proxy", "-o=jsonpath={.items[0].metadata.name}"]);
    // From 1.22 on there is `v1`, and from 1.25 on nothing else.
    let versions = kubectl(&["api-versions"]);
    let version = if versions.lines().any(|line| line == "policy/v1") { "policy/v1" } else { "policy/v1beta1" };
    let eviction = serde_json::json!({"apiVersion": version, "kind": "Eviction",
        "metadata": {"name": pod, "namespace": NAMESPACE}});
    post(&format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"), &eviction);
    session.says("tunnel lost");
    session.says("tunnel back");
    until_answered_by("laptop");
    session.interrupt().code(0);
    assert_restored(&before);
}

#[test]
fn a_session_outlives_the_kubelet_of_its_proxys_node() {
    if !nodes_are_ours() {
        return;
    }
    let _staging = staging();
    let before = world();
    let session = swapped();
    // The node starts it again.
    signal("KILL", "kubelet");
    session.says("tunnel lost");
    session.says("tunnel back");
    until_answered_by("laptop");
    session.interrupt().code(0);
    assert_restored(&before);
    settled();
}

#[test]
fn a_minute_without_the_api_server_is_outlived_by_a_session_a_swap_and_an_end() {
    if !nodes_are_ours() {
        return;
    }
    let _staging = staging();
    let before = world();
    let late = "tpdocker-e2e-late";
    let session = Tpdocker::start(&SWAP);
    let ends = Tpdocker::start(&["run", "--swap", "thing1", "-n", NAMESPACE, "--rm", SERVICE_IMAGE]);
    let flags = ["run", "--swap", "thing2", "-n", NAMESPACE, "--rm", "--name", late, "--entrypoint", "python3"];
    let swaps = Tpdocker::start(&[&flags[..], &[SERVICE_IMAGE, "-c", LATE]].concat());
    session.says("is answered here");
    ends.says("is answered here");
    swaps.says("in container ");

    let (stopped, since) = (Stopped::now(), Instant::now());
    docker(&["exec", late, "touch", "/tmp/go"]);
    ends.signal(Signal::SIGINT);
    session.says("tunnel lost");
    ends.says("the cluster does not answer; trying until it does");
    std::thread::sleep(OUTAGE.saturating_sub(since.elapsed()));
    drop(stopped);

    let ended = ends.wait().code(0);
    assert!(ended.stderr.contains("thing1 is back"), "{}", ended.stderr);
    swaps.says("is answered here");
    swaps.interrupt();
    session.says("tunnel back");
    until_answered_by("laptop");
    session.interrupt().code(0);
    assert_restored(&before);
    settled();
}
