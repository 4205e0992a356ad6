//! An API server that does not answer for a while: a session goes on when it is back, what ends is ended then, and
//! nothing is left of what failed.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::gate::Gate;
use crate::nodes::{self, StoppedApiServer};
use crate::support::{
    NAMESPACE, PATIENCE, SERVICE_IMAGE, Tpdocker, assert_restored, docker, kubectl, staging, until, until_answered_by,
    world,
};
use crate::swap::{SWAP, replicas, swapped_and_killed};

const OUTAGE: Duration = Duration::from_mins(1);
/// Longer than a request is waited for.
const SILENCE: Duration = Duration::from_secs(35);
/// Listens where thing2 does as soon as it is told to.
const LATE: &str = "import pathlib, socket, time\n\
    while not pathlib.Path('/tmp/go').exists(): time.sleep(0.05)\n\
    s = socket.create_server(('', 9090)); time.sleep(600)";
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

/// Three sessions, one that goes on, one that is about to swap and one that ends, from the beginning of an outage to its end.
fn outlived<Outage>(
    start: impl Fn(&[&str]) -> Tpdocker,
    begin: impl FnOnce() -> Outage,
    end: impl FnOnce(Outage),
    lasts: Duration,
) {
    let late = "tpdocker-e2e-late";
    let session = start(&SWAP);
    let ends = start(&["run", "--swap", "thing1", "-n", NAMESPACE, "--rm", SERVICE_IMAGE]);
    let flags = ["run", "--swap", "thing2", "-n", NAMESPACE, "--rm", "--name", late, "--entrypoint", "python3"];
    let swaps = start(&[&flags[..], &[SERVICE_IMAGE, "-c", LATE]].concat());
    session.says("is answered here");
    ends.says("is answered here");
    swaps.says("in container ");

    let outage = begin();
    let since = Instant::now();
    docker(&["exec", late, "touch", "/tmp/go"]);
    ends.signal(Signal::SIGINT);
    session.says("tunnel lost");
    ends.says(TRYING);
    std::thread::sleep(lasts.saturating_sub(since.elapsed()));
    end(outage);

    let ended = ends.wait().code(0);
    assert!(ended.stderr.contains("thing1 is back"), "{}", ended.stderr);
    assert!(!ended.stderr.contains(" ERROR "), "a library's log: {}", ended.stderr);
    swaps.says("is answered here");
    swaps.interrupt();
    session.says("tunnel back");
    until_answered_by("laptop");
    session.interrupt().code(0);
}

#[test]
fn an_api_server_that_is_stopped_for_a_minute_is_outlived_by_a_session_a_swap_and_an_end() {
    if nodes::are_not_ours() {
        return;
    }
    let _staging = staging();
    let before = world();
    let end = |stopped| {
        drop(stopped);
        nodes::until_the_cluster_works();
    };
    outlived(Tpdocker::start, StoppedApiServer::stop, end, OUTAGE);
    assert_restored(&before);
    nodes::settled();
}

#[test]
fn an_api_server_that_falls_silent_is_outlived_by_a_session_a_swap_and_an_end() {
    let _staging = staging();
    let before = world();
    let gate = Gate::of_the_cluster(None);
    outlived(|arguments| through(&gate, arguments), || gate.silence(), |()| gate.open(), SILENCE);
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
