//! Kubeconfig to [`Cluster`].
//!
//! The files are read as kubectl reads them: `KUBECONFIG` is a list of which the first file to say something wins, else
//! `~/.kube/config`. There is no in-cluster fallback: a laptop is meant. Login plugins (`exec`) run here, on the laptop,
//! and may open a browser, so they get their own time; after the login the server has to answer quickly.
//! <https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/>

use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Api, Client, Config};

use crate::settings::ClusterSettings;

use super::error::{Cause, ClusterError, innermost};
use super::workload::near_names;

/// A TCP connection that takes longer than this has met a black hole: a VPN that is down drops packets.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Plain requests; API servers themselves give up after 60 s, and those that tpdocker makes are small.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Names asked for when a namespace does not exist.
const LIST_LIMIT: u32 = 500;

/// A cluster and a namespace in it, reached and logged in to.
#[derive(Clone)]
pub struct Cluster {
    pub(super) client: Client,
    facts: Facts,
}

/// What a person wants to see of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Context of the kubeconfig.
    pub context: String,
    /// Host and port of the API server.
    pub host: String,
    /// `v1.33.1`; `None` when the login may not ask.
    pub version: Option<String>,
    /// The namespace in use.
    pub namespace: String,
}

// === impl Facts ===

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "context {}, namespace {}, {}", self.context, self.namespace, self.host)?;
        match &self.version {
            Some(version) => write!(f, ", Kubernetes {version}"),
            None => Ok(()),
        }
    }
}

// === impl Cluster ===

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Reads the user's kubeconfig, logs in, asks for the version and looks whether the namespace exists.
    pub async fn connect(settings: &ClusterSettings) -> Result<Self, ClusterError> {
        Self::connect_with(read_kubeconfig()?, settings).await
    }

    /// As [`Self::connect`], with a kubeconfig that has been read.
    pub async fn connect_with(kubeconfig: Kubeconfig, settings: &ClusterSettings) -> Result<Self, ClusterError> {
        let context = choose_context(&kubeconfig, settings.context.as_deref())?;
        let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .map_err(|error| ClusterError::BadKubeconfig(error.to_string()))?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        let host = config.cluster_url.authority().map_or_else(|| config.cluster_url.to_string(), ToString::to_string);
        let namespace = settings.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());

        let door = Door { host: &host, context: &context };
        // The login plugin runs in here, and blocks.
        let client = tokio::task::spawn_blocking(|| build(config))
            .await
            .map_err(|error| ClusterError::BadKubeconfig(error.to_string()))?
            .map_err(|cause| door.error(cause))?;
        let version = match bounded(client.apiserver_version()).await {
            Ok(info) => Some(info.git_version),
            Err(Cause::Status { code: 403, .. }) => None,
            Err(cause) => return Err(door.error(cause)),
        };
        let cluster = Self { client, facts: Facts { context, host, version, namespace } };
        cluster.check_namespace().await?;
        Ok(cluster)
    }

    /// What a person wants to see.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The namespace in use.
    pub fn namespace(&self) -> &str {
        &self.facts.namespace
    }

    /// The client, for requests that this module does not know.
    pub fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), self.namespace())
    }

    /// One plain request, bounded in time; `what` is a verb phrase for its error.
    pub(super) async fn ask<T>(
        &self,
        what: impl Into<String>,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, ClusterError> {
        match bounded(request).await {
            Ok(answer) => Ok(answer),
            Err(cause) if cause.status() == Some(401) || matches!(cause, Cause::Login(_)) => {
                Err(Door { host: &self.facts.host, context: &self.facts.context }.error(cause))
            }
            Err(cause) => Err(ClusterError::request(what, cause)),
        }
    }

    async fn check_namespace(&self) -> Result<(), ClusterError> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let name = self.namespace();
        match self.ask("look up the namespace", namespaces.get(name)).await {
            Ok(_) => Ok(()),
            Err(error) if error.status() == Some(404) => {
                let known = self.namespaces().await;
                let near = near_names(name, known.iter().map(String::as_str));
                let context = self.facts.context.clone();
                Err(ClusterError::NoNamespace { wanted: name.to_owned(), context, near })
            }
            // Seeing namespaces is a right of its own, and not needed.
            Err(error) if error.status() == Some(403) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Names of namespaces, as far as the login may list them; only good for suggestions.
    pub(super) async fn namespaces(&self) -> Vec<String> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        match self.ask("list namespaces", namespaces.list_metadata(&ListParams::default().limit(LIST_LIMIT))).await {
            Ok(list) => list.items.iter().map(kube::ResourceExt::name_any).collect(),
            Err(error) => {
                tracing::debug!(%error, "no suggestions");
                Vec::new()
            }
        }
    }
}

/// Waits for a request, not forever.
pub(super) async fn bounded<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Cause> {
    match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Cause::Timeout(REQUEST_TIMEOUT.as_secs())),
    }
}

/// The API server as errors name it.
struct Door<'a> {
    host: &'a str,
    context: &'a str,
}

impl Door<'_> {
    fn error(&self, source: Cause) -> ClusterError {
        let (host, context) = (self.host.to_owned(), self.context.to_owned());
        match &source {
            Cause::Login(_) | Cause::Status { code: 401, .. } => ClusterError::Login { context, source },
            // rustls says "invalid peer certificate: …" for every way in which a certificate does not fit.
            Cause::Way(text) if text.contains("certificate") => ClusterError::Certificate { host, context, source },
            _ => ClusterError::Unreachable { host, context, source },
        }
    }
}

/// The namespace that `settings` mean, from the kubeconfig alone.
pub fn namespace_of(settings: &ClusterSettings) -> Result<String, ClusterError> {
    if let Some(namespace) = &settings.namespace {
        return Ok(namespace.clone());
    }
    let kubeconfig = read_kubeconfig()?;
    let chosen = choose_context(&kubeconfig, settings.context.as_deref())?;
    let context = kubeconfig.contexts.into_iter().find(|context| context.name == chosen);
    let namespace = context.and_then(|context| context.context?.namespace).filter(|namespace| !namespace.is_empty());
    Ok(namespace.unwrap_or_else(|| "default".to_owned()))
}

fn read_kubeconfig() -> Result<Kubeconfig, ClusterError> {
    Kubeconfig::read().map_err(|error| match error {
        KubeconfigError::ReadConfig(io, path) if io.kind() == std::io::ErrorKind::NotFound => {
            ClusterError::NoKubeconfig(path.display().to_string())
        }
        KubeconfigError::FindPath => ClusterError::NoKubeconfig("~/.kube/config".into()),
        other => ClusterError::BadKubeconfig(other.to_string()),
    })
}

fn choose_context(kubeconfig: &Kubeconfig, wanted: Option<&str>) -> Result<String, ClusterError> {
    let known = || kubeconfig.contexts.iter().map(|context| context.name.clone()).collect::<Vec<_>>();
    let current = kubeconfig.current_context.as_deref().filter(|name| !name.is_empty());
    let wanted = wanted.or(current).ok_or_else(|| ClusterError::NoCurrentContext { known: known() })?;
    if known().iter().any(|name| name == wanted) {
        Ok(wanted.to_owned())
    } else {
        Err(ClusterError::NoContext { wanted: wanted.to_owned(), known: known() })
    }
}

fn build(config: Config) -> Result<Client, Cause> {
    Client::try_from(config).map_err(|error| match error {
        kube::Error::Auth(_) => error.into(),
        other => Cause::Way(innermost(&other)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kubeconfig(text: &str) -> Kubeconfig {
        Kubeconfig::from_yaml(text).unwrap()
    }

    const TWO: &str = "
apiVersion: v1
kind: Config
current-context: one
contexts:
- {name: one, context: {cluster: c, user: u}}
- {name: two, context: {cluster: c, user: u}}
";

    #[test]
    fn the_named_context_wins_over_the_current_one() {
        assert_eq!(choose_context(&kubeconfig(TWO), None).unwrap(), "one");
        assert_eq!(choose_context(&kubeconfig(TWO), Some("two")).unwrap(), "two");
    }

    #[test]
    fn a_context_that_does_not_exist_lists_those_that_do() {
        let error = choose_context(&kubeconfig(TWO), Some("three")).unwrap_err();
        assert_eq!(error.to_string(), "the kubeconfig has no context `three`; it has `one`, `two`");
        let error = choose_context(&kubeconfig(&TWO.replace("current-context: one", "")), None).unwrap_err();
        assert_eq!(error.to_string(), "the kubeconfig has no current context; it has `one`, `two`");
    }
}
