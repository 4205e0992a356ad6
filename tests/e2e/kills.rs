//! kill -9 of a session right behind each change that it makes, in the cluster and in the engine, from its first to its
//! last: one command puts everything back, whatever the session knew of it.

use nix::sys::signal::Signal;

use crate::gate::Gate;
use crate::support::{
    NAMESPACE, PATIENCE, Tpdocker, assert_put_back, assert_restored, staging, until, until_answered_by, world,
};
use crate::swap::SWAP;

/// A session through `gate`, killed at the change that the gate holds: it is made, and the session has not heard of it.
/// Where that change belongs to its end, it is asked to end. Whether it got there.
fn killed_at(gate: &Gate) -> bool {
    let mut session = Tpdocker::spawn(gate.before(&mut Tpdocker::command(&SWAP)));
    let mut asked_to_end = false;
    let held = until("the change that is held", PATIENCE, || {
        if gate.holds() || session.has_ended() {
            return Ok(gate.holds());
        }
        if !asked_to_end && session.stderr().contains("is answered here") {
            asked_to_end = true;
            session.signal(Signal::SIGINT);
        }
        Err(session.stderr())
    });
    if held {
        session.signal(Signal::SIGKILL);
    }
    session.wait();
    held
}

/// Kills a session behind each change that the gate counts, and has it undone.
fn behind_each_change(gate: fn(Option<usize>) -> Gate, undo: &[&str]) {
    let before = world();
    for change in 1.. {
        let gate = gate(Some(change));
        if !killed_at(&gate) {
            // In the cluster record, proxy and scale, and the same undone; in the engine more.
            assert!(change > 6, "{:?}", gate.asked());
            break;
        }
        println!("killed behind {:?}", gate.asked().last());
        gate.open();
        Tpdocker::spawn(gate.before(&mut Tpdocker::command(undo))).wait().code(0);
        assert_put_back(&before);
    }
    assert_restored(&before);
    until_answered_by("cluster");
}

#[test]
fn killed_behind_any_change_in_the_cluster_a_session_is_undone_by_restore() {
    let _staging = staging();
    behind_each_change(Gate::of_the_cluster, &["restore", "-n", NAMESPACE, "servicename"]);
}

#[test]
fn killed_behind_any_change_in_the_engine_a_session_is_undone_by_stop() {
    let _staging = staging();
    behind_each_change(Gate::of_the_engine, &["stop", "--all"]);
}
