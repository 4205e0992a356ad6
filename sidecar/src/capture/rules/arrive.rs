//! Who comes in by a published port finds the app at the pod's address, where the app may have bound itself to. For
//! datagrams there is another reason: the answer of a socket that is bound to no address gets the source of its route,
//! and that is the pod's address, but for neighbours and bypass networks (see `podip`).
//!
//! ```text
//! chain arrive {
//!   type nat hook prerouting priority -100; policy accept;
//!   ip daddr 172.17.0.2 meta l4proto tcp dnat to 10.244.0.7     # each address of the container
//!   ip saddr 172.17.0.0/16 accept                        # each network that the container is in
//!   ip saddr 172.20.0.0/16 accept                        # each bypass network
//!   ip daddr 172.17.0.2 meta l4proto udp dnat to 10.244.0.7
//! }
//! ```

use std::net::IpAddr;

use super::{
    super::{
        Cidr,
        nft::{Base, Chain, Hook, Rule, expr::dnat},
    },
    PRIORITY_REDIRECT, TableSpec,
    parts::{End, IPPROTO_TCP, IPPROTO_UDP, l4proto},
};

impl TableSpec<'_> {
    pub(super) fn arrive(&self) -> Chain {
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
}
