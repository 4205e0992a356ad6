//! What an engine refuses, what it means, and the cure.
//!
//! The engine's API answers with a status and a sentence. The sentences that people meet daily get a type here, so that
//! a script can tell "port already bound" from "no such image", and a person is told who holds the port; the rest is
//! passed on as the engine said it.

use std::path::PathBuf;

use bollard::errors::Error as ApiError;

use crate::error::{Code, Explain};

/// A failure of the engine, or on the way to it.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// There is no engine on this machine.
    #[error("no Docker engine on this machine: {socket} does not exist and dockerd is not installed")]
    NotInstalled {
        /// Where it was looked for.
        socket: String,
    },
    /// There is an engine and it does not run.
    #[error("the Docker engine does not run: nothing answers on {socket}")]
    NotRunning {
        /// Where it was looked for.
        socket: String,
        /// The socket is one of a rootless engine.
        rootless: bool,
    },
    /// The socket's mode keeps this user out.
    #[error("permission denied on the Docker engine's socket {socket}")]
    PermissionDenied {
        /// The socket.
        socket: String,
    },
    /// The engine runs on another machine, or in a virtual machine.
    #[error("the Docker engine at {endpoint} is not on this machine; tpdocker does not support that yet")]
    Remote {
        /// Its endpoint, and what tells that it is elsewhere.
        endpoint: String,
    },
    /// The engine is older than what we use.
    #[error("the Docker engine {version} speaks API {api}; tpdocker needs {}.{} (engine 20.10) or newer", super::engine::MINIMUM_API.0, super::engine::MINIMUM_API.1)]
    TooOld {
        /// Its version.
        version: String,
        /// Its newest API version.
        api: String,
    },
    /// `docker context` names one that is not there, or a file of Docker's client cannot be read.
    #[error("Docker's client configuration {}: {problem}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The connection to the engine broke.
    #[error("the Docker engine stopped answering while {doing}")]
    Lost {
        /// What was under way.
        doing: &'static str,
        /// How it broke.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// `--pull never`, and the image is absent.
    #[error("the image {image} is not on this machine, and it is not to be pulled")]
    ImageAbsent {
        /// The image, as typed.
        image: String,
    },
    /// The registry knows no such image, or hides it.
    #[error("the image {image} does not exist: {message}")]
    ImageUnknown {
        /// The image, as typed.
        image: String,
        /// The engine's sentence.
        message: String,
    },
    /// The registry wants a login, or another one.
    #[error("the registry of {image} refused access: {message}")]
    ImageDenied {
        /// The image, as typed.
        image: String,
        /// Its registry.
        registry: String,
        /// The engine's sentence.
        message: String,
    },
    /// The registry does not answer.
    #[error("the registry of {image} cannot be reached: {message}")]
    RegistryUnreachable {
        /// The image, as typed.
        image: String,
        /// The engine's sentence.
        message: String,
    },
    /// Any other failure to get an image.
    #[error("the image {image} cannot be had: {message}")]
    Image {
        /// The image.
        image: String,
        /// The engine's sentence.
        message: String,
    },
    /// A credential helper of Docker's client failed.
    #[error("the credential helper {helper} failed: {message}")]
    CredentialHelper {
        /// Its program.
        helper: String,
        /// What it said.
        message: String,
    },

    /// A published port is taken.
    #[error("port {port} on this machine is already in use{}", held_by(holder.as_deref()))]
    PortTaken {
        /// The port, with its address when one was given.
        port: String,
        /// Who has it, when that can be seen.
        holder: Option<String>,
    },
    /// The name of a container is taken.
    #[error("a container named {name} already exists{}", held_by(holder.as_deref()))]
    NameTaken {
        /// The name.
        name: String,
        /// Whose it is, when that can be seen.
        holder: Option<String>,
    },
    /// `--network` names no network of the engine.
    #[error("the Docker network {name} does not exist")]
    NetworkUnknown {
        /// The network.
        name: String,
    },
    /// `--network` names a namespace that may not be captured, or that is somebody else's.
    #[error("--network {name} cannot be used: the sidecar needs a network namespace of its own")]
    NetworkUnfit {
        /// The network.
        name: String,
    },
    /// A bind mount, volume or mount point is wrong.
    #[error("{message}")]
    Mount {
        /// The engine's sentence.
        message: String,
    },
    /// A volume for the pod's files could not be made or filled.
    #[error("the Docker engine cannot keep the pod's files in {name}: {message}")]
    Volume {
        /// The volume, or its place in the sidecar.
        name: String,
        /// The engine's sentence.
        message: String,
    },
    /// The sidecar was refused for a reason of its own.
    #[error("the Docker engine refused the sidecar container: {message}")]
    Sidecar {
        /// The engine's sentence.
        message: String,
    },
    /// The sidecar ran, and does not any more; the app is cut off from everything.
    #[error("the sidecar container {name} was stopped or removed, and the app's network went with it")]
    SidecarEnded {
        /// Its name.
        name: String,
    },
    /// The user's container could not be run.
    #[error("the Docker engine could not run the container: {message}")]
    Daemon {
        /// The engine's sentence.
        message: String,
    },
    /// The container's command cannot be invoked.
    #[error("the container's command cannot be invoked: {message}")]
    CannotInvoke {
        /// The engine's sentence.
        message: String,
    },
    /// The container's command does not exist.
    #[error("the container's command was not found: {message}")]
    NotFound {
        /// The engine's sentence.
        message: String,
    },
    /// `-i -t` without a terminal.
    #[error("-t with -i needs a terminal on stdin, and stdin is none")]
    NotATerminal,
    /// Some of a session's containers or volumes could not be removed.
    #[error("left behind in the Docker engine: {}", left.join("; "))]
    LeftBehind {
        /// Each with its reason.
        left: Vec<String>,
        /// The command that removes them.
        cure: String,
    },
}

fn held_by(holder: Option<&str>) -> String {
    holder.map_or_else(String::new, |holder| format!(": {holder}"))
}

impl EngineError {
    /// An API call failed that has no meaning of its own to the user: the engine is lost, or says something else.
    pub(super) fn lost(doing: &'static str, error: ApiError) -> Self {
        Self::Lost { doing, source: Box::new(error) }
    }
}

/// The engine's own sentence when it answered with an error status, and that status.
pub(super) fn refusal(error: &ApiError) -> Option<(u16, &str)> {
    match error {
        ApiError::DockerResponseServerError { status_code, message } => Some((*status_code, message.trim())),
        _ => None,
    }
}

/// Whether `error` says that the object is not there.
pub(super) fn is_missing(error: &ApiError) -> bool {
    matches!(refusal(error), Some((404, _)))
}

impl Explain for EngineError {
    fn code(&self) -> Code {
        match self {
            Self::NotInstalled { .. }
            | Self::NotRunning { .. }
            | Self::PermissionDenied { .. }
            | Self::Remote { .. }
            | Self::TooOld { .. }
            | Self::Config { .. }
            | Self::Lost { .. } => Code::Engine,
            Self::ImageAbsent { .. }
            | Self::ImageUnknown { .. }
            | Self::ImageDenied { .. }
            | Self::RegistryUnreachable { .. }
            | Self::Image { .. }
            | Self::CredentialHelper { .. } => Code::Image,
            Self::PortTaken { .. }
            | Self::NameTaken { .. }
            | Self::NetworkUnknown { .. }
            | Self::Mount { .. }
            | Self::Volume { .. }
            | Self::Sidecar { .. }
            | Self::LeftBehind { .. } => Code::Container,
            Self::NetworkUnfit { .. } | Self::NotATerminal => Code::Usage,
            Self::SidecarEnded { .. } => Code::Tunnel,
            Self::Daemon { .. } => Code::DockerDaemon,
            Self::CannotInvoke { .. } => Code::CannotInvoke,
            Self::NotFound { .. } => Code::NotFound,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotInstalled { .. } => "install Docker (Debian, Ubuntu: sudo apt-get install docker.io), or point \
                                          DOCKER_HOST at an engine's socket on this machine"
                .to_owned(),
            Self::NotRunning { rootless: true, .. } => "systemctl --user start docker".to_owned(),
            Self::NotRunning { .. } => "sudo systemctl start docker".to_owned(),
            Self::PermissionDenied { .. } => {
                "sudo usermod -aG docker $USER, then log in again (or in this shell: newgrp docker)".to_owned()
            }
            Self::Remote { .. } => "docker context use default, or unset DOCKER_HOST".to_owned(),
            Self::ImageAbsent { image } => format!("docker pull {image}, or leave out --pull never"),
            Self::ImageUnknown { image, .. } => {
                format!("check the name; an image that was built here is listed by: docker image ls {}", name_of(image))
            }
            Self::ImageDenied { registry, .. } => format!("docker login {registry}"),
            Self::RegistryUnreachable { .. } => "check the network and the engine's proxy settings, or use an image \
                                                 that is already here"
                .to_owned(),
            Self::PortTaken { .. } => {
                "publish another port, or leave the host's port out (-p CONTAINER_PORT): the engine then chooses one"
                    .to_owned()
            }
            Self::NameTaken { name, .. } => format!("docker rm -f {name}, or another --name"),
            Self::NetworkUnknown { name } => format!("docker network create {name}"),
            Self::LeftBehind { cure, .. } => cure.clone(),
            Self::NotATerminal => "leave out -t".to_owned(),
            Self::NetworkUnfit { .. } => "a bridge network, or none".to_owned(),
            Self::TooOld { .. }
            | Self::Config { .. }
            | Self::Lost { .. }
            | Self::Image { .. }
            | Self::CredentialHelper { .. }
            | Self::Mount { .. }
            | Self::Volume { .. }
            | Self::Sidecar { .. }
            | Self::SidecarEnded { .. }
            | Self::Daemon { .. }
            | Self::CannotInvoke { .. }
            | Self::NotFound { .. } => return None,
        })
    }
}

/// An image's name without tag and digest.
fn name_of(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => image,
    }
}
