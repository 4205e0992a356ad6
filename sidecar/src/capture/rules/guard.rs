//! Once more, when routing is final: a SYN that was accepted but not redirected (its flow is older than the rules)
//! must not reach the wire.
//!
//! ```text
//! chain guard {
//!   type filter hook postrouting priority 0; policy drop;
//!   oifname "lo" accept
//!   jump exempt
//! }
//! ```

use super::{
    super::nft::{Base, Chain, Hook},
    PRIORITY_FILTER,
    parts::{jump_exempt, leaves_through_lo},
};

pub(super) fn guard() -> Chain {
    let base = Base { kind: "filter", hook: Hook::Postrouting, priority: PRIORITY_FILTER, drop: true };
    Chain { name: "guard", base: Some(base), rules: vec![leaves_through_lo(), jump_exempt()] }
}
