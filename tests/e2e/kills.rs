//! kill -9 of a session right behind each change that it makes, in the cluster and in the engine, from its first to its
//! last: one command puts everything back, whatever the session knew of it.

use nix::sys::signal::Signal;

use crate::gate::Gate;
use crate::support::{
    NAMESPACE, PATIENCE, SERVICE_IMAGE, Tpdocker, assert_put_back, assert_restored, copy_that_answers, staging, until,
    world,
};

const SWAP: [&str; 9] = ["run", "--swap", "servicename", "-n", NAMESPACE, "--rm", "-e", "COPY=laptop", SERVICE_IMAGE];

/// How far a session came.
enum Reached {
    /// The change is made, and the session was killed before it heard of it.
    Killed,
    /// It ended well before.
    Ended,
}

/// A session through `gate`, killed at the change that the gate holds; where that one belongs to its end, it is asked
/// to end.
fn killed_at(gate: &Gate) -> Reached {
    let mut session = Tpdocker::spawn(gate.before(&mut Tpdocker::command(&SWAP)));
    let mut asked_to_end = false;
    let reached = until("the change that is held", PATIENCE, || {
        if gate.holds() {
            return Ok(Reached::Killed);
        }
        if session.has_ended() {
            return Ok(Reached::Ended);
        }
        if !asked_to_end && session.stderr().contains("is answered here") {
            asked_to_end = true;
            session.signal(Signal::SIGINT);
        }
        Err(session.stderr())
    });
    if matches!(reached, Reached::Killed) {
        session.signal(Signal::SIGKILL);
    }
    session.wait();
    reached
}

/// Kills a session behind each change that `gate` counts, and undoes it by `undo`.
fn behind_each_change(gate: fn(Option<usize>) -> Gate, undo: &[&str]) {
    let before = world();
    for change in 1.. {
        let gate = gate(Some(change));
        let reached = killed_at(&gate);
        let asked = gate.asked();
        if matches!(reached, Reached::Ended) {
            // In the cluster record, proxy and scale, and the same undone; in the engine more.
            assert!(asked.len() >= 6, "{asked:?}");
            break;
        }
        gate.open();
        println!("killed behind {:?}", asked.last());
        Tpdocker::spawn(gate.before(&mut Tpdocker::command(undo))).wait().code(0);
        assert_put_back(&before);
    }
    assert_restored(&before);
    assert_eq!(copy_that_answers().as_deref(), Ok("cluster"));
}

#[test]
fn killed_behind_any_change_in_the_cluster_a_session_is_undone_by_restore() {
    let _staging = staging();
    behind_each_change(Gate::of_the_cluster, &["restore", "-n", NAMESPACE, "servicename"]);
}

#[test]
fn killed_behind_any_change_in_the_engine_a_session_is_undone_by_stop() {
    let _staging = staging();
    behind_each_change(Gate::of_the_engine, &["stop"]);
}
