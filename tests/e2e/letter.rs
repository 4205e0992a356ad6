//! A session whose machine is gone: the proxy puts the original back by itself, or says beforehand that it cannot.

use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;

use crate::load::{APP, Load};
use crate::nodes::{evict, pod_of};
use crate::rights::with_role;
use crate::support::{
    NAMESPACE, PATIENCE, SERVICE_IMAGE, Tpdocker, World, assert_restored, docker, kubeconfig, kubectl, staging, until,
    until_answered_by, world,
};
use crate::swap::replicas;

const SWAP: [&str; 11] =
    ["run", "--swap", "servicename", "--grace", "5s", "-n", NAMESPACE, "--rm", "-e", "COPY=laptop", SERVICE_IMAGE];
const CANNOT: &str = "the proxy cannot put deployment/servicename back by itself";

fn swap(kubeconfig: &Path) -> Tpdocker {
    Tpdocker::spawn(Tpdocker::command(&SWAP).env("KUBECONFIG", kubeconfig))
}

/// Kills a session and does nothing more in the cluster. What it left on this machine is not the proxy's to remove.
fn comes_back_by_itself(kubeconfig: &Path) {
    let session = swap(kubeconfig);
    session.says("is answered here");
    until_answered_by("laptop");
    session.signal(Signal::SIGKILL);
    let killed = Instant::now();
    let ended = session.wait();
    assert!(!ended.stderr.contains(CANNOT), "{}", ended.stderr);
    until("the original to be scaled back", PATIENCE, || {
        let replicas = replicas();
        if replicas == "2" { Ok(()) } else { Err(replicas) }
    });
    let scaled = killed.elapsed();
    until_answered_by("cluster");
    println!("scaled back {scaled:.1?} after the kill, answers after {:.1?}", killed.elapsed());
    until_nothing_is_left();
}

fn until_nothing_is_left() {
    let ours = "deployments,pods,serviceaccounts,roles,rolebindings";
    until("the session's objects to be gone", PATIENCE, || {
        let left = kubectl(&["get", ours, "-l", "tpdocker.dev/session", "-o", "name"]);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

fn clean_this_machine(before: &World) {
    Tpdocker::run(&["stop"]).code(0);
    assert_restored(before);
}

#[test]
fn after_a_kill_the_proxy_puts_the_original_back_and_leaves_nothing() {
    let _staging = staging();
    let before = world();
    comes_back_by_itself(&kubeconfig());
    clean_this_machine(&before);
}

#[test]
fn nobody_is_refused_when_a_session_is_killed_and_the_proxy_puts_the_original_back() {
    let _staging = staging();
    let before = world();
    let load = Load::start();
    load.goes_on();
    let session = Tpdocker::start(&[&SWAP[..], &["python3", "-c", APP]].concat());
    session.says("servicename is at 0");
    load.goes_on();
    session.signal(Signal::SIGKILL);
    let killed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    session.wait();
    until_nothing_is_left();
    load.goes_on();
    let mut report = load.end();
    // The app has gone, and with it whom it had accepted.
    let with_the_app = report.failed.extract_if(.., |failed| failed.opened < killed).count();
    println!(
        "{} requests, {} failed that were under way at the kill, {} later; longest {:.1} s",
        report.answered(),
        with_the_app,
        report.failed.len(),
        report.longest
    );
    assert!(report.failed.is_empty() && report.answers.len() == 2, "killed at {killed}: {report:?}");
    // So many at most: its threads.
    assert!(with_the_app <= 6, "{with_the_app}");
    clean_this_machine(&before);
}

#[test]
fn a_proxy_that_is_evicted_while_its_client_is_gone_puts_the_original_back_before_it_leaves() {
    let _staging = staging();
    let before = world();
    let mut patient = SWAP;
    patient[4] = "10m";
    let session = Tpdocker::start(&patient);
    session.says("is answered here");
    until_answered_by("laptop");
    let pod = pod_of(&session);
    session.signal(Signal::SIGKILL);
    session.wait();
    evict(&pod);
    let evicted = Instant::now();
    until_answered_by("cluster");
    println!("answers {:.1?} after the eviction", evicted.elapsed());
    until_nothing_is_left();
    clean_this_machine(&before);
}

#[test]
fn the_proxy_puts_back_the_number_that_somebody_set_before_the_swap() {
    let _staging = staging();
    let before = world();
    let (app, script) = (
        "tpdocker-e2e-letter",
        "import pathlib, socket, time\n\
         while not pathlib.Path('/tmp/go').exists(): time.sleep(0.05)\n\
         s = socket.create_server(('', 8080)); time.sleep(600)",
    );
    let flags = ["run", "--swap", "servicename", "--grace", "5s", "-n", NAMESPACE, "--rm", "--name", app];
    let session = Tpdocker::start(&[&flags[..], &["--entrypoint", "python3", SERVICE_IMAGE, "-c", script]].concat());
    session.says("in container ");
    kubectl(&["scale", "deployment", "servicename", "--replicas=3"]);
    docker(&["exec", app, "touch", "/tmp/go"]);
    session.says("is answered here");
    session.signal(Signal::SIGKILL);
    let ended = session.wait();
    assert!(!ended.stderr.contains(CANNOT), "{}", ended.stderr);
    until("the original to be scaled back to 3", PATIENCE, || {
        let replicas = replicas();
        if replicas == "3" { Ok(()) } else { Err(replicas) }
    });
    until_nothing_is_left();
    kubectl(&["scale", "deployment", "servicename", "--replicas=2"]);
    clean_this_machine(&before);
}

#[test]
fn the_printed_role_lets_the_proxy_restore_too() {
    let _staging = staging();
    let before = world();
    comes_back_by_itself(with_role(str::to_owned).config());
    clean_this_machine(&before);
}

#[test]
fn without_the_rights_for_it_a_session_says_that_the_proxy_cannot_restore_and_who_can() {
    let _staging = staging();
    let before = world();
    // Its rules come last in the Role, in front of the binding.
    let without = |printed: &str| {
        let (needed, rest) = printed.split_once("# Only for letting the proxy").expect("the letter's rules");
        let (_, binding) = rest.split_once("---\n").expect("the binding");
        format!("{needed}---\n{binding}")
    };
    let account = with_role(without);
    let session = swap(account.config());
    session.says("is answered here");
    let ended = session.interrupt();
    assert_eq!(ended.stderr.matches(CANNOT).count(), 1, "{}", ended.stderr);
    for told in [
        "this login may not get configmaps, create serviceaccounts, create serviceaccounts/token",
        "tpdocker restore -n staging deployment/servicename",
        "tpdocker rbac -n staging --swap deployment/servicename",
        "servicename is back, 2/2 ready",
    ] {
        assert!(ended.stderr.contains(told), "{told:?} is not in:\n{}", ended.stderr);
    }
    drop(account);
    assert_restored(&before);
}
