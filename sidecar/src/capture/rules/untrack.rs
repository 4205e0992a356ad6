//! Injected answers come "from" the cluster. Tracked, they would look like connections that came in, and the app's
//! next datagram to the same peer like an answer to them, which [`super::exempt`] lets out to the laptop's network.
//!
//! ```text
//! chain untrack {
//!   type filter hook output priority -300; policy accept;
//!   oifname "lo" meta mark INJECTED notrack
//! }
//! ```

use super::{
    super::nft::{Base, Chain, Hook, Rule, expr::notrack},
    MARK_INJECTED,
    parts::{lo, mark, oifname},
};

const PRIORITY_UNTRACK: i32 = -300; // `raw`: before connection tracking at -200

pub(super) fn untrack() -> Chain {
    let exprs = [oifname(), lo()].into_iter().chain(mark(MARK_INJECTED)).chain([notrack()]);
    let base = Base { kind: "filter", hook: Hook::Output, priority: PRIORITY_UNTRACK, drop: false };
    let rules = vec![Rule::new("oifname \"lo\" meta mark INJECTED notrack", exprs)];
    Chain { name: "untrack", base: Some(base), rules }
}
