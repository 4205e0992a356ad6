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
use serde_json::Value;

use super::attach::Attachment;
use super::extension::{EXTENSION, PodService, pod_service};
use crate::error::{Code, Explain};
use crate::session::files::plan::UserMount;

/// What is wrong with a Compose file, for us.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// No service is ours.
    #[error("no service of this Compose project has an {EXTENSION} key")]
    NoPodService,
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
            Self::NoPodService | Self::Extension { .. } => {
                Some(format!("give the service a key such as `{EXTENSION}: {{swap: NAME, namespace: staging}}`"))
            }
            Self::NetworkMode { .. } => Some("remove network_mode from the service".into()),
            Self::Shape(_) => None,
        }
    }
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

    /// All services, sidecars among them.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.model["services"].as_object().into_iter().flat_map(|services| services.keys().map(String::as_str))
    }

    /// The services that carry `x-tpdocker`; at least one.
    pub fn pod_services(&self) -> Result<Vec<PodService>, ProjectError> {
        let services = self
            .extensions
            .iter()
            .map(|(name, extension)| pod_service(name, &self.model["services"][name], extension))
            .collect::<Result<Vec<_>, _>>()?;
        if services.is_empty() { Err(ProjectError::NoPodService) } else { Ok(services) }
    }

    /// Gives a service its sidecar.
    pub fn attach(&mut self, attachment: &Attachment<'_>) -> Result<(), ProjectError> {
        attachment.apply(self.model.as_object_mut().ok_or(ProjectError::Shape("not a map"))?)
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

/// The strings of a list; none when it is absent.
pub(super) fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|text| Some(text.as_str()?.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::compose::attach::NAMESPACE_KEYS;
    use crate::settings::{
        AppSpec, Grace, InitContainers, Intent, MountKind, MountSpec, NetSpec, SwapTarget, VolumeChoice,
    };

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
        let swaps =
            project(&json!({"extra_hosts": ["me=host-gateway"], "x-tpdocker": extension})).pod_services().unwrap();
        let NetSpec { bypass, host_ports, add_hosts, .. } = &swaps[0].net;
        assert_eq!(bypass[0].to_string(), "10.1.0.0/16");
        let ports: Vec<_> = host_ports.iter().map(|port| (port.container_port, port.host_port)).collect();
        assert_eq!(ports, [(9000, 9000), (9001, 80)]);
        assert_eq!(add_hosts, &["me=host-gateway"]);
    }

    #[test]
    fn a_service_swaps_is_like_or_only_reaches_as_on_the_command_line() {
        let read = |extension| project(&json!({"x-tpdocker": extension})).pod_services().map(|mut all| all.remove(0));
        let target = |name: &str| name.parse::<SwapTarget>().unwrap();
        assert_eq!(read(json!({"swap": "s"})).unwrap().intent, Intent::Swap(target("s")));
        let like = read(json!({"like": "ds/s:c", "skip-init-containers": true})).unwrap();
        assert_eq!(like.intent, Intent::Like(target("ds/s:c")));
        assert_eq!(like.init_containers, InitContainers::Skip);
        let outgoing = read(json!({"namespace": "staging"})).unwrap();
        assert_eq!((outgoing.intent, outgoing.init_containers), (Intent::Outgoing, InitContainers::Run));
        assert!(matches!(read(json!({"swap": "s", "like": "s"})), Err(ProjectError::Extension { .. })));
    }

    #[test]
    fn a_project_without_the_key_with_an_unknown_key_or_without_a_namespace_of_its_own_is_refused() {
        assert!(matches!(project(&json!({})).pod_services(), Err(ProjectError::NoPodService)));
        for key in ["hold", "grace"] {
            let wrong = project(&json!({"x-tpdocker": {"swap": "s", key: "a while"}}));
            assert!(matches!(wrong.pod_services(), Err(ProjectError::Extension { .. })));
        }
        let grace = project(&json!({"x-tpdocker": {"swap": "s", "grace": "8h"}})).pod_services().unwrap();
        assert_eq!(grace[0].grace, Grace(Duration::from_hours(8)));
        let typo = project(&json!({"x-tpdocker": {"swap": "s", "namspace": "staging"}}));
        assert!(matches!(typo.pod_services(), Err(ProjectError::Extension { .. })));
        for wrong in [json!({"swap": "s", "bypass": ["office"]}), json!({"swap": "s", "container-to-host": [0]})] {
            assert!(matches!(
                project(&json!({"x-tpdocker": wrong})).pod_services(),
                Err(ProjectError::Extension { .. })
            ));
        }
        let volumes =
            project(&json!({"x-tpdocker": {"swap": "s", "volumes": {"data": "copy"}}})).pod_services().unwrap();
        assert_eq!(volumes[0].pod_volumes, [("data".to_owned(), VolumeChoice::Copy)].into());
        let host = project(&json!({"network_mode": "host", "x-tpdocker": {"swap": "s"}}));
        assert!(matches!(host.pod_services(), Err(ProjectError::NetworkMode { .. })));
    }
}
