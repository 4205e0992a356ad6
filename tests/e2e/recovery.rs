//! What a session does not survive, others repair.

use std::process::Command;

use crate::support::{NAMESPACE, Tpdocker, assert_restored, kubectl, output, repo, staging, until_answered_by, world};
use crate::swap::{SWAP, replicas, swapped, swapped_and_killed};

#[test]
fn after_a_kill_anybody_restores_from_what_the_cluster_remembers() {
    let _staging = staging();
    let before = world();
    swapped_and_killed();
    assert_eq!(replicas(), "0");
    for _ in 0..2 {
        Tpdocker::run(&["restore", "-n", NAMESPACE, "servicename"]).code(0);
        assert_restored(&before);
    }
    until_answered_by("cluster");
}

#[test]
fn a_second_session_on_the_same_workload_is_told_who_holds_it_and_changes_nothing() {
    let _staging = staging();
    let before = world();
    let first = swapped();
    let second = Tpdocker::run(&SWAP).code(89);
    for word in ["is swapped by", "@", "tpdocker restore"] {
        assert!(second.stderr.contains(word), "{word:?} is not in the message:\n{}", second.stderr);
    }
    until_answered_by("laptop");
    first.interrupt();
    assert_restored(&before);
}

#[test]
fn a_lost_proxy_pod_is_replaced_and_the_tunnel_comes_back() {
    let _staging = staging();
    let before = world();
    let session = swapped();
    kubectl(&["delete", "pod", "-l", "tpdocker.dev/role=proxy", "--wait=false"]);
    session.says("tunnel lost");
    session.says("tunnel back");
    until_answered_by("laptop");
    session.interrupt();
    assert_restored(&before);
}

#[test]
fn neither_a_container_nor_the_hosts_resolver_reaches_the_database_without_tpdocker() {
    if std::env::var_os("TPDOCKER_TEST_KUBECONFIG").is_some() {
        println!("skipped: another cluster has no database outside of it");
        return;
    }
    let _staging = staging();
    output(&mut Command::new(repo("tests/cluster/check-isolation")));
}
