//! `--add-host`, `--dns`, `--hostname` and `--network`: the sidecar's.

use std::net::IpAddr;

use super::{Applied, not_empty};
use crate::cli::Surroundings;
use crate::cli::draft::Draft;
use crate::cli::error::ValueError;

/// The name that the engine replaces by its host's address.
const HOST_GATEWAY: &str = "host-gateway";
/// Linux' `HOST_NAME_MAX`: see `gethostname(2)`.
const HOST_NAME_MAX: usize = 64;

/// `name:ip` or `name=ip`; IPv6 with or without brackets, or `host-gateway`.
pub(in crate::cli) fn add_host(draft: &mut Draft, value: &str, _: &Surroundings) -> Applied {
    let (name, address) = value
        .split_once('=')
        .or_else(|| value.split_once(':'))
        .filter(|(name, _)| !name.is_empty() && !name.contains([':', ' ', '\t', '\n']))
        .ok_or_else(|| ValueError::grammar("it is NAME:IP or NAME=IP"))?;
    let address = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    if address != HOST_GATEWAY {
        ip(address)?;
    }
    draft.net.add_hosts.push(format!("{name}:{address}"));
    Ok(())
}

pub(in crate::cli) fn dns(draft: &mut Draft, value: &str, _: &Surroundings) -> Applied {
    draft.net.dns.push(ip(value)?);
    Ok(())
}

pub(in crate::cli) fn hostname(draft: &mut Draft, value: &str, _: &Surroundings) -> Applied {
    let name = not_empty(value)?;
    if name.len() > HOST_NAME_MAX || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(ValueError::grammar(format!("a host name has up to {HOST_NAME_MAX} bytes and no white space")));
    }
    draft.net.hostname = Some(name);
    Ok(())
}

/// A network's name, or docker's long form with nothing but `name=`. The modes that are no networks would take the
/// network namespace away from the sidecar.
pub(in crate::cli) fn network(draft: &mut Draft, value: &str, _: &Surroundings) -> Applied {
    let mut name = value;
    if value.contains('=') {
        name = "";
        for field in value.split(',') {
            let (key, it) = field.split_once('=').unwrap_or((field, ""));
            if key != "name" {
                return Err(ValueError::Unsupported {
                    what: format!("the option {key} of a network is not supported yet"),
                    instead: "--network NAME".into(),
                });
            }
            name = it;
        }
    }
    let name = not_empty(name)?;
    if name == "host" || name == "none" || name.starts_with("container:") || name.starts_with("ns:") {
        return Err(ValueError::Unsupported {
            what: format!("{name} is no network, and the app's network namespace is the sidecar's"),
            instead: "leave --network away, or name a network of `docker network ls` whose containers the app reaches"
                .into(),
        });
    }
    if !draft.net.networks.contains(&name) {
        draft.net.networks.push(name);
    }
    Ok(())
}

fn ip(text: &str) -> Result<IpAddr, ValueError> {
    text.parse().map_err(|_| ValueError::grammar(format!("{text:?} is not an IP address")))
}
