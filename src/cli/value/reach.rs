//! `--bypass` and `--container-to-host`: what the app reaches of the laptop. A compose file says them the same way.

use std::str::FromStr;

use tpdocker_protocol::cidr::Cidr;

use super::Applied;
use crate::cli::Surroundings;
use crate::cli::draft::Draft;
use crate::cli::error::ValueError;
use crate::settings::HostPort;

pub(in crate::cli) fn bypass(draft: &mut Draft, value: &str, _: &Surroundings) -> Applied {
    let network = bypass_network(value)?;
    if !draft.net.bypass.contains(&network) {
        draft.net.bypass.push(network);
    }
    Ok(())
}

/// A network in CIDR notation, or an address. The default route would leave nothing for the tunnel.
pub fn bypass_network(text: &str) -> Result<Cidr, ValueError> {
    let network: Cidr = text.parse().map_err(|_| {
        ValueError::grammar(
            "it is a network such as 192.168.7.0/24 or fd00:7::/64, or an address; names are not resolved",
        )
    })?;
    if network.prefix() == 0 {
        return Err(ValueError::Unsupported {
            what: "past the tunnel goes a network, and not everything".into(),
            instead: "name the networks that the app needs from the laptop; all else is the cluster's".into(),
        });
    }
    if network.network().is_loopback() {
        return Err(ValueError::Unsupported {
            what: "the loopback addresses are the container's own".into(),
            instead: "--container-to-host PORT leads localhost:PORT to the laptop's".into(),
        });
    }
    Ok(network)
}

pub(in crate::cli) fn container_to_host(draft: &mut Draft, value: &str, _: &Surroundings) -> Applied {
    let HostPort { container_port, host_port } = value.parse()?;
    if draft.net.host_ports.iter().any(|earlier| earlier.container_port == container_port) {
        return Err(ValueError::grammar(format!("port {container_port} of the container leads somewhere already")));
    }
    draft.net.host_ports.push(HostPort { container_port, host_port });
    Ok(())
}

impl FromStr for HostPort {
    type Err = ValueError;

    /// `PORT` or `CONTAINER_PORT:HOST_PORT`.
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (container, host) = text.split_once(':').unwrap_or((text, text));
        Ok(Self { container_port: port(container)?, host_port: port(host)? })
    }
}

fn port(text: &str) -> Result<u16, ValueError> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|port| digits && *port > 0)
        .ok_or_else(|| ValueError::grammar(format!("{text:?} is not a port: a number from 1 to {}", u16::MAX)))
}
