//! A held SYN whose dial succeeded goes on to a listener of the sidecar; its data then runs over the kernel's own TCP.
//!
//! ```text
//! chain redirect {
//!   type nat hook output priority -100; policy accept;
//!   meta mark ACCEPTED meta l4proto tcp redirect to :LISTENERS       # a range: the first port whose pair is free
//! }
//! ```

use super::{
    super::nft::{Base, Chain, Hook, Rule, expr::redirect},
    MARK_ACCEPTED, PRIORITY_REDIRECT, TableSpec,
    parts::{IPPROTO_TCP, l4proto, mark},
};

impl TableSpec<'_> {
    pub(super) fn redirect(&self) -> Chain {
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
}
