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
//! }
//! # Ok(()) }
//! ```

mod captured;
mod cidr;
mod counters;
mod injector;
pub(crate) mod netlink;
mod nft;
mod packet;
mod queue;
mod reactor;
mod redirected;
mod rules;

use std::{io, ops::RangeInclusive, path::Path, sync::Arc};

use nix::errno::Errno as OsErrno;

pub use self::{
    captured::{Captured, CapturedPackets, HeldSyn, MAX_HELD_SYNS},
    cidr::{Cidr, CidrError},
    counters::Counters,
    injector::Injector,
    redirected::{Connection, Redirected},
};
use self::{
    nft::{Family, Refusal},
    rules::{QueueKind, TableSpec},
};

/// More networks than a person declares; each is a rule that packets pass one after the other.
pub const MAX_BYPASS: usize = 256;

/// What becomes of an ICMP echo request of the app; neither way does it leave the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Echo {
    /// Silence: `ping` reports loss.
    #[default]
    Drop,
    /// "Administratively prohibited": `ping` says at once that it is filtered.
    Refuse,
}

/// What to capture.
#[derive(Debug, Clone, Default)]
pub struct CaptureConfig {
    /// Networks that the app reaches directly, at most [`MAX_BYPASS`].
    pub bypass: Vec<Cidr>,
    /// What becomes of `ping`.
    pub echo: Echo,
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
    /// Neither way of queueing is in the kernel.
    #[error(
        "the engine's kernel cannot queue packets: it has neither nft's queue (CONFIG_NFT_QUEUE, module nft_queue) nor \
         iptables' NFQUEUE for nft (CONFIG_NFT_COMPAT and CONFIG_NETFILTER_XT_TARGET_NFQUEUE, modules nft_compat and \
         xt_NFQUEUE)"
    )]
    NoQueueRule(#[source] io::Error),
    /// The kernel has nobody to hand queued packets to.
    #[error("the engine's kernel has no packet queue (CONFIG_NETFILTER_NETLINK_QUEUE, module nfnetlink_queue)")]
    NoQueue(#[source] io::Error),
    /// Another process has it.
    #[error("another process in the container's network namespace has taken packet queue 0 or 1")]
    QueueTaken(#[source] io::Error),
    /// A rule or what it stands in.
    #[error("the engine's kernel refused {step}, which needs {needs}")]
    Rule {
        /// What was asked, as nft text.
        step: String,
        /// Kernel options and their modules.
        needs: String,
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
        let captured = CapturedPackets::bind(Arc::clone(&counters)).map_err(queue_error)?;
        let ipv6 = match (kernel_has_ipv6, redirected.has_ipv6()) {
            (false, _) => Ipv6::Absent,
            (true, false) => Ipv6::Rejected,
            (true, true) => Ipv6::Captured,
        };
        let rules = Rules { config: config.clone(), queue: QueueKind::Nft, listeners: redirected.ports(), ipv6 };
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
        let config = CaptureConfig { bypass: bypass.to_vec(), echo: self.config.echo };
        self.commit(self.queue, &config)?.map_err(rule_error)?;
        self.config = config;
        Ok(())
    }

    /// Probes for nft's queue first, then for iptables'. A kernel refuses a transaction as a whole, so what it refuses
    /// leaves no trace.
    fn install(mut self) -> Result<Self, CaptureError> {
        for (kind, expression) in [(QueueKind::Nft, "queue"), (QueueKind::Xt, "target")] {
            self.queue = kind;
            match self.commit(kind, &self.config)? {
                Ok(()) => return Ok(self),
                Err(refusal) if !refusal.expressions.contains(&expression) => return Err(rule_error(refusal)),
                Err(refusal) if kind == QueueKind::Xt => return Err(CaptureError::NoQueueRule(refusal.source)),
                Err(refusal) => tracing::debug!(error = %refusal.source, "no nft queue, trying xt NFQUEUE"),
            }
        }
        unreachable!("the last kind returns")
    }

    fn commit(&self, queue: QueueKind, config: &CaptureConfig) -> Result<Result<(), Refusal>, CaptureError> {
        let CaptureConfig { bypass, echo } = config;
        if bypass.len() > MAX_BYPASS {
            return Err(CaptureError::TooManyBypass(bypass.len()));
        }
        let spec =
            TableSpec { family: Family::Ip, queue, listeners: Some(self.listeners.clone()), bypass, echo: *echo };
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
        Some(OsErrno::EPROTONOSUPPORT | OsErrno::EOPNOTSUPP | OsErrno::EINVAL) => CaptureError::NoQueue(source),
        _ => CaptureError::Io { action: "bind the packet queue", source },
    }
}

fn rule_error(refusal: Refusal) -> CaptureError {
    let Refusal { step, expressions, source } = refusal;
    if source.raw_os_error() == Some(OsErrno::EPERM as i32) {
        return CaptureError::NotPermitted(source);
    }
    let mut needs =
        vec!["nf_tables with IPv4, IPv6 and nat (CONFIG_NF_TABLES, CONFIG_NF_TABLES_IPV4, _IPV6, CONFIG_NFT_NAT)"];
    needs.extend(expressions.iter().filter_map(|name| match *name {
        "ct" | "notrack" => Some("connection tracking (CONFIG_NFT_CT, module nft_ct)"),
        "redir" => Some("redirection (CONFIG_NFT_REDIR, module nft_redir)"),
        "reject" => Some("rejection (CONFIG_NFT_REJECT_IPV4 and _IPV6, modules nft_reject_ipv4 and nft_reject_ipv6)"),
        _ => None,
    }));
    CaptureError::Rule { step, needs: needs.join(", "), source }
}
