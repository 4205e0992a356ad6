//! Another machine on the laptop's network: a network namespace, joined with the laptop's by a veth pair.

use std::fs::File;
use std::process::Command;

use nix::sched::{CloneFlags, setns, unshare};

/// The laptop's address on that network (RFC 5737: for documentation, so nobody's).
pub const LAPTOP: &str = "198.51.100.1";
/// The machine's.
pub const MACHINE: &str = "198.51.100.2";

/// The machine; it is gone when this is dropped, and the laptop's end of the cable with it.
pub struct Machine(File);

impl Machine {
    /// Plugs it in.
    pub fn new() -> Self {
        let own = std::process::id();
        let cable = format!("tpd{own}");
        let namespace = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs root");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let machine = Self(namespace.join().unwrap());
        machine.run(|| {
            ip(&format!("link add eth0 type veth peer name {cable} netns {own}"));
            ip(&format!("addr add {MACHINE}/30 dev eth0"));
            ip("link set eth0 up");
        });
        ip(&format!("addr add {LAPTOP}/30 dev {cable}"));
        ip(&format!("link set {cable} up"));
        machine
    }

    /// Runs `work` on it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split_whitespace()).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}
