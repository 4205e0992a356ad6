//! What happens to a pod's node: an eviction takes the proxy's pod, a kubelet that dies takes the port-forward. The
//! session finds its way to the proxy again.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{
    NAMESPACE, PATIENCE, SERVICE_IMAGE, Tpdocker, apply, assert_restored, get_from_a_pod, kubectl, kubectl_in, output,
    post, staging, until, until_answered_by, world,
};
use crate::swap::swapped;

/// The container that is the test cluster's node.
const NODE: &str = "tpdocker-staging-node";

/// Whether the cluster is somebody's whose node is not to be touched.
pub fn are_not_ours() -> bool {
    let given = std::env::var_os("TPDOCKER_TEST_KUBECONFIG").is_some();
    if given {
        println!("skipped: the nodes of another cluster are not ours");
    }
    given
}

/// The test cluster's API server, stopped for everybody until this is dropped.
pub struct StoppedApiServer {
    /// The process that would start it again.
    supervisor: String,
}

impl StoppedApiServer {
    pub fn stop() -> Self {
        // A test that is killed starts nothing again; the node does so by itself after a while.
        let script = "server=$(pgrep -x kube-apiserver) && supervisor=$(ps -o ppid= -p \"$server\") \
            && { sh -c 'sleep 300; kill -CONT \"$0\"' $supervisor >/dev/null 2>&1 & } \
            && kill -STOP $supervisor && kill -KILL \"$server\" && echo $supervisor";
        let supervisor = output(Command::new("docker").args(["exec", NODE, "sh", "-c", script]));
        Self { supervisor: supervisor.trim().to_owned() }
    }
}

impl Drop for StoppedApiServer {
    fn drop(&mut self) {
        output(Command::new("docker").args(["exec", NODE, "kill", "-CONT", &self.supervisor]));
    }
}

/// Waits until a new Deployment is made, runs, and answers by its Service's name: everybody who takes part in that has heard
/// of the API server again, which they ask ever more rarely while it is away.
pub fn until_the_cluster_works() {
    const NAME: &str = "tpdocker-e2e-works";
    /// The components of Kubernetes pause for up to a minute.
    const CAUGHT_UP: Duration = Duration::from_mins(3);
    until("the API server to answer", CAUGHT_UP, || {
        let asked =
            kubectl_in(NAMESPACE).args(["get", "--raw", "/readyz"]).output().map_err(|error| error.to_string())?;
        if asked.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&asked.stderr).into_owned()) }
    });
    let serve = [
        "python3",
        "-c",
        "import http.server as h; h.HTTPServer(('', 8080), type('H', (h.BaseHTTPRequestHandler,), \
        {'do_GET': lambda s: (s.send_response(200), s.end_headers(), s.wfile.write(b'1'))})).serve_forever()",
    ];
    let labels = json!({"app": NAME});
    let container = json!({"name": "works", "image": SERVICE_IMAGE, "imagePullPolicy": "Never", "command": serve});
    let pod = json!({"containers": [container], "terminationGracePeriodSeconds": 0});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": NAME},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME},
        "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]}});
    apply(&json!({"apiVersion": "v1", "kind": "List", "items": [deployment, service]}).to_string());
    until("a new Service to be answered", CAUGHT_UP, || get_from_a_pod(&format!("http://{NAME}/")).map(drop));
    kubectl(&["delete", "deployment,service", NAME, "--cascade=foreground"]);
}

/// Waits until everything in the namespace has been ready for a while: the pods of a kubelet that starts count as unready
/// for a moment.
pub fn settled() {
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

/// The proxy's pod, as the session has said it.
pub fn pod_of(session: &Tpdocker) -> String {
    let said = session.stderr();
    let pod = said.split_once(" pod ").and_then(|(_, rest)| rest.split_once(" on "));
    pod.expect("the proxy's line").0.to_owned()
}

/// As a drain of its node does.
pub fn evict(pod: &str) {
    // From 1.22 on there is `v1`, and from 1.25 on nothing else.
    let versions = kubectl(&["api-versions"]);
    let version = if versions.lines().any(|line| line == "policy/v1") { "policy/v1" } else { "policy/v1beta1" };
    let eviction = serde_json::json!({"apiVersion": version, "kind": "Eviction",
        "metadata": {"name": pod, "namespace": NAMESPACE}});
    post(&format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"), &eviction);
}

#[test]
fn a_proxy_that_is_evicted_is_replaced_and_the_session_goes_on() {
    let _staging = staging();
    let before = world();
    let session = swapped();
    evict(&pod_of(&session));
    session.says("tunnel lost");
    session.says("tunnel back");
    until_answered_by("laptop");
    session.interrupt().code(0);
    assert_restored(&before);
}

#[test]
fn a_session_outlives_the_kubelet_of_its_proxys_node() {
    if are_not_ours() {
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
