//! What the capture needs of the kernel, under the names by which somebody who builds or configures kernels knows it.
//!
//! Kernels answer "no such file" to a rule they cannot carry out, whatever in it they lack. [`super::nft`] finds out
//! which piece that is, by asking; this table tells what it is called and what brings it in.

use std::fmt;

use super::nft::{Family, Piece};

/// A part of the kernel that is an option of its configuration and often a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    what: &'static str,
    options: &'static str,
    modules: &'static [&'static str],
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = if self.modules.len() == 1 { "module" } else { "modules" };
        write!(f, "{} ({}, {noun} {})", self.what, self.options, self.modules.join(", "))
    }
}

/// Netfilter's netlink, by which everything else is asked for.
pub(super) const NETLINK: Part =
    Part { what: "netfilter's netlink", options: "CONFIG_NETFILTER_NETLINK", modules: &["nfnetlink"] };
/// The queue that held packets wait in.
pub(super) const PACKET_QUEUE: Part =
    Part { what: "a packet queue", options: "CONFIG_NETFILTER_NETLINK_QUEUE", modules: &["nfnetlink_queue"] };
/// A rule that puts them there, in one of two ways.
pub(super) const QUEUE_RULE: Part = Part {
    what: "a rule that queues packets",
    options: "CONFIG_NFT_QUEUE, or else CONFIG_NFT_COMPAT and CONFIG_NETFILTER_XT_TARGET_NFQUEUE",
    modules: &["nft_queue", "nft_compat", "xt_NFQUEUE"],
};
const CONNTRACK: Part = Part { what: "connection tracking for rules", options: "CONFIG_NFT_CT", modules: &["nft_ct"] };

/// Every piece that the rules use and that a kernel with `nf_tables` can lack.
const PARTS: [(Piece, Part); 15] = [
    (Piece::Tables, Part { what: "nf_tables", options: "CONFIG_NF_TABLES", modules: &["nf_tables"] }),
    (
        Piece::Chain(Family::Ip, "filter"),
        Part { what: "nf_tables for IPv4", options: "CONFIG_NF_TABLES_IPV4", modules: &["nf_tables"] },
    ),
    (
        Piece::Chain(Family::Ip6, "filter"),
        Part { what: "nf_tables for IPv6", options: "CONFIG_NF_TABLES_IPV6", modules: &["nf_tables"] },
    ),
    (Piece::Chain(Family::Ip, "nat"), NAT),
    (Piece::Chain(Family::Ip6, "nat"), NAT),
    (Piece::Expression(Family::Ip, "ct"), CONNTRACK),
    (Piece::Expression(Family::Ip6, "ct"), CONNTRACK),
    (Piece::Expression(Family::Ip, "notrack"), CONNTRACK),
    (Piece::Expression(Family::Ip6, "notrack"), CONNTRACK),
    (Piece::Expression(Family::Ip, "nat"), TRANSLATION),
    (Piece::Expression(Family::Ip6, "nat"), TRANSLATION),
    (Piece::Expression(Family::Ip, "redir"), REDIRECT),
    (Piece::Expression(Family::Ip6, "redir"), REDIRECT),
    (
        Piece::Expression(Family::Ip, "reject"),
        Part { what: "rejection of IPv4", options: "CONFIG_NFT_REJECT_IPV4", modules: &["nft_reject_ipv4"] },
    ),
    (
        Piece::Expression(Family::Ip6, "reject"),
        Part { what: "rejection of IPv6", options: "CONFIG_NFT_REJECT_IPV6", modules: &["nft_reject_ipv6"] },
    ),
];
const NAT: Part = Part { what: "chains of type nat", options: "CONFIG_NFT_NAT", modules: &["nft_chain_nat"] };
const TRANSLATION: Part = Part { what: "address translation", options: "CONFIG_NFT_NAT", modules: &["nft_nat"] };
const REDIRECT: Part = Part { what: "redirection", options: "CONFIG_NFT_REDIR", modules: &["nft_redir"] };

/// What is missing with `piece`; `None` for what every `nf_tables` has.
pub(super) fn part_of(piece: Piece) -> Option<Part> {
    match piece {
        Piece::Expression(_, "queue" | "target") => Some(QUEUE_RULE),
        piece => PARTS.iter().find(|(known, _)| *known == piece).map(|(_, part)| *part),
    }
}

/// The command that brings `parts` in, where they are modules.
pub(super) fn cure(parts: &[Part]) -> String {
    let mut modules: Vec<_> = parts.iter().flat_map(|part| part.modules).copied().collect();
    modules.dedup();
    format!(
        "sudo modprobe -a {}, on the machine (or the virtual machine) whose kernel the containers run on; where \
         modprobe finds none of them, that kernel was built without",
        modules.join(" ")
    )
}

/// `a; b; c`
pub(super) fn listed(parts: &[Part]) -> String {
    parts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::super::{
        Addresses,
        rules::{QueueKind, TableSpec},
    };
    use super::*;

    /// In every `nf_tables` since it exists.
    const CORE: [&str; 5] = ["meta", "cmp", "payload", "bitwise", "immediate"];

    #[test]
    fn every_expression_and_chain_of_the_rules_is_of_the_core_or_has_a_name_for_its_absence() {
        let bypass = ["10.0.0.0/8", "fd00::/8"].map(|text| text.parse().unwrap());
        let addresses = Addresses {
            pod: ["10.244.0.7", "fd00:244::7"].map(|text| text.parse().unwrap()).into(),
            container: vec![("172.17.0.2".parse().unwrap(), "172.17.0.0/16".parse().unwrap())],
        };
        for (family, queue) in [
            (Family::Ip, QueueKind::Nft),
            (Family::Ip6, QueueKind::Nft),
            (Family::Ip, QueueKind::Xt),
            (Family::Ip6, QueueKind::Xt),
        ] {
            for listeners in [None, Some(1..=2)] {
                let spec = TableSpec { family, queue, listeners, bypass: &bypass, addresses: &addresses, served: true };
                let table = spec.table();
                for chain in &table.chains {
                    if let Some(base) = chain.base {
                        assert!(part_of(Piece::Chain(family, base.kind)).is_some(), "{} {family}", base.kind);
                    }
                    for expr in chain.rules.iter().flat_map(|rule| &rule.exprs) {
                        let named = part_of(Piece::Expression(family, expr.name)).is_some();
                        assert!(named != CORE.contains(&expr.name), "{} {family}", expr.name);
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_missing_is_said_with_option_module_and_cure() {
        let part = part_of(Piece::Expression(Family::Ip6, "reject")).unwrap();
        assert_eq!(part.to_string(), "rejection of IPv6 (CONFIG_NFT_REJECT_IPV6, module nft_reject_ipv6)");
        assert!(cure(&[REDIRECT, part]).starts_with("sudo modprobe -a nft_redir nft_reject_ipv6, on the machine"));
        assert_eq!(part_of(Piece::Expression(Family::Ip, "queue")), part_of(Piece::Expression(Family::Ip, "target")));
    }
}
