//! Which of the expressions in a refused rule the kernel does not know.
//!
//! It answers "no such file" to the rule as a whole. So the rule is asked for again piece by piece: its first
//! expression alone, then the first two, and so on; the first answer of "no such file" is about the last expression
//! asked for. Prefixes rather than single expressions, because some are valid only after others (what they read has to
//! be loaded). All of it is one transaction whose last step cannot succeed, so that it leaves no trace.

use std::{collections::BTreeSet, io};

use nix::errno::Errno as OsErrno;

use super::{Batch, CREATE, Chain, DELETE_TABLE, Family, NEW_CHAIN, NEW_TABLE, Piece, expr::Expr, put_chain};
use crate::capture::netlink;

/// Never there: the transaction that would make it is given up.
const TABLE: &str = "tpdocker-probe";
/// Never there either: deleting it is what gives the transaction up.
const NO_TABLE: &str = "tpdocker-none";
const CHAIN: Chain = Chain { name: "probe", base: None, rules: Vec::new() };

/// A kernel's ways of saying that it does not have something.
pub(super) fn is_absence(error: &io::Error) -> bool {
    let absence = [OsErrno::ENOENT, OsErrno::EOPNOTSUPP, OsErrno::EPROTONOSUPPORT, OsErrno::EAFNOSUPPORT];
    error.raw_os_error().is_some_and(|code| absence.contains(&OsErrno::from_raw(code)))
}

/// Of each rule the first expression that is not there.
pub(super) fn unknown(rules: &[(Family, Vec<Expr>)]) -> io::Result<BTreeSet<Piece>> {
    let mut batch = Batch::begin();
    for family in rules.iter().map(|(family, _)| *family).collect::<BTreeSet<_>>() {
        batch.step(String::new(), None, NEW_TABLE, CREATE, family, |out| netlink::put_text(out, 1, TABLE));
        batch.step(String::new(), None, NEW_CHAIN, CREATE, family, |out| put_chain(out, TABLE, &CHAIN));
    }
    let mut asked = Vec::new();
    for (index, (family, exprs)) in rules.iter().enumerate() {
        for length in 1..=exprs.len() {
            asked.push((batch.sequence(), index, Piece::Expression(*family, exprs[length - 1].name)));
            batch.rule(String::new(), None, *family, [TABLE, CHAIN.name], &exprs[..length]);
        }
    }
    batch.step(String::new(), None, DELETE_TABLE, 0, Family::Ip, |out| netlink::put_text(out, 1, NO_TABLE));
    let refused = batch.finish()?;
    let mut seen = BTreeSet::new();
    let mut unknown = BTreeSet::new();
    for (sequence, index, piece) in asked {
        let Some(error) = refused.get(&sequence) else { continue };
        // What follows in the same rule is refused for the same reason.
        if seen.insert(index) && is_absence(error) {
            unknown.insert(piece);
        }
    }
    Ok(unknown)
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::super::{Rule, Table, expr::*, replace};
    use super::*;

    /// Runs `f` in a network namespace of its own.
    fn isolated(f: impl FnOnce() + Send + 'static) {
        if !nix::unistd::geteuid().is_root() {
            return println!("skipped: network namespaces need root");
        }
        let run = move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            f();
        };
        std::thread::spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }

    fn table(family: Family, exprs: Vec<Expr>) -> Table {
        let chain = Chain { name: "c", base: None, rules: vec![Rule::new("a rule", exprs)] };
        Table { family, name: "t", chains: vec![chain] }
    }

    #[test]
    fn an_expression_that_no_kernel_has_is_found_among_those_that_it_has() {
        isolated(|| {
            let rule = vec![meta(Meta::Mark), equal(&[0; 4]), unheard_of(), accept()];
            let refusal = replace(&[table(Family::Ip, vec![accept()]), table(Family::Ip6, rule)]).unwrap_err();
            assert_eq!(refusal.step, "`add rule ip6 t c a rule`");
            assert_eq!(refusal.lacking, [Piece::Expression(Family::Ip6, "tpdocker_unheard_of")].into());
            // Neither the transaction nor the probe left anything: deleting a table that is there succeeds.
            for (family, name) in [(Family::Ip, "t"), (Family::Ip, TABLE), (Family::Ip6, TABLE)] {
                let mut batch = Batch::begin();
                batch.step(String::new(), None, DELETE_TABLE, 0, family, |out| netlink::put_text(out, 1, name));
                let errors = batch.finish().unwrap();
                assert!(errors.values().any(is_absence), "{family} {name}: {errors:?}");
            }
        });
    }

    #[test]
    fn a_rule_that_is_wrong_is_not_taken_for_one_that_the_kernel_lacks_something_for() {
        isolated(|| {
            // A mask of 17 bytes does not fit into a register.
            let refusal = replace(&[table(Family::Ip, vec![meta(Meta::Mark), and(&[0; 17])])]).unwrap_err();
            assert!(refusal.lacking.is_empty(), "{refusal:?}");
        });
    }

    #[test]
    fn a_type_of_chain_that_no_kernel_has_is_named() {
        isolated(|| {
            let base =
                super::super::Base { kind: "tpdocker", hook: super::super::Hook::Output, priority: 0, drop: false };
            let chain = Chain { name: "c", base: Some(base), rules: vec![Rule::new("accept", [accept()])] };
            let refusal = replace(&[Table { family: Family::Ip, name: "t", chains: vec![chain] }]).unwrap_err();
            assert_eq!(refusal.lacking, [Piece::Chain(Family::Ip, "tpdocker")].into());
        });
    }
}
