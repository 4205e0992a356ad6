//! One engine: which it is, what it speaks, and whether it is on this machine.
//!
//! The sidecar is reached over a Unix socket in a directory that laptop and container share, so an engine in a virtual
//! machine or behind TCP is refused here, in words, instead of later by a connection that nobody answers.

use std::path::{Path, PathBuf};

use bollard::Docker;
use http::HeaderValue;
use nix::sys::utsname::uname;

use super::config::ClientConfig;
use super::endpoint;
use super::error::EngineError;

/// The oldest API that has all we use: engine 20.10.
pub(super) const MINIMUM_API: (usize, usize) = (1, 41);

/// Seconds after which an engine that accepted a request and does not begin to answer is given up. Pulls answer when the
/// registry does, and a registry behind a slow proxy takes its time.
const ANSWER_TIMEOUT: u64 = 180;

/// Header with the login for a registry, and for several.
const REGISTRY_LOGIN_HEADERS: [&str; 2] = ["X-Registry-Auth", "X-Registry-Config"];

/// A connected engine; clones share the connection.
#[derive(Debug, Clone)]
pub struct Engine {
    pub(super) api: Docker,
    pub(super) socket: PathBuf,
    pub(super) config: ClientConfig,
    version: String,
    logging_driver: String,
}

impl Engine {
    /// Finds the engine of this user as Docker's client would, and agrees on a version of its API.
    pub async fn connect() -> Result<Self, EngineError> {
        let config = ClientConfig::load()?;
        let socket = endpoint::find(&config)?;
        Self::connect_to(socket, config).await
    }

    async fn connect_to(socket: PathBuf, config: ClientConfig) -> Result<Self, EngineError> {
        const DOING: &str = "agreeing on a version of its API";
        let lost = |error| EngineError::lost(DOING, error);
        let api = Docker::connect_with_unix(&socket.to_string_lossy(), ANSWER_TIMEOUT, bollard::API_DEFAULT_VERSION)
            .map_err(lost)?
            .with_request_modifier(url_safe_login)
            .negotiate_version()
            .await
            .map_err(lost)?;
        let info = api.info().await.map_err(|error| EngineError::lost("telling about itself", error))?;
        let version = info.server_version.unwrap_or_default();
        let spoken = api.client_version();
        if (spoken.major_version, spoken.minor_version) < MINIMUM_API {
            return Err(EngineError::TooOld { version, api: spoken.to_string() });
        }
        require_same_kernel(&socket, info.kernel_version.as_deref().unwrap_or_default())?;
        Ok(Self { api, socket, config, version, logging_driver: info.logging_driver.unwrap_or_default() })
    }

    /// The engine's own version, such as `28.2.2`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The engine's socket on this machine.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether the engine's default log driver takes limits on size.
    pub(super) fn logs_can_be_limited(&self) -> bool {
        matches!(self.logging_driver.as_str(), "json-file" | "local")
    }
}

/// An engine in a virtual machine (Docker Desktop, Colima) has a socket here and its containers elsewhere; its kernel
/// tells.
fn require_same_kernel(socket: &Path, engine_kernel: &str) -> Result<(), EngineError> {
    let ours = uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default();
    if engine_kernel == ours {
        return Ok(());
    }
    let endpoint = format!("{} (in a virtual machine with kernel {engine_kernel})", socket.display());
    Err(EngineError::Remote { endpoint })
}

/// The engine decodes logins as URL-safe base64 (RFC 4648 section 5) and takes one it cannot decode for none; the
/// client library encodes them with the standard alphabet.
fn url_safe_login(mut request: bollard::BollardRequest) -> bollard::BollardRequest {
    for name in REGISTRY_LOGIN_HEADERS {
        let Some(value) = request.headers_mut().get_mut(name) else { continue };
        let url_safe = value.as_bytes().iter().map(|&byte| match byte {
            b'+' => b'-',
            b'/' => b'_',
            other => other,
        });
        if let Ok(mut header) = HeaderValue::from_bytes(&url_safe.collect::<Vec<_>>()) {
            header.set_sensitive(true);
            *value = header;
        }
    }
    request
}
