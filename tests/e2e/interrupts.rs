//! Ctrl-C, and again, and again: the first ends a session in order, the second waits for no pod, and the third gives up
//! where even that does not get through, and says what is left to do.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::gate::Gate;
use crate::support::{
    Ended, NAMESPACE, PATIENCE, SERVICE_IMAGE, Tpdocker, assert_put_back, assert_restored, staging, until, world,
};
use crate::swap::{SWAP, replicas};

/// So long a second interrupt has for what it does; another one meanwhile is the same wish.
const TIME_FOR_THE_REST: Duration = Duration::from_secs(3);
const RESTORING: &str = r#""event":"step-started","step":"restore""#;

fn through(gate: &Gate) -> Tpdocker {
    Tpdocker::spawn(gate.before(&mut Tpdocker::command(&[&["--output", "json"], &SWAP[..]].concat())))
}

/// A session that was interrupted where its gate held it, and again as it ended.
struct Interrupted {
    ended: Ended,
    /// Its app ran.
    had_app: bool,
    /// The change that was held is one of its end.
    ending: bool,
}

/// `None` where it ended before.
fn interrupted_twice(gate: &Gate) -> Option<Interrupted> {
    let mut session = through(gate);
    let mut ending = false;
    let held = until("the change that is held", PATIENCE, || {
        if gate.holds() || session.has_ended() {
            return Ok(gate.holds());
        }
        if !ending && session.stderr().contains("is answered here") {
            ending = true;
            session.signal(Signal::SIGINT);
        }
        Err(session.stderr())
    });
    if !held {
        session.wait();
        return None;
    }
    let had_app = session.stderr().contains("in container");
    if !ending {
        session.signal(Signal::SIGINT);
    }
    session.says(RESTORING);
    session.signal(Signal::SIGINT);
    Some(Interrupted { ended: session.wait(), had_app, ending })
}

#[test]
fn a_second_interrupt_waits_for_no_pod_and_leaves_nothing_behind() {
    let _staging = staging();
    let before = world();
    for change in 1.. {
        let gate = Gate::of_the_cluster(Some(change));
        let Some(Interrupted { ended, had_app, ending }) = interrupted_twice(&gate) else {
            // Record, proxy and scale, and the same undone.
            assert!(change > 6, "{:?}", gate.asked());
            break;
        };
        // Without an app the code is that of the signal; this app ends well when it is asked to.
        let ended = ended.code(if had_app { 0 } else { 130 });
        // In order it could not have gone on.
        assert!(!ending || ended.stderr.contains("put back at once, without waiting"), "{}", ended.stderr);
        assert_put_back(&before);
    }
    assert_restored(&before);
}

#[test]
fn an_end_that_is_given_up_says_what_is_left_and_the_command_that_does_it() {
    let _staging = staging();
    let before = world();
    let gate = Gate::of_the_cluster(None);
    let mut session = through(&gate);
    session.says("is answered here");
    gate.silence();
    session.signal(Signal::SIGINT);
    session.says(RESTORING);
    let hurried = Instant::now();
    // A key that is held repeats.
    until("it to give up", PATIENCE, || {
        if session.has_ended() {
            return Ok(());
        }
        session.signal(Signal::SIGINT);
        Err(session.stderr())
    });
    assert!(hurried.elapsed() >= TIME_FOR_THE_REST, "given up after {:?}", hurried.elapsed());
    let ended = session.wait().code(90);
    for words in ["the end was given up", "tpdocker restore -n staging deployment/servicename"] {
        assert!(ended.stderr.contains(words), "{}", ended.stderr);
    }
    assert_eq!(replicas(), "0");
    gate.open();
    Tpdocker::run(&["restore", "-n", NAMESPACE, "deployment/servicename"]).code(0);
    assert_restored(&before);
}

#[test]
fn a_second_interrupt_kills_an_app_that_takes_its_time() {
    let _staging = staging();
    let before = world();
    let script = "import signal, time; signal.signal(signal.SIGINT, lambda *_: print('later', flush=True)); \
                  print('up', flush=True); time.sleep(600)";
    let app = ["run", "--like", "servicename", "-n", NAMESPACE, "--rm", "--entrypoint", "python3", SERVICE_IMAGE, "-c"];
    let session = Tpdocker::start(&[&app[..], &[script]].concat());
    for word in ["up", "later"] {
        until(word, PATIENCE, || if session.stdout().contains(word) { Ok(()) } else { Err(session.stderr()) });
        session.signal(Signal::SIGINT);
    }
    session.wait().code(137);
    assert_restored(&before);
}
