//! A service and its sidecar: what the one gives up to the other, and what both get from the session.

use std::path::Path;

use serde_json::{Map, Value, json};
use tpdocker_protocol::contract::{LABEL_ROLE, LABEL_SESSION, ROLE_APP, ROLE_SIDECAR, SIDECAR_PATH, SIDECAR_RUN_DIR};

use super::project::{ProjectError, texts};
use crate::docker::{IPV6_SWITCH, has_ipv6, name_the_laptop};
use crate::settings::AppSpec;

/// Keys of a service that belong to the owner of its network namespace; Compose refuses most of them beside
/// `network_mode: service:…`.
pub(super) const NAMESPACE_KEYS: [&str; 14] = [
    "dns",
    "dns_opt",
    "dns_search",
    "domainname",
    "expose",
    "external_links",
    "extra_hosts",
    "hostname",
    "links",
    "mac_address",
    "network_mode",
    "networks",
    "ports",
    "sysctls",
];

/// What a running session gives to its service.
#[derive(Debug)]
pub struct Attachment<'a> {
    /// The service.
    pub service: &'a str,
    /// The session's id.
    pub session: &'a str,
    /// The sidecar's image.
    pub sidecar_image: &'a str,
    /// The session's directory on the laptop.
    pub run_dir: &'a Path,
    /// The pod's host name.
    pub hostname: &'a str,
    /// Whether the engine knows an address for `host-gateway`.
    pub host_gateway: bool,
    /// The pod's environment; the service's own variables win.
    pub env: &'a [(String, String)],
    /// Volumes of the engine with the pod's files, and where the sidecar mounts each.
    pub volumes: &'a [(String, String)],
    /// The service as the pod has it: user, groups and mounts; the service's own user wins.
    pub pod: &'a AppSpec,
}

impl Attachment<'_> {
    /// Rewrites the model.
    pub(super) fn apply(&self, model: &mut Map<String, Value>) -> Result<(), ProjectError> {
        let services =
            model.get_mut("services").and_then(Value::as_object_mut).ok_or(ProjectError::Shape("no services"))?;
        let service = services
            .get_mut(self.service)
            .and_then(Value::as_object_mut)
            .ok_or(ProjectError::Shape("a service is gone"))?;
        let moved: Map<String, Value> = NAMESPACE_KEYS
            .iter()
            .filter_map(|key| Some(((*key).to_owned(), service.remove(*key)?)))
            .filter(|(_, value)| !value.is_null())
            .collect();
        let sidecar_name = sidecar_name(self.service);
        join(service, &sidecar_name, self)?;
        services.insert(sidecar_name, sidecar(moved, self)?);
        let volumes = object(model, "volumes")?;
        for (name, _) in self.volumes {
            volumes.insert(name.clone(), json!({"name": name, "external": true}));
        }
        Ok(())
    }
}

/// Name of the sidecar's service.
pub fn sidecar_name(service: &str) -> String {
    format!("{service}-tpdocker")
}

/// Makes the service join its sidecar's namespace.
fn join(service: &mut Map<String, Value>, sidecar_name: &str, attachment: &Attachment<'_>) -> Result<(), ProjectError> {
    service.insert("network_mode".into(), json!(format!("service:{sidecar_name}")));
    let depends_on = object(service, "depends_on")?;
    depends_on.insert(sidecar_name.into(), json!({"condition": "service_healthy", "required": true}));
    let environment = object(service, "environment")?;
    for (name, value) in attachment.env {
        // Compose interpolates what it reads.
        environment.entry(name.clone()).or_insert_with(|| json!(value.replace('$', "$$")));
    }
    label(object(service, "labels")?, attachment.session, ROLE_APP);
    if let Some(user) = &attachment.pod.user {
        service.entry("user").or_insert_with(|| json!(user));
    }
    if !attachment.pod.groups.is_empty() {
        let groups = list(service, "group_add")?;
        groups.extend(attachment.pod.groups.iter().map(|group| json!(group)));
    }
    if !attachment.pod.mounts.is_empty() {
        // The engine would look for a mount's source when the container is created, and it is there when it is started.
        let bind = json!({"create_host_path": true});
        list(service, "volumes")?.extend(attachment.pod.mounts.iter().map(|mount| {
            json!({
                "type": "bind", "source": mount.source, "target": mount.target, "read_only": mount.read_only, "bind": bind
            })
        }));
    }
    Ok(())
}

/// The sidecar's service, with what it takes over.
fn sidecar(mut moved: Map<String, Value>, attachment: &Attachment<'_>) -> Result<Value, ProjectError> {
    moved.entry("hostname").or_insert_with(|| json!(attachment.hostname));
    if attachment.host_gateway {
        let mut hosts = texts(moved.get("extra_hosts").unwrap_or(&Value::Null));
        name_the_laptop(&mut hosts);
        moved.insert("extra_hosts".into(), json!(hosts));
    }
    if has_ipv6()
        && let Some(sysctls) = moved.entry("sysctls").or_insert_with(|| json!({})).as_object_mut()
    {
        sysctls.entry(IPV6_SWITCH.0).or_insert_with(|| json!(IPV6_SWITCH.1));
    }
    if let Some(networks) = moved.get_mut("networks") {
        alias(networks, attachment.service)?;
    }
    let mut labels = Map::new();
    label(&mut labels, attachment.session, ROLE_SIDECAR);
    let mut volumes = vec![json!({"type": "bind", "source": attachment.run_dir, "target": SIDECAR_RUN_DIR})];
    volumes.extend(
        attachment
            .volumes
            .iter()
            .map(|(name, path)| json!({"type": "volume", "source": name, "target": path, "volume": {"nocopy": true}})),
    );
    let own = json!({
        "image": attachment.sidecar_image,
        "pull_policy": "never",
        // Compose ends when everything has ended that it is attached to, and a sidecar ends only with its service.
        "attach": false,
        "cap_drop": ["ALL"],
        "cap_add": ["NET_ADMIN", "NET_RAW"],
        "security_opt": ["no-new-privileges:true"],
        "restart": "no",
        "volumes": volumes,
        "healthcheck": {
            "test": ["CMD", SIDECAR_PATH, "healthy"],
            // Compose starts the app as soon as a probe succeeds, so the interval is a part of every start.
            "interval": "250ms",
            "timeout": "5s",
            "retries": 240
        },
        "labels": labels,
    });
    if let Value::Object(own) = own {
        moved.extend(own);
    }
    Ok(Value::Object(moved))
}

/// Siblings go on finding the service under its own name.
fn alias(networks: &mut Value, service: &str) -> Result<(), ProjectError> {
    for network in networks.as_object_mut().ok_or(ProjectError::Shape("networks is not a map"))?.values_mut() {
        if network.is_null() {
            *network = json!({});
        }
        let settings = network.as_object_mut().ok_or(ProjectError::Shape("a network is not a map"))?;
        let aliases = settings.entry("aliases").or_insert_with(|| json!([]));
        aliases.as_array_mut().ok_or(ProjectError::Shape("aliases is not a list"))?.push(json!(service));
    }
    Ok(())
}

fn label(labels: &mut Map<String, Value>, session: &str, role: &str) {
    labels.insert(LABEL_SESSION.into(), json!(session));
    labels.insert(LABEL_ROLE.into(), json!(role));
}

/// The list at `key`, made when absent.
fn list<'a>(service: &'a mut Map<String, Value>, key: &'static str) -> Result<&'a mut Vec<Value>, ProjectError> {
    let value = service.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = json!([]);
    }
    value.as_array_mut().ok_or(ProjectError::Shape(key))
}

/// The map at `key`, made when absent: a resolved model has no lists where a map will do.
fn object<'a>(
    service: &'a mut Map<String, Value>,
    key: &'static str,
) -> Result<&'a mut Map<String, Value>, ProjectError> {
    let value = service.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = json!({});
    }
    value.as_object_mut().ok_or(ProjectError::Shape(key))
}
