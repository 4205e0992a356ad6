//! Where the engine is, in the order of Docker's own client: `DOCKER_HOST`, `DOCKER_CONTEXT`, the context that
//! `docker context use` chose, the system's socket, and then (which Docker's client leaves to a context) the socket of
//! a rootless engine.
//!
//! Whether a socket can be used is tried before anything is asked over it: the three ways in which that fails have
//! three different cures.

use std::env;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::config::ClientConfig;
use super::error::EngineError;

/// Where the system's engine listens.
const SYSTEM_SOCKET: &str = "/var/run/docker.sock";

/// Name of a rootless engine's socket in the user's runtime directory.
const ROOTLESS_SOCKET: &str = "docker.sock";

/// The context that stands for no context.
const DEFAULT_CONTEXT: &str = "default";

/// The socket of a usable engine.
pub(super) fn find(config: &ClientConfig) -> Result<PathBuf, EngineError> {
    if let Some(endpoint) = chosen(config)? {
        let socket = socket_of(&endpoint)?;
        return probe(&socket).map(|()| socket);
    }
    let system = PathBuf::from(SYSTEM_SOCKET);
    let refusal = match probe(&system) {
        Ok(()) => return Ok(system),
        Err(refusal) => refusal,
    };
    match rootless_socket() {
        Some(rootless) if rootless.exists() => probe(&rootless).map(|()| rootless),
        _ => Err(refusal),
    }
}

/// The endpoint that the user chose, if any.
fn chosen(config: &ClientConfig) -> Result<Option<String>, EngineError> {
    if let Some(host) = setting("DOCKER_HOST") {
        return Ok(Some(host));
    }
    match setting("DOCKER_CONTEXT").or_else(|| config.file.current_context.clone()) {
        Some(name) if !name.is_empty() && name != DEFAULT_CONTEXT => config.context_endpoint(&name).map(Some),
        _ => Ok(None),
    }
}

/// An environment variable; an empty one is as good as none, as it is to Docker's client.
fn setting(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn socket_of(endpoint: &str) -> Result<PathBuf, EngineError> {
    endpoint
        .strip_prefix("unix://")
        .map(PathBuf::from)
        .ok_or_else(|| EngineError::Remote { endpoint: endpoint.to_owned() })
}

fn rootless_socket() -> Option<PathBuf> {
    env::var_os("XDG_RUNTIME_DIR").map(|directory| Path::new(&directory).join(ROOTLESS_SOCKET))
}

/// Connects once, for the error.
fn probe(socket: &Path) -> Result<(), EngineError> {
    let Err(error) = UnixStream::connect(socket) else { return Ok(()) };
    let rootless = rootless_socket().is_some_and(|rootless| rootless == socket);
    let socket = socket.display().to_string();
    Err(match error.kind() {
        io::ErrorKind::PermissionDenied => EngineError::PermissionDenied { socket },
        io::ErrorKind::NotFound if !is_installed() => EngineError::NotInstalled { socket },
        _ => EngineError::NotRunning { socket, rootless },
    })
}

fn is_installed() -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    // Administrators' directories are missing from many users' PATH.
    let directories = env::split_paths(&path).chain(["/usr/bin", "/usr/sbin", "/usr/local/bin"].map(PathBuf::from));
    directories.into_iter().any(|directory| directory.join("dockerd").exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_behind_anything_but_a_unix_socket_is_remote() {
        assert_eq!(socket_of("unix:///run/d.sock").unwrap(), Path::new("/run/d.sock"));
        for endpoint in ["tcp://10.0.0.1:2375", "ssh://me@build", "https://engine"] {
            assert!(matches!(socket_of(endpoint), Err(EngineError::Remote { .. })), "{endpoint}");
        }
    }

    #[test]
    fn a_socket_that_nobody_listens_on_is_an_engine_that_does_not_run() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("d.sock");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        assert!(matches!(probe(&socket), Err(EngineError::NotRunning { rootless: false, .. })));
    }
}
