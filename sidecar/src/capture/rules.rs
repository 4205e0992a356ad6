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
//!     ip saddr 127.0.0.0/8 drop                            # ip6: ::1; a listener's answer to an address that has gone
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
//!   # What stays in the namespace because its address is one of the namespace's: the sidecar looks whether a socket here
//!   # gets it, and lets it go on if so. What none gets is tried at the pod's own loopback or address, where the other
//!   # containers of the pod are. Of a datagram's flow only the first is looked at. Without the sidecar all of it is
//!   # plain loopback. These chains are there if the kernel can tell what a socket gets.
//!   chain unserved {
//!     meta l4proto tcp tcp flags & (fin|syn|rst|ack) == syn queue to 0 bypass
//!     ct status & confirmed == 0 meta l4proto udp queue to 1 bypass
//!   }
//!   chain inside {
//!     meta mark INJECTED accept
//!     meta mark DELIVERY accept                            # connections that the sidecar makes to the app
//!     ip daddr 127.0.0.11 accept                           # Docker's resolver, where Docker's own rules redirect to
//!     ip daddr 127.0.0.0/8 jump unserved                   # ip6: ::1
//!     ip daddr 10.244.0.7 jump unserved                    # each address of the pod
//!     accept
//!   }
//!   # Who comes in by a published port finds the app at the pod's address, where the app may have bound itself to. For
//!   # datagrams there is another reason: the answer of a socket that is bound to no address gets the source of its
//!   # route, and that is the pod's address, but for neighbours and bypass networks (see `podip`).
//!   chain arrive {
//!     type nat hook prerouting priority -100; policy accept;
//!     ip daddr 172.17.0.2 meta l4proto tcp dnat to 10.244.0.7     # each address of the container
//!     ip saddr 172.17.0.0/16 accept                        # each network that the container is in
//!     ip saddr 172.20.0.0/16 accept                        # each bypass network
//!     ip daddr 172.17.0.2 meta l4proto udp dnat to 10.244.0.7
//!   }
//!   chain hold {
//!     type filter hook output priority -150; policy drop;  # after connection tracking, before nat
//!     oifname "lo" jump inside                             # within the namespace; accept without the chains above
//!     meta mark INJECTED drop                              # the app's address is gone: nobody to inject to
//!     jump exempt
//!     ct status & dnat != 0 accept                         # flows that were redirected, and repeated SYNs of theirs
//!     meta l4proto tcp tcp flags & (fin|syn|rst|ack) == syn queue to 0 bypass
//!     meta l4proto udp queue to 1                          # no bypass: without the sidecar it is dropped
//!     icmp type echo-request queue to 1                    # likewise
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

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use super::{
    Addresses, Cidr,
    nft::{
        Base, Chain, Family, Hook, Rule, Table,
        expr::{
            Ct, Expr, Header, Meta, accept, and, at_least, at_most, ct, differs, dnat, drop, equal, jump, meta,
            notrack, payload, queue, redirect, reject_with_icmp, reject_with_reset, xt_nfqueue,
        },
    },
};

/// Name of our tables.
pub(crate) const TABLE: &str = "tpdocker";
/// Number of the queue of held SYNs.
pub(crate) const QUEUE_TCP: u16 = 0;
/// Number of the queue of datagrams and echo requests.
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
/// The sidecar's own connections to the app, and the app's answers in them ([`crate::callers`]).
pub const MARK_DELIVERY: u32 = 0x7470_6407;

const PRIORITY_UNTRACK: i32 = -300; // `raw`: before connection tracking at -200
const PRIORITY_HOLD: i32 = -150; // `mangle`
const PRIORITY_REDIRECT: i32 = -100; // `dstnat`
const PRIORITY_FILTER: i32 = 0;

/// Where Docker answers questions for the names of containers; its own rules in the namespace lead to the true port.
const DOCKER_RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

const IPPROTO_ICMP: u8 = 1;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_ICMPV6: u8 = 58;
/// `IPS_CONFIRMED`: a packet of the flow has left before.
const STATUS_CONFIRMED: u32 = 1 << 3;
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
    pub(crate) addresses: &'a Addresses,
    /// The sidecar can tell what a socket of the namespace gets.
    pub(crate) served: bool,
}

/// Which address of a packet a rule looks at.
#[derive(Debug, Clone, Copy)]
enum End {
    Source,
    Destination,
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
        let mut chains = vec![self.exempt(), untrack()];
        if self.holds_inside() {
            chains.extend([self.unserved(), self.inside()]);
        }
        chains.extend([self.arrive(), self.hold(), self.redirect(), self.refuse(), guard()]);
        Table { family: self.family, name: TABLE, chains }
    }

    /// Whether packets that stay in the namespace are looked at.
    fn holds_inside(&self) -> bool {
        self.served && self.listeners.is_some()
    }

    fn is_ours(&self, address: IpAddr) -> bool {
        address.is_ipv6() == (self.family == Family::Ip6)
    }

    /// Ends the rule unless the packet's address is in `network`; and the rule's text.
    fn within(&self, end: End, network: Cidr) -> (String, [Expr; 3]) {
        let (offset, length, name) = match (self.family, end) {
            (Family::Ip, End::Source) => (12, 4, "saddr"),
            (Family::Ip, End::Destination) => (16, 4, "daddr"),
            (Family::Ip6, End::Source) => (8, 16, "saddr"),
            (Family::Ip6, End::Destination) => (24, 16, "daddr"),
        };
        let (address, mask) = network.octets();
        let text = format!("{} {name} {network}", self.family);
        (text, [payload(Header::Network, offset, length), and(&mask), equal(&address)])
    }

    fn accept_within(&self, end: End, network: Cidr) -> Rule {
        let (text, exprs) = self.within(end, network);
        Rule::new(format!("{text} accept"), exprs.into_iter().chain([accept()]))
    }

    /// 127.0.0.0/8 or `::1`.
    fn loopback(&self) -> Cidr {
        match self.family {
            Family::Ip => Cidr::new(Ipv4Addr::LOCALHOST.into(), 8).unwrap_or(Cidr::host(Ipv4Addr::LOCALHOST.into())),
            Family::Ip6 => Cidr::host(Ipv6Addr::LOCALHOST.into()),
        }
    }

    fn unserved(&self) -> Chain {
        let udp = [ct(Ct::Status), and(&STATUS_CONFIRMED.to_ne_bytes()), equal(&[0; 4])]
            .into_iter()
            .chain(l4proto(IPPROTO_UDP))
            .chain([self.queue.expr(QUEUE_UDP, true)]);
        let text = "ct status & confirmed == 0 meta l4proto udp queue to 1 bypass";
        Chain { name: "unserved", base: None, rules: vec![self.queue_syn(), Rule::new(text, udp)] }
    }

    fn inside(&self) -> Chain {
        let marked = |name: &str, value| {
            Rule::new(format!("meta mark {name} accept"), mark(value).into_iter().chain([accept()]))
        };
        let mut rules = vec![marked("INJECTED", MARK_INJECTED), marked("DELIVERY", MARK_DELIVERY)];
        if self.family == Family::Ip {
            rules.push(self.accept_within(End::Destination, Cidr::host(DOCKER_RESOLVER.into())));
        }
        let pod = self.addresses.pod.iter().filter(|ip| self.is_ours(**ip)).map(|ip| Cidr::host(*ip));
        rules.extend([self.loopback()].into_iter().chain(pod).map(|network| {
            let (text, exprs) = self.within(End::Destination, network);
            Rule::new(format!("{text} jump unserved"), exprs.into_iter().chain([jump("unserved")]))
        }));
        rules.push(Rule::new("accept", [accept()]));
        Chain { name: "inside", base: None, rules }
    }

    fn arrive(&self) -> Chain {
        let mut rules = Vec::new();
        if let Some(pod) = self.addresses.pod.iter().find(|ip| self.is_ours(**ip)) {
            let container = || self.addresses.container.iter().filter(|(ip, _)| self.is_ours(*ip));
            let translated = |name: &str, protocol: u8| {
                let rule = |(ip, _): &(IpAddr, Cidr)| {
                    let (text, exprs) = self.within(End::Destination, Cidr::host(*ip));
                    let exprs = exprs.into_iter().chain(l4proto(protocol)).chain(dnat(self.family, *pod));
                    Rule::new(format!("{text} meta l4proto {name} dnat to {pod}"), exprs)
                };
                container().map(rule).collect::<Vec<_>>()
            };
            let neighbours = container().map(|(_, network)| *network);
            let direct = neighbours.chain(self.bypass.iter().copied().filter(|cidr| self.is_ours(cidr.network())));
            rules.extend(translated("tcp", IPPROTO_TCP));
            rules.extend(direct.map(|network| self.accept_within(End::Source, network)));
            rules.extend(translated("udp", IPPROTO_UDP));
        }
        let base = Base { kind: "nat", hook: Hook::Prerouting, priority: PRIORITY_REDIRECT, drop: false };
        Chain { name: "arrive", base: Some(base), rules }
    }

    fn queue_syn(&self) -> Rule {
        let syn = [
            payload(Header::Transport, TCP_FLAGS_OFFSET, 1),
            and(&[TCP_FIN_SYN_RST_ACK]),
            equal(&[TCP_SYN]),
            self.queue.expr(QUEUE_TCP, true),
        ];
        let text = "meta l4proto tcp tcp flags & (fin|syn|rst|ack) == syn queue to 0 bypass";
        Rule::new(text, l4proto(IPPROTO_TCP).into_iter().chain(syn))
    }

    fn icmp(&self) -> IcmpCodes {
        match self.family {
            Family::Ip => IcmpCodes { net: 0, host: 1, prohibited: 13 },
            Family::Ip6 => IcmpCodes { net: 0, host: 3, prohibited: 1 },
        }
    }

    fn exempt(&self) -> Chain {
        let ours = self.bypass.iter().filter(|cidr| self.is_ours(cidr.network()));
        let (text, from_loopback) = self.within(End::Source, self.loopback());
        let mut rules = vec![Rule::new(format!("{text} drop"), from_loopback.into_iter().chain([drop()]))];
        rules.extend(ours.map(|cidr| self.accept_within(End::Destination, *cidr)));
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
        let inside = Rule::new("oifname \"lo\" jump inside", [oifname(), lo(), jump("inside")]);
        let mut rules = vec![
            if self.holds_inside() { inside } else { leaves_through_lo() },
            Rule::new("meta mark INJECTED drop", mark(MARK_INJECTED).into_iter().chain([drop()])),
            jump_exempt(),
        ];
        if self.listeners.is_none() {
            rules.push(reset_tcp());
            rules.push(Rule::new("reject with icmpv6 no-route", [reject_with_icmp(codes.net)]));
        } else {
            rules.push(redirected());
            rules.push(self.queue_syn());
            let udp = l4proto(IPPROTO_UDP).into_iter().chain([self.queue.expr(QUEUE_UDP, false)]);
            rules.push(Rule::new("meta l4proto udp queue to 1", udp));
            let (protocol, kind) = match self.family {
                Family::Ip => (IPPROTO_ICMP, 8),
                Family::Ip6 => (IPPROTO_ICMPV6, 128),
            };
            let echo = l4proto(protocol).into_iter().chain([
                payload(Header::Transport, 0, 1),
                equal(&[kind]),
                self.queue.expr(QUEUE_UDP, false),
            ]);
            rules.push(Rule::new("icmp type echo-request queue to 1", echo));
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
        static NONE: Addresses = Addresses { pod: Vec::new(), container: Vec::new() };
        TableSpec { family, queue: QueueKind::Nft, listeners: Some(1..=8), bypass, addresses: &NONE, served: true }
    }

    #[test]
    fn the_pods_loopback_and_address_are_looked_at_and_dockers_resolver_is_not() {
        let addresses = Addresses {
            pod: ["10.244.0.7", "fd00:244::7"].map(|ip| ip.parse().unwrap()).into(),
            container: [("172.17.0.2", "172.17.0.0/16"), ("fd00::2", "fd00::/64")]
                .map(|(ip, network)| (ip.parse().unwrap(), network.parse().unwrap()))
                .into(),
        };
        let bypass = ["10.9.0.0/16".parse().unwrap()];
        let v4 = TableSpec { addresses: &addresses, ..spec(Family::Ip, &bypass) };
        assert_eq!(
            texts(&v4, "inside")[2..],
            [
                "ip daddr 127.0.0.11/32 accept",
                "ip daddr 127.0.0.0/8 jump unserved",
                "ip daddr 10.244.0.7/32 jump unserved",
                "accept"
            ]
        );
        assert_eq!(
            texts(&v4, "arrive"),
            [
                "ip daddr 172.17.0.2/32 meta l4proto tcp dnat to 10.244.0.7",
                "ip saddr 172.17.0.0/16 accept",
                "ip saddr 10.9.0.0/16 accept",
                "ip daddr 172.17.0.2/32 meta l4proto udp dnat to 10.244.0.7"
            ]
        );
        let v6 = TableSpec { addresses: &addresses, ..spec(Family::Ip6, &bypass) };
        assert_eq!(
            texts(&v6, "inside")[2..],
            ["ip6 daddr ::1/128 jump unserved", "ip6 daddr fd00:244::7/128 jump unserved", "accept"]
        );
    }

    #[test]
    fn a_kernel_that_cannot_tell_what_is_served_leaves_loopback_alone() {
        let table = TableSpec { served: false, ..spec(Family::Ip, &[]) }.table();
        assert!(!table.chains.iter().any(|chain| ["inside", "unserved"].contains(&chain.name)));
    }

    #[test]
    fn each_family_exempts_its_own_bypass_networks() {
        let bypass = ["172.20.0.0/16", "fd00::/8"].map(|text| text.parse().unwrap());
        let v4 = texts(&spec(Family::Ip, &bypass), "exempt");
        assert_eq!(v4, ["ip saddr 127.0.0.0/8 drop", "ip daddr 172.20.0.0/16 accept", "ct direction reply accept"]);
        let v6 = texts(&spec(Family::Ip6, &bypass), "exempt");
        assert_eq!(v6[..3], ["ip6 saddr ::1/128 drop", "ip6 daddr fd00::/8 accept", "ct direction reply accept"]);
        assert_eq!(v6.len(), 6);
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
            assert_eq!(rules.filter(|rule| rule.exprs.last().unwrap().name == name).count(), 5);
        }
    }
}
