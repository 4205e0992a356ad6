//! Capture: everything in the sidecar that touches the kernel's packet path.
//!
//! A `connect()` of the app is not answered before the cluster has answered: its SYN is held in a queue of the kernel
//! while the proxy dials. Then either the SYN is let through and redirected to a listener here, and the data runs over
//! the kernel's own TCP, or the kernel refuses it with the same error. Datagrams are copied out of the queue and their
//! answers injected. What neither concerns the cluster nor is exempt does not leave the namespace, with or without this
//! process. The rules are in [`rules`], in nft's language.
//!
//! Everything happens in the network namespace of the thread that calls [`Capture::install`], and needs the
//! capabilities `NET_ADMIN` and `NET_RAW` there, nothing else.
//!
//! ```no_run
//! # use tpdocker_sidecar::capture::*;
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! let Capture { rules, mut captured, redirected, injector, .. } = Capture::install(&CaptureConfig::default())?;
//! tracing::info!(kind = rules.kind(), ipv6 = ?rules.ipv6(), "capturing");
//! match captured.next().await? {
//!     Captured::Tcp(held) => held.accept(), // and it shows up at `redirected.accept()`
//!     Captured::Udp { app, remote, payload } => injector.udp_reply(app, remote, &payload)?,
//!     Captured::Echo { app, remote, sequence, payload } => injector.echo_reply(app, remote, sequence, &payload)?,
//! }
//! # Ok(()) }
//! ```

mod captured;
mod counters;
#[doc(hidden)]
pub mod foreign;
mod injector;
mod needs;
pub(crate) mod netlink;
pub(crate) mod nft;
mod packet;
#[cfg(test)]
mod properties;
mod queue;
pub(crate) mod reactor;
mod redirected;
mod rules;
mod served;

use std::{io, net::IpAddr, ops::RangeInclusive, path::Path, sync::Arc};

use nix::errno::Errno as OsErrno;

pub use tpdocker_protocol::cidr::{Cidr, CidrError};

pub use self::{
    captured::{Captured, CapturedPackets, HeldSyn, MAX_HELD_SYNS},
    counters::Counters,
    injector::Injector,
    needs::Part,
    redirected::{Connection, Redirected},
    rules::MARK_DELIVERY,
};
use self::{
    nft::{Family, Refusal},
    rules::{QueueKind, TableSpec},
    served::Served,
};

/// More networks than a person declares; each is a rule that packets pass one after the other.
pub const MAX_BYPASS: usize = 256;

/// What to capture.
#[derive(Debug, Clone, Default)]
pub struct CaptureConfig {
    /// Networks that the app reaches directly, at most [`MAX_BYPASS`].
    pub bypass: Vec<Cidr>,
    /// Whose addresses the namespace has.
    pub addresses: Addresses,
}

/// Whose addresses the namespace has, other than the loopback's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// The pod's, at which the app may listen here and the pod's other containers there.
    pub pod: Vec<IpAddr>,
    /// The container's own, each with the network on its link.
    pub container: Vec<(IpAddr, Cidr)>,
}

/// A capture in force. Its parts belong to different tasks: take it apart.
#[derive(Debug)]
pub struct Capture {
    /// The rules, which stay in the kernel when this is dropped and when the process dies.
    pub rules: Rules,
    /// What the app sends.
    pub captured: CapturedPackets,
    /// Connections that were accepted.
    pub redirected: Redirected,
    /// The way back for what is not TCP.
    pub injector: Injector,
    /// What had to be dropped.
    pub counters: Arc<Counters>,
}

/// The rules in the kernel.
#[derive(Debug)]
pub struct Rules {
    config: CaptureConfig,
    queue: QueueKind,
    listeners: RangeInclusive<u16>,
    ipv6: Ipv6,
    served: bool,
}

/// What becomes of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipv6 {
    /// Captured like IPv4.
    Captured,
    /// Refused at once, since the namespace has no `::1` on which the listener could be.
    Rejected,
    /// The kernel has none, so there is nothing to rule.
    Absent,
}

/// Why packets cannot be captured.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// No `CAP_NET_ADMIN`, or no `CAP_NET_RAW`.
    #[error("capturing packets needs the capabilities NET_ADMIN and NET_RAW in the container's network namespace")]
    NotPermitted(#[source] io::Error),
    /// The kernel was built without something, or a module is not loaded.
    #[error("the kernel lacks {}", needs::listed(parts))]
    Missing {
        /// What.
        parts: Vec<Part>,
        /// What it said.
        source: io::Error,
    },
    /// Another process has it.
    #[error("another process in the container's network namespace has taken packet queue 0 or 1")]
    QueueTaken(#[source] io::Error),
    /// A rule or what it stands in, for a reason other than that something is missing.
    #[error("the kernel refused {step}")]
    Rule {
        /// What was asked, as nft text.
        step: String,
        /// Its answer.
        source: io::Error,
    },
    /// More than [`MAX_BYPASS`].
    #[error("{0} bypass networks are more than {MAX_BYPASS}")]
    TooManyBypass(usize),
    /// Something else.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

// === impl Capture ===

impl Capture {
    /// Starts capturing in the calling thread's network namespace; within a tokio runtime. What an earlier call or
    /// process has installed is replaced, in one transaction: no packet leaks in between.
    pub fn install(config: &CaptureConfig) -> Result<Self, CaptureError> {
        let counters = Arc::<Counters>::default();
        let kernel_has_ipv6 = Path::new("/proc/net/if_inet6").exists();
        let injector = Injector::open(kernel_has_ipv6).map_err(io_error("open a raw socket"))?;
        let redirected =
            Redirected::bind(Arc::clone(&counters)).map_err(io_error("listen on the namespace's loopback"))?;
        let served = Served::open().map_err(io_error("look for sockets of the namespace"))?;
        let sees_sockets = served.is_some();
        if !sees_sockets {
            tracing::warn!("the kernel has no socket diagnostics: the pod's loopback is out of the app's reach");
        }
        let captured = CapturedPackets::bind(Arc::clone(&counters), served).map_err(queue_error)?;
        let ipv6 = match (kernel_has_ipv6, redirected.has_ipv6()) {
            (false, _) => Ipv6::Absent,
            (true, false) => Ipv6::Rejected,
            (true, true) => Ipv6::Captured,
        };
        let (config, queue, listeners) = (config.clone(), QueueKind::Nft, redirected.ports());
        let rules = Rules { config, queue, listeners, ipv6, served: sees_sockets };
        Ok(Self { rules: rules.install()?, captured, redirected, injector, counters })
    }
}

// === impl Rules ===

impl Rules {
    /// How packets are held: `nft queue` or `xt NFQUEUE`.
    pub fn kind(&self) -> &'static str {
        match self.queue {
            QueueKind::Nft => "nft queue",
            QueueKind::Xt => "xt NFQUEUE",
        }
    }

    /// What becomes of IPv6.
    pub fn ipv6(&self) -> Ipv6 {
        self.ipv6
    }

    /// Replaces the bypass networks, in one transaction. Redirected connections go on; those to a network that is no
    /// longer bypassed are cut off.
    pub fn set_bypass(&mut self, bypass: &[Cidr]) -> Result<(), CaptureError> {
        self.set(CaptureConfig { bypass: bypass.to_vec(), ..self.config.clone() })
    }

    /// Replaces the addresses, in one transaction.
    pub fn set_addresses(&mut self, addresses: Addresses) -> Result<(), CaptureError> {
        if addresses == self.config.addresses {
            return Ok(());
        }
        self.set(CaptureConfig { addresses, ..self.config.clone() })
    }

    fn set(&mut self, config: CaptureConfig) -> Result<(), CaptureError> {
        self.commit(self.queue, &config)?.map_err(rule_error)?;
        self.config = config;
        Ok(())
    }

    /// Probes for nft's queue first, then for iptables'. A kernel refuses a transaction as a whole, so what it refuses
    /// leaves no trace.
    fn install(mut self) -> Result<Self, CaptureError> {
        let mut outcome = self.commit(self.queue, &self.config)?;
        if outcome.as_ref().is_err_and(lacks_queue_rule) {
            tracing::debug!("no nft queue, trying xt NFQUEUE");
            self.queue = QueueKind::Xt;
            outcome = self.commit(self.queue, &self.config)?;
        }
        outcome.map_err(rule_error)?;
        Ok(self)
    }

    fn commit(&self, queue: QueueKind, config: &CaptureConfig) -> Result<Result<(), Refusal>, CaptureError> {
        let CaptureConfig { bypass, addresses } = config;
        if bypass.len() > MAX_BYPASS {
            return Err(CaptureError::TooManyBypass(bypass.len()));
        }
        let (listeners, served) = (Some(self.listeners.clone()), self.served);
        let spec = TableSpec { family: Family::Ip, queue, listeners, bypass, addresses, served };
        let mut tables = vec![spec.table()];
        if self.ipv6 != Ipv6::Absent {
            let listeners = (self.ipv6 == Ipv6::Captured).then(|| self.listeners.clone());
            tables.push(TableSpec { family: Family::Ip6, listeners, ..spec }.table());
        }
        Ok(nft::replace(&tables))
    }
}

// === errors ===

fn io_error(action: &'static str) -> impl FnOnce(io::Error) -> CaptureError {
    move |source| match source.kind() {
        io::ErrorKind::PermissionDenied => CaptureError::NotPermitted(source),
        _ => CaptureError::Io { action, source },
    }
}

fn queue_error(source: io::Error) -> CaptureError {
    match source.raw_os_error().map(OsErrno::from_raw) {
        Some(OsErrno::EPERM | OsErrno::EACCES) => CaptureError::NotPermitted(source),
        Some(OsErrno::EBUSY) => CaptureError::QueueTaken(source),
        Some(OsErrno::EPROTONOSUPPORT) => CaptureError::Missing { parts: vec![needs::NETLINK], source },
        // Netfilter's answer for a subsystem that it does not have.
        Some(OsErrno::EOPNOTSUPP | OsErrno::EINVAL) => {
            CaptureError::Missing { parts: vec![needs::PACKET_QUEUE], source }
        }
        _ => CaptureError::Io { action: "bind the packet queue", source },
    }
}

fn lacks_queue_rule(refusal: &Refusal) -> bool {
    refusal.lacking.iter().any(|piece| needs::part_of(*piece) == Some(needs::QUEUE_RULE))
}

fn rule_error(refusal: Refusal) -> CaptureError {
    let Refusal { step, lacking, source } = refusal;
    if source.raw_os_error() == Some(OsErrno::EPERM as i32) {
        return CaptureError::NotPermitted(source);
    }
    let mut parts: Vec<Part> = lacking.into_iter().filter_map(needs::part_of).collect();
    parts.dedup();
    if parts.is_empty() { CaptureError::Rule { step, source } } else { CaptureError::Missing { parts, source } }
}

impl CaptureError {
    /// What somebody can do about it: a command to paste, or a sentence.
    pub fn cure(&self) -> Option<String> {
        match self {
            Self::Missing { parts, .. } => Some(needs::cure(parts)),
            Self::NotPermitted(_) => Some(
                "let the engine give containers NET_ADMIN and NET_RAW: an authorization plugin, a security profile or \
                 the engine's own configuration takes them away"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}
