//! The rewriting of a Compose project, as a pure function from what `docker compose config` prints to
//! what `docker compose --file -` is given.
//!
//! The whole resolved model is rewritten rather than overridden by a second file: an override can add to `ports` and
//! `networks` but cannot take them away without tags that older Compose releases do not know.
//!
//! For each service `S` with an `x-tpdocker` key:
//! - a service `S-tpdocker` appears: the sidecar. It takes over what belongs to the owner of a network namespace
//!   (`ports`, `networks` with `S` as an alias, `hostname`, `dns`, `extra_hosts`, …), and is healthy once the tunnel
//!   carries traffic;
//! - `S` joins it (`network_mode: service:S-tpdocker`), waits for its health, and gets the pod's environment below its
//!   own.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tpdocker_protocol::contract::{LABEL_ROLE, LABEL_SESSION, ROLE_APP, ROLE_SIDECAR, SIDECAR_PATH, SIDECAR_RUN_DIR};

use crate::error::{Code, Explain};
use crate::settings::{ClusterSettings, Hold, SwapTarget};

/// The extension key of a service.
const EXTENSION: &str = "x-tpdocker";
/// Keys of a service that belong to the owner of its network namespace; Compose refuses most of them beside
/// `network_mode: service:…`.
const NAMESPACE_KEYS: [&str; 14] = [
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

/// What is wrong with a Compose file, for us.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// No service is ours.
    #[error("no service of this Compose project has an {EXTENSION} key")]
    NothingToSwap,
    /// The extension's value is not understood.
    #[error("{EXTENSION} of service {service} is not understood")]
    Extension {
        /// The service.
        service: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Compose printed a model of another shape.
    #[error("`docker compose config` printed something unexpected: {0}")]
    Shape(&'static str),
    /// The network mode leaves no namespace of its own to put the sidecar into.
    #[error("service {service} has network_mode {mode}, so it cannot get a sidecar")]
    NetworkMode {
        /// The service.
        service: String,
        /// Its mode.
        mode: String,
    },
}

impl Explain for ProjectError {
    fn code(&self) -> Code {
        Code::Usage
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NothingToSwap | Self::Extension { .. } => {
                Some(format!("give the service a key such as `{EXTENSION}: {{swap: NAME, namespace: staging}}`"))
            }
            Self::NetworkMode { .. } => Some("remove network_mode from the service".into()),
            Self::Shape(_) => None,
        }
    }
}

/// The value of `x-tpdocker`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Extension {
    swap: String,
    namespace: Option<String>,
    context: Option<String>,
    hold: Option<String>,
}

/// One service that is to be swapped in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwapService {
    /// Its name.
    pub service: String,
    /// What it replaces.
    pub swap: SwapTarget,
    /// Where.
    pub cluster: ClusterSettings,
    /// As for `tpdocker run --hold`.
    pub hold: Hold,
}

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
    /// The pod's environment; the service's own variables win.
    pub env: &'a [(String, String)],
}

/// A resolved Compose project.
#[derive(Debug, Clone, PartialEq)]
pub struct Project {
    model: Value,
    /// By service.
    extensions: BTreeMap<String, Value>,
}

/// What is read of the YAML: Compose leaves extension keys out of its JSON.
#[derive(Debug, Deserialize)]
struct Extended {
    services: BTreeMap<String, ExtendedService>,
}

#[derive(Debug, Deserialize)]
struct ExtendedService {
    #[serde(rename = "x-tpdocker")]
    extension: Option<Value>,
}

impl Project {
    /// From the output of `docker compose config` as JSON, which is the model, and as YAML, which has the extensions.
    pub fn parse(json: &[u8], yaml: &str) -> Result<Self, ProjectError> {
        let model: Value = serde_json::from_slice(json).map_err(|_| ProjectError::Shape("not JSON"))?;
        if !model["services"].is_object() {
            return Err(ProjectError::Shape("no services"));
        }
        let extended: Extended = serde_saphyr::from_str(yaml).map_err(|_| ProjectError::Shape("not YAML"))?;
        let extensions =
            extended.services.into_iter().filter_map(|(name, service)| Some((name, service.extension?))).collect();
        Ok(Self { model, extensions })
    }

    /// The project's name.
    pub fn name(&self) -> Result<&str, ProjectError> {
        self.model["name"].as_str().ok_or(ProjectError::Shape("no name"))
    }

    /// Whether there is such a service.
    pub fn has(&self, service: &str) -> bool {
        self.model["services"].get(service).is_some()
    }

    /// The services that carry `x-tpdocker`; at least one.
    pub fn swaps(&self) -> Result<Vec<SwapService>, ProjectError> {
        let swaps = self
            .extensions
            .iter()
            .map(|(name, extension)| swap_of(name, &self.model["services"][name], extension))
            .collect::<Result<Vec<_>, _>>()?;
        if swaps.is_empty() { Err(ProjectError::NothingToSwap) } else { Ok(swaps) }
    }

    /// Gives a service its sidecar.
    pub fn attach(&mut self, attachment: &Attachment<'_>) -> Result<(), ProjectError> {
        let services = self.model["services"].as_object_mut().ok_or(ProjectError::Shape("no services"))?;
        let service = services
            .get_mut(attachment.service)
            .and_then(Value::as_object_mut)
            .ok_or(ProjectError::Shape("a service is gone"))?;
        let moved: Map<String, Value> = NAMESPACE_KEYS
            .iter()
            .filter_map(|key| Some(((*key).to_owned(), service.remove(*key)?)))
            .filter(|(_, value)| !value.is_null())
            .collect();
        let sidecar_name = sidecar_name(attachment.service);
        join(service, &sidecar_name, attachment)?;
        services.insert(sidecar_name, sidecar(moved, attachment)?);
        Ok(())
    }

    /// For the standard input of `docker compose --file -`.
    pub fn to_json(&self) -> String {
        self.model.to_string()
    }
}

/// Name of the sidecar's service.
pub fn sidecar_name(service: &str) -> String {
    format!("{service}-tpdocker")
}

fn swap_of(name: &str, service: &Value, extension: &Value) -> Result<SwapService, ProjectError> {
    let wrong =
        |source: Box<dyn std::error::Error + Send + Sync>| ProjectError::Extension { service: name.into(), source };
    let extension: Extension = serde_json::from_value(extension.clone()).map_err(|error| wrong(error.into()))?;
    if let Some(mode) = service["network_mode"].as_str().filter(|mode| *mode != "bridge") {
        return Err(ProjectError::NetworkMode { service: name.into(), mode: mode.into() });
    }
    Ok(SwapService {
        service: name.into(),
        swap: extension.swap.parse::<SwapTarget>().map_err(|error| wrong(error.into()))?,
        cluster: ClusterSettings { context: extension.context, namespace: extension.namespace },
        hold: extension.hold.map_or(Ok(Hold::default()), |hold| hold.parse()).map_err(|error| wrong(error.into()))?,
    })
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
    Ok(())
}

/// The sidecar's service, with what it takes over.
fn sidecar(mut moved: Map<String, Value>, attachment: &Attachment<'_>) -> Result<Value, ProjectError> {
    moved.entry("hostname").or_insert_with(|| json!(attachment.hostname));
    if let Some(networks) = moved.get_mut("networks") {
        alias(networks, attachment.service)?;
    }
    let mut labels = Map::new();
    label(&mut labels, attachment.session, ROLE_SIDECAR);
    let own = json!({
        "image": attachment.sidecar_image,
        "pull_policy": "never",
        "cap_drop": ["ALL"],
        "cap_add": ["NET_ADMIN", "NET_RAW"],
        "security_opt": ["no-new-privileges:true"],
        "restart": "no",
        "volumes": [{"type": "bind", "source": attachment.run_dir, "target": SIDECAR_RUN_DIR}],
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

#[cfg(test)]
mod tests {
    use super::*;

    fn project(service: &Value) -> Project {
        let mut model = json!({"name": "shop", "services": {"web": service, "cache": {"image": "redis"}}});
        // JSON is YAML.
        let yaml = model.to_string();
        if let Some(web) = model["services"]["web"].as_object_mut() {
            web.remove(EXTENSION);
        }
        Project::parse(model.to_string().as_bytes(), &yaml).unwrap()
    }

    fn attach(project: &mut Project, env: &[(String, String)]) -> Value {
        let attachment = Attachment {
            service: "web",
            session: "s1",
            sidecar_image: "tpdocker/sidecar:1",
            run_dir: Path::new("/run/user/1000/tpdocker/s1"),
            hostname: "web-abc",
            env,
        };
        project.attach(&attachment).unwrap();
        project.model["services"].clone()
    }

    #[test]
    fn what_belongs_to_the_namespace_moves_to_the_sidecar_and_the_rest_stays() {
        let mut project = project(&json!({
            "image": "web", "command": ["serve"], "ports": [{"target": 8080, "published": "80"}],
            "networks": {"default": null, "back": {"aliases": ["w"]}}, "extra_hosts": ["a=1.2.3.4"],
            "x-tpdocker": {"swap": "servicename", "namespace": "staging"},
        }));
        let services = attach(&mut project, &[]);
        let (web, sidecar) = (&services["web"], &services["web-tpdocker"]);
        for key in NAMESPACE_KEYS.into_iter().filter(|key| *key != "network_mode") {
            assert!(web.get(key).is_none(), "{key} stays at the service");
        }
        assert_eq!(web["network_mode"], "service:web-tpdocker");
        assert_eq!(web["command"], json!(["serve"]));
        assert_eq!(web["depends_on"]["web-tpdocker"]["condition"], "service_healthy");
        assert_eq!(sidecar["ports"][0]["target"], 8080);
        assert_eq!(sidecar["networks"]["default"]["aliases"], json!(["web"]));
        assert_eq!(sidecar["networks"]["back"]["aliases"], json!(["w", "web"]));
        assert_eq!(sidecar["hostname"], "web-abc");
        assert_eq!(sidecar["cap_add"], json!(["NET_ADMIN", "NET_RAW"]));
        assert_eq!(services["cache"], json!({"image": "redis"}));
    }

    #[test]
    fn the_services_own_variables_and_host_name_win_and_dollars_survive_interpolation() {
        let mut project =
            project(&json!({"hostname": "mine", "environment": {"A": "file"}, "x-tpdocker": {"swap": "s"}}));
        let pod = [("A".to_owned(), "pod".to_owned()), ("B".to_owned(), "cost $5".to_owned())];
        let services = attach(&mut project, &pod);
        assert_eq!(services["web"]["environment"], json!({"A": "file", "B": "cost $$5"}));
        assert_eq!(services["web-tpdocker"]["hostname"], "mine");
    }

    #[test]
    fn a_project_without_the_key_with_an_unknown_key_or_without_a_namespace_of_its_own_is_refused() {
        assert!(matches!(project(&json!({})).swaps(), Err(ProjectError::NothingToSwap)));
        let hold = project(&json!({"x-tpdocker": {"swap": "s", "hold": "a while"}}));
        assert!(matches!(hold.swaps(), Err(ProjectError::Extension { .. })));
        let typo = project(&json!({"x-tpdocker": {"swap": "s", "namspace": "staging"}}));
        assert!(matches!(typo.swaps(), Err(ProjectError::Extension { .. })));
        let host = project(&json!({"network_mode": "host", "x-tpdocker": {"swap": "s"}}));
        assert!(matches!(host.swaps(), Err(ProjectError::NetworkMode { .. })));
    }
}
