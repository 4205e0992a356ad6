//! What the proxy is doing, for the kubelet's probe and for the CLI.
//!
//! Ready means: a tunnel is attached, and every TCP port that the pod's spec declares is open at the pod's address because
//! the app listens on it. For a moment after it stopped to (it is being restarted) the sidecar still lists the port and
//! holds what arrives: an unready pod would have no endpoint, and its Service would refuse. Declared UDP ports do not count: nothing tells a UDP port that is used rarely from one that is never used
//! (HTTP/3 beside HTTP, a metrics port), and a Service must not wait for it.

use tokio::sync::watch;
use tpdocker_protocol::addr::{Port, Transport};
use tpdocker_protocol::control::{PortFailure, ProxyStatus};

/// The one status, which is watched by everybody.
#[derive(Debug)]
pub(crate) struct Status {
    declared: Vec<Port>,
    status_tx: watch::Sender<ProxyStatus>,
}

impl Status {
    pub(crate) fn new(declared: Vec<Port>) -> Self {
        Self { declared, status_tx: watch::Sender::new(ProxyStatus::default()) }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<ProxyStatus> {
        self.status_tx.subscribe()
    }

    pub(crate) fn ready(&self) -> bool {
        self.status_tx.borrow().ready
    }

    /// A tunnel is attached, with these ports bound and failed.
    pub(crate) fn attached(&self, bound: Vec<Port>, failed: Vec<PortFailure>) {
        let mut declared = self.declared.iter().filter(|port| port.transport == Transport::Tcp);
        let ready = declared.all(|port| bound.contains(port));
        self.replace(ProxyStatus { attached: true, ready, bound, failed });
    }

    /// No tunnel is attached, and who calls waits for the next one, or for the original: the pod is as ready as it was.
    pub(crate) fn waits(&self) {
        self.status_tx.send_if_modified(|status| std::mem::take(&mut status.attached));
    }

    /// No tunnel is attached.
    pub(crate) fn detached(&self) {
        self.replace(ProxyStatus::default());
    }

    fn replace(&self, status: ProxyStatus) {
        self.status_tx.send_if_modified(|old| {
            let changed = *old != status;
            *old = status;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(transport: Transport, number: u16) -> Port {
        Port { transport, number }
    }

    #[test]
    fn ready_needs_a_tunnel_and_every_declared_tcp_port() {
        let (web, admin, quic) = (port(Transport::Tcp, 80), port(Transport::Tcp, 81), port(Transport::Udp, 443));
        let status = Status::new(vec![web, admin, quic]);
        assert!(!status.ready());
        status.attached(vec![web], Vec::new());
        assert!(!status.ready());
        status.attached(vec![web, admin], Vec::new());
        assert!(status.ready());
        status.waits();
        assert!(status.ready() && !status.watch().borrow().attached);
        status.detached();
        assert!(!status.ready());
    }

    #[test]
    fn a_workload_without_declared_ports_is_ready_when_attached() {
        let status = Status::new(Vec::new());
        status.attached(Vec::new(), Vec::new());
        assert!(status.ready());
    }
}
