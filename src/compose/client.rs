//! `docker compose`, as a child process: it reads the user's files, and runs what we made of them.

use std::io;
use std::process::{ExitStatus, Stdio};

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use super::project::{Project, ProjectError};
use crate::error::{Code, Error, Explain};
use crate::settings::ComposeSettings;

/// Compose does not do its part.
#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    /// There is no `docker` command.
    #[error("`docker compose` cannot be run")]
    Missing(#[source] io::Error),
    /// It has no Compose plugin, or does not like the files; it has said so itself.
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
            Self::Missing(_) | Self::Pipe(_) => Code::Engine,
            Self::Config { .. } => Code::Usage,
            Self::Failed { .. } => Code::Container,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Missing(_) => Some("install Docker's client with its Compose v2 plugin".into()),
            // Without the plugin, docker takes `compose` for a word it does not know and complains of what follows.
            Self::Config { said } if said.contains("docker [OPTIONS] COMMAND") => {
                Some("install the Compose v2 plugin, for example the package docker-compose-plugin".into())
            }
            _ => None,
        }
    }
}

/// Compose with the options that choose the project.
#[derive(Debug)]
pub struct Compose<'a> {
    settings: &'a ComposeSettings,
}

impl<'a> Compose<'a> {
    /// For these settings.
    pub fn new(settings: &'a ComposeSettings) -> Self {
        Self { settings }
    }

    /// The command with the user's own files.
    fn with_files(&self) -> Command {
        let settings = self.settings;
        let mut command = Command::new("docker");
        command.arg("compose");
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
        let output = command
            .args(["config", "--format", format])
            .stdin(Stdio::null())
            .output()
            .await
            .map_err(ComposeError::Missing)?;
        if !output.status.success() {
            return Err(ComposeError::Config { said: String::from_utf8_lossy(&output.stderr).into_owned() });
        }
        Ok(output.stdout)
    }

    /// Starts `up` on a rewritten project. The project goes through a pipe: it holds the pod's environment, which is
    /// nothing for a file or for `ps`.
    pub async fn up(&self, project: &Project) -> Result<Child, Error> {
        let mut command = from_pipe(project)?;
        command.arg("up").args(&self.settings.args);
        // A signal for this process's group would reach Compose past the one loop that puts signals in order.
        command.process_group(0);
        start(command, project).await
    }

    /// Removes the containers of these services, and nothing that the user could miss.
    pub async fn remove(&self, project: &Project, services: &[String]) -> Result<(), Error> {
        let mut command = from_pipe(project)?;
        command.args(["rm", "--force", "--stop"]).args(services).stdout(Stdio::null()).stderr(Stdio::null());
        command.process_group(0);
        finished(start(command, project).await?, "rm").await
    }

    /// `docker compose down` on the user's own files.
    pub async fn down(&self) -> Result<(), Error> {
        let mut command = self.with_files();
        command.arg("down").args(&self.settings.args).stdin(Stdio::null());
        finished(command.spawn().map_err(ComposeError::Missing)?, "down").await
    }
}

fn from_pipe(project: &Project) -> Result<Command, ProjectError> {
    let mut command = Command::new("docker");
    command.args(["compose", "--project-name", project.name()?, "--file", "-"]);
    Ok(command)
}

async fn start(mut command: Command, project: &Project) -> Result<Child, Error> {
    let mut child = command.stdin(Stdio::piped()).spawn().map_err(ComposeError::Missing)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(project.to_json().as_bytes()).await.map_err(ComposeError::Pipe)?;
        stdin.shutdown().await.map_err(ComposeError::Pipe)?;
    }
    Ok(child)
}

async fn finished(mut child: Child, action: &'static str) -> Result<(), Error> {
    let status = child.wait().await.map_err(ComposeError::Pipe)?;
    if status.success() { Ok(()) } else { Err(ComposeError::Failed { action, status }.into()) }
}
