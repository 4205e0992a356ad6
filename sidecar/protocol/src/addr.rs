//! Addresses with their place in the type: container, sidecar, proxy and cluster all have a "local" one.

use std::net::SocketAddr;

/// An address as the app wrote it into `connect()` or `sendto()`; it means something only inside the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterAddr(pub SocketAddr);

/// The address of one of the app's own sockets, in the container's network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AppAddr(pub SocketAddr);

/// What a new stream asks of the end that receives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// Sidecar → proxy: connect to this address from the pod.
    Dial(ClusterAddr),
    /// Proxy → sidecar: somebody in the cluster connected to `port` of the pod; hand it to the app.
    Deliver {
        /// The port on which the proxy accepted.
        port: u16,
        /// Who connected, as the pod saw it.
        peer: ClusterAddr,
    },
}

/// Transport protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Transport {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

/// A port that the app listens on, and so the proxy must.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Port {
    /// Its transport.
    pub transport: Transport,
    /// Its number, never 0.
    pub number: u16,
}

/// Which addresses of a network namespace a socket listens on. Of a dual-stack socket there are two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Every IPv4 address, or one that is the pod's.
    AnyV4,
    /// Every IPv6 address, or one that is the pod's.
    AnyV6,
    /// 127.0.0.1 only: a matter between the containers of the pod.
    LoopbackV4,
    /// `::1` only.
    LoopbackV6,
}

impl Scope {
    /// Reached at the pod's address, and not from within the pod only.
    #[must_use]
    pub fn is_public(self) -> bool {
        matches!(self, Self::AnyV4 | Self::AnyV6)
    }

    /// The loopback of the same family.
    #[must_use]
    pub fn loopback(self) -> Self {
        match self {
            Self::AnyV4 | Self::LoopbackV4 => Self::LoopbackV4,
            Self::AnyV6 | Self::LoopbackV6 => Self::LoopbackV6,
        }
    }
}

/// A socket that the app listens on, without its further identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Listener {
    /// Its port.
    pub port: Port,
    /// Its addresses.
    pub scope: Scope,
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let transport = match self.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        write!(f, "{}/{transport}", self.number)
    }
}
