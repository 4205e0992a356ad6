//! The rows, by what they are about. Each group has a thread of its own; what takes long begins first.

mod bulk;
mod environment;
mod files;
mod icmp;
mod identity;
mod incoming;
mod ipv6;
mod localhost;
mod names;
mod own;
mod tcp;
mod udp;

use std::thread;

pub use self::bulk::idle;
pub use self::files::digest;
use crate::context::Context;

type Group = fn(&Context);

const GROUPS: [Group; 11] = [
    files::run,
    incoming::tcp,
    incoming::udp,
    bulk::run,
    names::run,
    tcp::run,
    udp::run,
    localhost::run,
    icmp::run,
    ipv6::run,
    |context| {
        identity::run(context);
        environment::run(context);
    },
];

/// Carries out all rows, and ends when the last is printed. The declared ports are open all the time: a pod that does
/// not listen on them gets no traffic.
pub fn run(context: &Context) {
    let _declared = own::declared(context);
    thread::scope(|scope| {
        if context.targets.idle_too {
            scope.spawn(|| idle(context));
        }
        for group in GROUPS {
            scope.spawn(move || group(context));
        }
    });
}
