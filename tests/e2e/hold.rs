//! A restart of the app under load: callers wait, and none is refused.
//!
//! What a connection has to survive is the time in which nobody listens. What it cannot survive is the end of the process
//! that has accepted it, or in whose backlog it waits: such a connection is cut in a pod as well. An app that answers whom
//! it has accepted before it goes is restarted without a failed request. For one that just goes, a request may fail only
//! if its connection is older than the moment in which the app says that it has closed its listening socket, and it fails
//! while the app closes it or right behind.

use crate::load::{APP, Load, Report};
use crate::support::{
    NAMESPACE, PATIENCE, SERVICE_IMAGE, Tpdocker, assert_restored, docker, get_from_a_pod, staging, until, world,
};

/// Restarts the app under load; gives what the callers met, and when the app began to close its listening socket and when
/// it had.
fn restart_under_load(how: &str) -> (Report, Vec<(f64, f64)>) {
    const RESTARTS: usize = 3;
    /// Answers in a row, of which each takes a few tenths of a second.
    const SETTLED: usize = 5;
    let before = world();
    let name = format!("tpdocker-e2e-hold-{}", std::process::id());
    let flags = ["run", "--swap", "servicename", "-n", NAMESPACE, "--rm", "--name", &name];
    let session = Tpdocker::start(&[&flags[..], &[SERVICE_IMAGE, "python3", "-c", APP, how]].concat());
    session.says("servicename is at 0");
    // The node may send to the original's pods for a second longer than they live: whom it does waits in vain.
    let mut settled = 0;
    until("the app to answer the Service every time", PATIENCE, || {
        let answer = get_from_a_pod("http://servicename/");
        settled = if matches!(&answer, Ok(answer) if answer == "laptop") { settled + 1 } else { 0 };
        if settled == SETTLED { Ok(()) } else { Err(format!("{settled} in a row, then {answer:?}")) }
    });
    let load = Load::start();
    for restart in 1..=RESTARTS {
        load.goes_on();
        docker(&["kill", "--signal", "HUP", &name]);
        until("the app to listen again", PATIENCE, || {
            let listening = session.stdout().matches("listening").count();
            if listening > restart { Ok(()) } else { Err(format!("listened {listening} times")) }
        });
    }
    load.goes_on();
    let report = load.end();
    let stdout = session.stdout();
    let left: Vec<(f64, f64)> = stdout
        .lines()
        .filter_map(|line| line.strip_prefix("left ")?.split_once(' '))
        .map(|(began, ended)| (began.parse().unwrap(), ended.parse().unwrap()))
        .collect();
    println!("{RESTARTS} restarts, {} requests, {} failed", report.answered(), report.failed.len());
    assert_eq!(left.len(), RESTARTS, "{stdout}");
    assert!(report.longest > 1.0, "the load has met no restart: {report:?}");
    session.interrupt();
    assert_restored(&before);
    (report, left)
}

#[test]
fn no_request_fails_while_an_app_that_answers_whom_it_has_accepted_is_restarted() {
    let _staging = staging();
    let (report, _) = restart_under_load("finish");
    assert!(report.failed.is_empty(), "{report:?}");
}

#[test]
fn no_caller_is_refused_while_an_app_is_restarted_that_leaves_at_once() {
    /// Within this the caller hears of the end of the process; who waits longer hangs.
    const CUT_WITHIN: f64 = 1.0;
    let _staging = staging();
    let (report, left) = restart_under_load("leave");
    for failed in &report.failed {
        let cut = left
            .iter()
            .any(|(began, ended)| failed.opened <= *ended && (*began..*ended + CUT_WITHIN).contains(&failed.ended));
        let error = &failed.error;
        assert!(cut, "{error}: the connection was not that of a process that ended at one of {left:?}: {failed:?}");
    }
}
