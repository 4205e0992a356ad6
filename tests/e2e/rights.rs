//! Sessions of somebody who has the printed Role, or a part of it, and nothing else.

use tempfile::NamedTempFile;

use crate::support::{
    NAMESPACE, PATIENCE, Tpdocker, apply, assert_restored, kubeconfig_of_account, kubectl, staging, until,
    until_answered_by, world,
};
use crate::swap::SWAP;

const RBAC: [&str; 7] = ["rbac", "-n", NAMESPACE, "--swap", "servicename", "--service-account", "swapper"];
/// Of the Role and its binding.
const NAME: &str = "tpdocker-deployment-servicename";

fn spawn(arguments: &[&str], config: &NamedTempFile) -> Tpdocker {
    Tpdocker::spawn(Tpdocker::command(arguments).env("KUBECONFIG", config.path()))
}

/// The account `swapper`, which may nothing at first; removed after the test.
fn with_account(test: impl Fn(&NamedTempFile)) {
    let config = kubeconfig_of_account("swapper");
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&config)));
    for (kind, name) in
        [("rolebinding", NAME), ("role", NAME), ("serviceaccount", "swapper"), ("secret", "swapper-token")]
    {
        kubectl(&["delete", kind, name, "--ignore-not-found"]);
    }
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// Gives the account what of the printed Role is kept.
fn grant(config: &NamedTempFile, kept: impl Fn(&str) -> String) {
    apply(&kept(&Tpdocker::run(&RBAC).code(0).stdout));
    // RBAC's authorizer hears of a new Role by a watch.
    until("the Role to be in force", PATIENCE, || {
        let mut plan = SWAP.to_vec();
        plan.insert(1, "--dry-run");
        let tried = spawn(&plan, config).wait();
        if tried.status.success() { Ok(()) } else { Err(tried.stderr) }
    });
}

/// The account `swapper`, with what of the printed Role is kept; removed after the test.
pub fn with_role(kept: impl Fn(&str) -> String, test: impl Fn(&NamedTempFile)) {
    with_account(|config| {
        grant(config, &kept);
        test(config);
    });
}

#[test]
fn the_printed_role_is_enough_for_a_whole_session_and_without_it_nothing_is_changed() {
    let _staging = staging();
    let before = world();
    with_account(|config| {
        let refused = spawn(&SWAP, config).wait().code(83);
        assert!(refused.stderr.contains("this login may not"), "{}", refused.stderr);

        grant(config, str::to_owned);
        let session = spawn(&SWAP, config);
        session.says("is answered here");
        until_answered_by("laptop");
        let ended = session.interrupt();
        assert!(ended.stderr.contains("servicename is back, 2/2 ready"), "{}", ended.stderr);
        assert!(!ended.stderr.contains("may not"), "{}", ended.stderr);
    });
    assert_restored(&before);
}
