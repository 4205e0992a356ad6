//! What Docker's own client keeps in `~/.docker`: the current context, and how to log in to registries.
//!
//! People set these with `docker context use` and `docker login`, and expect every tool to follow. Only the keys that
//! are needed are read; the rest belongs to others.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::error::EngineError;

/// `config.json`, and the directory it is in.
#[derive(Debug, Clone, Default)]
pub(super) struct ClientConfig {
    directory: PathBuf,
    pub(super) file: ConfigFile,
}

/// <https://docs.docker.com/reference/cli/docker/#docker-cli-configuration-file-configjson-properties>
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ConfigFile {
    pub(super) current_context: Option<String>,
    pub(super) auths: BTreeMap<String, StoredLogin>,
    pub(super) cred_helpers: BTreeMap<String, String>,
    pub(super) creds_store: Option<String>,
}

/// A login that `docker login` wrote into the file itself.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct StoredLogin {
    /// Base64 of `user:password`.
    pub(super) auth: Option<String>,
    #[serde(rename = "identitytoken")]
    pub(super) identity_token: Option<String>,
}

/// `contexts/meta/<id>/meta.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContextMetadata {
    #[serde(default)]
    endpoints: BTreeMap<String, ContextEndpoint>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContextEndpoint {
    host: Option<String>,
}

impl ClientConfig {
    /// Reads the configuration of this user; one that does not exist is empty.
    pub(super) fn load() -> Result<Self, EngineError> {
        let directory = env::var_os("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(|| Some(env::home_dir()?.join(".docker")))
            .unwrap_or_default();
        Self::load_from(directory)
    }

    fn load_from(directory: PathBuf) -> Result<Self, EngineError> {
        let file = read(&directory.join("config.json"))?.unwrap_or_default();
        Ok(Self { directory, file })
    }

    /// The endpoint of the context `name`, such as `unix:///run/user/1000/docker.sock`.
    pub(super) fn context_endpoint(&self, name: &str) -> Result<String, EngineError> {
        // The directory of a context is the digest of its name, so that names may hold any character.
        let id = Sha256::digest(name).iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("writing to a string does not fail");
            hex
        });
        let path = self.directory.join("contexts/meta").join(id).join("meta.json");
        let problem = |problem: String| EngineError::Config { path: path.clone(), problem };
        let metadata: ContextMetadata =
            read(&path)?.ok_or_else(|| problem(format!("there is no context named {name}")))?;
        let endpoint = metadata.endpoints.get("docker").and_then(|endpoint| endpoint.host.clone());
        endpoint.ok_or_else(|| problem(format!("the context {name} names no Docker endpoint")))
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, EngineError> {
    let problem = |problem: String| EngineError::Config { path: path.to_owned(), problem };
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| problem(error.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(problem(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_configuration_is_an_empty_one_and_a_broken_one_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let config = ClientConfig::load_from(directory.path().to_owned()).unwrap();
        assert!(config.file.auths.is_empty());
        std::fs::write(directory.path().join("config.json"), "{").unwrap();
        let error = ClientConfig::load_from(directory.path().to_owned()).unwrap_err();
        assert!(error.to_string().contains("config.json"), "{error}");
    }

    #[test]
    fn a_context_is_found_by_the_digest_of_its_name() {
        let directory = tempfile::tempdir().unwrap();
        // printf rootless | sha256sum
        let id = "12b961af5feb3e9d39f93b2cefb9a1a944f18d02cca0cac2f04f5a982240605f";
        let meta = directory.path().join("contexts/meta").join(id);
        let config = ClientConfig::load_from(directory.path().to_owned()).unwrap();
        assert!(config.context_endpoint("rootless").unwrap_err().to_string().contains("no context named rootless"));
        std::fs::create_dir_all(&meta).unwrap();
        std::fs::write(
            meta.join("meta.json"),
            r#"{"Name":"rootless","Metadata":{},"Endpoints":{"docker":{"Host":"unix:///run/user/7/docker.sock","SkipTLSVerify":false}}}"#,
        )
        .unwrap();
        assert_eq!(config.context_endpoint("rootless").unwrap(), "unix:///run/user/7/docker.sock");
    }
}
