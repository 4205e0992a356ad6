//! The ends of `tpdocker compose up`: of itself, in a hurry, and killed.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::load::{APP, Load};
use crate::support::{
    NAMESPACE, PATIENCE, SERVICE_IMAGE, Tpdocker, World, assert_restored, docker, staging, until, until_answered_by,
    world,
};
use crate::swap::replicas;

const PROJECT: &str = "tpdocker-e2e-ends";
const CONTAINER: &str = "tpdocker-e2e-ends-web-1";
/// Listens, and is not to be asked to end.
const DEAF: &str = "import signal, socket, time\n\
    for number in signal.SIGINT, signal.SIGTERM: signal.signal(number, lambda *_: print('later', flush=True))\n\
    s = socket.create_server(('', 8080)); time.sleep(600)";

/// A project of one service that swaps.
struct Project {
    file: tempfile::NamedTempFile,
    before: World,
}

impl Project {
    fn of(command: &[&str]) -> Self {
        let before = world();
        let service = json!({"image": SERVICE_IMAGE, "entrypoint": command, "stop_grace_period": "5m",
            "x-tpdocker": {"swap": "servicename", "namespace": NAMESPACE}});
        let file = tempfile::NamedTempFile::new().unwrap();
        // Compose fills in what stands behind a dollar.
        let text = json!({"name": PROJECT, "services": {"web": service}}).to_string().replace('$', "$$");
        fs::write(&file, text).unwrap();
        Self { file, before }
    }

    fn action(&self, action: &str) -> Command {
        Tpdocker::command(&["compose", "-f", self.file.path().to_str().unwrap(), action])
    }

    fn up(&self) -> Tpdocker {
        Tpdocker::spawn(&mut self.action("up"))
    }

    /// As with Compose alone, the project's network stays until `down`.
    fn down(self) {
        Tpdocker::spawn(&mut self.action("down")).wait().code(0);
        assert_restored(&self.before);
    }
}

#[test]
fn a_project_whose_services_have_ended_ends_and_no_request_fails_in_between() {
    let _staging = staging();
    let project = Project::of(&["python3", "-c", APP, "finish"]);
    let load = Load::start();
    load.goes_on();
    let session = project.up();
    session.says("servicename is at 0");
    load.goes_on();
    docker(&["kill", "--signal", "TERM", CONTAINER]);
    let ended = session.wait().code(0);
    assert!(ended.stderr.contains("servicename is back, 2/2 ready"), "{}", ended.stderr);
    load.goes_on();
    project.down();
    load.goes_on();
    let report = load.end();
    println!("{} requests, {} failed, longest {:.1} s", report.answered(), report.failed.len(), report.longest);
    assert!(report.failed.is_empty() && report.answers.len() == 2, "{report:?}");
}

#[test]
fn a_second_interrupt_kills_services_that_take_their_time() {
    let _staging = staging();
    let project = Project::of(&["python3", "-c", DEAF]);
    let session = project.up();
    session.says("is answered here");
    session.signal(Signal::SIGINT);
    until("the service to be asked to end", PATIENCE, || {
        let said = docker(&["logs", CONTAINER]);
        if said.contains("later") { Ok(()) } else { Err(said) }
    });
    assert_eq!(replicas(), "0");
    session.signal(Signal::SIGINT);
    let ended = session.wait();
    assert!(ended.stderr.contains("servicename is back"), "{}", ended.stderr);
    assert!(!ended.status.success());
    project.down();
}

#[test]
fn what_a_killed_project_left_is_cleaned_by_stop_and_down() {
    let _staging = staging();
    let project = Project::of(&["python3", "-c", DEAF]);
    let session = project.up();
    session.says("is answered here");
    session.signal(Signal::SIGKILL);
    // Compose goes on by itself until its containers are gone, and holds the ends of the pipes.
    let stopped = Tpdocker::run(&["stop"]).code(0);
    assert!(stopped.stderr.contains("deployment/servicename is as it was"), "{}", stopped.stderr);
    session.wait();
    until_answered_by("cluster");
    project.down();
}
