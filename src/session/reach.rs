//! What of the laptop stays in reach of the app: Docker networks that were declared, and the containers on them by name;
//! the laptop itself as `host.docker.internal`; the networks of `--bypass`.
//!
//! The default bridge, on which a sidecar without `--network` is, was not declared: only the laptop's own address on it
//! is reached, and everything else in its range is the cluster's, as it is the pod's.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use tokio::sync::watch;
use tpdocker_protocol::cidr::Cidr;
use tpdocker_protocol::control::{PodView, SidecarConfig};

use crate::docker::{DEFAULT_NETWORK, Engine, EngineError, HOST_GATEWAY, HOST_NAME, Neighbours, Sidecar};
use crate::settings::NetSpec;

/// Pause before the engine is asked again what happens, when it went away.
const RETRY: Duration = Duration::from_secs(2);

/// Where the sidecar is, and what was declared.
#[derive(Debug, Clone)]
pub struct Reach {
    engine: Engine,
    sidecar: Sidecar,
    bypass: Vec<Cidr>,
    host_names: Vec<String>,
    host_ports: Vec<u16>,
    /// The default bridge was named by `--network`.
    bridge: bool,
}

impl Reach {
    /// Of the sidecar of `session`, which runs.
    pub async fn of(engine: &Engine, session: &str, net: &NetSpec) -> Result<Self, EngineError> {
        let Some(sidecar) = engine.sidecar_of(session).await? else {
            return Err(EngineError::SidecarEnded { name: format!("of session {session}") });
        };
        let to_the_laptop = |host: &String| {
            let (name, address) = host.split_once([':', '='])?;
            (address == HOST_GATEWAY).then(|| name.to_owned())
        };
        let mut host_names: Vec<String> = net.add_hosts.iter().filter_map(to_the_laptop).collect();
        if !host_names.iter().any(|name| name == HOST_NAME) {
            host_names.push(HOST_NAME.to_owned());
        }
        Ok(Self {
            engine: engine.clone(),
            sidecar,
            bypass: net.bypass.clone(),
            host_names,
            host_ports: net.host_ports.iter().map(|port| port.container_port).collect(),
            bridge: net.networks.iter().any(|name| name == DEFAULT_NETWORK),
        })
    }

    /// What is around the sidecar.
    pub async fn look(&self) -> Result<Neighbours, EngineError> {
        self.engine.neighbours(&self.sidecar, self.bridge).await
    }

    /// `config` with what is around.
    pub fn configured(&self, config: SidecarConfig, around: &Neighbours) -> SidecarConfig {
        let joined = around.networks.iter().flat_map(|network| &network.subnets);
        SidecarConfig {
            bypass: joined.chain(&self.bypass).map(ToString::to_string).collect(),
            host_names: self.host_names.clone(),
            host_ports: self.host_ports.clone(),
            siblings: around.siblings.clone(),
            ..config
        }
    }

    /// Resolves when the sidecar container does not run any more.
    pub async fn sidecar_ended(&self) -> EngineError {
        self.engine.sidecar_ended(&self.sidecar).await
    }
}

/// Keeps the configuration true to what happens on the Docker networks, for ever.
pub async fn follow(reach: Reach, config_tx: watch::Sender<SidecarConfig>) {
    loop {
        let mut events = reach.engine.neighbour_events();
        loop {
            // Looked at after the events are subscribed to: nothing is missed in between.
            match reach.look().await {
                Ok(around) => {
                    config_tx.send_if_modified(|config| {
                        let new = reach.configured(config.clone(), &around);
                        let changed = *config != new;
                        *config = new;
                        changed
                    });
                }
                Err(error) => tracing::warn!(%error, "the Docker networks cannot be seen"),
            }
            let Some(Ok(_)) = events.next().await else { break };
            // One look answers all that has happened before it.
            while events.next().now_or_never().flatten().is_some_and(|event| event.is_ok()) {}
        }
        tracing::info!("the engine does not tell what happens any more; asking again");
        tokio::time::sleep(RETRY).await;
    }
}

/// Addresses of the cluster that are known, with what they are.
pub fn addresses_of(pod: &PodView) -> Vec<(&'static str, IpAddr)> {
    let ips = pod.pod_ips.iter().map(|ip| ("the pod's address", *ip));
    let nameservers = pod.resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok())?
    });
    let api = pod.env.iter().filter(|variable| variable.name == "KUBERNETES_SERVICE_HOST");
    let api = api.filter_map(|variable| variable.value.parse().ok());
    ips.chain(nameservers.map(|ip| ("the cluster's nameserver", ip)))
        .chain(api.map(|ip| ("the API server", ip)))
        .collect()
}

/// Says which of the networks take addresses away from the cluster, and what to do.
pub fn overlaps(around: &Neighbours, bypass: &[Cidr], cluster: &[(&str, IpAddr)]) -> Vec<String> {
    let taken = |subnet: &Cidr| {
        let taken: Vec<String> = cluster
            .iter()
            .filter(|(_, address)| subnet.contains(*address))
            .map(|(what, address)| format!("{what} {address}"))
            .collect();
        (!taken.is_empty()).then(|| taken.join(" and "))
    };
    let joined = around.networks.iter().flat_map(|network| network.subnets.iter().map(move |subnet| (network, subnet)));
    let joined = joined.filter_map(|(network, subnet)| {
        Some(format!(
            "{} is in the range {subnet} of the Docker network {name}, so the app does not reach it; make the network anew \
             with a range that the cluster does not use: docker network create --subnet 192.168.243.0/24 {name}",
            taken(subnet)?,
            name = network.name
        ))
    });
    let declared = bypass.iter().filter_map(|subnet| {
        Some(format!(
            "{} is in --bypass {subnet}, so the app does not reach it; name a smaller network",
            taken(subnet)?
        ))
    });
    joined.chain(declared).collect()
}

/// For the line of the tunnel: `; direct: shop 172.20.0.0/16 with 2 containers, 10.1.0.0/16`.
pub fn describe(around: &Neighbours, bypass: &[Cidr]) -> String {
    let joined = around.networks.iter().map(|network| {
        let subnets: Vec<String> = network.subnets.iter().map(ToString::to_string).collect();
        format!("{} {}", network.name, subnets.join(" "))
    });
    let direct: Vec<String> = joined.chain(bypass.iter().map(ToString::to_string)).collect();
    let siblings = match around.siblings.len() {
        0 => String::new(),
        1 => ", 1 container by name".to_owned(),
        count => format!(", {count} containers by name"),
    };
    if direct.is_empty() { String::new() } else { format!("; direct: {}{siblings}", direct.join(", ")) }
}

#[cfg(test)]
mod tests {
    use tpdocker_protocol::control::EnvVar;

    use super::*;
    use crate::docker::Joined;

    fn around(subnet: &str) -> Neighbours {
        let shop = Joined { name: "shop".into(), subnets: vec![subnet.parse().unwrap()] };
        Neighbours { networks: vec![shop], siblings: Vec::new() }
    }

    fn pod() -> PodView {
        PodView {
            env: vec![EnvVar { name: "KUBERNETES_SERVICE_HOST".into(), value: "10.96.0.1".into() }],
            resolv_conf: "nameserver 10.96.0.10\nsearch x\n".into(),
            pod_ips: vec!["10.244.0.7".parse().unwrap()],
            ..PodView::default()
        }
    }

    #[test]
    fn a_network_that_takes_addresses_of_the_cluster_is_said_with_the_cure() {
        let pod = pod();
        let said = overlaps(&around("10.96.0.0/16"), &["10.244.0.0/16".parse().unwrap()], &addresses_of(&pod));
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(
            said[0].starts_with("the cluster's nameserver 10.96.0.10 and the API server 10.96.0.1 is in"),
            "{said:?}"
        );
        assert!(said[0].contains("docker network create --subnet"), "{said:?}");
        assert!(said[1].starts_with("the pod's address 10.244.0.7 is in --bypass 10.244.0.0/16"), "{said:?}");
        assert!(overlaps(&around("172.20.0.0/16"), &[], &addresses_of(&pod)).is_empty());
    }

    #[test]
    fn what_is_reached_directly_is_told_where_there_is_something() {
        assert_eq!(describe(&Neighbours::default(), &[]), "");
        assert_eq!(
            describe(&around("172.20.0.0/16"), &["10.1.0.0/16".parse().unwrap()]),
            "; direct: shop 172.20.0.0/16, 10.1.0.0/16"
        );
    }
}
