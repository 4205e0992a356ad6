//! The ruleset: which packets of the app are held, and that nothing else leaves the namespace.
//!
//! One table per address family, named `tpdocker`. An accepted packet, and one that comes back from the queue with
//! the verdict "accept", goes on at the *next* base chain; that is why holding, redirecting and refusing are chains of
//! their own. Each has its file, with its rules in nft's language (`ip6` differs where noted):
//!
//! ```text
//! chain      called at               what for
//! exempt     by other chains         what does not concern the tunnel
//! untrack    output, -300            injected answers are not tracked
//! unserved   by `inside`             what may be for the pod's own loopback is held
//! inside     by `hold`               what stays in the namespace
//! arrive     prerouting, -100 (nat)  who comes in by a published port
//! hold       output, -150            what leaves is held; policy drop
//! redirect   output, -100 (nat)      a SYN that the far side has answered goes to a listener here
//! refuse     output, 0               any other SYN gets its error
//! guard      postrouting, 0          and none reaches the wire; policy drop
//! ```
//! ARP is not IP and passes. Where IPv6 exists but the listener cannot have an address of it, the `hold` chain of `ip6`
//! rejects everything, so that apps fall back to IPv4 at once: TCP by RST, since an ICMP error that comes while
//! `connect()` still holds its socket is not heard before the SYN is repeated, and the rest with "no route".

mod arrive;
mod exempt;
mod guard;
mod hold;
mod inside;
mod parts;
mod redirect;
mod refuse;
#[cfg(test)]
mod tests;
mod untrack;

use std::ops::RangeInclusive;

use super::{
    Addresses, Cidr,
    nft::{
        Family, Table,
        expr::{Expr, queue, xt_nfqueue},
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

const PRIORITY_REDIRECT: i32 = -100; // `dstnat`
const PRIORITY_FILTER: i32 = 0;

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

impl TableSpec<'_> {
    /// The table of the module's description.
    pub(crate) fn table(&self) -> Table {
        let mut chains = vec![self.exempt(), untrack::untrack()];
        if self.holds_inside() {
            chains.extend([self.unserved(), self.inside()]);
        }
        chains.extend([self.arrive(), self.hold(), self.redirect(), self.refuse(), guard::guard()]);
        Table { family: self.family, name: TABLE, chains }
    }

    /// Whether packets that stay in the namespace are looked at.
    fn holds_inside(&self) -> bool {
        self.served && self.listeners.is_some()
    }
}
