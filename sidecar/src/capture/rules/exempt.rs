//! What does not concern the tunnel, to jump to: every chain that sees packets which leave asks here first, so that
//! what is let out is decided in one place.
//!
//! ```text
//! chain exempt {
//!   ip saddr 127.0.0.0/8 drop                            # ip6: ::1; a listener's answer to an address that has gone
//!   ip daddr 172.20.0.0/16 accept                        # each bypass network
//!   ct direction reply accept                            # answers to who connected to the app (published ports)
//!   icmpv6 type 133-137 accept                           # ip6: neighbour and router discovery, RFC 4861
//!   icmpv6 type { 131, 132, 143 } accept                 # ip6: which groups we listen to, for bridges that snoop
//! }
//! ```

use super::{
    super::nft::{
        Chain, Family, Rule,
        expr::{Ct, Header, accept, at_least, at_most, ct, drop, equal, payload},
    },
    TableSpec,
    parts::{End, IPPROTO_ICMPV6, l4proto},
};

const DIRECTION_REPLY: u8 = 1;

impl TableSpec<'_> {
    pub(super) fn exempt(&self) -> Chain {
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
}
