//! The container that owns the network namespace which the user's container joins.
//!
//! Everything of a `docker run` that belongs to the owner of a namespace ends up here: published ports, networks, host
//! names, resolvers. It has two capabilities and no way to get more. It is not read-only: the engine mounts
//! `/etc/resolv.conf` and `/etc/hosts` with the mode of the root file system, and the sidecar has to write the pod's
//! into them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bollard::errors::Error as ApiError;
use bollard::models::{
    ContainerCreateBody, EndpointSettings, HostConfig, HostConfigLogConfig, Mount, MountType, MountVolumeOptions,
    NetworkConnectRequest, NetworkingConfig, PortBinding, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::CreateContainerOptions;
use tpdocker_protocol::addr::Transport;
use tpdocker_protocol::contract::{LABEL_ROLE, LABEL_SESSION, ROLE_SIDECAR, SIDECAR_RUN_DIR};

use super::engine::Engine;
use super::error::{EngineError, refusal};
use crate::image;
use crate::settings::{NetSpec, Publish};

/// The rights of the sidecar: nftables and the queue need `NET_ADMIN`, injected replies need `NET_RAW`.
const CAPABILITIES: [&str; 2] = ["NET_ADMIN", "NET_RAW"];

/// A container on a network without IPv6 has no `::1` either; a pod has it.
pub const IPV6_SWITCH: (&str, &str) = ("net.ipv6.conf.all.disable_ipv6", "0");
/// Bound of the sidecar's own log: it logs events, not traffic, and nobody rotates it.
const LOG_LIMITS: [(&str, &str); 2] = [("max-size", "1m"), ("max-file", "2")];

/// The engine's default network; the only one whose members have no names for each other.
pub const DEFAULT_NETWORK: &str = "bridge";

/// The name of the laptop. Docker Desktop gives it to every container, so images and compose files count on it.
/// <https://docs.docker.com/desktop/features/networking/networking-how-tos/>
pub const HOST_NAME: &str = "host.docker.internal";
/// What the engine replaces by an address of its own machine that containers reach.
pub const HOST_GATEWAY: &str = "host-gateway";

/// `--network` values that give no namespace of its own, by prefix: the host's must never be captured, and another
/// container's belongs to somebody else.
const UNFIT_NETWORKS: [&str; 3] = ["host", "container:", "service:"];

/// What a sidecar is made of.
#[derive(Debug, Clone)]
pub struct SidecarSpec {
    /// The session's id.
    pub session: String,
    /// Name of the container.
    pub name: String,
    /// Host name inside, for the sidecar and the user's container: the pod's, unless the user gave one.
    pub hostname: Option<String>,
    /// Published ports, networks, resolvers, hosts.
    pub net: NetSpec,
    /// Names by which the members of user-defined networks find the container, such as its `--name`.
    pub aliases: Vec<String>,
    /// Directory on the host that becomes [`SIDECAR_RUN_DIR`]; absolute, and on this machine. Everybody must be able to
    /// write to it (mode 0777, in a parent that is private): the sidecar's root has no `CAP_DAC_OVERRIDE`, so another
    /// user's directory is closed to it.
    pub run_dir: PathBuf,
    /// Volumes of the engine with the pod's files, and where each is mounted.
    pub volumes: Vec<(String, String)>,
}

/// A running sidecar.
#[derive(Debug, Clone)]
pub struct Sidecar {
    /// The container's id.
    pub id: String,
    /// The container's name.
    pub name: String,
}

impl Engine {
    /// Creates and starts a sidecar. What fails halfway leaves no container behind.
    pub async fn start_sidecar(&self, spec: &SidecarSpec) -> Result<Sidecar, EngineError> {
        if let Some(name) = spec.net.networks.iter().find(|name| is_unfit(name)) {
            return Err(EngineError::NetworkUnfit { name: name.clone() });
        }
        let options = CreateContainerOptions { name: Some(spec.name.clone()), ..Default::default() };
        let mut body = self.sidecar_body(spec);
        if let Some(config) = &mut body.host_config
            && self.has_host_gateway().await?
        {
            name_the_laptop(config.extra_hosts.get_or_insert_default());
        }
        let created = match self.api.create_container(Some(options), body).await {
            Ok(created) => created,
            Err(error) => return Err(self.explain_sidecar(spec, error).await),
        };
        let sidecar = Sidecar { id: created.id, name: spec.name.clone() };
        let started = self.connect_and_start(&sidecar.id, spec).await;
        if let Err(error) = started {
            let failure = self.explain_sidecar(spec, error).await;
            if let Err(error) = self.remove_container(&sidecar.id).await {
                tracing::warn!(%error, container = sidecar.name, "the sidecar that failed to start is left behind");
            }
            return Err(failure);
        }
        Ok(sidecar)
    }

    async fn connect_and_start(&self, id: &str, spec: &SidecarSpec) -> Result<(), ApiError> {
        for network in spec.net.networks.iter().skip(1) {
            let request =
                NetworkConnectRequest { container: id.to_owned(), endpoint_config: Some(endpoint(network, spec)) };
            self.api.connect_network(network, request).await?;
        }
        self.api.start_container(id, None).await
    }

    fn sidecar_body(&self, spec: &SidecarSpec) -> ContainerCreateBody {
        let net = &spec.net;
        let first = net.networks.first().map_or(DEFAULT_NETWORK, String::as_str);
        let run_dir = spec.run_dir.display();
        let limits = LOG_LIMITS.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let log_config =
            self.logs_can_be_limited().then(|| HostConfigLogConfig { typ: None, config: Some(HashMap::from(limits)) });
        let host_config = HostConfig {
            // `Z` lets the container in where SELinux labels decide, and means nothing elsewhere.
            binds: Some(vec![format!("{run_dir}:{SIDECAR_RUN_DIR}:Z")]),
            mounts: Some(spec.volumes.iter().map(volume).collect()),
            cap_drop: Some(vec!["ALL".to_owned()]),
            cap_add: Some(CAPABILITIES.map(str::to_owned).to_vec()),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
            log_config,
            network_mode: Some(first.to_owned()),
            port_bindings: Some(port_bindings(&net.publish)),
            extra_hosts: Some(net.add_hosts.clone()),
            sysctls: has_ipv6().then(|| [(IPV6_SWITCH.0.to_owned(), IPV6_SWITCH.1.to_owned())].into()),
            dns: Some(net.dns.iter().map(ToString::to_string).collect()),
            ..Default::default()
        };
        ContainerCreateBody {
            image: Some(image::sidecar().reference().to_owned()),
            hostname: net.hostname.clone().or_else(|| spec.hostname.clone()),
            exposed_ports: Some(net.publish.iter().map(port_key).collect()),
            labels: Some(HashMap::from([
                (LABEL_SESSION.to_owned(), spec.session.clone()),
                (LABEL_ROLE.to_owned(), ROLE_SIDECAR.to_owned()),
            ])),
            host_config: Some(host_config),
            networking_config: Some(NetworkingConfig {
                endpoints_config: Some(HashMap::from([(first.to_owned(), endpoint(first, spec))])),
            }),
            ..Default::default()
        }
    }

    async fn explain_sidecar(&self, spec: &SidecarSpec, error: ApiError) -> EngineError {
        let Some((status, message)) = refusal(&error) else {
            return EngineError::lost("starting the sidecar container", error);
        };
        let message = message.to_owned();
        if is_port_conflict(&message) {
            let publish = spec.net.publish.iter().find(|publish| names_port(&message, publish));
            if let Some((publish, port)) = publish.and_then(|publish| Some((publish, publish.host_port?))) {
                let address = publish.host_ip.map(|address| format!("{address}:")).unwrap_or_default();
                let holder = self.holder_of_port(port).await;
                return EngineError::PortTaken { port: format!("{address}{port}"), holder };
            }
        }
        let networks = &spec.net.networks;
        let named = |network: &&String| message.contains(network.as_str());
        if status == 404
            && message.contains("network")
            && let Some(name) = networks.iter().find(named)
        {
            return EngineError::NetworkUnknown { name: name.clone() };
        }
        self.explain_name(&spec.name, status).await.unwrap_or(EngineError::Sidecar { message })
    }

    /// The failure of a creation that was refused because of its name.
    pub(super) async fn explain_name(&self, name: &str, status: u16) -> Option<EngineError> {
        const CONFLICT: u16 = 409;
        if status != CONFLICT {
            return None;
        }
        Some(EngineError::NameTaken { name: name.to_owned(), holder: self.holder_of_name(name).await })
    }
}

/// Whether this machine's kernel has IPv6: without it the engine refuses [`IPV6_SWITCH`]. The engine is on this machine.
pub fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6/conf/all/disable_ipv6").exists()
}

/// Adds [`HOST_NAME`], unless the user gave it an address.
pub fn name_the_laptop(hosts: &mut Vec<String>) {
    let named = |host: &String| host.strip_prefix(HOST_NAME).is_some_and(|rest| rest.starts_with([':', '=']));
    if !hosts.iter().any(named) {
        hosts.push(format!("{HOST_NAME}:{HOST_GATEWAY}"));
    }
}

/// Never filled from the image, which has nothing there.
fn volume((name, path): &(String, String)) -> Mount {
    Mount {
        typ: Some(MountType::VOLUME),
        source: Some(name.clone()),
        target: Some(path.clone()),
        volume_options: Some(MountVolumeOptions { no_copy: Some(true), ..MountVolumeOptions::default() }),
        ..Mount::default()
    }
}

fn is_unfit(network: &str) -> bool {
    UNFIT_NETWORKS.iter().any(|unfit| if unfit.ends_with(':') { network.starts_with(unfit) } else { network == *unfit })
}

/// Names inside a network exist on user-defined networks only; the engine refuses them elsewhere.
fn endpoint(network: &str, spec: &SidecarSpec) -> EndpointSettings {
    let has_names = !matches!(network, "bridge" | "default" | "none");
    EndpointSettings { aliases: has_names.then(|| spec.aliases.clone()), ..Default::default() }
}

fn port_key(publish: &Publish) -> String {
    let transport = match publish.transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    };
    format!("{}/{transport}", publish.container_port)
}

/// One container port may be published several times.
fn port_bindings(publish: &[Publish]) -> HashMap<String, Option<Vec<PortBinding>>> {
    let mut bindings: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
    for publish in publish {
        let binding = PortBinding {
            host_ip: publish.host_ip.map(|address| address.to_string()),
            host_port: publish.host_port.map(|port| port.to_string()),
        };
        bindings.entry(port_key(publish)).or_default().get_or_insert_default().push(binding);
    }
    bindings
}

fn is_port_conflict(message: &str) -> bool {
    message.contains("port is already allocated") || message.contains("address already in use")
}

/// Whether the engine's sentence names the host's port of `publish`, as `0.0.0.0:8080` followed by anything but a digit.
fn names_port(message: &str, publish: &Publish) -> bool {
    let Some(port) = publish.host_port else { return false };
    let needle = format!(":{port}");
    message
        .match_indices(&needle)
        .any(|(at, _)| !message[at + needle.len()..].starts_with(|next: char| next.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(host_port: u16) -> Publish {
        Publish { host_ip: None, host_port: Some(host_port), container_port: 80, transport: Transport::Tcp }
    }

    #[test]
    fn a_port_is_recognized_in_the_sentences_of_old_and_new_engines() {
        for message in [
            "driver failed programming external connectivity on endpoint x (5ec): Bind for 0.0.0.0:8080 failed: port is already allocated",
            "driver failed programming external connectivity on endpoint x (5ec): Error starting userland proxy: listen tcp4 0.0.0.0:8080: bind: address already in use",
            "failed to set up container networking: driver failed programming external connectivity on endpoint x: failed to bind host port for 0.0.0.0:8080:172.17.0.2:80/tcp: address already in use",
        ] {
            assert!(is_port_conflict(message));
            assert!(names_port(message, &publish(8080)), "{message}");
            assert!(!names_port(message, &publish(808)), "{message}");
        }
    }

    #[test]
    fn the_laptop_has_its_name_unless_the_user_gave_it_to_another() {
        for (given, added) in
            [("printer:10.9.8.7", 1), ("host.docker.internal:10.9.8.7", 0), ("host.docker.internal=::1", 0)]
        {
            let mut hosts = vec![given.to_owned()];
            name_the_laptop(&mut hosts);
            assert_eq!(hosts.len(), 1 + added, "{hosts:?}");
        }
    }

    #[test]
    fn the_network_of_the_host_or_of_another_container_is_refused() {
        for (network, unfit) in [("host", true), ("container:x", true), ("hosts", false), ("bridge", false)] {
            assert_eq!(is_unfit(network), unfit, "{network}");
        }
    }
}
