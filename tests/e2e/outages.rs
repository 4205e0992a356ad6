//! An API server that does not answer for a while: a session goes on when it is back, what ends is ended then, and
//! nothing is left of what failed.

use nix::sys::signal::Signal;

use crate::gate::Gate;
use crate::support::{
    NAMESPACE, PATIENCE, Tpdocker, assert_restored, kubectl, staging, until, until_answered_by, world,
};
use crate::swap::{SWAP, replicas, swapped_and_killed};

const TRYING: &str = "the cluster does not answer; trying until it does";

fn through(gate: &Gate, arguments: &[&str]) -> Tpdocker {
    Tpdocker::spawn(gate.before(&mut Tpdocker::command(arguments)))
}

fn held(gate: &Gate) {
    until(
        "the change that is held",
        PATIENCE,
        || if gate.holds() { Ok(()) } else { Err(format!("{:?}", gate.asked())) },
    );
}

#[test]
fn a_session_goes_on_when_the_api_server_answers_again() {
    let _staging = staging();
    let before = world();
    let gate = Gate::of_the_cluster(None);
    let session = through(&gate, &SWAP);
    session.says("is answered here");
    until_answered_by("laptop");
    gate.silence();
    session.says("tunnel lost");
    gate.open();
    session.says("tunnel back");
    until_answered_by("laptop");
    session.interrupt().code(0);
    assert_restored(&before);
}

#[test]
fn a_swap_in_which_the_api_server_goes_away_fails_and_is_undone_when_it_is_back() {
    let _staging = staging();
    let before = world();
    let gate = Gate::of_the_cluster(Some(2));
    let session = through(&gate, &SWAP);
    held(&gate);
    gate.cut();
    session.says(TRYING);
    // The change of which it has not heard is made.
    let proxies = kubectl(&["get", "deployments", "-l", "tpdocker.dev/role=proxy", "-o", "name"]);
    assert_eq!(proxies.lines().count(), 1, "{proxies}");
    gate.open();
    let ended = session.wait().code(81);
    assert!(ended.stderr.contains("error: cannot create the proxy"), "{}", ended.stderr);
    assert_restored(&before);
}

#[test]
fn a_session_that_ends_without_the_api_server_ends_well_when_it_is_back() {
    let _staging = staging();
    let before = world();
    let gate = Gate::of_the_cluster(None);
    let session = through(&gate, &SWAP);
    session.says("is answered here");
    gate.cut();
    session.signal(Signal::SIGINT);
    session.says(TRYING);
    assert_eq!(replicas(), "0");
    gate.open();
    let ended = session.wait().code(0);
    assert!(ended.stderr.contains("servicename is back, 2/2 ready"), "{}", ended.stderr);
    assert_restored(&before);
}

#[test]
fn a_restore_in_which_the_api_server_goes_away_ends_well_when_it_is_back() {
    let _staging = staging();
    let before = world();
    swapped_and_killed();
    let gate = Gate::of_the_cluster(Some(1));
    let restore = through(&gate, &["restore", "-n", NAMESPACE, "servicename"]);
    held(&gate);
    gate.cut();
    restore.says(TRYING);
    gate.open();
    let ended = restore.wait().code(0);
    assert!(ended.stderr.contains("is back, 2/2 ready"), "{}", ended.stderr);
    assert_restored(&before);
}
