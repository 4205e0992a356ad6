//! What others do to the workload during a session: each is noticed, said and not fought, and what they set stays.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Ended, PATIENCE, SERVICE_IMAGE, Tpdocker, docker, kubectl_in, output, staging, until};

const IMAGE: &str = "examplecom/thing:latest";
const NAMESPACE: &str = "tpdocker-e2e-others";
const SERVE: [&str; 4] = ["-u", "-m", "http.server", "8080"];
const GENERATION: &str = "-o=jsonpath={.metadata.generation}";
/// Between two looks of a controller that wants its number back.
const RECONCILES_EVERY: Duration = Duration::from_millis(50);

/// A namespace with the Deployment `web` of two pods behind the Service `web`; deleted when dropped.
struct Namespace;

impl Namespace {
    fn new(annotations: &Value) -> Self {
        let this = Self;
        apply(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } }));
        until("the default service account", PATIENCE, || {
            let names = kubectl(&["get", "serviceaccounts", "-o", "name"]);
            if names.contains("default") { Ok(()) } else { Err(names) }
        });
        let app = json!({ "app": "web" });
        let container = json!({
            "name": "web", "image": IMAGE, "imagePullPolicy": "Never",
            "command": ["python3", SERVE[0], SERVE[1], SERVE[2], SERVE[3]],
            "ports": [{ "name": "http", "containerPort": 8080 }],
            "readinessProbe": { "tcpSocket": { "port": 8080 }, "periodSeconds": 1 },
        });
        apply(&json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web", "annotations": annotations },
            "spec": { "replicas": 2, "selector": { "matchLabels": app }, "template": {
                "metadata": { "labels": app },
                "spec": { "terminationGracePeriodSeconds": 1, "containers": [container] },
            } },
        }));
        apply(&json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" },
            "spec": { "selector": app, "ports": [{ "port": 80, "targetPort": "http" }] },
        }));
        kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
        this
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        kubectl(&["delete", "namespace", NAMESPACE, "--ignore-not-found"]);
    }
}

fn kubectl(arguments: &[&str]) -> String {
    output(kubectl_in(NAMESPACE).args(arguments))
}

fn apply(object: &Value) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, object.to_string().as_bytes()).unwrap();
    kubectl(&["apply", "-f", file.path().to_str().unwrap()]);
}

fn replicas() -> String {
    kubectl(&["get", "deployment", "web", "-o=jsonpath={.spec.replicas}"])
}

/// A session that swaps `web`, and its id, once the Service is answered here. Its app ends well when it is interrupted.
fn swapped() -> (Tpdocker, String) {
    let session = Tpdocker::start(&line());
    session.says("service web is answered here");
    let id = id_of(&session.stderr());
    (session, id)
}

fn line() -> Vec<&'static str> {
    let flags = ["run", "--swap", "web", "-n", NAMESPACE, "--rm", "--init", "--entrypoint", "python3", SERVICE_IMAGE];
    [&flags[..], &SERVE].concat()
}

/// The session that its record step tells of.
fn id_of(stderr: &str) -> String {
    let told = stderr.lines().find_map(|line| Some(line.split_once("record")?.1.split_once("session ")?.1)).unwrap();
    told.split_whitespace().next().unwrap().to_owned()
}

/// How many pods the Service sends to.
fn answer(pods: usize) {
    until("the right number of endpoints", PATIENCE, || {
        let names = kubectl(&["get", "endpoints", "web", "-o=jsonpath={.subsets[*].addresses[*].targetRef.name}"]);
        if names.split_whitespace().count() == pods { Ok(()) } else { Err(names) }
    });
}

fn says_once(ended: &Ended, text: &str) {
    assert_eq!(ended.stderr.matches(text).count(), 1, "{text:?} in: {}", ended.stderr);
}

/// Nothing of the session is left in the engine.
fn nothing_is_left_in_docker(session: &str) {
    let label = format!("label=tpdocker.dev/session={session}");
    assert_eq!(docker(&["ps", "-aq", "--filter", &label]), "");
    assert_eq!(docker(&["volume", "ls", "-q", "--filter", &label]), "");
}

/// And nothing in the namespace, but for a pod that ends.
fn nothing_is_left(session: &str) {
    nothing_is_left_in_docker(session);
    assert_eq!(kubectl(&["get", "deployments", "-l", "tpdocker.dev/session", "-o", "name"]), "");
    let annotations = kubectl(&["get", "deployments", "-o=jsonpath={.items[*].metadata.annotations}"]);
    assert!(!annotations.contains("tpdocker.dev"), "{annotations}");
    until("the proxy's pod to be gone", PATIENCE, || {
        let pods = kubectl(&["get", "pods", "-l", "tpdocker.dev/session", "-o", "name"]);
        if pods.is_empty() { Ok(()) } else { Err(pods) }
    });
}

#[test]
fn who_scales_the_original_up_is_told_of_and_decides_how_many_come_back() {
    let _staging = staging();
    let _namespace = Namespace::new(&json!({}));
    let (session, id) = swapped();
    answer(1);
    kubectl(&["scale", "deployment", "web", "--replicas=3"]);
    session
        .says(" scaled Deployment `web` back to 3: its pods answer service web beside this session. That is left as");
    session.says(&format!("kubectl -n {NAMESPACE} scale deployment/web --replicas=0"));
    answer(4);
    assert_eq!(replicas(), "3");
    let ended = session.interrupt().code(0);
    says_once(&ended, " scaled Deployment ");
    says_once(&ended, "web is back, 3/3 ready, as somebody has set it (it had 2), proxy deleted");
    assert_eq!(replicas(), "3");
    answer(3);
    nothing_is_left(&id);
}

#[test]
fn a_controller_that_scales_back_is_told_of_before_and_once_then_and_the_session_goes_on_beside_it() {
    let _staging = staging();
    let _namespace = Namespace::new(&json!({ "argocd.argoproj.io/tracking-id": "shop:apps/Deployment:ns/web" }));
    kubectl(&["autoscale", "deployment", "web", "--min=2", "--max=5"]);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                if replicas() != "2" {
                    kubectl(&["patch", "deployment", "web", "-p", r#"{"spec":{"replicas":2}}"#]);
                }
                std::thread::sleep(RECONCILES_EVERY);
            }
        });
        // Also when what follows fails.
        let _stop = Raised(&ended);
        let (session, id) = swapped();
        session.says(" scaled Deployment `web` back to 2: its pods answer service web beside this session");
        answer(3);
        let ended = session.interrupt().code(0);
        says_once(&ended, "it belongs to Argo CD's Application `shop`, which may scale it back");
        says_once(&ended, "HorizontalPodAutoscaler `web` (2 to 5) targets it: it pauses while the original is at 0");
        says_once(&ended, " scaled Deployment ");
        says_once(&ended, "web is back, 2/2 ready, proxy deleted");
        nothing_is_left(&id);
    });
    assert_eq!(replicas(), "2");
    answer(2);
}

/// Sets a flag at its end.
struct Raised<'a>(&'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn an_edit_of_the_original_is_told_and_the_original_comes_back_with_it() {
    let _staging = staging();
    let _namespace = Namespace::new(&json!({}));
    let (session, id) = swapped();
    kubectl(&["set", "env", "deployment/web", "NEW=yes"]);
    session.says(
        " changed the pod template of Deployment `web`: this session goes on with the environment and files of the one \
         before; the change stays, and the original comes back with it",
    );
    assert_eq!(replicas(), "0");
    let ended = session.interrupt().code(0);
    says_once(&ended, " changed the pod template ");
    says_once(&ended, "web is back, 2/2 ready, proxy deleted");
    assert_eq!(replicas(), "2");
    // The proxy's pods are the workload's to kubectl as long as they are there.
    nothing_is_left(&id);
    assert_eq!(kubectl(&["exec", "deploy/web", "--", "printenv", "NEW"]), "yes\n");
}

#[test]
fn a_quota_that_the_original_uses_up_is_said_and_nothing_is_swapped() {
    let _staging = staging();
    let _namespace = Namespace::new(&json!({}));
    kubectl(&["create", "quota", "full", "--hard=pods=2"]);
    let counted = "-o=jsonpath={.status.used.pods}";
    until("the quota to be counted", PATIENCE, || match kubectl(&["get", "resourcequota", "full", counted]) {
        used if used == "2" => Ok(()),
        used => Err(used),
    });
    let (before, command) = (kubectl(&["get", "deployment", "web", GENERATION]), line());
    let ended = Tpdocker::start(&command).wait().code(84);
    assert!(ended.stderr.contains("exceeded quota: full"), "{}", ended.stderr);
    says_once(&ended, "web is back, 2/2 ready, proxy deleted");
    answer(2);
    nothing_is_left(&id_of(&ended.stderr));
    // The server counts the record's coming and going.
    let after = kubectl(&["get", "deployment", "web", GENERATION]);
    assert_eq!(after.parse::<u32>().unwrap(), before.parse::<u32>().unwrap() + 2, "it was scaled");
}

#[test]
fn the_end_of_the_workload_or_of_its_namespace_is_the_end_of_the_session() {
    let _staging = staging();
    for what in [["deployment", "web"], ["namespace", NAMESPACE]] {
        let _namespace = Namespace::new(&json!({}));
        let (session, id) = swapped();
        let deleted = kubectl_in(NAMESPACE).args(["delete", "--wait=false"]).args(what).status();
        assert!(deleted.unwrap().success());
        let ended = session.wait().code(82);
        says_once(
            &ended,
            "error: somebody else deleted Deployment `web`, so this session stands in for nothing any more",
        );
        says_once(&ended, "web is gone, proxy deleted");
        nothing_is_left_in_docker(&id);
        until("the proxy and its pod to be gone", PATIENCE, || {
            let left = kubectl(&["get", "deployments,pods", "-l", "tpdocker.dev/session", "-o", "name"]);
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
    }
}
