//! Capture (signatures first; bodies follow).
//!
//! ```ignore
//! let Capture { rules, mut captured, redirected, injector } = Capture::install(&CaptureConfig::default())?;
//! // task 1: loop { match captured.next().await? { Captured::Tcp(held) => .., Captured::Udp { app, remote, payload } => .. } }
//! // task 2: loop { let Connection { stream, app, remote } = redirected.accept().await?; match it with what was accepted }
//! ```
use std::{io, net::IpAddr, sync::Arc};

use bytes::Bytes;
use tokio::net::TcpStream;
use tpdocker_protocol::{
    addr::{AppAddr, ClusterAddr},
    errno::Errno,
};

/// A network in CIDR notation (`FromStr`, `Display`); parse `SidecarConfig::bypass` with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    /// Network address, host bits zero.
    pub network: IpAddr,
    /// Length of the prefix.
    pub prefix: u8,
}

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
    /// Networks reached directly.
    pub bypass: Vec<Cidr>,
    /// ICMP echo.
    pub echo: Echo,
}

/// Everything; take the fields apart, each goes to a task of its own.
pub struct Capture {
    /// The rules in the kernel. They stay when this is dropped or the process dies.
    pub rules: Rules,
    /// What the app sends.
    pub captured: CapturedPackets,
    /// Connections whose SYN was accepted.
    pub redirected: Redirected,
    /// The way back.
    pub injector: Injector,
}

impl Capture {
    /// In the calling thread's namespace, within a tokio runtime; blocks for some milliseconds. Idempotent.
    pub fn install(_config: &CaptureConfig) -> Result<Self, CaptureError> {
        Err(CaptureError::Later)
    }
}

/// Why not.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Later.
    #[error("later")]
    Later,
}

/// The rules in the kernel.
pub struct Rules;

impl Rules {
    /// `nft queue` or `xt NFQUEUE`.
    pub fn kind(&self) -> &'static str {
        "later"
    }

    /// Replaces the bypass networks, atomically; flows that run are not touched.
    pub fn set_bypass(&mut self, _bypass: &[Cidr]) -> Result<(), CaptureError> {
        Err(CaptureError::Later)
    }
}

/// What the app sends.
pub struct CapturedPackets;

impl CapturedPackets {
    /// The next one. Cancel-safe. An error is fatal for the capture (the kernel's queue is gone).
    #[expect(clippy::unused_async, reason = "signature")]
    pub async fn next(&mut self) -> io::Result<Captured> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Something that the app wants to send to the cluster.
pub enum Captured {
    /// The app is in `connect()`.
    Tcp(HeldSyn),
    /// One datagram, already gone from the kernel; ports within the addresses.
    Udp {
        /// From.
        app: AppAddr,
        /// To.
        remote: ClusterAddr,
        /// At most 65,503 bytes.
        payload: Bytes,
    },
}

/// A held SYN. Dropped without an answer it is refused with EHOSTUNREACH.
pub struct HeldSyn {
    /// The app's socket.
    pub app: AppAddr,
    /// Where to.
    pub remote: ClusterAddr,
    _later: Arc<()>,
}

impl HeldSyn {
    /// Lets it through to [`Redirected`], where the connection (same `app` and `remote`) shows up within microseconds:
    /// register what waits for it *before* the call. It never shows up if the app has given up: time out after some seconds.
    pub fn accept(self) {}

    /// `connect()` fails with this. ETIMEDOUT is silence, the app's own timer ends it.
    pub fn refuse(self, _errno: Errno) {}
}

/// The listener behind the redirect.
pub struct Redirected;

/// A connection of the app, established.
pub struct Connection {
    /// Its data.
    pub stream: TcpStream,
    /// The app's socket, equal to [`HeldSyn::app`].
    pub app: AppAddr,
    /// What the app connected to, equal to [`HeldSyn::remote`].
    pub remote: ClusterAddr,
}

impl Redirected {
    /// The next one. Cancel-safe. One that nobody waits for (a SYN sent twice around an abort) has to be closed.
    #[expect(clippy::unused_async, reason = "signature")]
    pub async fn accept(&self) -> io::Result<Connection> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The way back for what is not TCP. Cheap to clone, never blocks.
#[derive(Clone)]
pub struct Injector;

impl Injector {
    /// A datagram from `remote` to the app's socket.
    pub fn udp_reply(&self, _app: AppAddr, _remote: ClusterAddr, _payload: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Tells the app's connected UDP socket that its datagrams to `remote` fail with `errno`
    /// (ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, EPERM/EACCES; others are silently ignored).
    pub fn unreachable(&self, _app: AppAddr, _remote: ClusterAddr, _errno: Errno) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
