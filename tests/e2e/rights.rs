//! Sessions of somebody who has the printed Role, or a part of it, and nothing else.

use crate::account::Account;
use crate::support::{NAMESPACE, PATIENCE, Tpdocker, assert_restored, staging, until, until_answered_by, world};
use crate::swap::SWAP;

const ACCOUNT: &str = "swapper";
const RBAC: [&str; 7] = ["rbac", "-n", NAMESPACE, "--swap", "servicename", "--service-account", ACCOUNT];
/// Of the Role and its binding.
const NAME: &str = "tpdocker-deployment-servicename";

/// Gives the account what of the printed Role is kept.
fn grant(account: &mut Account, kept: impl Fn(&str) -> String) {
    let printed = Tpdocker::run(&RBAC).code(0).stdout;
    account.grant(&kept(&printed), &[("rolebinding", NAME), ("role", NAME)]);
    // RBAC's authorizer hears of a new Role by a watch.
    until("the Role to be in force", PATIENCE, || {
        let mut plan = SWAP.to_vec();
        plan.insert(1, "--dry-run");
        let tried = account.start(&plan).wait();
        if tried.status.success() { Ok(()) } else { Err(tried.stderr) }
    });
}

/// Somebody with what of the printed Role is kept.
pub fn with_role(kept: impl Fn(&str) -> String) -> Account {
    let mut account = Account::without_rights(ACCOUNT);
    grant(&mut account, kept);
    account
}

#[test]
fn the_printed_role_is_enough_for_a_whole_session_and_without_it_nothing_is_changed() {
    let _staging = staging();
    let before = world();
    let mut account = Account::without_rights(ACCOUNT);
    let refused = account.start(&SWAP).wait().code(83);
    assert!(refused.stderr.contains("this login may not"), "{}", refused.stderr);

    grant(&mut account, str::to_owned);
    let session = account.start(&SWAP);
    session.says("is answered here");
    until_answered_by("laptop");
    let ended = session.interrupt();
    assert!(ended.stderr.contains("servicename is back, 2/2 ready"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("may not"), "{}", ended.stderr);
    drop(account);
    assert_restored(&before);
}
