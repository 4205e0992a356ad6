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

use crate::cli::bypass_network;
use crate::docker::{IPV6_SWITCH, has_ipv6, name_the_laptop};
use crate::error::{Code, Explain};
use crate::session::files::plan::UserMount;
use crate::settings::{AppSpec, ClusterSettings, Hold, NetSpec, SwapTarget, VolumeChoice};

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
    /// As `--bypass`.
    #[serde(default)]
    bypass: Vec<String>,
    /// As `--container-to-host`; YAML reads a port alone as a number.
    #[serde(default, rename = "container-to-host")]
    container_to_host: Vec<Value>,
    #[serde(default)]
    volumes: BTreeMap<String, VolumeWord>,
}

/// What the service gets for a volume of the pod. A directory of the laptop is what its own `volumes` are for.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum VolumeWord {
    Skip,
    Empty,
    Copy,
}

impl From<VolumeWord> for VolumeChoice {
    fn from(word: VolumeWord) -> Self {
        match word {
            VolumeWord::Skip => Self::Skip,
            VolumeWord::Empty => Self::Empty,
            VolumeWord::Copy => Self::Copy,
        }
    }
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
    /// What the session has to know of the service's network; Compose sets it up.
    pub net: NetSpec,
    /// What it gets for volumes of the pod.
    pub pod_volumes: BTreeMap<String, VolumeChoice>,
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
    /// Whether the engine knows an address for `host-gateway`.
    pub host_gateway: bool,
    /// The pod's environment; the service's own variables win.
    pub env: &'a [(String, String)],
    /// Volumes of the engine with the pod's files, and where the sidecar mounts each.
    pub volumes: &'a [(String, String)],
    /// The service as the pod has it: user, groups and mounts; the service's own user wins.
    pub pod: &'a AppSpec,
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
        let model = self.model.as_object_mut().ok_or(ProjectError::Shape("not a map"))?;
        let volumes = object(model, "volumes")?;
        for (name, _) in attachment.volumes {
            volumes.insert(name.clone(), json!({"name": name, "external": true}));
        }
        Ok(())
    }

    /// What a service mounts itself.
    pub fn mounts_of(&self, service: &str) -> Vec<UserMount> {
        let service = &self.model["services"][service];
        let volumes = service["volumes"].as_array().into_iter().flatten().map(|volume| {
            let source = volume["source"].as_str().filter(|_| volume["type"] == "bind");
            (volume["target"].as_str(), source.is_some_and(|source| Path::new(source).is_file()))
        });
        let tmpfs = service["tmpfs"].as_array().into_iter().flatten().map(|path| (path.as_str(), false));
        volumes
            .chain(tmpfs)
            .filter_map(|(path, is_file)| {
                // A tmpfs may have options behind a colon.
                let path = path?.split(':').next().unwrap_or_default().to_owned();
                Some(UserMount { path, is_file })
            })
            .collect()
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
    let wrong = |source: Cause| ProjectError::Extension { service: name.into(), source };
    let extension: Extension = serde_json::from_value(extension.clone()).map_err(|error| wrong(error.into()))?;
    if let Some(mode) = service["network_mode"].as_str().filter(|mode| *mode != "bridge") {
        return Err(ProjectError::NetworkMode { service: name.into(), mode: mode.into() });
    }
    Ok(SwapService {
        service: name.into(),
        swap: extension.swap.parse::<SwapTarget>().map_err(|error| wrong(error.into()))?,
        cluster: ClusterSettings { context: extension.context, namespace: extension.namespace },
        hold: extension.hold.map_or(Ok(Hold::default()), |hold| hold.parse()).map_err(|error| wrong(error.into()))?,
        net: NetSpec {
            add_hosts: texts(&service["extra_hosts"]),
            bypass: collected(extension.bypass.iter().map(|text| bypass_network(text))).map_err(wrong)?,
            host_ports: collected(extension.container_to_host.iter().map(|port| text(port).parse())).map_err(wrong)?,
            ..NetSpec::default()
        },
        pod_volumes: extension.volumes.into_iter().map(|(name, word)| (name, word.into())).collect(),
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

type Cause = Box<dyn std::error::Error + Send + Sync>;

fn collected<T, E: Into<Cause>>(parsed: impl Iterator<Item = Result<T, E>>) -> Result<Vec<T>, Cause> {
    parsed.collect::<Result<_, _>>().map_err(Into::into)
}

/// A string as it is, and anything else as YAML would have it.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The strings of a list; none when it is absent.
fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|text| Some(text.as_str()?.to_owned())).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{MountKind, MountSpec};

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
            host_gateway: true,
            env,
            volumes: &[("tpdocker-s1-memory".to_owned(), "/run/tpdocker-files/memory".to_owned())],
            pod: &AppSpec {
                user: Some("65534".into()),
                groups: vec!["2000".into()],
                mounts: vec![MountSpec {
                    kind: MountKind::Bind,
                    source: Some("/var/lib/docker/volumes/tpdocker-s1-memory/_data/0".into()),
                    target: "/etc/web".into(),
                    read_only: true,
                }],
                ..AppSpec::default()
            },
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
        assert_eq!(sidecar["extra_hosts"], json!(["a=1.2.3.4", "host.docker.internal:host-gateway"]));
        assert_eq!(sidecar["cap_add"], json!(["NET_ADMIN", "NET_RAW"]));
        assert_eq!(services["cache"], json!({"image": "redis"}));
    }

    #[test]
    fn the_pods_files_are_bound_into_the_service_from_volumes_that_the_sidecar_holds() {
        let mut project = project(&json!({
            "user": "root", "tmpfs": ["/scratch:size=1m"],
            "volumes": [{"type": "bind", "source": "/src", "target": "/app"}], "x-tpdocker": {"swap": "s"},
        }));
        let own: Vec<_> = project.mounts_of("web").into_iter().map(|mount| mount.path).collect();
        assert_eq!(own, ["/app", "/scratch"]);
        let services = attach(&mut project, &[]);
        let web = &services["web"];
        assert_eq!((&web["user"], &web["group_add"]), (&json!("root"), &json!(["2000"])));
        assert_eq!((&web["volumes"][0]["target"], &web["volumes"][1]["target"]), (&json!("/app"), &json!("/etc/web")));
        assert_eq!(web["volumes"][1]["read_only"], true);
        assert_eq!(services["web-tpdocker"]["volumes"][1]["source"], "tpdocker-s1-memory");
        assert_eq!(project.model["volumes"]["tpdocker-s1-memory"]["external"], true);
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
    fn what_the_app_reaches_of_the_laptop_is_said_as_on_the_command_line() {
        let extension = json!({"swap": "s", "bypass": ["10.1.0.0/16"], "container-to-host": [9000, "9001:80"]});
        let swaps = project(&json!({"extra_hosts": ["me=host-gateway"], "x-tpdocker": extension})).swaps().unwrap();
        let NetSpec { bypass, host_ports, add_hosts, .. } = &swaps[0].net;
        assert_eq!(bypass[0].to_string(), "10.1.0.0/16");
        let ports: Vec<_> = host_ports.iter().map(|port| (port.container_port, port.host_port)).collect();
        assert_eq!(ports, [(9000, 9000), (9001, 80)]);
        assert_eq!(add_hosts, &["me=host-gateway"]);
    }

    #[test]
    fn a_project_without_the_key_with_an_unknown_key_or_without_a_namespace_of_its_own_is_refused() {
        assert!(matches!(project(&json!({})).swaps(), Err(ProjectError::NothingToSwap)));
        let hold = project(&json!({"x-tpdocker": {"swap": "s", "hold": "a while"}}));
        assert!(matches!(hold.swaps(), Err(ProjectError::Extension { .. })));
        let typo = project(&json!({"x-tpdocker": {"swap": "s", "namspace": "staging"}}));
        assert!(matches!(typo.swaps(), Err(ProjectError::Extension { .. })));
        for wrong in [json!({"swap": "s", "bypass": ["office"]}), json!({"swap": "s", "container-to-host": [0]})] {
            assert!(matches!(project(&json!({"x-tpdocker": wrong})).swaps(), Err(ProjectError::Extension { .. })));
        }
        let volumes = project(&json!({"x-tpdocker": {"swap": "s", "volumes": {"data": "copy"}}})).swaps().unwrap();
        assert_eq!(volumes[0].pod_volumes, [("data".to_owned(), VolumeChoice::Copy)].into());
        let host = project(&json!({"network_mode": "host", "x-tpdocker": {"swap": "s"}}));
        assert!(matches!(host.swaps(), Err(ProjectError::NetworkMode { .. })));
    }
}
