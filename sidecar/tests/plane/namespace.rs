//! Network namespaces of the tests' own. Needs root, `ip` and `unshare`.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace that lives as long as this.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    /// A fresh one with its loopback up.
    pub fn new() -> Self {
        let namespace = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
            Self(File::open("/proc/thread-self/ns/net").unwrap())
        });
        let namespace = namespace.join().unwrap();
        namespace.ip("link set lo up");
        namespace
    }

    /// Runs `work` on a thread in the namespace; what it starts is in there, too.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A path by which `ip` finds it.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Runs `ip` with these arguments.
    pub fn ip(&self, arguments: &str) {
        let status = self.run(|| Command::new("ip").args(arguments.split_whitespace()).status()).unwrap();
        assert!(status.success(), "ip {arguments}");
    }
}
