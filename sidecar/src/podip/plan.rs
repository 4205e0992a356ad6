//! What has to change, as a value: what there is and what is wanted, compared.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::capture::Cidr;

/// `LOOPBACK_IFINDEX`: of `lo`, in every namespace.
const LOOPBACK: u32 = 1;
/// Addresses of former pods that are kept, the newest ones: a session loses a pod now and then, and who is bound to the
/// address of the fifth last one is not there any more.
const MAX_FORMER: usize = 4;

/// What the namespace is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The pod's addresses; the first of each family is the source of what goes to the cluster.
    pub(super) pod: Vec<IpAddr>,
    /// Networks that are reached from the container's own address.
    pub(super) bypass: Vec<Cidr>,
}

/// What it has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) addresses: Vec<Address>,
    /// Of the main table, to one destination each.
    pub(super) routes: Vec<Route>,
}

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) interface: u32,
    pub(super) ip: IpAddr,
    pub(super) prefix: u8,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) network: Cidr,
    pub(super) via: NextHop,
    pub(super) source: Option<IpAddr>,
    pub(super) metric: u32,
    /// It was made here.
    pub(super) ours: bool,
}

/// Where a route leads; of several ways the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NextHop {
    pub(super) interface: u32,
    pub(super) gateway: Option<IpAddr>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// To `lo`.
    AddAddress(IpAddr),
    /// From `lo`.
    RemoveAddress(IpAddr),
    AddRoute(Route),
    RemoveRoute(Route),
}

/// The steps, in their order: a route's source has to be there before the route. Nothing, if all is as it should be.
///
/// Former addresses of the pod make room for a moment, so that the newest one is the first of the list, where those who
/// look for their own address find it.
pub(super) fn changes(wanted: &Wanted, found: &Found) -> Vec<Change> {
    let routes = routes(wanted, found);
    let is = |route: &Route, other: &Route| {
        (route.network, route.via, route.source) == (other.network, other.via, other.source)
    };
    let ours = || found.routes.iter().filter(|route| route.ours);
    let stale = ours().filter(|route| !routes.iter().any(|wanted| is(route, wanted)));
    let missing = routes.iter().filter(|route| !ours().any(|found| is(route, found)));
    let has = |ip: IpAddr| found.addresses.iter().any(|address| address.ip == ip);
    let former: Vec<IpAddr> =
        found.addresses.iter().filter(|each| each.is_former(wanted)).map(|each| each.ip).collect();
    let (kept, forgotten) = former.split_at(former.len().min(MAX_FORMER));
    let new: Vec<IpAddr> = wanted.pod.iter().copied().filter(|ip| !has(*ip)).collect();
    let moved = if new.is_empty() { &[] } else { kept };
    let removals = forgotten.iter().chain(moved).copied().map(Change::RemoveAddress);
    let additions = new.iter().chain(moved).copied().map(Change::AddAddress);
    let stale = stale.cloned().map(Change::RemoveRoute);
    stale.chain(removals).chain(additions).chain(missing.cloned().map(Change::AddRoute)).collect()
}

fn routes(wanted: &Wanted, found: &Found) -> Vec<Route> {
    let route = |network, via, source| Route { network, via, source: Some(source), metric: 0, ours: true };
    let mut routes = Vec::new();
    for ipv6 in [false, true] {
        let Some(pod) = wanted.pod.iter().find(|ip| ip.is_ipv6() == ipv6) else { continue };
        let default = found.default_route(ipv6);
        let container = found.container().filter(|address| address.ip.is_ipv6() == ipv6);
        // A network that leads nowhere has no default route; to be captured a packet needs one.
        let fallback = container.clone().next().map(|address| NextHop { interface: address.interface, gateway: None });
        let Some(via) = default.or(fallback) else { continue };
        let bypass: Vec<Cidr> = wanted.bypass.iter().copied().filter(|network| network.is_ipv6() == ipv6).collect();
        if bypass.iter().all(|network| network.prefix() != 0) {
            routes.extend(halves(ipv6).filter(|half| !bypass.contains(half)).map(|half| route(half, via, *pod)));
        }
        let own = container.clone().find(|address| address.interface == via.interface);
        if let (Some(via), Some(own)) = (default, own) {
            let mut direct: Vec<Cidr> = bypass.into_iter().filter(|network| found.goes_by_default(*network)).collect();
            direct.sort_by_key(|network| (network.network(), network.prefix()));
            direct.dedup();
            routes.extend(direct.into_iter().map(|network| route(network, via, own.ip)));
        }
    }
    routes
}

/// Both halves of all addresses: more specific than the default route, and less than any other.
fn halves(ipv6: bool) -> impl Iterator<Item = Cidr> {
    let starts: [IpAddr; 2] = if ipv6 {
        [Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::from(1 << 127).into()]
    } else {
        [Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::from(1 << 31).into()]
    };
    starts.into_iter().filter_map(|start| Cidr::new(start, 1))
}

// === impl Found ===

impl Found {
    /// The container's own addresses. Those that are valid on one link only do not count.
    pub(super) fn container(&self) -> impl Iterator<Item = &Address> + Clone {
        self.addresses.iter().filter(|address| {
            let link_local = match address.ip {
                IpAddr::V4(_) => false,
                IpAddr::V6(v6) => v6.is_unicast_link_local(),
            };
            address.interface != LOOPBACK && !link_local
        })
    }

    fn default_route(&self, ipv6: bool) -> Option<NextHop> {
        let defaults = self
            .routes
            .iter()
            .filter(|route| !route.ours && route.network.prefix() == 0 && route.network.is_ipv6() == ipv6);
        defaults.min_by_key(|route| route.metric).map(|route| route.via)
    }

    /// No other route leads there, that of a network on a link for example.
    fn goes_by_default(&self, network: Cidr) -> bool {
        let leads_there = |route: &Route| {
            let other = route.network;
            let wider = other.prefix() <= network.prefix() && other.contains(network.network());
            !route.ours && other.prefix() != 0 && wider
        };
        network.prefix() != 0 && !self.routes.iter().any(leads_there)
    }
}

impl Address {
    /// A lone address on `lo`, where nobody else puts any, that is not the pod's any more.
    pub(super) fn is_former(&self, wanted: &Wanted) -> bool {
        let lone = if self.ip.is_ipv4() { 32 } else { 128 };
        let ours = self.interface == LOOPBACK && self.prefix == lone && !self.ip.is_loopback();
        ours && !wanted.pod.contains(&self.ip)
    }
}

impl Change {
    pub(super) fn is_ipv6(&self) -> bool {
        match self {
            Self::AddAddress(ip) | Self::RemoveAddress(ip) => ip.is_ipv6(),
            Self::AddRoute(route) | Self::RemoveRoute(route) => route.network.is_ipv6(),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddAddress(ip) => write!(f, "add address {ip} to lo"),
            Self::RemoveAddress(ip) => write!(f, "remove address {ip} from lo"),
            Self::AddRoute(route) => write!(f, "add route {route}"),
            Self::RemoveRoute(route) => write!(f, "remove route {route}"),
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.network)?;
        if let Some(gateway) = self.via.gateway {
            write!(f, " via {gateway}")?;
        }
        write!(f, " on interface {}", self.via.interface)?;
        self.source.map_or(Ok(()), |source| write!(f, " from {source}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    fn route(network: &str, gateway: Option<&str>, interface: u32) -> Route {
        let via = NextHop { interface, gateway: gateway.map(ip) };
        Route { network: cidr(network), via, source: None, metric: 0, ours: false }
    }

    /// A container as the engine makes it, on a network with the default route and on another one.
    fn container() -> Found {
        let address = |interface, text, prefix| Address { interface, ip: ip(text), prefix };
        Found {
            addresses: vec![
                address(1, "127.0.0.1", 8),
                address(1, "::1", 128),
                address(2, "172.17.0.2", 16),
                address(2, "fe80::2", 64),
                address(3, "172.20.0.5", 16),
            ],
            routes: vec![
                route("0.0.0.0/0", Some("172.17.0.1"), 2),
                route("172.17.0.0/16", None, 2),
                route("172.20.0.0/16", None, 3),
                route("fe80::/64", None, 2),
            ],
        }
    }

    fn wanted(pod: &[&str], bypass: &[&str]) -> Wanted {
        Wanted {
            pod: pod.iter().map(|text| ip(text)).collect(),
            bypass: bypass.iter().map(|text| cidr(text)).collect(),
        }
    }

    /// The namespace after the changes, as the kernel would have it.
    fn applied(found: &Found, changes: &[Change]) -> Found {
        let mut after = found.clone();
        for change in changes {
            match change {
                Change::AddAddress(ip) => {
                    let prefix = if ip.is_ipv4() { 32 } else { 128 };
                    after.addresses.push(Address { interface: LOOPBACK, ip: *ip, prefix });
                }
                Change::RemoveAddress(ip) => after.addresses.retain(|address| address.ip != *ip),
                Change::AddRoute(route) => after.routes.push(route.clone()),
                Change::RemoveRoute(route) => after.routes.retain(|other| other != route),
            }
        }
        after
    }

    fn texts(changes: &[Change]) -> Vec<String> {
        changes.iter().map(Change::to_string).collect()
    }

    #[test]
    fn the_pods_address_comes_to_lo_and_into_both_halves_of_the_default_route() {
        let changes =
            changes(&wanted(&["10.244.0.7"], &["10.9.0.0/16", "172.20.5.0/24", "172.17.0.0/16"]), &container());
        assert_eq!(
            texts(&changes),
            [
                "add address 10.244.0.7 to lo",
                "add route 0.0.0.0/1 via 172.17.0.1 on interface 2 from 10.244.0.7",
                "add route 128.0.0.0/1 via 172.17.0.1 on interface 2 from 10.244.0.7",
                // Not what is on a link.
                "add route 10.9.0.0/16 via 172.17.0.1 on interface 2 from 172.17.0.2",
            ]
        );
    }

    #[test]
    fn another_pod_is_the_source_and_the_former_address_stays_behind_it() {
        let before = container();
        let mut after = applied(&before, &changes(&wanted(&["10.244.0.7"], &["10.9.0.0/16"]), &before));
        after.routes[0] = route("0.0.0.0/0", Some("172.20.0.1"), 3);
        let changes = changes(&wanted(&["10.244.0.8"], &[]), &after);
        assert_eq!(
            texts(&changes),
            [
                "remove route 0.0.0.0/1 via 172.17.0.1 on interface 2 from 10.244.0.7",
                "remove route 128.0.0.0/1 via 172.17.0.1 on interface 2 from 10.244.0.7",
                "remove route 10.9.0.0/16 via 172.17.0.1 on interface 2 from 172.17.0.2",
                "remove address 10.244.0.7 from lo",
                "add address 10.244.0.8 to lo",
                "add address 10.244.0.7 to lo",
                "add route 0.0.0.0/1 via 172.20.0.1 on interface 3 from 10.244.0.8",
                "add route 128.0.0.0/1 via 172.20.0.1 on interface 3 from 10.244.0.8",
            ]
        );
    }

    #[test]
    fn the_oldest_of_many_former_addresses_goes() {
        let mut found = container();
        for last in 0..9 {
            let pod = format!("10.244.0.{last}");
            found = applied(&found, &changes(&wanted(&[&pod], &[]), &found));
        }
        let on_lo = found.addresses.iter().filter(|address| address.prefix == 32).map(|address| address.ip.to_string());
        assert_eq!(on_lo.collect::<Vec<_>>(), ["10.244.0.8", "10.244.0.7", "10.244.0.6", "10.244.0.5", "10.244.0.4"]);
    }

    #[test]
    fn without_a_default_route_the_first_network_is_the_way_to_be_captured() {
        let mut found = container();
        found.routes.remove(0);
        let changes = texts(&changes(&wanted(&["10.244.0.7"], &["10.9.0.0/16"]), &found));
        assert_eq!(changes[1], "add route 0.0.0.0/1 on interface 2 from 10.244.0.7");
        assert_eq!(changes.len(), 3, "{changes:?}");
    }

    #[test]
    fn who_bypasses_everything_keeps_the_containers_address() {
        let changes = texts(&changes(&wanted(&["10.244.0.7"], &["0.0.0.0/0"]), &container()));
        assert_eq!(changes, ["add address 10.244.0.7 to lo"]);
    }

    fn any_ip() -> impl Strategy<Value = IpAddr> {
        prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
            .prop_filter("a pod has no such address", |ip| !ip.is_loopback())
    }

    proptest! {
        #[test]
        fn what_was_set_is_not_set_again(pod in prop::collection::vec(any_ip(), 0..3), bypass in prop::collection::vec((any_ip(), 0_u8..33), 0..6)) {
            let bypass: Vec<Cidr> = bypass.into_iter().filter_map(|(ip, prefix)| Cidr::new(ip, prefix)).collect();
            let mut pod = pod;
            pod.dedup();
            let wanted = Wanted { pod, bypass };
            let after = applied(&container(), &changes(&wanted, &container()));
            prop_assert_eq!(changes(&wanted, &after), vec![]);
            let none = Wanted { pod: vec![], bypass: vec![] };
            prop_assert_eq!(applied(&after, &changes(&none, &after)).routes, container().routes);
        }
    }
}
