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

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let transport = match self.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        write!(f, "{}/{transport}", self.number)
    }
}
