//! A session of somebody who has the printed Role and nothing else.

use crate::support::{
    NAMESPACE, PATIENCE, Tpdocker, apply, assert_restored, kubeconfig_of_account, kubectl, staging, until,
    until_answered_by, world,
};
use crate::swap::SWAP;

#[test]
fn the_printed_role_is_enough_for_a_whole_session_and_without_it_nothing_is_changed() {
    let _staging = staging();
    let before = world();
    let config = kubeconfig_of_account("swapper");
    let swap = || Tpdocker::spawn(Tpdocker::command(&SWAP).env("KUBECONFIG", config.path()));
    let outcome = std::panic::catch_unwind(|| {
        let refused = swap().wait().code(83);
        assert!(refused.stderr.contains("this login may not"), "{}", refused.stderr);

        let rbac = ["rbac", "-n", NAMESPACE, "--swap", "servicename", "--service-account", "swapper"];
        apply(&Tpdocker::run(&rbac).code(0).stdout);
        // RBAC's authorizer hears of a new Role by a watch.
        until("the Role to be in force", PATIENCE, || {
            let mut plan = SWAP.to_vec();
            plan.insert(1, "--dry-run");
            let tried = Tpdocker::spawn(Tpdocker::command(&plan).env("KUBECONFIG", config.path())).wait();
            if tried.status.success() { Ok(()) } else { Err(tried.stderr) }
        });
        let session = swap();
        session.says("is answered here");
        until_answered_by("laptop");
        let ended = session.interrupt();
        assert!(ended.stderr.contains("servicename is back, 2/2 ready"), "{}", ended.stderr);
        assert!(!ended.stderr.contains("may not"), "{}", ended.stderr);
    });
    let name = "tpdocker-deployment-servicename";
    for (kind, name) in
        [("rolebinding", name), ("role", name), ("serviceaccount", "swapper"), ("secret", "swapper-token")]
    {
        kubectl(&["delete", kind, name, "--ignore-not-found"]);
    }
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
    assert_restored(&before);
}
