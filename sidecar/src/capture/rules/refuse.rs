//! A held SYN whose dial failed is answered by the kernel with the error that the far side gave, so that `connect()`
//! fails as it would have there. The marks carry the error from the verdict to here.
//!
//! ```text
//! chain refuse {
//!   type filter hook output priority 0; policy accept;
//!   oifname "lo" accept
//!   jump exempt
//!   ct status & dnat != 0 accept                         # redirected just above
//!   meta mark HOST_UNREACHABLE reject with icmp host-unreachable     # ip6: addr-unreachable
//!   meta mark NET_UNREACHABLE reject with icmp net-unreachable       # ip6: no-route
//!   meta mark PROHIBITED reject with icmp admin-prohibited
//!   meta l4proto tcp reject with tcp reset               # mark REFUSED, or no mark: it bypassed the queue since the
//! }                                                      # sidecar is dead; refusing at once beats a time-out
//! ```

use super::{
    super::nft::{Base, Chain, Hook, Rule, expr::reject_with_icmp},
    MARK_HOST_UNREACHABLE, MARK_NET_UNREACHABLE, MARK_PROHIBITED, PRIORITY_FILTER, TableSpec,
    parts::{jump_exempt, leaves_through_lo, mark, redirected, reset_tcp},
};

impl TableSpec<'_> {
    pub(super) fn refuse(&self) -> Chain {
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
