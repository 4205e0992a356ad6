//! The way out is shut, and this is the gate: what the app sends to the cluster is handed to the sidecar, which
//! answers with a verdict. What no rule names is dropped. Without a listener, which only `ip6` can lack, everything is
//! refused at once.
//!
//! ```text
//! chain hold {
//!   type filter hook output priority -150; policy drop;  # after connection tracking, before nat
//!   oifname "lo" jump inside                             # within the namespace; accept where it has no chain
//!   meta mark INJECTED drop                              # the app's address is gone: nobody to inject to
//!   jump exempt
//!   ct status & dnat != 0 accept                         # flows that were redirected, and repeated SYNs of theirs
//!   meta l4proto tcp tcp flags & (fin|syn|rst|ack) == syn queue to 0 bypass
//!   meta l4proto udp queue to 1                          # no bypass: without the sidecar it is dropped
//!   icmp type echo-request queue to 1                    # likewise
//! }
//! ```

use super::{
    super::nft::{
        Base, Chain, Family, Hook, Rule,
        expr::{Header, drop, equal, jump, payload, reject_with_icmp},
    },
    MARK_INJECTED, QUEUE_UDP, TableSpec,
    parts::{
        IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_UDP, jump_exempt, l4proto, leaves_through_lo, lo, mark, oifname,
        redirected, reset_tcp,
    },
};

const PRIORITY_HOLD: i32 = -150; // `mangle`

impl TableSpec<'_> {
    pub(super) fn hold(&self) -> Chain {
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
}
