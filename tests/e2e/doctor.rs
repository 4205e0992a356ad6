//! The doctor: what is well, what is not, and that one check hides no other.

use nix::sys::signal::Signal;

use crate::account::Account;
use crate::support::{Ended, NAMESPACE, Tpdocker, assert_restored, kubeconfig_of_a_dead_server, staging, world};
use crate::swap::swapped;

const DOCTOR: [&str; 5] = ["doctor", "-n", NAMESPACE, "--swap", "servicename"];
const CHECKS: [&str; 13] = [
    "engine",
    "sidecar image",
    "capture",
    "compose",
    "cluster",
    "round trip",
    "download",
    "rights",
    "pod security",
    "proxy image",
    "swaps",
    "containers",
    "directories",
];

/// Asserts the state of each check that is named, and that every check has its line.
#[track_caller]
fn says(ended: &Ended, states: &[(&str, &str)]) {
    let states_of = |check: &str| {
        let lines = ended
            .stdout
            .lines()
            .filter(|line| line.get(6..).is_some_and(|rest| rest.starts_with(&format!("{check} "))));
        lines.filter_map(|line| line.split_whitespace().next()).collect::<Vec<_>>()
    };
    for check in CHECKS {
        assert_eq!(states_of(check).len(), 1, "{check}:\n{}", ended.stdout);
    }
    for (check, state) in states {
        assert_eq!(states_of(check), [*state], "{check}:\n{}", ended.stdout);
    }
}

#[test]
fn all_is_well_and_nothing_is_changed() {
    let _staging = staging();
    let before = world();
    let ended = Tpdocker::run(&DOCTOR).code(0);
    says(&ended, &CHECKS.map(|check| (check, "ok")));
    assert_restored(&before);
}

#[test]
fn a_dead_engine_and_a_dead_api_server_hide_nothing_but_what_needs_them() {
    let _staging = staging();
    let before = world();
    let no_engine =
        Tpdocker::spawn(Tpdocker::command(&DOCTOR).env("DOCKER_HOST", "unix:///nonexistent")).wait().code(85);
    says(&no_engine, &[("engine", "fix"), ("capture", "note"), ("cluster", "ok"), ("rights", "ok"), ("swaps", "ok")]);

    let config = kubeconfig_of_a_dead_server();
    let no_cluster = Tpdocker::spawn(Tpdocker::command(&DOCTOR).env("KUBECONFIG", &config)).wait().code(81);
    let expected = [
        ("engine", "ok"),
        ("capture", "ok"),
        ("cluster", "fix"),
        ("rights", "note"),
        ("swaps", "note"),
        ("containers", "ok"),
    ];
    says(&no_cluster, &expected);
    assert!(no_cluster.stdout.contains("→ is the VPN up?"), "{}", no_cluster.stdout);
    assert_restored(&before);
}

#[test]
fn a_missing_right_is_named_with_the_role() {
    let _staging = staging();
    let onlooker = Account::onlooker();
    let before = world();
    let ended = onlooker.start(&DOCTOR).wait().code(83);
    says(&ended, &[("cluster", "ok"), ("rights", "fix"), ("swaps", "ok"), ("proxy image", "note")]);
    for words in ["get pods/portforward", "kind: Role", "name: \"tpdocker-deployment-servicename\""] {
        assert!(ended.stdout.contains(words), "{words}: {}", ended.stdout);
    }
    assert_restored(&before);
}

#[test]
fn a_session_that_runs_is_no_illness_and_what_a_killed_one_leaves_is_found_with_its_cure() {
    let _staging = staging();
    let before = world();
    let session = swapped();
    let running = Tpdocker::run(&DOCTOR).code(0);
    assert!(running.stdout.contains("Deployment `servicename` is swapped by "), "{}", running.stdout);

    session.signal(Signal::SIGKILL);
    session.wait();
    let killed = Tpdocker::run(&DOCTOR);
    // Whatever the doctor said, the next test finds the original in its place.
    Tpdocker::run(&["restore", "-n", NAMESPACE, "deployment/servicename"]).code(0);
    let killed = killed.code(90);
    says(&killed, &[("engine", "ok"), ("swaps", "fix"), ("containers", "fix"), ("directories", "fix")]);
    for words in ["→ tpdocker restore -n staging deployment/servicename", "→ tpdocker stop "] {
        assert!(killed.stdout.contains(words), "{words}: {}", killed.stdout);
    }
    Tpdocker::run(&DOCTOR).code(0);
    assert_restored(&before);
}
