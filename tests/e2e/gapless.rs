//! A whole session under constant load from a pod: from before the swap, through a restart of the app, until after the restore.

use crate::load::{APP, Load};
use crate::support::{
    NAMESPACE, PATIENCE, SERVICE_IMAGE, Tpdocker, assert_restored, docker, staging, until, until_answered_by, world,
};

const APP_NAME: &str = "tpdocker-e2e-gapless";
const CLUSTER: &str = r#"{"status": "ok"}"#;
const LAPTOP: &str = r#""laptop""#;

fn laptop(flags: &[&str]) -> Tpdocker {
    let all = ["run", "--swap", "servicename", "-n", NAMESPACE, "--rm"];
    Tpdocker::start(&[&all[..], flags, &[SERVICE_IMAGE, "python3", "-c", APP, "finish"]].concat())
}

/// Ends the load, after which nobody may have failed, and both copies have answered.
fn all_answered(load: Load) {
    let report = load.end();
    println!("{} requests, {} failed, longest {:.1} s", report.answered(), report.failed.len(), report.longest);
    assert!(report.failed.is_empty(), "{report:?}");
    assert!(report.answers.contains_key(CLUSTER) && report.answers.contains_key(LAPTOP), "{report:?}");
    assert_eq!(report.answers.len(), 2, "{report:?}");
}

#[test]
fn no_request_fails_from_before_the_swap_through_a_restart_of_the_app_until_after_the_restore() {
    let _staging = staging();
    let before = world();
    let load = Load::start();
    load.goes_on();
    let session = laptop(&["--name", APP_NAME]);
    session.says("servicename is at 0");
    load.goes_on();
    docker(&["kill", "--signal", "HUP", APP_NAME]);
    until("the app to listen again", PATIENCE, || {
        let listening = session.stdout().matches("listening").count();
        if listening == 2 { Ok(()) } else { Err(format!("listened {listening} times")) }
    });
    load.goes_on();
    session.interrupt().code(0);
    load.goes_on();
    // The pods of both have gone by then, and with them who was in their hands.
    assert_restored(&before);
    load.goes_on();
    all_answered(load);
    until_answered_by("cluster");
}

#[test]
fn no_request_fails_while_one_session_takes_over_from_another() {
    let _staging = staging();
    let before = world();
    let load = Load::start();
    load.goes_on();
    let first = laptop(&[]);
    first.says("servicename is at 0");
    load.goes_on();
    let second = laptop(&["--take-over"]);
    first.wait().code(89);
    second.says("servicename is at 0");
    load.goes_on();
    second.interrupt().code(0);
    assert_restored(&before);
    load.goes_on();
    all_answered(load);
}
