//! Who else is on the Docker networks of a sidecar: their addresses are reached directly, and their names are known.
//!
//! The engine is asked and not its resolver at 127.0.0.11: that one answers for the whole Internet, from the laptop's
//! side. What it says is a state, taken again whenever an event tells that it may have changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::errors::Error as ApiError;
use bollard::models::{ContainerInspectResponse, EndpointSettings, EventMessage, NetworkInspect};
use bollard::query_parameters::{EventsOptions, InspectNetworkOptions, ListContainersOptions, WaitContainerOptions};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use tpdocker_protocol::cidr::Cidr;
use tpdocker_protocol::contract::{LABEL_ROLE, LABEL_SESSION, ROLE_SIDECAR};
use tpdocker_protocol::control::Sibling;

use super::engine::Engine;
use super::error::{EngineError, is_missing};
use super::sidecar::{DEFAULT_NETWORK, Sidecar};

/// Events after which the neighbours may be others.
const TELLING: [&str; 4] = ["connect", "disconnect", "rename", "start"];
/// Pause before an engine that broke off is asked again.
const WATCH_AGAIN: Duration = Duration::from_secs(1);
/// What was under way when the engine was lost.
const DOING: &str = "telling about the sidecar's networks";

/// A network that the sidecar has joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// Its name.
    pub name: String,
    /// Its ranges of addresses.
    pub subnets: Vec<Cidr>,
}

/// The networks of a sidecar, by name, and who else is on them, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Neighbours {
    /// The default bridge is not among them, unless it was asked for.
    pub networks: Vec<Joined>,
    /// The other containers.
    pub siblings: Vec<Sibling>,
}

impl Engine {
    /// The sidecar of `session`, whoever started it.
    pub async fn sidecar_of(&self, session: &str) -> Result<Option<Sidecar>, EngineError> {
        let label = |key, value| format!("{key}={value}");
        let labels = vec![label(LABEL_SESSION, session), label(LABEL_ROLE, ROLE_SIDECAR)];
        let options = ListContainersOptions {
            filters: Some(HashMap::from([("label".to_owned(), labels)])),
            ..Default::default()
        };
        let found = self.api.list_containers(Some(options)).await;
        let found = found.map_err(|error| EngineError::lost("looking for the sidecar", error))?;
        Ok(found.into_iter().find_map(|container| {
            let name = container.names.unwrap_or_default().into_iter().next().unwrap_or_default();
            Some(Sidecar { id: container.id?, name: name.trim_start_matches('/').to_owned() })
        }))
    }

    /// Resolves when the sidecar container does not run any more; the network namespace is without its owner then. An
    /// engine that does not answer is asked again: whoever needs it says so.
    pub async fn sidecar_ended(&self, sidecar: &Sidecar) -> EngineError {
        loop {
            let options = WaitContainerOptions { condition: "not-running".to_owned() };
            match self.api.wait_container(&sidecar.id, Some(options)).boxed().next().await {
                Some(Ok(_) | Err(ApiError::DockerContainerWaitError { .. })) => break,
                Some(Err(error)) if is_missing(&error) => break,
                Some(Err(error)) => tracing::info!(%error, "the sidecar cannot be watched"),
                None => tracing::info!("the engine stopped watching the sidecar"),
            }
            tokio::time::sleep(WATCH_AGAIN).await;
        }
        EngineError::SidecarEnded { name: sidecar.name.clone() }
    }

    /// Whether the engine can tell an address for `host-gateway`: without the default bridge it cannot, and refuses.
    pub async fn has_host_gateway(&self) -> Result<bool, EngineError> {
        match self.api.inspect_network(DEFAULT_NETWORK, None::<InspectNetworkOptions>).await {
            Ok(_) => Ok(true),
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(EngineError::lost("telling about its networks", error)),
        }
    }

    /// The neighbours as they are. With `bridge` the default bridge counts as a network of the sidecar.
    pub async fn neighbours(&self, sidecar: &Sidecar, bridge: bool) -> Result<Neighbours, EngineError> {
        let Some(own) = self.inspected(&sidecar.id).await? else { return Ok(Neighbours::default()) };
        let mut neighbours = Neighbours::default();
        let mut members = BTreeSet::new();
        for (name, endpoint) in endpoints(own) {
            if name == DEFAULT_NETWORK && !bridge {
                continue;
            }
            let id = endpoint.network_id.clone().unwrap_or_else(|| name.clone());
            let network = match self.api.inspect_network(&id, None::<InspectNetworkOptions>).await {
                Ok(network) => network,
                Err(error) if is_missing(&error) => continue,
                Err(error) => return Err(EngineError::lost(DOING, error)),
            };
            members.extend(network.containers.iter().flatten().map(|(id, _)| id.clone()));
            neighbours.networks.push(Joined { subnets: subnets(&network, &endpoint), name });
        }
        members.remove(&sidecar.id);
        // The default bridge has no names for its members.
        let shared: BTreeSet<_> = neighbours
            .networks
            .iter()
            .map(|network| network.name.as_str())
            .filter(|name| *name != DEFAULT_NETWORK)
            .collect();
        for id in members {
            let sibling = self.inspected(&id).await?.and_then(|container| sibling(container, &shared));
            neighbours.siblings.extend(sibling);
        }
        neighbours.siblings.sort();
        Ok(neighbours)
    }

    /// Something happens after which the neighbours may be others, from this moment on: the engine is asked only when the
    /// stream is polled first, but remembers what happened before. Ends when the engine goes away.
    pub fn neighbour_events(&self) -> BoxStream<'_, Result<EventMessage, EngineError>> {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let filters = HashMap::from([
            ("type".to_owned(), texts(&["network", "container"])),
            ("event".to_owned(), texts(&TELLING)),
        ]);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let since = format!("{}.{:09}", now.as_secs(), now.subsec_nanos());
        let options = EventsOptions { since: Some(since), filters: Some(filters), ..Default::default() };
        self.api.events(Some(options)).map_err(|error| EngineError::lost("telling what happens", error)).boxed()
    }

    /// `None` once it is gone.
    async fn inspected(&self, id: &str) -> Result<Option<ContainerInspectResponse>, EngineError> {
        match self.api.inspect_container(id, None).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(EngineError::lost(DOING, error)),
        }
    }
}

fn endpoints(container: ContainerInspectResponse) -> BTreeMap<String, EndpointSettings> {
    container.network_settings.and_then(|settings| settings.networks).unwrap_or_default().into_iter().collect()
}

/// What the network was given, and what the sidecar's own address says. A range of everything is a default route, and no
/// network.
fn subnets(network: &NetworkInspect, endpoint: &EndpointSettings) -> Vec<Cidr> {
    let configured = network.ipam.iter().flat_map(|ipam| ipam.config.iter().flatten());
    let configured = configured.filter_map(|config| config.subnet.as_deref()?.parse().ok());
    let own = [
        (&endpoint.ip_address, endpoint.ip_prefix_len),
        (&endpoint.global_ipv6_address, endpoint.global_ipv6_prefix_len),
    ];
    let own = own
        .into_iter()
        .filter_map(|(address, prefix)| Cidr::new(address.as_deref()?.parse().ok()?, u8::try_from(prefix?).ok()?));
    let mut subnets: Vec<Cidr> = configured.chain(own).filter(|subnet: &Cidr| subnet.prefix() > 0).collect();
    let mut seen = Vec::new();
    subnets.retain(|subnet| {
        let new = !seen.contains(subnet);
        seen.push(*subnet);
        new
    });
    subnets
}

/// A container as the members of `shared` know it.
fn sibling(container: ContainerInspectResponse, shared: &BTreeSet<&str>) -> Option<Sibling> {
    let mut names: Vec<String> = container.name.iter().map(|name| name.trim_start_matches('/').to_owned()).collect();
    let mut addresses = Vec::new();
    for (_, endpoint) in endpoints(container).into_iter().filter(|(name, _)| shared.contains(name.as_str())) {
        for name in endpoint.aliases.into_iter().flatten().chain(endpoint.dns_names.into_iter().flatten()) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let both = [endpoint.ip_address, endpoint.global_ipv6_address];
        addresses.extend(both.into_iter().filter_map(|address| address?.parse::<IpAddr>().ok()));
    }
    (!addresses.is_empty()).then_some(Sibling { names, addresses })
}
