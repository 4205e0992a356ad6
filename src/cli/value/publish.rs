//! `-p`: `[IP:][HOST:]CONTAINER[/PROTOCOL]` with ranges, as docker's `nat.ParsePortSpec` reads it, and the form
//! `published=…,target=…,protocol=…`.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use tpdocker_protocol::addr::Transport;

use super::Applied;
use crate::cli::Surroundings;
use crate::cli::draft::Draft;
use crate::cli::error::ValueError;
use crate::settings::Publish;

pub(in crate::cli) fn publish(draft: &mut Draft, value: &str, _: &Surroundings) -> Applied {
    let standard = if value.contains('=') { from_fields(value)? } else { value.to_owned() };
    let (ports, protocol) = standard.split_once('/').unwrap_or((&standard, "tcp"));
    let transport = transport(protocol)?;
    let (front, container) = match ports.rsplit_once(':') {
        Some((front, container)) => (Some(front), container),
        None => (None, ports),
    };
    // In front of the host's port stands its address, which holds colons when it is IPv6.
    let (ip, host) = match front.map(|front| front.rsplit_once(':')) {
        None => ("", ""),
        Some(None) => ("", front.unwrap_or_default()),
        Some(Some(split)) => split,
    };
    let host_ip = host_ip(ip)?;
    let container = range(container, 1)?;
    if host.is_empty() {
        let published = container.map(|port| Publish { host_ip, host_port: None, container_port: port, transport });
        draft.net.publish.extend(published);
        return Ok(());
    }
    let host = range(host, 0)?;
    if host.len() > 1 && container.len() == 1 {
        return Err(ValueError::Unsupported {
            what: "a range of host ports to choose from for one container port is not supported yet".into(),
            instead: "give one host port, or none and let the engine choose".into(),
        });
    }
    if host.len() != container.len() {
        return Err(ValueError::grammar("the ranges of host and container ports are not of the same length"));
    }
    draft.net.publish.extend(host.zip(container).map(|(host, port)| Publish {
        host_ip,
        host_port: Some(host).filter(|host| *host != 0),
        container_port: port,
        transport,
    }));
    Ok(())
}

fn from_fields(value: &str) -> Result<String, ValueError> {
    let (mut published, mut target, mut protocol) = ("", "", "tcp");
    for field in value.split(',') {
        match field.split_once('=') {
            Some(("published", it)) => published = it,
            Some(("target", it)) => target = it,
            Some(("protocol", it)) => protocol = it,
            _ => return Err(ValueError::grammar(format!("{field:?} is none of published=, target= and protocol="))),
        }
    }
    let colon = if published.is_empty() { "" } else { ":" };
    Ok(format!("{published}{colon}{target}/{protocol}"))
}

fn transport(protocol: &str) -> Result<Transport, ValueError> {
    match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Ok(Transport::Tcp),
        "udp" => Ok(Transport::Udp),
        "sctp" => Err(ValueError::Unsupported {
            what: "SCTP is not supported".into(),
            instead: "tcp and udp are published".into(),
        }),
        _ => Err(ValueError::grammar(format!("{protocol:?} is not a protocol: tcp or udp"))),
    }
}

fn host_ip(text: &str) -> Result<Option<IpAddr>, ValueError> {
    if text.is_empty() {
        return Ok(None);
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().map(Some).map_err(|_| ValueError::grammar(format!("{text:?} is not an IP address")))
}

/// `8000` or `8000-8010`, none below `lowest`.
fn range(text: &str, lowest: u16) -> Result<RangeInclusive<u16>, ValueError> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first, lowest)?, port(last, lowest)?);
    if first > last {
        return Err(ValueError::grammar(format!("the range {text} ends before it begins")));
    }
    Ok(first..=last)
}

fn port(text: &str, lowest: u16) -> Result<u16, ValueError> {
    let number = text.parse().ok().filter(|number| *number >= lowest);
    number
        .filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
        .ok_or_else(|| ValueError::grammar(format!("{text:?} is not a port: a number from {lowest} to {}", u16::MAX)))
}
