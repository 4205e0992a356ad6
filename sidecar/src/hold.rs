//! What the cluster finds open while the app is being restarted.
//!
//! An app that reloads its code stops listening for a moment. In a Deployment another pod would answer meanwhile; here
//! there is no other, and an unready pod is one that its Service refuses for. So a port stays open in the pod for some
//! time after the app has left it, and what arrives is held until the app listens again
//! ([`crate::deliver`]). It looks like an app that is slow to accept, which callers know.
//!
//! Only TCP ports that are *declared* are kept, that is, those to which the cluster is told to send. Any other port
//! closes when the app closes it: nothing tells an app that restarts from one that has finished with a port (a debugger,
//! a passive FTP transfer), and a caller of such a port is better told the truth. UDP is never kept: to lose a datagram
//! is in its nature, while one that comes ten seconds late is not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tpdocker_protocol::addr::{Listener, Port, Transport};
use tpdocker_protocol::control::Incoming;

use crate::ports::Sockets;

/// The app's ports as the cluster is to see them, and as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Hold {
    declared: BTreeSet<Port>,
    patience: Duration,
    incoming: Incoming,
    sockets: Sockets,
    /// Listeners that are gone, and until when they are kept.
    kept: BTreeMap<Listener, Instant>,
}

impl Hold {
    /// Ports to keep, and for how long; 0 keeps none. Takes effect on what happens from here on.
    pub(crate) fn configure(&mut self, declared: impl IntoIterator<Item = Port>, patience: Duration) {
        self.declared = declared.into_iter().filter(|port| port.transport == Transport::Tcp).collect();
        self.patience = patience;
    }

    /// From where the ports are reached.
    pub(crate) fn admit(&mut self, incoming: Incoming) {
        self.incoming = incoming;
    }

    /// The app listens on these sockets, and on no others.
    pub(crate) fn handle_input(&mut self, sockets: Sockets, now: Instant) {
        let listens = |port| sockets.iter().any(|(listener, _)| listener.port == port);
        for (gone, _) in self.sockets.iter().filter(|socket| !sockets.contains(socket)) {
            if !self.patience.is_zero() && self.declared.contains(&gone.port) {
                self.kept.insert(*gone, now + self.patience);
            }
        }
        // Whoever listens on the port again is the app, on the addresses that it has chosen.
        self.kept.retain(|listener, _| !listens(listener.port));
        self.sockets = sockets;
    }

    /// Gives up what was kept for long enough.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.kept.retain(|_, until| *until > now);
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.kept.values().min().copied()
    }

    /// What the pod has to listen on.
    pub(crate) fn open(&self) -> Vec<Listener> {
        let listeners = self.sockets.iter().map(|(listener, _)| listener).chain(self.kept.keys()).copied();
        let listeners: BTreeSet<Listener> = match self.incoming {
            Incoming::Cluster => listeners.collect(),
            Incoming::Siblings => {
                listeners.map(|Listener { port, scope }| Listener { port, scope: scope.loopback() }).collect()
            }
            Incoming::Nobody => BTreeSet::new(),
        };
        listeners.into_iter().collect()
    }

    /// The ports on which the app listens, other than on loopback.
    pub(crate) fn public(&self) -> Vec<Port> {
        let public = self.sockets.iter().filter(|(listener, _)| listener.scope.is_public());
        let ports: BTreeSet<_> = public.map(|(listener, _)| listener.port).collect();
        ports.into_iter().collect()
    }

    /// Until when a connection to a TCP port waits that the app has just refused, having come at `arrived`; `None` if
    /// it does not.
    pub(crate) fn deadline(&self, number: u16, arrived: Instant) -> Option<Instant> {
        let port = Port { transport: Transport::Tcp, number };
        let kept = self.kept.iter().filter(|(listener, _)| listener.port == port).map(|(_, until)| *until).max();
        // The app has stopped listening since it was looked at.
        let stale = self.declared.contains(&port) && self.sockets.iter().any(|(listener, _)| listener.port == port);
        kept.or_else(|| (stale && !self.patience.is_zero()).then(|| arrived + self.patience))
    }
}

#[cfg(test)]
mod tests {
    use tpdocker_protocol::addr::Scope;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);
    const WEB: Port = Port { transport: Transport::Tcp, number: 80 };
    const DEBUGGER: Port = Port { transport: Transport::Tcp, number: 5005 };
    const DNS: Port = Port { transport: Transport::Udp, number: 53 };

    fn any(port: Port) -> Listener {
        Listener { port, scope: Scope::AnyV4 }
    }

    fn listening(ports: &[Port]) -> Sockets {
        ports.iter().map(|port| (any(*port), 1)).collect()
    }

    fn hold(patience: Duration) -> Hold {
        let mut hold = Hold::default();
        hold.configure([WEB, DNS], patience);
        hold
    }

    #[test]
    fn ports_are_open_only_to_whom_they_are_for() {
        let mut hold = hold(PATIENCE);
        hold.handle_input(listening(&[WEB, DNS]), Instant::now());
        let scopes = |hold: &Hold| hold.open().iter().map(|listener| listener.scope).collect::<Vec<_>>();
        assert_eq!(scopes(&hold), [Scope::AnyV4; 2]);
        hold.admit(Incoming::Siblings);
        assert_eq!(scopes(&hold), [Scope::LoopbackV4; 2]);
        hold.admit(Incoming::Nobody);
        assert_eq!(scopes(&hold), []);
        assert_eq!(hold.public().len(), 2, "the app listens all the same");
    }

    #[test]
    fn a_declared_port_that_is_left_stays_open_until_its_time_is_up() {
        let (mut hold, start) = (hold(PATIENCE), Instant::now());
        hold.handle_input(listening(&[WEB, DEBUGGER, DNS]), start);
        assert_eq!(hold.poll_timeout(), None);
        hold.handle_input(listening(&[]), start);
        assert_eq!(hold.open(), [any(WEB)], "the debugger's and UDP are closed at once");
        assert_eq!(hold.public(), [], "but the truth is told to who asks");
        assert_eq!(hold.deadline(80, start), Some(start + PATIENCE));
        assert_eq!(hold.deadline(5005, start), None);
        let end = hold.poll_timeout().unwrap();
        hold.handle_timeout(start + PATIENCE / 2);
        assert_eq!(hold.open(), [any(WEB)]);
        hold.handle_timeout(end);
        assert_eq!((hold.open(), hold.deadline(80, end), hold.poll_timeout()), (vec![], None, None));
    }

    #[test]
    fn who_listens_again_is_open_on_the_new_addresses_only() {
        let (mut hold, start) = (hold(PATIENCE), Instant::now());
        hold.handle_input(listening(&[WEB]), start);
        hold.handle_input(listening(&[]), start);
        let again = Listener { port: WEB, scope: Scope::LoopbackV4 };
        hold.handle_input([(again, 2)].into(), start);
        assert_eq!((hold.open(), hold.poll_timeout()), (vec![again], None));
    }

    #[test]
    fn a_connection_that_is_refused_before_the_port_was_seen_to_close_waits_as_well() {
        let (mut hold, start) = (hold(PATIENCE), Instant::now());
        assert_eq!(hold.deadline(80, start), None, "the app has never listened");
        hold.handle_input(listening(&[WEB, DEBUGGER]), start);
        assert_eq!(hold.deadline(80, start), Some(start + PATIENCE));
        assert_eq!(hold.deadline(5005, start), None);
    }

    #[test]
    fn without_patience_nothing_is_kept() {
        let (mut hold, start) = (hold(Duration::ZERO), Instant::now());
        hold.handle_input(listening(&[WEB]), start);
        assert_eq!(hold.deadline(80, start), None);
        hold.handle_input(listening(&[]), start);
        assert_eq!(hold.open(), []);
    }
}
