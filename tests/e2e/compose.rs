//! `tpdocker compose up` and `down` on `compose-examples/hot-reload`.

use std::fs;
use std::process::Command;

use crate::support::{
    PATIENCE, Tpdocker, assert_restored, copy_that_answers, get_from_a_pod, http_get, repo, staging, until,
    until_answered_by, world,
};

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
