//! The pod's files: the same in the container as in the pod, and renewed when they change in the cluster.

use std::time::Duration;

use serde_json::Value;

use crate::support::{
    NAMESPACE, SERVICE_IMAGE, Tpdocker, assert_restored, docker, kubectl, output, staging, until, world,
};

/// Mounts of `servicename`, its service account's token among them.
const MOUNTS: [&str; 3] =
    ["/etc/servicename", "/var/run/secrets/database", "/var/run/secrets/kubernetes.io/serviceaccount"];
/// The kubelet may take more than a minute to look at a `ConfigMap` again.
const KUBELETS_PATIENCE: Duration = Duration::from_secs(150);

/// Prints every file below the mounts, as JSON: mode, owner, content or target, and the error of writing. The versions'
/// directories have the time in their names.
const WALK: &str = r"
import hashlib, json, os, re, stat, sys
rows = {}
plain = lambda path: re.sub(r'\.\.\d{4}_[\d_.]+', '..VERSION', path)
for mount in sys.argv[1:]:
    for directory, directories, files in os.walk(mount):
        for path in [directory] + [os.path.join(directory, name) for name in files + directories]:
            st = os.lstat(path)
            if stat.S_ISLNK(st.st_mode): what = 'to ' + plain(os.readlink(path))
            elif stat.S_ISDIR(st.st_mode): what = 'directory'
            else: what = hashlib.sha256(open(path, 'rb').read()).hexdigest()
            rows[plain(path)] = [oct(stat.S_IMODE(st.st_mode)), st.st_uid, st.st_gid, what]
    try: open(mount + '/new', 'w'); rows[mount + ' writing'] = 'works'
    except OSError as e: rows[mount + ' writing'] = e.strerror
rows['groups'] = [os.getuid(), os.getgid(), sorted(os.getgroups())]
print(json.dumps(rows, sort_keys=True))";

/// A Kubernetes client's in-cluster configuration, by hand.
const IN_CLUSTER: &str = r"
import json, os, ssl, urllib.request
account = '/var/run/secrets/kubernetes.io/serviceaccount/'
host, port = os.environ['KUBERNETES_SERVICE_HOST'], os.environ['KUBERNETES_SERVICE_PORT']
tls = ssl.create_default_context(cafile=account + 'ca.crt')
token = open(account + 'token').read()
request = urllib.request.Request(
    f'https://{host}:{port}/apis/authorization.k8s.io/v1/selfsubjectaccessreviews',
    json.dumps({'apiVersion': 'authorization.k8s.io/v1', 'kind': 'SelfSubjectAccessReview', 'spec': {
        'resourceAttributes': {'namespace': open(account + 'namespace').read(), 'verb': 'get', 'resource': 'pods'}}}).encode(),
    {'Authorization': 'Bearer ' + token, 'Content-Type': 'application/json'})
print(json.load(urllib.request.urlopen(request, context=tls))['kind'])";

/// Reads a key through the kubelet's links for as long as it does not say `changed`, and counts the times it was not there;
/// then lists what is there once the version before is gone, and ends well when it is interrupted.
const READ_UNTIL_CHANGED: &str = r"
import os, signal, sys, time
path, missed, reads = '/etc/servicename/GREETING', 0, 0
signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
print('reading', flush=True)
while True:
    try: text = open(path).read()
    except OSError: missed += 1; continue
    reads += 1
    if text.startswith('changed'): break
    time.sleep(0.0005)
while sum(name.startswith('..2') for name in os.listdir('/etc/servicename')) > 1: time.sleep(0.0005)
print(text, 'missed', missed, sorted(os.listdir('/etc/servicename'))[1:], flush=True)
while True: time.sleep(600)";

fn python<'a>(more: &[&'a str], script: &'a str, arguments: &[&'a str]) -> Vec<&'a str> {
    let swap = ["run", "--swap", "servicename", "-n", NAMESPACE, "--rm", "--entrypoint", "python3"];
    [&swap, more, &[SERVICE_IMAGE, "-c", script], arguments].concat()
}

#[test]
fn every_file_of_the_pod_is_in_the_container_with_its_mode_owner_and_content() {
    let _staging = staging();
    let before = world();
    let exec = ["exec", "deploy/servicename", "--", "python3", "-c", WALK];
    let in_the_pod: Value = serde_json::from_str(&kubectl(&[&exec[..], &MOUNTS].concat())).unwrap();
    let ended = Tpdocker::run(&python(&[], WALK, &MOUNTS)).code(0);
    let here: Value = serde_json::from_str(&ended.stdout).unwrap();
    let (in_the_pod, mut here) = (in_the_pod.as_object().unwrap(), here.as_object().unwrap().clone());
    assert_eq!(here["/etc/servicename writing"], "Read-only file system");
    assert_eq!(here["/var/run/secrets/database/..data"][3], "to ..VERSION");
    // Newer clusters give each pod a token of its own.
    let token = "/var/run/secrets/kubernetes.io/serviceaccount/..VERSION/token";
    assert_eq!(here[token].as_array().unwrap()[..3], in_the_pod[token].as_array().unwrap()[..3]);
    here.insert(token.into(), in_the_pod[token].clone());
    assert_eq!(&here, in_the_pod);
    assert_restored(&before);
}

#[test]
fn a_client_library_finds_its_in_cluster_configuration() {
    let _staging = staging();
    let before = world();
    let ended = Tpdocker::run(&python(&[], IN_CLUSTER, &[])).code(0);
    assert_eq!(ended.stdout, "SelfSubjectAccessReview\n");
    assert_restored(&before);
}

#[test]
fn a_changed_config_map_arrives_while_the_app_reads_and_it_never_misses_the_file() {
    let _staging = staging();
    let before = world();
    let _guard = Greeting::kept();
    let session = Tpdocker::start(&python(&[], READ_UNTIL_CHANGED, &[]));
    until("the app to read", KUBELETS_PATIENCE, || match session.stdout() {
        said if said.contains("reading") => Ok(()),
        said => Err(format!("{said}{}", session.stderr())),
    });
    Greeting::set("changed");
    until("the change to arrive", KUBELETS_PATIENCE, || match session.stdout() {
        said if said.contains("missed") => Ok(()),
        _ => {
            // The kubelet looks at a pod's volumes when the pod changes, too.
            let stamp = format!("touched={}", std::process::id());
            let pods = ["annotate", "--overwrite", "pods", "-l", "tpdocker.dev/session", &stamp];
            Err(kubectl(&pods))
        }
    });
    let ended = session.interrupt().code(0);
    let said = ended.stdout.lines().last().unwrap();
    assert!(said.starts_with("changed missed 0 ['..data', 'DATABASE_HOST'"), "{said}");
    assert_restored(&before);
    // The app never listened, so the original's pods were there all the time and have followed the change: their volumes
    // are not any more as those of a new pod (the kubelet leaves other groups on its links), which other tests rely on.
    Greeting::set(GREETING);
    kubectl(&["delete", "pods", "-l", "app=servicename"]);
    assert_restored(&before);
}

#[test]
fn what_the_user_mounts_himself_wins_and_no_secret_is_logged_or_inspected() {
    const APP: &str = "tpdocker-e2e-files";
    let _staging = staging();
    let before = world();
    let own = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(own.path(), Some(65534), Some(65534)).unwrap();
    std::fs::write(own.path().join("GREETING"), "mine").unwrap();
    let mount = format!("{}:/etc/servicename", own.path().display());
    let script = "print(open('/etc/servicename/GREETING').read(), flush=True); import time; time.sleep(600)";
    let mut command = Tpdocker::command(&["-vv"]);
    command.args(python(&["-v", &mount, "--name", APP, "--init"], script, &[]));
    let session = Tpdocker::spawn(&mut command);
    until("the app's word", KUBELETS_PATIENCE, || match session.stdout() {
        said if said == "mine\n" => Ok(()),
        said => Err(format!("{said}{}", session.stderr())),
    });
    session.says("/etc/servicename is yours");
    let inspected = docker(&["inspect", "-f", "{{json .HostConfig}}{{json .Mounts}}{{json .Config.Cmd}}", APP]);
    let arguments = output(std::process::Command::new("ps").args(["-eo", "args"]));
    session.signal(nix::sys::signal::Signal::SIGTERM);
    let ended = session.wait();
    let password = "correct-horse-battery-staple";
    for (place, text) in [("inspect", &inspected), ("arguments", &arguments), ("log", &ended.stderr)] {
        assert!(!text.contains(password), "the password is in the {place}: {text}");
    }
    assert!(inspected.contains("/var/run/secrets/database"), "{inspected}");
    assert_restored(&before);
}

const GREETING: &str = "hello from staging";

/// The `ConfigMap`'s greeting, which other tests rely on; a failed test puts it back too.
struct Greeting;

impl Greeting {
    fn kept() -> Self {
        Self
    }

    fn set(text: &str) {
        let patch = serde_json::json!({"data": {"GREETING": text}}).to_string();
        kubectl(&["patch", "configmap", "servicename", "--type", "merge", "-p", &patch]);
    }
}

impl Drop for Greeting {
    fn drop(&mut self) {
        Self::set(GREETING);
    }
}
