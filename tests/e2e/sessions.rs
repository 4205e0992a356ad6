//! Several sessions: seen, ended and taken over from another terminal, by `status`, `stop`, `restore --all` and
//! `--take-over`.

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::gate::Gate;
use crate::support::{
    NAMESPACE, PATIENCE, Tpdocker, assert_restored, kubeconfig_of_a_dead_server, kubectl, runtime_dir, staging, status,
    until, until_answered_by, world,
};
use crate::swap::{SWAP, replicas, swapped, swapped_and_killed};

#[test]
fn a_session_is_seen_from_another_terminal_and_ended_there() {
    let _staging = staging();
    let before = world();
    let session = swapped();

    let seen = status();
    let [machine] = &seen["machine"]["sessions"].as_array().unwrap()[..] else { panic!("{seen}") };
    assert_eq!((&machine["alive"], &machine["workload"]), (&true.into(), &"deployment/servicename".into()), "{seen}");
    let mut roles: Vec<&str> =
        machine["containers"].as_array().unwrap().iter().map(|it| it["role"].as_str().unwrap()).collect();
    roles.sort_unstable();
    assert_eq!(roles, ["app", "sidecar"], "{seen}");
    let [swap] = &seen["cluster"]["swaps"].as_array().unwrap()[..] else { panic!("{seen}") };
    assert_eq!((&swap["proxyState"], &swap["replicas"]), (&"attached".into(), &2.into()), "{seen}");
    assert_eq!(swap["session"], machine["session"]);
    assert_eq!(seen["cluster"]["orphans"], Value::Array(Vec::new()));

    // The machine's half does not need the cluster's.
    let dead = kubeconfig_of_a_dead_server();
    let mut command = Tpdocker::command(&["status", "-n", NAMESPACE]);
    let half = Tpdocker::spawn(command.env("KUBECONFIG", &dead)).wait().code(81);
    assert!(half.stdout.contains("deployment/servicename"), "{}", half.stdout);
    assert!(half.stdout.contains("The cluster could not be asked"), "{}", half.stdout);

    let stopped = Tpdocker::run(&["stop"]).code(0);
    assert!(stopped.stderr.contains("deployment/servicename is back"), "{}", stopped.stderr);
    // The service ends well when it is asked to.
    session.wait().code(0);
    assert_restored(&before);
    assert!(Tpdocker::run(&["stop"]).code(0).stderr.contains("this machine has no session"));
}

#[test]
fn what_a_killed_session_left_is_seen_and_cleaned_by_stop() {
    let _staging = staging();
    let before = world();
    swapped_and_killed();
    assert_eq!(status()["machine"]["sessions"][0]["alive"], false);
    assert_eq!(replicas(), "0");
    Tpdocker::run(&["stop"]).code(0);
    assert_restored(&before);
    until_answered_by("cluster");
}

#[test]
fn restore_all_leaves_nothing_of_anybody_in_the_namespace_nor_of_the_dead_on_this_machine() {
    let _staging = staging();
    let before = world();
    swapped_and_killed();
    for told in ["is back, 2/2 ready", "nothing is swapped"] {
        let ended = Tpdocker::run(&["restore", "-n", NAMESPACE, "--all"]).code(0);
        assert!(ended.stderr.contains(told), "{}", ended.stderr);
        assert_restored(&before);
    }
}

#[test]
fn what_is_left_when_a_restart_of_the_machine_took_the_record_is_found_and_removed() {
    let _staging = staging();
    let before = world();
    for remove in [&["stop", "--all"][..], &["restore", "-n", NAMESPACE, "--all"]] {
        swapped_and_killed();
        std::fs::remove_dir_all(runtime_dir().join("tpdocker")).unwrap();
        let seen = status();
        assert_eq!(seen["machine"]["sessions"].as_array().map(Vec::len), Some(0), "{seen}");
        let session = seen["machine"]["strangers"][0]["session"].as_str().expect("its containers are there");
        let doctor = Tpdocker::run(&["doctor", "-n", NAMESPACE]).code(90);
        assert!(doctor.stdout.contains(&format!("→ tpdocker stop {session}\n")), "{}", doctor.stdout);
        let removed = Tpdocker::run(remove).code(0);
        assert!(removed.stderr.contains("had died without a record here: 2 containers"), "{}", removed.stderr);
        // What it had in the cluster is found by what the cluster remembers.
        Tpdocker::run(&["restore", "-n", NAMESPACE, "deployment/servicename"]).code(0);
        assert_restored(&before);
    }
}

#[test]
fn what_a_session_left_whose_cluster_is_gone_is_removed_here_alone() {
    let _staging = staging();
    let before = world();
    let gate = Gate::of_the_cluster(None);
    let session = Tpdocker::spawn(gate.before(&mut Tpdocker::command(&SWAP)));
    session.says("is answered here");
    session.signal(Signal::SIGKILL);
    session.wait();
    drop(gate);

    let seen = status();
    let id = seen["machine"]["sessions"][0]["session"].as_str().expect("its record is there");
    let local = format!("tpdocker stop {id} --local");
    let refused = Tpdocker::run(&["stop", id]).code(90);
    assert!(refused.stderr.contains(&local), "{}", refused.stderr);
    let elsewhere = Tpdocker::run(&["restore", "-n", NAMESPACE, "thing1"]).code(0);
    assert!(!elsewhere.stderr.contains(id), "{}", elsewhere.stderr);
    let stopped = Tpdocker::run(&["stop", id, "--local"]).code(0);
    assert!(stopped.stderr.contains(&format!("session {id} has nothing left on this machine")), "{}", stopped.stderr);
    assert_eq!(status()["machine"]["sessions"].as_array().map(Vec::len), Some(0));
    assert_eq!(replicas(), "0", "the cluster is not asked");
    Tpdocker::run(&["restore", "-n", NAMESPACE, "servicename"]).code(0);
    assert_restored(&before);
}

#[test]
fn a_proxy_whose_record_went_is_shown_and_removed() {
    let _staging = staging();
    let before = world();
    swapped_and_killed();
    kubectl(&["annotate", "deployment", "servicename", "tpdocker.dev/swap-"]);
    kubectl(&["scale", "deployment", "servicename", "--replicas=2"]);
    let seen = status();
    assert_eq!(seen["cluster"]["orphans"].as_array().map(Vec::len), Some(1), "{seen}");
    let ended = Tpdocker::run(&["restore", "-n", NAMESPACE, "--all"]).code(0);
    assert!(ended.stderr.contains("was nobody's and is deleted"), "{}", ended.stderr);
    assert_restored(&before);
}

#[test]
fn a_take_over_hands_the_service_on_and_the_session_that_lost_it_ends_and_restores_nothing() {
    let _staging = staging();
    let before = world();
    let first = swapped();
    let mut line = SWAP;
    line[7] = "COPY=second";
    let refused = Tpdocker::run(&line).code(89);
    for words in [", attached)", "--take-over"] {
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
    }

    let second = Tpdocker::start(&[&["run", "--take-over"], &line[1..]].concat());
    second.says("is answered here");
    let first = first.wait().code(89);
    for words in ["takes Deployment `servicename` over", "was taken over by", "'s now (session"] {
        assert!(first.stderr.contains(words), "{}", first.stderr);
    }
    assert_eq!(replicas(), "0");
    until_answered_by("second");
    assert_eq!(status()["cluster"]["swaps"][0]["replicas"], 2, "the original's");
    second.interrupt();
    assert_restored(&before);
}

#[test]
fn of_ten_sessions_that_start_at_once_one_swaps_and_nine_are_told_who() {
    let _staging = staging();
    let before = world();
    let mut sessions: Vec<_> = (0..10).map(|_| Tpdocker::start(&SWAP)).collect();
    let winner = until("nine to be refused", PATIENCE, || {
        let running: Vec<usize> = (0..10).filter(|one| !sessions[*one].has_ended()).collect();
        if let [winner] = running[..] { Ok(winner) } else { Err(format!("{} still run", running.len())) }
    });
    let winner = sessions.swap_remove(winner);
    for refused in sessions {
        let refused = refused.wait().code(89);
        assert!(refused.stderr.contains("is swapped by"), "{}", refused.stderr);
    }
    winner.says("is answered here");
    until_answered_by("laptop");
    winner.interrupt();
    assert_restored(&before);
}
