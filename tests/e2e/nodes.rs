//! What happens to a pod's node: an eviction takes the proxy's pod, a kubelet that dies takes the port-forward. The
//! session finds its way to the proxy again.

use std::process::Command;

use crate::support::{
    NAMESPACE, SERVICE_IMAGE, Tpdocker, assert_restored, kubectl, output, post, staging, until_answered_by, world,
};

const SWAP: [&str; 9] = ["run", "--swap", "servicename", "-n", NAMESPACE, "--rm", "-e", "COPY=laptop", SERVICE_IMAGE];
/// The container that is the test cluster's node.
const NODE: &str = "tpdocker-staging-node";

#[test]
fn a_proxy_that_is_evicted_is_replaced_and_the_session_goes_on() {
    let _staging = staging();
    let before = world();
    let session = Tpdocker::start(&SWAP);
    session.says("is answered here");
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
    let session = Tpdocker::start(&SWAP);
    session.says("is answered here");
    // The node starts it again.
    output(Command::new("docker").args(["exec", NODE, "pkill", "-KILL", "-x", "kubelet"]));
    session.says("tunnel lost");
    session.says("tunnel back");
    until_answered_by("laptop");
    session.interrupt().code(0);
    assert_restored(&before);
}
