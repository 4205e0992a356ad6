//! Compose, as a child process: it reads the user's files, and runs what we made of them.
//!
//! The plugin is run itself, not by `docker compose`. Docker's client starts it as a child and passes signals on only
//! since 25.0; an older one swallows them, and a project that was told to end would go on for ever. Where the plugin
//! is, the client knows (`docker info`, with or without an engine that answers).

use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use super::project::{Project, ProjectError};
use crate::error::{Code, Error, Explain};
use crate::settings::ComposeSettings;

/// The oldest Compose that knows services it does not wait for (`attach: false`): <https://docs.docker.com/reference/compose-file/services/#attach>
const OLDEST: (u32, u32) = (2, 20);

/// Compose does not do its part.
#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    /// A program cannot be run.
    #[error("`{program}` cannot be run")]
    Missing {
        /// Its name or path.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// Docker's client does not tell its plugins.
    #[error("`docker info` does not tell where Docker's plugins are: {}", said.trim())]
    Unknown {
        /// What it said instead.
        said: String,
    },
    /// The client has no Compose plugin, or one that it cannot use.
    #[error("Docker's client has no usable Compose plugin{}", why.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    NoPlugin {
        /// What the client says of the one it found.
        why: Option<String>,
    },
    /// It does not know what a project with sidecars needs.
    #[error("Docker's client has Compose {version}, and {}.{} is the oldest that will do", OLDEST.0, OLDEST.1)]
    Old {
        /// What it calls itself.
        version: String,
    },
    /// It does not like the files; it has said so itself.
    #[error("`docker compose config` failed: {}", said.trim())]
    Config {
        /// What it said.
        said: String,
    },
    /// The pipe to it broke.
    #[error("`docker compose` does not take the project")]
    Pipe(#[source] io::Error),
    /// It failed, and has said why.
    #[error("`docker compose {action}` ended with {status}")]
    Failed {
        /// What it was to do.
        action: &'static str,
        /// How it ended.
        status: ExitStatus,
    },
}

impl Explain for ComposeError {
    fn code(&self) -> Code {
        match self {
            Self::Missing { .. } | Self::Unknown { .. } | Self::NoPlugin { .. } | Self::Old { .. } | Self::Pipe(_) => {
                Code::Engine
            }
            Self::Config { .. } => Code::Usage,
            Self::Failed { .. } => Code::Container,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { .. } | Self::Unknown { .. } => {
                Some("install Docker's client with its Compose v2 plugin".into())
            }
            Self::NoPlugin { .. } => {
                Some("install the Compose v2 plugin, for example the package docker-compose-plugin".into())
            }
            Self::Old { .. } => Some(
                "install a newer Compose plugin, for example the package docker-compose-plugin of Docker's own".into(),
            ),
            _ => None,
        }
    }
}

/// One of the plugins that `docker info` lists.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Plugin {
    name: String,
    path: PathBuf,
    version: Option<String>,
    err: Option<serde_json::Value>,
}

/// Compose with the options that choose the project.
#[derive(Debug)]
pub struct Compose<'a> {
    settings: &'a ComposeSettings,
    plugin: PathBuf,
}

/// Where the Compose plugin of Docker's client is, without a question to the engine.
pub async fn plugin() -> Result<PathBuf, ComposeError> {
    let asked = Command::new("docker")
        .args(["info", "--format", "{{json .ClientInfo.Plugins}}"])
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|source| ComposeError::Missing { program: "docker".into(), source })?;
    // Without an engine it complains, and answers nevertheless.
    let plugins: Option<Vec<Plugin>> = serde_json::from_slice(&asked.stdout)
        .map_err(|_| ComposeError::Unknown { said: String::from_utf8_lossy(&asked.stderr).into_owned() })?;
    let found = plugins.into_iter().flatten().find(|plugin| plugin.name == "compose");
    match found {
        Some(Plugin { version: Some(version), err: None, .. }) if is_old(&version) => {
            Err(ComposeError::Old { version })
        }
        Some(Plugin { path, err: None, .. }) => Ok(path),
        Some(Plugin { err, .. }) => Err(ComposeError::NoPlugin { why: err.map(|why| why.to_string()) }),
        None => Err(ComposeError::NoPlugin { why: None }),
    }
}

/// Whether this is the version of one that is too old; what is no version (`dev`) is its builder's business.
fn is_old(version: &str) -> bool {
    let mut numbers = version.trim_start_matches('v').split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < OLDEST,
        _ => false,
    }
}

impl<'a> Compose<'a> {
    /// For these settings, with the plugin that `docker compose` would run.
    ///
    /// # Errors
    ///
    /// Without Docker's client, and without the plugin.
    pub async fn find(settings: &'a ComposeSettings) -> Result<Self, ComposeError> {
        Ok(Self { settings, plugin: plugin().await? })
    }

    /// The plugin as a program of its own, which it takes itself for unless this variable of Docker's client is set.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.plugin);
        command.env_remove("DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND");
        command
    }

    fn missing(&self) -> impl FnOnce(io::Error) -> ComposeError {
        let program = self.plugin.display().to_string();
        |source| ComposeError::Missing { program, source }
    }

    /// The command with the user's own files.
    fn with_files(&self) -> Command {
        let settings = self.settings;
        let mut command = self.command();
        for file in &settings.files {
            command.arg("--file").arg(file);
        }
        for file in &settings.env_files {
            command.arg("--env-file").arg(file);
        }
        for profile in &settings.profiles {
            command.args(["--profile", profile]);
        }
        if let Some(name) = &settings.project_name {
            command.args(["--project-name", name]);
        }
        command
    }

    /// Reads the project: files merged, variables filled in, paths made absolute.
    pub async fn project(&self) -> Result<Project, Error> {
        let (json, yaml) = tokio::try_join!(self.config("json"), self.config("yaml"))?;
        Ok(Project::parse(&json, &String::from_utf8_lossy(&yaml))?)
    }

    async fn config(&self, format: &str) -> Result<Vec<u8>, ComposeError> {
        let mut command = self.with_files();
        let output =
            command.args(["config", "--format", format]).stdin(Stdio::null()).output().await.map_err(self.missing())?;
        if !output.status.success() {
            return Err(ComposeError::Config { said: String::from_utf8_lossy(&output.stderr).into_owned() });
        }
        Ok(output.stdout)
    }

    /// Starts `up` on a rewritten project. The project goes through a pipe: it holds the pod's environment, which is
    /// nothing for a file or for `ps`.
    pub async fn up(&self, project: &Project) -> Result<Child, Error> {
        let mut command = self.with_pipe(project)?;
        command.arg("up").args(&self.settings.args);
        // A signal for this process's group would reach Compose past the one loop that puts signals in order.
        command.process_group(0);
        self.start(command, project).await
    }

    /// Kills the containers of these services: not every Compose does that at a second signal (2.40 does not, though it says so).
    pub async fn kill(&self, project: &Project, services: &[String]) -> Result<(), Error> {
        let mut command = self.with_pipe(project)?;
        command.arg("kill").args(services).stdout(Stdio::null()).stderr(Stdio::null());
        command.process_group(0);
        finished(self.start(command, project).await?, "kill").await
    }

    /// Removes the containers of these services, and nothing that the user could miss.
    pub async fn remove(&self, project: &Project, services: &[String]) -> Result<(), Error> {
        let mut command = self.with_pipe(project)?;
        command.args(["rm", "--force", "--stop"]).args(services).stdout(Stdio::null()).stderr(Stdio::null());
        command.process_group(0);
        finished(self.start(command, project).await?, "rm").await
    }

    /// `docker compose down` on the user's own files.
    pub async fn down(&self) -> Result<(), Error> {
        let mut command = self.with_files();
        command.arg("down").args(&self.settings.args).stdin(Stdio::null());
        finished(command.spawn().map_err(self.missing())?, "down").await
    }

    fn with_pipe(&self, project: &Project) -> Result<Command, ProjectError> {
        let mut command = self.command();
        command.args(["--project-name", project.name()?, "--file", "-"]);
        Ok(command)
    }

    async fn start(&self, mut command: Command, project: &Project) -> Result<Child, Error> {
        let mut child = command.stdin(Stdio::piped()).spawn().map_err(self.missing())?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(project.to_json().as_bytes()).await.map_err(ComposeError::Pipe)?;
            stdin.shutdown().await.map_err(ComposeError::Pipe)?;
        }
        Ok(child)
    }
}

async fn finished(mut child: Child, action: &'static str) -> Result<(), Error> {
    let status = child.wait().await.map_err(ComposeError::Pipe)?;
    if status.success() { Ok(()) } else { Err(ComposeError::Failed { action, status }.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_compose_is_known_by_its_version_as_distributions_write_it() {
        for old in ["2.19.1", "v2.5.0", "2.17.2-1", "1.29.2"] {
            assert!(is_old(old), "{old}");
        }
        for good in ["2.20.0", "v2.20.2+ds1-0ubuntu1", "2.40.3-3", "5.0.0", "dev", "", "v"] {
            assert!(!is_old(good), "{good}");
        }
    }
}
