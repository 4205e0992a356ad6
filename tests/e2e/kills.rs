//! kill -9 of a session right behind each change that it makes, in the cluster and in the engine, from its first to its
//! last: one command puts everything back, whatever the session knew of it.

use nix::sys::signal::Signal;

use crate::gate::Gate;
use crate::support::{
    NAMESPACE, PATIENCE, SERVICE_IMAGE, Tpdocker, assert_put_back, assert_restored, staging, until, until_answered_by,
    world,
};
use crate::swap::SWAP;

/// What is killed, and how it is undone.
struct Case {
    gate: fn(Option<usize>) -> Gate,
    session: &'static [&'static str],
    /// What it says when there is nothing more to come but its end.
    complete: &'static str,
    /// One after the other.
    undo: &'static [&'static [&'static str]],
}

impl Case {
    /// A session through `gate`, killed at the change that the gate holds: it is made, and the session has not heard of it.
    /// Where that change belongs to its end, it is asked to end. Whether it got there.
    fn killed_at(&self, gate: &Gate) -> bool {
        let mut session = Tpdocker::spawn(gate.before(&mut Tpdocker::command(self.session)));
        let mut asked_to_end = false;
        let held = until("the change that is held", PATIENCE, || {
            if gate.holds() || session.has_ended() {
                return Ok(gate.holds());
            }
            if !asked_to_end && session.stderr().contains(self.complete) {
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

    /// Kills a session behind each of its changes, of which there are at least so many.
    fn behind_each_change(&self, at_least: usize) {
        let before = world();
        for (change, undo) in (1..).zip(self.undo.iter().cycle()) {
            let gate = (self.gate)(Some(change));
            if !self.killed_at(&gate) {
                assert!(change > at_least, "{:?}", gate.asked());
                break;
            }
            println!("killed behind {:?}", gate.asked().last());
            gate.open();
            Tpdocker::spawn(gate.before(&mut Tpdocker::command(undo))).wait().code(0);
            assert_put_back(&before);
        }
        assert_restored(&before);
    }
}

/// Record, proxy and scale, and the same undone.
#[test]
fn killed_behind_any_change_in_the_cluster_a_session_is_undone_by_restore_and_by_stop() {
    let _staging = staging();
    let undo: &[&[&str]] = &[&["restore", "-n", NAMESPACE, "servicename"], &["stop", "--all"]];
    Case { gate: Gate::of_the_cluster, session: &SWAP, complete: "is answered here", undo }.behind_each_change(6);
    until_answered_by("cluster");
}

/// A volume, the sidecar, the files and the app, and the same undone.
#[test]
fn killed_behind_any_change_in_the_engine_a_session_is_undone_by_stop_and_by_restore() {
    let _staging = staging();
    let session = &["run", "--like", "servicename", "-n", NAMESPACE, "--rm", SERVICE_IMAGE];
    let undo: &[&[&str]] = &[&["stop", "--all"], &["restore", "-n", NAMESPACE, "--all"]];
    Case { gate: Gate::of_the_engine, session, complete: "in container ", undo }.behind_each_change(8);
}
