//! PID 1 of the sidecar container: keeps the network namespace alive and a data plane running in it.
//!
//! The user's container has joined this container's namespace, and a container that loses the namespace's owner is
//! orphaned for good. So the owner does next to nothing that could fail, and what can fail is a child that is started
//! again. The rules are in the kernel: while there is no data plane, traffic is refused and not leaked.

use std::io;
use std::os::fd::AsFd;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tracing::level_filters::LevelFilter;

/// Wait before the first restart. A restart is what makes traffic flow again, so it is short.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
/// Wait between restarts of a data plane that never gets going.
const LAST_BACKOFF: Duration = Duration::from_secs(5);
/// A data plane that lived this long had got going; its end is a first one again.
const HEALTHY_LIFE: Duration = Duration::from_secs(10);
/// The program is also the data plane; its path is the same under every root.
const SELF: &str = "/proc/self/exe";

/// Why the holder gives up.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// Signals cannot be received.
    #[error("cannot wait for signals")]
    Signals(#[from] Errno),
    /// The data plane cannot be started at all.
    #[error("cannot start the data plane")]
    Spawn(#[from] io::Error),
}

/// Keeps a data plane running until SIGTERM or SIGINT, which are passed on to it.
pub fn hold(log: LevelFilter) -> Result<(), HoldError> {
    if let Err(errno) = raise_descriptor_limit() {
        tracing::warn!("the limit of open files stays as it is: {errno}");
    }
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
        signals.add(signal);
    }
    // Blocked before the first child exists, so that no death of a child is missed.
    signals.thread_block()?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let mut backoff = FIRST_BACKOFF;
    // The first one has to start, so that somebody sees why it does not.
    let mut next = Some(spawn(log)?);
    loop {
        let started = Instant::now();
        if let Some(child) = next
            && supervise(&child, &signals)? == End::Asked
        {
            return Ok(());
        }
        backoff = if started.elapsed() > HEALTHY_LIFE { FIRST_BACKOFF } else { backoff };
        if pause(&signals, backoff)? == End::Asked {
            return Ok(());
        }
        backoff = (backoff * 2).min(LAST_BACKOFF);
        // Later, a machine that is out of processes or memory for a moment must not cost the app its network.
        next = match spawn(log) {
            Ok(child) => Some(child),
            Err(error) => {
                tracing::error!("the data plane cannot be started: {error}");
                None
            }
        };
    }
}

/// Every connection of the app is a descriptor of the data plane, and engines start containers with a soft limit of
/// 1024; children inherit what is set here.
fn raise_descriptor_limit() -> Result<(), Errno> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) }
}

/// Undoes for the data plane what [`hold`] did to the signals that it inherits.
pub fn unblock_signals() -> Result<(), HoldError> {
    Ok(SigSet::all().thread_unblock()?)
}

/// Why a wait is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Somebody asked the container to stop.
    Asked,
    /// The data plane died, or the time is up.
    Unasked,
}

fn spawn(log: LevelFilter) -> io::Result<Child> {
    Command::new(SELF).args(["run", "--log", &log.to_string()]).spawn()
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// Waits for the end of `child`; reaps every other process that ended up here.
fn supervise(child: &Child, signals: &SignalFd) -> Result<End, HoldError> {
    let mut end = End::Unasked;
    loop {
        if reap_until(pid(child))? {
            return Ok(end);
        }
        if let Some(signal) = next_signal(signals, PollTimeout::NONE)?
            && signal != Signal::SIGCHLD
        {
            end = End::Asked;
            match kill(pid(child), signal) {
                // It died by itself; the reaping above finds it.
                Ok(()) | Err(Errno::ESRCH) => (),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Whether `child` was among the dead.
fn reap_until(child: Pid) -> Result<bool, Errno> {
    loop {
        let status = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return Ok(false),
            Err(Errno::ECHILD) => return Ok(true),
            status => status?,
        };
        if status.pid() == Some(child) {
            tracing::warn!("the data plane ended: {status:?}");
            return Ok(true);
        }
    }
}

fn pause(signals: &SignalFd, time: Duration) -> Result<End, HoldError> {
    let until = Instant::now() + time;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(End::Unasked);
        }
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        if next_signal(signals, timeout)?.is_some_and(|signal| signal != Signal::SIGCHLD) {
            return Ok(End::Asked);
        }
    }
}

/// The next signal, or `None` when the time is up.
fn next_signal(signals: &SignalFd, timeout: PollTimeout) -> Result<Option<Signal>, Errno> {
    match poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], timeout) {
        Ok(_) | Err(Errno::EINTR) => (),
        Err(errno) => return Err(errno),
    }
    let Some(info) = signals.read_signal()? else { return Ok(None) };
    Signal::try_from(info.ssi_signo.cast_signed()).map(Some)
}
