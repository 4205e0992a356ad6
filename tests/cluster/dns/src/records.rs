//! From the objects of a cluster to its names: the Kubernetes DNS specification 1.1.0, as a pure function.
//!
//! Endpoints, not `EndpointSlices`: `discovery.k8s.io/v1` does not exist in the oldest Kubernetes that
//! the tests run on. The addresses in them are those of ready pods, or of all pods if the Service
//! publishes its unready ones.

use std::net::IpAddr;
use std::sync::Arc;

use hickory_server::proto::rr::rdata::{A, AAAA, CNAME, PTR, SRV, TXT};
use hickory_server::proto::rr::{Name, RData};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use kube::ResourceExt;

use crate::zone::Zone;

/// TXT records of tests, by the bytes of their text, as `txt-BYTES.dns-version` below the domain: one that fits into a
/// UDP reply only with EDNS, and one that no UDP reply holds.
const LONG_TEXTS: [usize; 2] = [600, 5000];
/// What a character string of a TXT record holds (RFC 1035, section 3.3).
const TEXT_STRING: usize = 255;

/// Everything that the names are made from.
#[derive(Default)]
pub struct Snapshot {
    pub services: Vec<Arc<Service>>,
    pub endpoints: Vec<Arc<Endpoints>>,
    /// Names outside of the cluster's domain, like those of a VPC.
    pub hosts: Vec<(IpAddr, Name)>,
}

pub fn zone(domain: &Name, snapshot: &Snapshot) -> Zone {
    let mut zone = Zone::new(domain);
    let version = zone.below("dns-version");
    zone.add(&version, RData::TXT(TXT::new(vec!["1.1.0".to_owned()])));
    for bytes in LONG_TEXTS {
        let text = "0123456789".repeat(bytes.div_ceil(10));
        let strings =
            text.as_bytes()[..bytes].chunks(TEXT_STRING).map(|part| String::from_utf8_lossy(part).into_owned());
        zone.add(&zone.below(&format!("txt-{bytes}.dns-version")), RData::TXT(TXT::new(strings.collect())));
    }
    for service in &snapshot.services {
        add_service(&mut zone, service, snapshot);
    }
    for (address, name) in &snapshot.hosts {
        zone.add(name, address_record(*address));
    }
    zone
}

/// Parses lines of `ADDRESS NAME...`, as in a hosts file. What does not parse is skipped.
pub fn hosts(text: &str) -> Vec<(IpAddr, Name)> {
    let line = |line: &str| {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let address: Option<IpAddr> = words.next().and_then(|word| word.parse().ok());
        let names: Vec<_> = words.filter_map(|name| Name::from_ascii(format!("{name}.")).ok()).collect();
        address.map(|address| names.into_iter().map(move |name| (address, name)))
    };
    text.lines().filter_map(line).flatten().collect()
}

fn add_service(zone: &mut Zone, service: &Service, snapshot: &Snapshot) {
    let Some(spec) = &service.spec else { return };
    let namespace = service.namespace().unwrap_or_default();
    // Every namespace with a Service in it is a name.
    let name = zone.below(&format!("{}.{namespace}.svc", service.name_any()));

    if spec.type_.as_deref() == Some("ExternalName") {
        let target = spec.external_name.as_deref().unwrap_or_default().trim_end_matches('.');
        if let Ok(target) = Name::from_ascii(format!("{target}.")) {
            zone.add(&name, RData::CNAME(CNAME(target)));
        }
        return;
    }
    if spec.cluster_ip.as_deref() == Some("None") {
        let same = |endpoints: &&Arc<Endpoints>| {
            endpoints.name_any() == service.name_any() && endpoints.namespace() == service.namespace()
        };
        let endpoints = snapshot.endpoints.iter().find(same);
        for subset in endpoints.and_then(|endpoints| endpoints.subsets.as_ref()).into_iter().flatten() {
            add_headless(zone, &name, subset);
        }
        return;
    }
    let single = spec.cluster_ip.iter().cloned().collect();
    for address in spec.cluster_ips.as_ref().unwrap_or(&single).iter().filter_map(|ip| ip.parse().ok()) {
        zone.add(&name, address_record(address));
        zone.add(&Name::from(address), RData::PTR(PTR(name.clone())));
    }
    for port in spec.ports.iter().flatten() {
        add_port(zone, &name, port.name.as_deref(), port.protocol.as_deref(), port.port, &name);
    }
}

fn add_headless(zone: &mut Zone, service: &Name, subset: &EndpointSubset) {
    for endpoint in subset.addresses.iter().flatten() {
        let Ok(address) = endpoint.ip.parse() else { continue };
        let Ok(pod) = Name::from_ascii(host_label(endpoint)).and_then(|label| label.append_domain(service)) else {
            continue;
        };
        zone.add(service, address_record(address));
        zone.add(&pod, address_record(address));
        zone.add(&Name::from(address), RData::PTR(PTR(pod.clone())));
        for port in subset.ports.iter().flatten() {
            add_port(zone, service, port.name.as_deref(), port.protocol.as_deref(), port.port, &pod);
        }
    }
}

fn add_port(zone: &mut Zone, service: &Name, name: Option<&str>, protocol: Option<&str>, port: i32, target: &Name) {
    let (Some(name), Ok(port)) = (name, u16::try_from(port)) else { return };
    let protocol = protocol.unwrap_or("TCP").to_lowercase();
    if let Ok(owner) = Name::from_ascii(format!("_{name}._{protocol}")).and_then(|it| it.append_domain(service)) {
        zone.add(&owner, RData::SRV(SRV::new(0, 100, port, target.clone())));
    }
}

/// The hostname of the pod, or, as the specification leaves it to us, its address in dashes.
fn host_label(endpoint: &EndpointAddress) -> String {
    endpoint.hostname.clone().unwrap_or_else(|| endpoint.ip.replace(['.', ':'], "-"))
}

fn address_record(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    }
}

#[cfg(test)]
mod tests;
