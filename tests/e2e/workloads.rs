//! Every kind of workload, in a namespace of its own: those that are swapped, with all that a pod template may say, and
//! those that cannot be, with the answer that helps.

use std::io::Write;

use serde_json::{Value, json};

use crate::support::{PATIENCE, SERVICE_IMAGE, Tpdocker, kubectl_in, output, staging, until};

/// Answers with which copy it is; finds the pod's host alias; is not root.
const SERVE: &str = "import http.server, os, socket\n\
    assert os.getuid() == 65534 and socket.gethostbyname('legacy.example') == '10.9.8.7'\n\
    class H(http.server.BaseHTTPRequestHandler):\n\
    \x20   def do_GET(self):\n\
    \x20       self.send_response(200); self.end_headers(); self.wfile.write(os.environ['COPY'].encode())\n\
    \x20   def log_message(self, *_): pass\n\
    http.server.ThreadingHTTPServer(('', 8080), H).serve_forever()";
const IMAGE: &str = "examplecom/thing:latest";
const NAMESPACE: &str = "tpdocker-e2e-workloads";

/// The namespace, and the volume that a claim in it gets; deleted when dropped.
struct Namespace;

impl Namespace {
    /// With these objects in it, the only Pod with Python and time to spare among them.
    fn with(objects: &[Value]) -> Self {
        let this = Self;
        apply(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } }));
        until("the default service account", PATIENCE, || {
            let names = kubectl(&["get", "serviceaccounts", "-o", "name"]);
            if names.contains("default") { Ok(()) } else { Err(names) }
        });
        // With a token it would be refused until the controller has made one (before Kubernetes 1.24).
        let spec = json!({ "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false, "containers": [sleeper()] });
        let caller = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "caller", "labels": { "app": "caller" } }, "spec": spec });
        for object in objects.iter().chain([&caller]) {
            apply(object);
        }
        kubectl(&["wait", "pod/caller", "--for=condition=Ready", "--timeout=60s"]);
        this
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        kubectl(&["delete", "namespace", NAMESPACE, "--ignore-not-found"]);
        kubectl(&["delete", "persistentvolume", NAMESPACE, "--ignore-not-found"]);
    }
}

fn kubectl(arguments: &[&str]) -> String {
    output(kubectl_in(NAMESPACE).args(arguments))
}

fn apply(object: &Value) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(object.to_string().as_bytes()).unwrap();
    kubectl(&["apply", "-f", file.path().to_str().unwrap()]);
}

fn sleeper() -> Value {
    json!({ "name": "main", "image": IMAGE, "imagePullPolicy": "Never", "command": ["sleep", "3600"],
            "env": [{ "name": "GREETING", "value": "hello" }] })
}

/// A Service of this name, headless or not, in front of the pods with that label.
fn service(name: &str, more: &Value) -> Value {
    let mut spec = json!({ "selector": { "app": name }, "ports": [{ "port": 8080 }] });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name }, "spec": spec })
}

/// A workload whose template says all that one may: two containers and one before them, a root that is read-only, no
/// root user, and everything that decides where it runs and whom it knows.
fn workload(kind: &str, name: &str, more: &Value) -> Value {
    let data = json!([{ "name": "data", "mountPath": "/data" }]);
    let born = "cd /data && { [ -e born ] || cat /proc/sys/kernel/random/uuid > born; } && chmod 644 born";
    let template = json!({
        "metadata": { "labels": { "app": name } },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "nodeSelector": { "kubernetes.io/os": "linux" },
            "tolerations": [{ "key": "dedicated", "operator": "Exists" }],
            "imagePullSecrets": [{ "name": "registry" }],
            "hostAliases": [{ "ip": "10.9.8.7", "hostnames": ["legacy.example"] }],
            "securityContext": { "runAsNonRoot": true, "runAsUser": 65534 },
            "initContainers": [{
                "name": "prepare", "image": IMAGE, "imagePullPolicy": "Never", "command": ["sh", "-c", born],
                "securityContext": { "runAsNonRoot": false, "runAsUser": 0 }, "volumeMounts": data,
            }],
            "containers": [sleeper(), {
                "name": "app", "image": IMAGE, "imagePullPolicy": "Never", "command": ["python3", "-c", SERVE],
                "env": [{ "name": "COPY", "value": "cluster" }],
                "ports": [{ "name": "http", "containerPort": 8080 }],
                "securityContext": { "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false },
                "readinessProbe": { "tcpSocket": { "port": 8080 }, "periodSeconds": 1 },
                "volumeMounts": data,
            }],
        },
    });
    let mut spec = json!({ "replicas": 1, "selector": { "matchLabels": { "app": name } }, "template": template });
    match kind {
        "StatefulSet" => {
            let claim = json!({ "storageClassName": NAMESPACE, "accessModes": ["ReadWriteOnce"],
                                "resources": { "requests": { "storage": "1Mi" } } });
            spec["volumeClaimTemplates"] = json!([{ "metadata": { "name": "data" }, "spec": claim }]);
        }
        _ => spec["template"]["spec"]["volumes"] = json!([{ "name": "data", "emptyDir": {} }]),
    }
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "apiVersion": "apps/v1", "kind": kind, "metadata": { "name": name }, "spec": spec })
}

/// Which copy answers at `host`, for a container of a pod.
fn copy_for(pod: &str, container: &str, host: &str) -> Result<String, String> {
    let script =
        format!("import urllib.request as u; print(u.urlopen('http://{host}:8080/', timeout=5).read().decode())");
    let arguments = ["exec", pod, "-c", container, "--", "python3", "-c", &script];
    let asked = kubectl_in(NAMESPACE).args(arguments).output().unwrap();
    if asked.status.success() {
        Ok(String::from_utf8_lossy(&asked.stdout).trim().to_owned())
    } else {
        Err(String::from_utf8_lossy(&asked.stderr).into_owned())
    }
}

/// Which copy answers at `host`, for a pod.
fn copy_at(host: &str) -> Result<String, String> {
    copy_for("caller", "main", host)
}

fn answers(host: &str, copy: &str) {
    until(&format!("{copy} to answer as {host}"), PATIENCE, || match copy_at(host) {
        Ok(answer) if answer == copy => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// Everything of a workload that a session could have left changed.
fn state(kind: &str, name: &str) -> Value {
    let mut state: Value = serde_json::from_str(&kubectl(&["get", kind, name, "-o", "json"])).unwrap();
    json!({ "spec": state["spec"].take(), "annotations": state["metadata"]["annotations"].take() })
}

/// Swaps the container `app` of `kind/name`, whose pods answer at `hosts`, and ends the session again.
fn swapped_and_restored(kind: &str, name: &str, hosts: &[&str], flags: &[&str], inits: usize) {
    for host in hosts {
        answers(host, "cluster");
    }
    let before = state(kind, name);
    let target = format!("{kind}/{name}:app");
    let app = ["--rm", "-e", "COPY=laptop", "--entrypoint", "python3", SERVICE_IMAGE, "-c", SERVE];
    let session = Tpdocker::start(&[&["run", "--swap", &target, "-n", NAMESPACE], flags, &app].concat());
    session.says("is answered here");
    for host in hosts {
        answers(host, "laptop");
    }
    let pods = kubectl(&["get", "pods", "-l", "tpdocker.dev/session", "-o", "json"]);
    let pod = serde_json::from_str::<Value>(&pods).unwrap()["items"][0]["spec"].clone();
    assert_eq!(pod["initContainers"].as_array().map_or(0, Vec::len), inits, "{pod}");
    assert_eq!(pod["containers"].as_array().unwrap().len(), 2, "the sibling is there");
    assert_eq!(pod["containers"][1]["securityContext"]["readOnlyRootFilesystem"], true);
    let of_template = &before["spec"]["template"]["spec"];
    for field in ["nodeSelector", "imagePullSecrets", "hostAliases", "securityContext"] {
        assert_eq!(pod[field], of_template[field], "{field}");
    }
    assert!(pod["tolerations"].as_array().unwrap().contains(&of_template["tolerations"][0]), "{pod}");
    session.interrupt();
    for host in hosts {
        answers(host, "cluster");
    }
    assert_eq!(state(kind, name), before);
    until("the proxy and its pod to be gone", PATIENCE, || {
        let left = kubectl(&["get", "deployments,pods", "-l", "tpdocker.dev/session", "-o", "name"]);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

#[test]
fn each_kind_is_swapped_and_restored_with_all_that_its_template_says() {
    let _staging = staging();
    let volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": NAMESPACE },
        "spec": { "storageClassName": NAMESPACE, "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "1Mi" },
                  "hostPath": { "path": format!("/tmp/{NAMESPACE}"), "type": "DirectoryOrCreate" } },
    });
    let _namespace = Namespace::with(&[
        volume,
        service("db", &json!({ "clusterIP": "None" })),
        service("rs", &json!({})),
        service("web", &json!({})),
        workload("StatefulSet", "db", &json!({ "serviceName": "db" })),
        workload("ReplicaSet", "rs", &json!({})),
        workload("Deployment", "web", &json!({})),
    ]);
    let born = || kubectl(&["exec", "db-0", "-c", "app", "--", "cat", "/data/born"]);
    answers("db-0.db", "cluster");
    let written = born();
    swapped_and_restored("statefulset", "db", &["db", "db-0.db"], &[], 1);
    assert_eq!(born(), written, "the claim is the pod's again");
    swapped_and_restored("replicaset", "rs", &["rs"], &[], 1);
    swapped_and_restored("deployment", "web", &["web"], &["--skip-init-containers"], 0);
    beside_web();
}

/// A session like `web` is there for the siblings in its own pod, and for nobody else.
fn beside_web() {
    let before = state("deployment", "web");
    let app = ["--rm", "-e", "COPY=laptop", "--entrypoint", "python3", SERVICE_IMAGE, "-c", SERVE];
    let session = Tpdocker::start(&[&["run", "--like", "web:app", "-n", NAMESPACE][..], &app].concat());
    session.says(" in container ");
    let form = "-o=jsonpath={.items[0].metadata.name} {.items[0].status.podIP}";
    let pod = kubectl(&["get", "pods", "-l", "tpdocker.dev/session", form]);
    let (pod, ip) = pod.split_once(' ').unwrap();
    until("the app to answer its sibling", PATIENCE, || match copy_for(pod, "main", "127.0.0.1") {
        Ok(copy) if copy == "laptop" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert!(copy_at(ip).unwrap_err().contains("Connection refused"), "the pod's address is open");
    assert_eq!(copy_at("web").as_deref(), Ok("cluster"));
    session.interrupt();
    assert_eq!(state("deployment", "web"), before);
}

#[test]
fn what_cannot_be_swapped_is_told_with_the_reason_and_what_a_session_can_be_instead() {
    let _staging = staging();
    let pods = json!({ "metadata": { "labels": { "app": "agents" } },
                       "spec": { "terminationGracePeriodSeconds": 0, "containers": [sleeper()] } });
    let agent = json!({ "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "name": "agent" },
                        "spec": { "selector": { "matchLabels": { "app": "agents" } }, "template": pods } });
    let once = json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "once" },
                       "spec": { "template": { "spec": { "restartPolicy": "Never", "containers": [sleeper()] } } } });
    let _namespace = Namespace::with(&[agent, once, service("agents", &json!({})), {
        let mut callers = service("callers", &json!({}));
        callers["spec"]["selector"]["app"] = "caller".into();
        callers
    }]);
    kubectl(&["create", "cronjob", "nightly", "--image", IMAGE, "--schedule", "0 3 1 1 *", "--", "true"]);
    kubectl(&["rollout", "status", "daemonset/agent", "--timeout=60s"]);
    let of_agent = kubectl(&["get", "pods", "-l", "app=agents", "-o", "name"]);
    for (name, said, like) in [
        ("daemonset/agent", "DaemonSet `agent` cannot be swapped: it runs one pod on every node", "daemonset/agent"),
        ("agent", "DaemonSet `agent` cannot be swapped", "daemonset/agent"),
        ("agents", "DaemonSet `agent`, which is behind Service `agents`, cannot be swapped", "daemonset/agent"),
        (of_agent.trim(), "it is one of the pods of DaemonSet `agent`", of_agent.trim()),
        ("job/once", "Job `once` cannot be swapped: it runs to completion", "job/once"),
        ("once", "Job `once` cannot be swapped", "job/once"),
        ("nightly", "CronJob `nightly` cannot be swapped: it runs to completion", "cronjob/nightly"),
        ("pod/caller", "Pod `caller` cannot be swapped: it stands alone", "pod/caller"),
        ("svc/callers", "Pod `caller`, which is behind Service `callers`, cannot be swapped", "pod/caller"),
    ] {
        let run = |how: &str| Tpdocker::run(&["run", how, name, "-n", NAMESPACE, "--dry-run", SERVICE_IMAGE]);
        let refused = run("--swap").code(82);
        assert!(refused.stderr.contains(said), "{said:?} was not said:\n{}", refused.stderr);
        assert!(refused.stderr.contains(&format!("--like {like}")), "no cure for {name}:\n{}", refused.stderr);
        let plan = run("--like").code(0);
        assert!(plan.stdout.contains(&format!("like {like}, container ")), "{}", plan.stdout);
    }
    let print = ["--rm", "--entrypoint", "sh", SERVICE_IMAGE, "-c", "echo $GREETING"];
    for name in ["agents", "pod/caller"] {
        let ended = Tpdocker::run(&[&["run", "--like", name, "-n", NAMESPACE], &print[..]].concat()).code(0);
        assert_eq!(ended.stdout, "hello\n");
    }
    assert_eq!(kubectl(&["get", "deployments", "-o", "name"]), "");
}
