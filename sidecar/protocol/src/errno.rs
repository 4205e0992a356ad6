//! How the failure of a `connect()` or of a datagram travels from the cluster to the app.
//!
//! The number is Linux's (`errno(3)`, asm-generic): both ends run on Linux, and the app on the laptop must see the
//! very error that a process in the pod would have seen.

/// A Linux error number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Errno(pub u16);

impl Errno {
    /// The operation is not permitted, for example by a network policy that rejects.
    pub const EPERM: Self = Self(1);
    /// Permission denied, for example a privileged port.
    pub const EACCES: Self = Self(13);
    /// The address is in use.
    pub const EADDRINUSE: Self = Self(98);
    /// The address is not one of the pod's.
    pub const EADDRNOTAVAIL: Self = Self(99);
    /// No route to the network.
    pub const ENETUNREACH: Self = Self(101);
    /// The connection was aborted by this end.
    pub const ECONNABORTED: Self = Self(103);
    /// The writer has finished before.
    pub const EPIPE: Self = Self(32);
    /// The peer reset the connection.
    pub const ECONNRESET: Self = Self(104);
    /// Nobody answered in the time that the kernel gives.
    pub const ETIMEDOUT: Self = Self(110);
    /// Nobody listens there.
    pub const ECONNREFUSED: Self = Self(111);
    /// No route to the host.
    pub const EHOSTUNREACH: Self = Self(113);

    /// The number of an I/O error; errors without one (they come from libraries) read as a reset.
    pub fn from_io(error: &std::io::Error) -> Self {
        error.raw_os_error().and_then(|raw| u16::try_from(raw).ok()).map_or(Self::ECONNRESET, Self)
    }
}

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", std::io::Error::from_raw_os_error(i32::from(self.0)))
    }
}

impl std::error::Error for Errno {}
