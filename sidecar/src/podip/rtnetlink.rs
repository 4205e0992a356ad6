//! Addresses and routes, as rtnetlink(7) speaks of them (`linux/rtnetlink.h`, `linux/if_addr.h`).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use nix::sys::socket::SockProtocol;

use super::plan::{Address, Change, Found, NextHop, Route};
use crate::capture::{
    Cidr,
    netlink::{self, ACK, CREATE, DUMP, EXCLUSIVE, REQUEST, Socket},
};

const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// `IFA_F_NODAD`: nobody else can have an address of `lo`.
const NO_DUPLICATE_DETECTION: u8 = 0x02;
/// `LOOPBACK_IFINDEX`
const LOOPBACK: u32 = 1;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_MULTIPATH: u16 = 9;
/// `RT_TABLE_MAIN`
const MAIN: u8 = 254;
/// `RTN_UNICAST`
const UNICAST: u8 = 1;
/// `RT_SCOPE_LINK`; the other one is 0, `RT_SCOPE_UNIVERSE`.
const SCOPE_LINK: u8 = 253;
/// `rtm_protocol`, who made a route: a number of our own, above those that `linux/rtnetlink.h` gives to programs.
const OURS: u8 = 0x74;
/// `RTNH_F_ONLINK`: the gateway is taken for a neighbour, as it was for the route that it is copied from.
const ON_LINK: u32 = 4;

/// `RTMGRP_LINK`, `_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV6_IFADDR`, `_IPV6_ROUTE`
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
/// A dump comes in pieces of at most this size.
const BUFFER: usize = 64 << 10;

/// The kernel's tables of one network namespace.
#[derive(Debug)]
pub(super) struct Kernel {
    socket: Socket,
    buffer: Vec<u8>,
}

/// A socket that gets a message for every change.
pub(super) fn notifications() -> io::Result<Socket> {
    Socket::subscribe(SockProtocol::NetlinkRoute, GROUPS)
}

// === impl Kernel ===

impl Kernel {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open(SockProtocol::NetlinkRoute)?, buffer: vec![0; BUFFER] })
    }

    pub(super) fn list(&mut self) -> io::Result<Found> {
        let mut found = Found::default();
        // `struct ifaddrmsg`, `struct rtmsg`: of both families.
        self.dump(GET_ADDRESS, 8, |body| found.addresses.extend(address(body)))?;
        self.dump(GET_ROUTE, 12, |body| found.routes.extend(route(body)))?;
        Ok(found)
    }

    pub(super) fn apply(&mut self, change: &Change) -> io::Result<()> {
        let mut out = Vec::new();
        let add = REQUEST | ACK | CREATE | EXCLUSIVE;
        let (kind, flags) = match change {
            Change::AddAddress(_) => (NEW_ADDRESS, add),
            Change::RemoveAddress(_) => (DELETE_ADDRESS, REQUEST | ACK),
            Change::AddRoute(_) => (NEW_ROUTE, add),
            Change::RemoveRoute(_) => (DELETE_ROUTE, REQUEST | ACK),
        };
        netlink::put_message(&mut out, kind, flags, 0, |out| match change {
            Change::AddAddress(ip) | Change::RemoveAddress(ip) => put_address(out, *ip),
            Change::AddRoute(route) | Change::RemoveRoute(route) => put_route(out, route),
        });
        self.socket.send(&out)?;
        let answer =
            netlink::messages(self.socket.recv(&mut self.buffer)?).find(|message| message.kind == netlink::ERROR);
        answer.ok_or(io::ErrorKind::InvalidData)?.error().map_or(Ok(()), Err)
    }

    fn dump(&mut self, kind: u16, header: usize, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut out = Vec::new();
        netlink::put_message(&mut out, kind, REQUEST | DUMP, 0, |out| out.resize(out.len() + header, 0));
        self.socket.send(&out)?;
        loop {
            for message in netlink::messages(self.socket.recv(&mut self.buffer)?) {
                match message.kind {
                    netlink::DONE => return Ok(()),
                    netlink::ERROR => return message.error().map_or(Ok(()), Err),
                    _ => each(message.body),
                }
            }
        }
    }
}

/// `struct ifaddrmsg`
fn put_address(out: &mut Vec<u8>, ip: IpAddr) {
    let (family, octets) = octets(ip);
    let flags = if ip.is_ipv6() { NO_DUPLICATE_DETECTION } else { 0 };
    out.extend([family, prefix_of_one(ip), flags, 0]);
    out.extend(LOOPBACK.to_ne_bytes());
    netlink::put(out, IFA_LOCAL, &octets);
    netlink::put(out, IFA_ADDRESS, &octets);
}

/// `struct rtmsg`
fn put_route(out: &mut Vec<u8>, route: &Route) {
    let (family, network) = octets(route.network.network());
    let scope = if route.via.gateway.is_none() && family == AF_INET { SCOPE_LINK } else { 0 };
    out.extend([family, route.network.prefix(), 0, 0, MAIN, OURS, scope, UNICAST]);
    out.extend(if route.via.gateway.is_some() { ON_LINK } else { 0 }.to_ne_bytes());
    netlink::put(out, RTA_DST, &network);
    netlink::put(out, RTA_OIF, &route.via.interface.to_ne_bytes());
    if let Some(gateway) = route.via.gateway {
        netlink::put(out, RTA_GATEWAY, &octets(gateway).1);
    }
    if let Some(source) = route.source {
        netlink::put(out, RTA_PREFSRC, &octets(source).1);
    }
}

fn octets(ip: IpAddr) -> (u8, Vec<u8>) {
    match ip {
        IpAddr::V4(v4) => (AF_INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (AF_INET6, v6.octets().to_vec()),
    }
}

fn prefix_of_one(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn ip(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => Some(Ipv4Addr::from(*bytes.first_chunk()?).into()),
        AF_INET6 => Some(Ipv6Addr::from(*bytes.first_chunk()?).into()),
        _ => None,
    }
}

fn u32_of(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().copied().map(u32::from_ne_bytes)
}

fn address(body: &[u8]) -> Option<Address> {
    let [family, prefix, ..] = *body else { return None };
    let interface = u32_of(body.get(4..8)?)?;
    let mut found = None;
    for (kind, value) in netlink::attributes(body.get(8..)?) {
        // On a point-to-point link `IFA_ADDRESS` is the other end's.
        if kind == IFA_LOCAL || (kind == IFA_ADDRESS && found.is_none()) {
            found = ip(family, value);
        }
    }
    Some(Address { interface, ip: found?, prefix })
}

/// `None` for what is no way to somewhere else: other tables, blackholes, what the kernel has cached.
fn route(body: &[u8]) -> Option<Route> {
    let [family, prefix, _, _, table, protocol, _, kind, ..] = *body else { return None };
    if table != MAIN || kind != UNICAST {
        return None;
    }
    let unspecified: IpAddr =
        if family == AF_INET { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let (mut network, mut interface, mut gateway, mut source, mut metric) = (unspecified, None, None, None, 0);
    for (kind, value) in netlink::attributes(body.get(12..)?) {
        match kind {
            RTA_DST => network = ip(family, value)?,
            RTA_OIF => interface = u32_of(value),
            RTA_GATEWAY => gateway = ip(family, value),
            RTA_PREFSRC => source = ip(family, value),
            RTA_PRIORITY => metric = u32_of(value)?,
            RTA_MULTIPATH => (interface, gateway) = first_hop(family, value)?,
            _ => {}
        }
    }
    let via = NextHop { interface: interface?, gateway };
    Some(Route { network: Cidr::new(network, prefix)?, via, source, metric, ours: protocol == OURS })
}

/// `struct rtnexthop` and its attributes.
fn first_hop(family: u8, bytes: &[u8]) -> Option<(Option<u32>, Option<IpAddr>)> {
    let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
    let interface = u32_of(bytes.get(4..8)?)?;
    let gateway = netlink::attributes(bytes.get(8..length)?).find(|(kind, _)| *kind == RTA_GATEWAY);
    Some((Some(interface), gateway.and_then(|(_, value)| ip(family, value))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_route_reads_as_it_was_written() {
        for (network, gateway, source) in
            [("128.0.0.0/1", Some("172.17.0.1"), "10.244.0.7"), ("8000::/1", None, "fd00:244::7")]
        {
            let via = NextHop { interface: 7, gateway: gateway.map(|text| text.parse().unwrap()) };
            let source = Some(source.parse().unwrap());
            let written = Route { network: network.parse().unwrap(), via, source, metric: 0, ours: true };
            let mut body = Vec::new();
            put_route(&mut body, &written);
            assert_eq!(route(&body), Some(written));
        }
    }

    #[test]
    fn an_address_reads_as_it_was_written() {
        for text in ["10.244.0.7", "fd00:244::7"] {
            let ip: IpAddr = text.parse().unwrap();
            let mut body = Vec::new();
            put_address(&mut body, ip);
            assert_eq!(address(&body), Some(Address { interface: LOOPBACK, ip, prefix: prefix_of_one(ip) }));
        }
    }

    #[test]
    fn of_several_ways_the_first_is_taken() {
        let mut hop = vec![16, 0, 0, 0];
        hop[..2].copy_from_slice(&16_u16.to_ne_bytes());
        hop.extend(9_u32.to_ne_bytes());
        netlink::put(&mut hop, RTA_GATEWAY, &[172, 17, 0, 1]);
        let mut body = vec![AF_INET, 0, 0, 0, MAIN, 3, 0, UNICAST, 0, 0, 0, 0];
        netlink::put(&mut body, RTA_MULTIPATH, &hop.repeat(2));
        let via = NextHop { interface: 9, gateway: Some([172, 17, 0, 1].into()) };
        let network = Cidr::new([0; 4].into(), 0).unwrap();
        assert_eq!(route(&body), Some(Route { network, via, source: None, metric: 0, ours: false }));
    }

    proptest! {
        #[test]
        fn garbage_is_no_address_and_no_route_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), main in any::<bool>()) {
            let mut bytes = bytes;
            if main && bytes.len() > 8 {
                (bytes[4], bytes[7]) = (MAIN, UNICAST);
            }
            address(&bytes);
            route(&bytes);
        }
    }
}
