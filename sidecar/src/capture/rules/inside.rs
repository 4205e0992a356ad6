//! What stays in the namespace because its address is one of the namespace's: the sidecar looks whether a socket here
//! gets it, and lets it go on if so. What none gets is tried at the pod's own loopback or address, where the other
//! containers of the pod are. Of a datagram's flow only the first is looked at. Without the sidecar all of it is plain
//! loopback. These chains are there if the kernel can tell what a socket gets.
//!
//! ```text
//! chain unserved {
//!   meta l4proto tcp tcp flags & (fin|syn|rst|ack) == syn queue to 0 bypass
//!   ct status & confirmed == 0 meta l4proto udp queue to 1 bypass
//! }
//! chain inside {
//!   meta mark INJECTED accept
//!   meta mark DELIVERY accept                            # connections that the sidecar makes to the app
//!   ip daddr 127.0.0.11 accept                           # Docker's resolver, where Docker's own rules redirect to
//!   ip daddr 127.0.0.0/8 jump unserved                   # ip6: ::1
//!   ip daddr 10.244.0.7 jump unserved                    # each address of the pod
//!   accept
//! }
//! ```

use std::net::Ipv4Addr;

use super::{
    super::{
        Cidr,
        nft::{
            Chain, Family, Rule,
            expr::{Ct, accept, and, ct, equal, jump},
        },
    },
    MARK_DELIVERY, MARK_INJECTED, QUEUE_UDP, TableSpec,
    parts::{End, IPPROTO_UDP, l4proto, mark},
};

/// Where Docker answers questions for the names of containers; its own rules in the namespace lead to the true port.
const DOCKER_RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// `IPS_CONFIRMED`: a packet of the flow has left before.
const STATUS_CONFIRMED: u32 = 1 << 3;

impl TableSpec<'_> {
    pub(super) fn unserved(&self) -> Chain {
        let udp = [ct(Ct::Status), and(&STATUS_CONFIRMED.to_ne_bytes()), equal(&[0; 4])]
            .into_iter()
            .chain(l4proto(IPPROTO_UDP))
            .chain([self.queue.expr(QUEUE_UDP, true)]);
        let text = "ct status & confirmed == 0 meta l4proto udp queue to 1 bypass";
        Chain { name: "unserved", base: None, rules: vec![self.queue_syn(), Rule::new(text, udp)] }
    }

    pub(super) fn inside(&self) -> Chain {
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
}
