//! The ruleset: which packets of the app are held, and that nothing else leaves the namespace.
//!
//! One table per address family, named `tpdocker`. An accepted packet, and one that comes back from the queue with
//! the verdict "accept", goes on at the *next* base chain; that is why holding, redirecting and refusing are chains of
//! their own. In nft's language (`ip6` differs where noted):
//!
//! ```text
//! table ip tpdocker {
//!   # What does not concern the tunnel. To jump to.
//!   chain exempt {
//!     ip daddr 172.20.0.0/16 accept                        # each bypass network
//!     ct direction reply accept                            # answers to who connected to the app (published ports)
//!     icmpv6 type 133-137 accept                           # ip6: neighbour and router discovery, RFC 4861
//!     icmpv6 type { 131, 132, 143 } accept                 # ip6: which groups we listen to, for bridges that snoop
//!   }
//!   # Injected answers come "from" the cluster. Tracked, they would look like connections that came in, and the app's
//!   # next datagram to the same peer like an answer to them, which `exempt` lets out to the laptop's network.
//!   chain untrack {
//!     type filter hook output priority -300; policy accept;
//!     oifname "lo" meta mark INJECTED notrack
//!   }
//!   chain hold {
//!     type filter hook output priority -150; policy drop;  # after connection tracking, before nat
//!     oifname "lo" accept                                  # within the namespace
//!     meta mark INJECTED drop                              # the app's address is gone: nobody to inject to
//!     jump exempt
//!     ct status & dnat != 0 accept                         # flows that were redirected, and repeated SYNs of theirs
//!     meta l4proto tcp tcp flags & (fin|syn|rst|ack) == syn queue to 0 bypass
//!     meta l4proto udp queue to 1                          # no bypass: without the sidecar it is dropped
//!     icmp type echo-request reject with icmp admin-prohibited     # if the configuration says so
//!   }
//!   chain redirect {
//!     type nat hook output priority -100; policy accept;
//!     meta mark ACCEPTED meta l4proto tcp redirect to :LISTENERS       # a range: the first port whose pair is free
//!   }
//!   chain refuse {
//!     type filter hook output priority 0; policy accept;
//!     oifname "lo" accept
//!     jump exempt
//!     ct status & dnat != 0 accept                         # redirected just above
//!     meta mark HOST_UNREACHABLE reject with icmp host-unreachable     # ip6: addr-unreachable
//!     meta mark NET_UNREACHABLE reject with icmp net-unreachable       # ip6: no-route
//!     meta mark PROHIBITED reject with icmp admin-prohibited
//!     meta l4proto tcp reject with tcp reset               # mark REFUSED, or no mark: it bypassed the queue since the
//!   }                                                      # sidecar is dead; refusing at once beats a time-out
//!   # Once more, when routing is final: a SYN that was accepted but not redirected (its flow is older than the rules)
//!   # must not reach the wire.
//!   chain guard {
//!     type filter hook postrouting priority 0; policy drop;
//!     oifname "lo" accept
//!     jump exempt
//!   }
//! }
//! ```
//! ARP is not IP and passes. Where IPv6 exists but the listener cannot have an address of it, the `hold` chain of `ip6`
//! rejects everything, so that apps fall back to IPv4 at once: TCP by RST, since an ICMP error that comes while
//! `connect()` still holds its socket is not heard before the SYN is repeated, and the rest with "no route".

use std::ops::RangeInclusive;

use super::{
    Cidr, Echo,
    nft::{
        Base, Chain, Family, Hook, Rule, Table,
        expr::{
            Ct, Expr, Header, Meta, accept, and, at_least, at_most, ct, differs, drop, equal, jump, meta, notrack,
            payload, queue, redirect, reject_with_icmp, reject_with_reset, xt_nfqueue,
        },
    },
};

/// Name of our tables.
pub(crate) const TABLE: &str = "tpdocker";
/// Number of the queue of held SYNs.
pub(crate) const QUEUE_TCP: u16 = 0;
/// Number of the queue of datagrams.
pub(crate) const QUEUE_UDP: u16 = 1;

// Marks never leave the namespace, but the app's container may have rules of its own in it: "tpd" in ASCII and a number
// clash with nobody's small numbers and single bits.
/// Held SYN, to be redirected to the listener.
pub(crate) const MARK_ACCEPTED: u32 = 0x7470_6401;
/// Held SYN, to be answered with RST.
pub(crate) const MARK_REFUSED: u32 = 0x7470_6402;
/// Held SYN, to be answered with "host unreachable".
pub(crate) const MARK_HOST_UNREACHABLE: u32 = 0x7470_6403;
/// Held SYN, to be answered with "network unreachable".
pub(crate) const MARK_NET_UNREACHABLE: u32 = 0x7470_6404;
/// Held SYN, to be answered with "administratively prohibited".
pub(crate) const MARK_PROHIBITED: u32 = 0x7470_6405;
/// Packets that the sidecar injects.
pub(crate) const MARK_INJECTED: u32 = 0x7470_6406;

const PRIORITY_UNTRACK: i32 = -300; // `raw`: before connection tracking at -200
const PRIORITY_HOLD: i32 = -150; // `mangle`
const PRIORITY_REDIRECT: i32 = -100; // `dstnat`
const PRIORITY_FILTER: i32 = 0;

const IPPROTO_ICMP: u8 = 1;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_ICMPV6: u8 = 58;
/// `IPS_DST_NAT`
const STATUS_DNAT: u32 = 1 << 5;
const DIRECTION_REPLY: u8 = 1;
const TCP_FLAGS_OFFSET: u32 = 13;
const TCP_FIN_SYN_RST_ACK: u8 = 0x17;
const TCP_SYN: u8 = 0x02;

/// How a rule hands a packet to the sidecar; kernels have one or the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueueKind {
    /// nft's own `queue` expression.
    Nft,
    /// iptables' target `NFQUEUE`, through `nft_compat`.
    Xt,
}

impl QueueKind {
    fn expr(self, number: u16, bypass: bool) -> Expr {
        match self {
            Self::Nft => queue(number, bypass),
            Self::Xt => xt_nfqueue(number, bypass),
        }
    }
}

/// What a table depends on.
#[derive(Debug, Clone)]
pub(crate) struct TableSpec<'a> {
    pub(crate) family: Family,
    pub(crate) queue: QueueKind,
    /// Ports of the listeners, `None` if there are none of this family.
    pub(crate) listeners: Option<RangeInclusive<u16>>,
    pub(crate) bypass: &'a [Cidr],
    pub(crate) echo: Echo,
}

/// ICMP (RFC 792, RFC 1812) or `ICMPv6` (RFC 4443) codes of "destination unreachable".
struct IcmpCodes {
    net: u8,
    host: u8,
    prohibited: u8,
}

impl TableSpec<'_> {
    /// The table of the module's description.
    pub(crate) fn table(&self) -> Table {
        let chains = vec![self.exempt(), untrack(), self.hold(), self.redirect(), self.refuse(), guard()];
        Table { family: self.family, name: TABLE, chains }
    }

    fn icmp(&self) -> IcmpCodes {
        match self.family {
            Family::Ip => IcmpCodes { net: 0, host: 1, prohibited: 13 },
            Family::Ip6 => IcmpCodes { net: 0, host: 3, prohibited: 1 },
        }
    }

    fn exempt(&self) -> Chain {
        let (offset, length) = match self.family {
            Family::Ip => (16, 4),
            Family::Ip6 => (24, 16),
        };
        let ours = self.bypass.iter().filter(|cidr| cidr.is_ipv6() == (self.family == Family::Ip6));
        let mut rules: Vec<_> = ours
            .map(|cidr| {
                let (address, mask) = cidr.octets();
                let exprs = [payload(Header::Network, offset, length), and(&mask), equal(&address), accept()];
                Rule::new(format!("{} daddr {cidr} accept", self.family), exprs)
            })
            .collect();
        let reply = [ct(Ct::Direction), equal(&[DIRECTION_REPLY]), accept()];
        rules.push(Rule::new("ct direction reply accept", reply));
        if self.family == Family::Ip6 {
            for (low, high) in [(133, 137), (131, 132), (143, 143)] {
                let exprs = l4proto(IPPROTO_ICMPV6).into_iter().chain([
                    payload(Header::Transport, 0, 1),
                    at_least(&[low]),
                    at_most(&[high]),
                    accept(),
                ]);
                rules.push(Rule::new(format!("icmpv6 type {low}-{high} accept"), exprs));
            }
        }
        Chain { name: "exempt", base: None, rules }
    }

    fn hold(&self) -> Chain {
        let codes = self.icmp();
        let mut rules = vec![
            leaves_through_lo(),
            Rule::new("meta mark INJECTED drop", mark(MARK_INJECTED).into_iter().chain([drop()])),
            jump_exempt(),
        ];
        if self.listeners.is_none() {
            rules.push(reset_tcp());
            rules.push(Rule::new("reject with icmpv6 no-route", [reject_with_icmp(codes.net)]));
        } else {
            rules.push(redirected());
            let syn = [
                payload(Header::Transport, TCP_FLAGS_OFFSET, 1),
                and(&[TCP_FIN_SYN_RST_ACK]),
                equal(&[TCP_SYN]),
                self.queue.expr(QUEUE_TCP, true),
            ];
            let text = "meta l4proto tcp tcp flags & (fin|syn|rst|ack) == syn queue to 0 bypass";
            rules.push(Rule::new(text, l4proto(IPPROTO_TCP).into_iter().chain(syn)));
            let udp = l4proto(IPPROTO_UDP).into_iter().chain([self.queue.expr(QUEUE_UDP, false)]);
            rules.push(Rule::new("meta l4proto udp queue to 1", udp));
        }
        if self.echo == Echo::Refuse {
            let (protocol, kind) = match self.family {
                Family::Ip => (IPPROTO_ICMP, 8),
                Family::Ip6 => (IPPROTO_ICMPV6, 128),
            };
            let exprs = l4proto(protocol).into_iter().chain([
                payload(Header::Transport, 0, 1),
                equal(&[kind]),
                reject_with_icmp(codes.prohibited),
            ]);
            rules.push(Rule::new("icmp type echo-request reject with icmp admin-prohibited", exprs));
        }
        let base = Base { kind: "filter", hook: Hook::Output, priority: PRIORITY_HOLD, drop: true };
        Chain { name: "hold", base: Some(base), rules }
    }

    fn redirect(&self) -> Chain {
        let rules = self
            .listeners
            .as_ref()
            .map(|ports| {
                let text =
                    format!("meta mark ACCEPTED meta l4proto tcp redirect to :{}-{}", ports.start(), ports.end());
                Rule::new(text, mark(MARK_ACCEPTED).into_iter().chain(l4proto(IPPROTO_TCP)).chain(redirect(ports)))
            })
            .into_iter()
            .collect();
        let base = Base { kind: "nat", hook: Hook::Output, priority: PRIORITY_REDIRECT, drop: false };
        Chain { name: "redirect", base: Some(base), rules }
    }

    fn refuse(&self) -> Chain {
        let codes = self.icmp();
        let by_mark = |name: &str, value: u32, code: u8| {
            let exprs = mark(value).into_iter().chain([reject_with_icmp(code)]);
            Rule::new(format!("meta mark {name} reject with icmp {code}"), exprs)
        };
        let rules = vec![
            leaves_through_lo(),
            jump_exempt(),
            redirected(),
            by_mark("HOST_UNREACHABLE", MARK_HOST_UNREACHABLE, codes.host),
            by_mark("NET_UNREACHABLE", MARK_NET_UNREACHABLE, codes.net),
            by_mark("PROHIBITED", MARK_PROHIBITED, codes.prohibited),
            reset_tcp(),
        ];
        let base = Base { kind: "filter", hook: Hook::Output, priority: PRIORITY_FILTER, drop: false };
        Chain { name: "refuse", base: Some(base), rules }
    }
}

fn untrack() -> Chain {
    let exprs = [oifname(), lo()].into_iter().chain(mark(MARK_INJECTED)).chain([notrack()]);
    let base = Base { kind: "filter", hook: Hook::Output, priority: PRIORITY_UNTRACK, drop: false };
    let rules = vec![Rule::new("oifname \"lo\" meta mark INJECTED notrack", exprs)];
    Chain { name: "untrack", base: Some(base), rules }
}

fn guard() -> Chain {
    let base = Base { kind: "filter", hook: Hook::Postrouting, priority: PRIORITY_FILTER, drop: true };
    Chain { name: "guard", base: Some(base), rules: vec![leaves_through_lo(), jump_exempt()] }
}

fn leaves_through_lo() -> Rule {
    Rule::new("oifname \"lo\" accept", [oifname(), lo(), accept()])
}

fn jump_exempt() -> Rule {
    Rule::new("jump exempt", [jump("exempt")])
}

fn redirected() -> Rule {
    let exprs = [ct(Ct::Status), and(&STATUS_DNAT.to_ne_bytes()), differs(&[0; 4]), accept()];
    Rule::new("ct status & dnat != 0 accept", exprs)
}

fn reset_tcp() -> Rule {
    let exprs = l4proto(IPPROTO_TCP).into_iter().chain([reject_with_reset()]);
    Rule::new("meta l4proto tcp reject with tcp reset", exprs)
}

fn oifname() -> Expr {
    meta(Meta::OifName)
}

fn lo() -> Expr {
    let mut name = [0; 16];
    name[..2].copy_from_slice(b"lo");
    equal(&name)
}

fn mark(value: u32) -> [Expr; 2] {
    [meta(Meta::Mark), equal(&value.to_ne_bytes())]
}

fn l4proto(protocol: u8) -> [Expr; 2] {
    [meta(Meta::L4Proto), equal(&[protocol])]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(spec: &TableSpec<'_>, chain: &str) -> Vec<String> {
        let table = spec.table();
        let chain = table.chains.into_iter().find(|candidate| candidate.name == chain).unwrap();
        chain.rules.into_iter().map(|rule| rule.text).collect()
    }

    fn spec(family: Family, bypass: &[Cidr]) -> TableSpec<'_> {
        TableSpec { family, queue: QueueKind::Nft, listeners: Some(1..=8), bypass, echo: Echo::Drop }
    }

    #[test]
    fn each_family_exempts_its_own_bypass_networks() {
        let bypass = ["172.20.0.0/16", "fd00::/8"].map(|text| text.parse().unwrap());
        let v4 = texts(&spec(Family::Ip, &bypass), "exempt");
        assert_eq!(v4, ["ip daddr 172.20.0.0/16 accept", "ct direction reply accept"]);
        let v6 = texts(&spec(Family::Ip6, &bypass), "exempt");
        assert_eq!(v6[..2], ["ip6 daddr fd00::/8 accept", "ct direction reply accept"]);
        assert_eq!(v6.len(), 5);
    }

    #[test]
    fn without_a_listener_everything_is_rejected_and_nothing_is_redirected() {
        let spec = TableSpec { listeners: None, ..spec(Family::Ip6, &[]) };
        assert_eq!(texts(&spec, "hold").last().unwrap(), "reject with icmpv6 no-route");
        assert!(texts(&spec, "redirect").is_empty());
    }

    #[test]
    fn both_kinds_of_queue_use_their_own_expression() {
        for (queue, name) in [(QueueKind::Nft, "queue"), (QueueKind::Xt, "target")] {
            let table = TableSpec { queue, ..spec(Family::Ip, &[]) }.table();
            let rules = table.chains.iter().flat_map(|chain| &chain.rules);
            assert_eq!(rules.filter(|rule| rule.exprs.last().unwrap().name == name).count(), 2);
        }
    }
}
