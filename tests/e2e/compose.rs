//! `tpdocker compose up` and `down`, on `compose-examples/hot-reload` unless a test says otherwise.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{
    NAMESPACE, PATIENCE, SERVICE_IMAGE, Tpdocker, assert_restored, copy_that_answers, get_from_a_pod, http_get, repo,
    staging, until, until_answered_by, world,
};
use crate::swap::{SWAP, replicas};

const FILE: &str = "compose-examples/hot-reload/compose.yaml";

fn compose(action: &[&str], source: &std::path::Path) -> Command {
    let file = repo(FILE);
    let arguments: Vec<&str> = ["compose", "-f", file.to_str().unwrap()].iter().chain(action).copied().collect();
    let mut command = Tpdocker::command(&arguments);
    command.env("SOURCE", source);
    command
}

fn source() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let source = tempfile::tempdir().unwrap();
    for file in ["app.py", "reload.py"] {
        fs::copy(repo("images/servicename").join(file), source.path().join(file)).unwrap();
    }
    fs::set_permissions(source.path(), fs::Permissions::from_mode(0o755)).unwrap();
    source
}

#[test]
fn a_composed_service_answers_in_the_cluster_reloads_and_is_put_back_by_an_interrupt() {
    let _staging = staging();
    let before = world();
    let source = source();
    let session = Tpdocker::spawn(&mut compose(&["up"], source.path()));
    let answer = until("the composed copy to answer", PATIENCE, || match get_from_a_pod("http://servicename/") {
        Ok(answer) if answer["copy"] == "laptop" => Ok(answer),
        other => Err(format!("{other:?}\n{}", session.stderr())),
    });
    assert_eq!(answer["thing1"]["thing"], "thing1", "{answer}");
    assert!(answer["rds"].is_object(), "{answer}");
    let body = http_get("127.0.0.1:8080", "/").expect("the published port answers on the laptop");
    assert!(body.contains(r#""copy": "laptop""#), "{body}");

    let app = source.path().join("app.py");
    let text = fs::read_to_string(&app).unwrap();
    fs::write(&app, text.replace(r#""service": "servicename""#, r#""service": "edited""#)).unwrap();
    until("the edit to be seen in the cluster", PATIENCE, || match get_from_a_pod("http://servicename/") {
        Ok(answer) if answer["service"] == "edited" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    session.interrupt();
    until_answered_by("cluster");
    // As with Compose alone, the project's network stays until `down`.
    Tpdocker::spawn(&mut compose(&["down"], source.path())).wait().code(0);
    assert_restored(&before);
}

#[test]
fn compose_down_from_another_terminal_ends_the_session() {
    let _staging = staging();
    let before = world();
    let source = source();
    let session = Tpdocker::spawn(&mut compose(&["up"], source.path()));
    until("the composed copy to answer", PATIENCE, || match copy_that_answers() {
        Ok(copy) if copy == "laptop" => Ok(()),
        other => Err(format!("{other:?}\n{}", session.stderr())),
    });
    Tpdocker::spawn(&mut compose(&["down"], source.path())).wait().code(0);
    session.wait();
    assert_restored(&before);
}

#[test]
fn compose_takes_a_workload_over_and_the_session_that_lost_it_ends() {
    let _staging = staging();
    let before = world();
    let source = source();
    let mut first = SWAP;
    first[7] = "COPY=first";
    let first = Tpdocker::start(&first);
    first.says("is answered here");
    let refused = Tpdocker::spawn(&mut compose(&["up"], source.path())).wait().code(89);
    assert!(refused.stderr.contains("--take-over"), "{}", refused.stderr);

    let second = Tpdocker::spawn(&mut compose(&["--take-over", "up"], source.path()));
    let first = first.wait().code(89);
    assert!(first.stderr.contains("was taken over by"), "{}", first.stderr);
    until_answered_by("laptop");
    assert_eq!(replicas(), "0");
    second.interrupt();
    until_answered_by("cluster");
    Tpdocker::spawn(&mut compose(&["down"], source.path())).wait().code(0);
    assert_restored(&before);
}

#[test]
fn composed_services_are_like_a_workload_or_only_reach_and_swap_nothing() {
    /// What the service sees, once; it runs on, as a service does.
    const LOOK: &str = "import json, os, signal, urllib.request\n\
        get = lambda url: json.load(urllib.request.urlopen(url, timeout=20))\n\
        print('SAW', json.dumps({'copy': get('http://servicename.staging/')['copy'], 'user': os.environ.get('DATABASE_USER')}), flush=True)\n\
        signal.sigwait([signal.SIGTERM])";
    let _staging = staging();
    let before = world();
    let directory = tempfile::tempdir().unwrap();
    let service = |extension: Value| json!({"image": SERVICE_IMAGE, "entrypoint": ["python3", "-u", "-c", LOOK], "x-tpdocker": extension});
    let services = json!({
        "alike": service(json!({"like": "servicename", "namespace": NAMESPACE, "skip-init-containers": true})),
        "alone": service(json!({"namespace": NAMESPACE})),
    });
    let file = directory.path().join("compose.yaml");
    fs::write(&file, json!({"name": "tpdocker-e2e-like", "services": services}).to_string()).unwrap();
    let action = |action| Tpdocker::command(&["compose", "-f", file.to_str().unwrap(), action]);

    let session = Tpdocker::spawn(&mut action("up"));
    let saw = |who: &str| {
        until(&format!("{who} to look around"), PATIENCE, || {
            let said = session.stdout();
            let line = said.lines().find(|line| line.contains(who) && line.contains("SAW {"));
            line.map(str::to_owned).ok_or_else(|| session.stderr())
        })
    };
    let (alike, alone) = (saw("alike-1"), saw("alone-1"));
    assert!(alike.contains(r#""copy": "cluster""#) && !alike.contains(r#""user": null"#), "{alike}");
    assert!(alone.contains(r#""copy": "cluster", "user": null"#), "{alone}");
    assert_eq!(replicas(), "2");
    session.interrupt();
    Tpdocker::spawn(&mut action("down")).wait().code(0);
    assert_restored(&before);
}
