//! Which container of a pod template is meant, and which ports it serves: pure functions of the template and of the
//! Services that select it.

use k8s_openapi::api::core::v1::{Container, PodTemplateSpec, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tpdocker_protocol::addr::{Port, Transport};

/// Whether a Service's selector selects pods of this template. A Service without a selector selects none: its
/// endpoints are somebody else's work.
pub fn selects(service: &Service, template: &PodTemplateSpec) -> bool {
    let Some(selector) = selector(service) else { return false };
    let labels = template.metadata.as_ref().and_then(|metadata| metadata.labels.as_ref());
    labels.is_some_and(|labels| selector.iter().all(|(key, value)| labels.get(key) == Some(value)))
}

/// A Service's selector, unless it is absent or empty.
pub fn selector(service: &Service) -> Option<&std::collections::BTreeMap<String, String>> {
    service.spec.as_ref()?.selector.as_ref().filter(|selector| !selector.is_empty())
}

/// Every port of `container`: those it declares, and those that Services send to the pod and no other container
/// declares. Sorted, each once; SCTP is left out.
pub fn ports_of(container: &Container, template: &PodTemplateSpec, services: &[&Service]) -> Vec<Port> {
    let mut ports: Vec<Port> = declared(container).map(|(_, port)| port).collect();
    for (target, transport) in services.iter().flat_map(|service| targets(service)) {
        let owner = owners(template, &target, transport).next();
        match target {
            IntOrString::Int(number) => {
                let ours = owner.is_none_or(|owner| owner.name == container.name);
                ports.extend(port(number, transport).filter(|_| ours));
            }
            // A named port exists where a container declares it, and those are in already.
            IntOrString::String(_) => {}
        }
    }
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// Names of the containers that declare a port to which one of the Services sends, each once, in the pod's order.
pub fn served_by<'a>(template: &'a PodTemplateSpec, services: &[&Service]) -> Vec<&'a str> {
    let wanted: Vec<_> = services.iter().flat_map(|service| targets(service)).collect();
    containers(template)
        .iter()
        .filter(|container| wanted.iter().any(|(target, transport)| declares(container, target, *transport)))
        .map(|container| container.name.as_str())
        .collect()
}

/// The pod's ordinary containers.
pub fn containers(template: &PodTemplateSpec) -> &[Container] {
    template.spec.as_ref().map_or(&[], |spec| spec.containers.as_slice())
}

fn owners<'a>(
    template: &'a PodTemplateSpec,
    target: &IntOrString,
    transport: Transport,
) -> impl Iterator<Item = &'a Container> {
    containers(template).iter().filter(move |container| declares(container, target, transport))
}

fn declares(container: &Container, target: &IntOrString, transport: Transport) -> bool {
    declared(container).filter(|(_, port)| port.transport == transport).any(|(name, port)| match target {
        IntOrString::Int(number) => i32::from(port.number) == *number,
        IntOrString::String(wanted) => name == Some(wanted.as_str()),
    })
}

fn declared(container: &Container) -> impl Iterator<Item = (Option<&str>, Port)> {
    container.ports.iter().flatten().filter_map(|declared| {
        let transport = transport(declared.protocol.as_deref())?;
        Some((declared.name.as_deref(), port(declared.container_port, transport)?))
    })
}

fn targets(service: &Service) -> impl Iterator<Item = (IntOrString, Transport)> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.filter_map(|port: &ServicePort| {
        let target = port.target_port.clone().unwrap_or(IntOrString::Int(port.port));
        // 0 and "" are how some tools write "the same as the port".
        let target = match target {
            IntOrString::Int(0) => IntOrString::Int(port.port),
            IntOrString::String(name) if name.is_empty() => IntOrString::Int(port.port),
            other => other,
        };
        Some((target, transport(port.protocol.as_deref())?))
    })
}

fn transport(protocol: Option<&str>) -> Option<Transport> {
    match protocol {
        None | Some("TCP" | "") => Some(Transport::Tcp),
        Some("UDP") => Some(Transport::Udp),
        Some(_) => None,
    }
}

fn port(number: i32, transport: Transport) -> Option<Port> {
    u16::try_from(number).ok().filter(|number| *number != 0).map(|number| Port { transport, number })
}
