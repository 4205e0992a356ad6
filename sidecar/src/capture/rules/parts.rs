//! What the chains are made of: matches, and the rules that several of them share.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    super::{
        Cidr,
        nft::{
            Family, Rule,
            expr::{Ct, Expr, Header, Meta, accept, and, ct, differs, equal, jump, meta, payload, reject_with_reset},
        },
    },
    QUEUE_TCP, TableSpec,
};

pub(super) const IPPROTO_ICMP: u8 = 1;
pub(super) const IPPROTO_TCP: u8 = 6;
pub(super) const IPPROTO_UDP: u8 = 17;
pub(super) const IPPROTO_ICMPV6: u8 = 58;
/// `IPS_DST_NAT`
const STATUS_DNAT: u32 = 1 << 5;
const TCP_FLAGS_OFFSET: u32 = 13;
const TCP_FIN_SYN_RST_ACK: u8 = 0x17;
const TCP_SYN: u8 = 0x02;

/// Which address of a packet a rule looks at.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    Source,
    Destination,
}

/// ICMP (RFC 792, RFC 1812) or `ICMPv6` (RFC 4443) codes of "destination unreachable".
pub(super) struct IcmpCodes {
    pub(super) net: u8,
    pub(super) host: u8,
    pub(super) prohibited: u8,
}

impl TableSpec<'_> {
    pub(super) fn is_ours(&self, address: IpAddr) -> bool {
        address.is_ipv6() == (self.family == Family::Ip6)
    }

    /// Ends the rule unless the packet's address is in `network`; and the rule's text.
    pub(super) fn within(&self, end: End, network: Cidr) -> (String, [Expr; 3]) {
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

    pub(super) fn accept_within(&self, end: End, network: Cidr) -> Rule {
        let (text, exprs) = self.within(end, network);
        Rule::new(format!("{text} accept"), exprs.into_iter().chain([accept()]))
    }

    /// 127.0.0.0/8 or `::1`.
    pub(super) fn loopback(&self) -> Cidr {
        match self.family {
            Family::Ip => Cidr::new(Ipv4Addr::LOCALHOST.into(), 8).expect("8 bits are a prefix of 32"),
            Family::Ip6 => Cidr::host(Ipv6Addr::LOCALHOST.into()),
        }
    }

    pub(super) fn queue_syn(&self) -> Rule {
        let syn = [
            payload(Header::Transport, TCP_FLAGS_OFFSET, 1),
            and(&[TCP_FIN_SYN_RST_ACK]),
            equal(&[TCP_SYN]),
            self.queue.expr(QUEUE_TCP, true),
        ];
        let text = "meta l4proto tcp tcp flags & (fin|syn|rst|ack) == syn queue to 0 bypass";
        Rule::new(text, l4proto(IPPROTO_TCP).into_iter().chain(syn))
    }

    pub(super) fn icmp(&self) -> IcmpCodes {
        match self.family {
            Family::Ip => IcmpCodes { net: 0, host: 1, prohibited: 13 },
            Family::Ip6 => IcmpCodes { net: 0, host: 3, prohibited: 1 },
        }
    }
}

pub(super) fn leaves_through_lo() -> Rule {
    Rule::new("oifname \"lo\" accept", [oifname(), lo(), accept()])
}

pub(super) fn jump_exempt() -> Rule {
    Rule::new("jump exempt", [jump("exempt")])
}

pub(super) fn redirected() -> Rule {
    let exprs = [ct(Ct::Status), and(&STATUS_DNAT.to_ne_bytes()), differs(&[0; 4]), accept()];
    Rule::new("ct status & dnat != 0 accept", exprs)
}

pub(super) fn reset_tcp() -> Rule {
    let exprs = l4proto(IPPROTO_TCP).into_iter().chain([reject_with_reset()]);
    Rule::new("meta l4proto tcp reject with tcp reset", exprs)
}

pub(super) fn oifname() -> Expr {
    meta(Meta::OifName)
}

pub(super) fn lo() -> Expr {
    let mut name = [0; 16];
    name[..2].copy_from_slice(b"lo");
    equal(&name)
}

pub(super) fn mark(value: u32) -> [Expr; 2] {
    [meta(Meta::Mark), equal(&value.to_ne_bytes())]
}

pub(super) fn l4proto(protocol: u8) -> [Expr; 2] {
    [meta(Meta::L4Proto), equal(&[protocol])]
}
