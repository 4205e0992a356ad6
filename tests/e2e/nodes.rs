//! What happens to a pod's node: an eviction takes the proxy's pod, a kubelet that dies takes the port-forward. The
//! session finds its way to the proxy again.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{
    NAMESPACE, PATIENCE, assert_restored, kubectl, output, post, staging, until, until_answered_by, world,
};
use crate::swap::swapped;

/// The container that is the test cluster's node.
const NODE: &str = "tpdocker-staging-node";
/// Waits until everything in the namespace has been ready for a while: the pods of a kubelet that starts count as unready
/// for a moment.
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
    if std::env::var_os("TPDOCKER_TEST_KUBECONFIG").is_some() {
        println!("skipped: the nodes of another cluster are not ours");
        return;
    }
    let _staging = staging();
    let before = world();
    let session = swapped();
    // The node starts it again.
    output(Command::new("docker").args(["exec", NODE, "pkill", "-KILL", "-x", "kubelet"]));
    session.says("tunnel lost");
    session.says("tunnel back");
    until_answered_by("laptop");
    session.interrupt().code(0);
    assert_restored(&before);
    settled();
}
