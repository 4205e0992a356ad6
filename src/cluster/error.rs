//! What can go wrong with the cluster, and the cure.
//!
//! kube's own errors print whole structures; a person wants the sentence that the API server said. [`Cause`] is that
//! sentence, or the way's (DNS, TCP, TLS) when there was no server to say one.

use std::error::Error as StdError;
use std::fmt::Write as _;

use crate::error::{Code, Explain};

use super::holders::ProxyState;
use super::workload::WorkloadRef;

/// How many names an error lists before it says "and N more".
const MAX_LISTED: usize = 8;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The API server answered with a `metav1.Status`.
    #[error("{message}")]
    Status {
        /// HTTP status.
        code: u16,
        /// Machine-readable reason, such as `NotFound`.
        reason: String,
        /// The server's sentence.
        message: String,
    },
    /// There was no answer: name resolution, TCP, TLS, a broken stream.
    #[error("{0}")]
    Way(String),
    /// The kubeconfig's login failed on the laptop: an exec plugin, OIDC, a token file.
    #[error("{0}")]
    Login(String),
    /// No answer in this many seconds.
    #[error("no answer in {0} s")]
    Timeout(u64),
}

impl Cause {
    /// The HTTP status, when a server answered.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status { code, .. } => Some(*code),
            _ => None,
        }
    }
}

impl From<kube::Error> for Cause {
    fn from(error: kube::Error) -> Self {
        if let kube::Error::Api(status) = error {
            let message = if status.message.is_empty() { status.reason.clone() } else { status.message.clone() };
            return Self::Status { code: status.code, reason: status.reason, message };
        }
        if let kube::Error::UpgradeConnection(kube::client::UpgradeConnectionError::ProtocolSwitch(status)) = &error {
            let message = format!("HTTP {status} instead of a protocol switch");
            return Self::Status { code: status.as_u16(), reason: String::new(), message };
        }
        let mut level: Option<&(dyn StdError + 'static)> = Some(&error);
        while let Some(inner) = level {
            if let Some(login) = inner.downcast_ref::<kube::client::AuthError>() {
                return Self::Login(login_text(login));
            }
            level = inner.source();
        }
        Self::Way(innermost(&error))
    }
}

impl From<kube::runtime::watcher::Error> for Cause {
    fn from(error: kube::runtime::watcher::Error) -> Self {
        use kube::runtime::watcher::Error;
        match error {
            Error::InitialListFailed(inner) | Error::WatchStartFailed(inner) | Error::WatchFailed(inner) => {
                inner.into()
            }
            Error::WatchError(status) => kube::Error::Api(status).into(),
            Error::NoResourceVersion => Self::Way(error.to_string()),
        }
    }
}

/// What a plugin printed matters more than how its process ended.
fn login_text(error: &kube::client::AuthError) -> String {
    use kube::client::AuthError;
    match error {
        AuthError::AuthExecStart(io) => format!("cannot start the login plugin: {io}"),
        AuthError::AuthExecRun { cmd, out, .. } => {
            let said = String::from_utf8_lossy(&out.stderr);
            format!("`{cmd}` ended with {}: {}", out.status, said.trim())
        }
        other => innermost(other),
    }
}

/// The deepest source: where hyper and rustls put what happened.
pub(super) fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// Any failure on the cluster's side.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// There is no kubeconfig file.
    #[error("no kubeconfig at {0}")]
    NoKubeconfig(String),
    /// A kubeconfig cannot be used.
    #[error("the kubeconfig cannot be used: {0}")]
    BadKubeconfig(String),
    /// The kubeconfig has no such context.
    #[error("the kubeconfig has no context `{wanted}`; it has {}", listed(.known))]
    NoContext {
        /// What was asked for.
        wanted: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The kubeconfig names no current context.
    #[error("the kubeconfig has no current context; it has {}", listed(.known))]
    NoCurrentContext {
        /// What there is.
        known: Vec<String>,
    },
    /// The API server does not answer.
    #[error("cannot reach the API server {host} of context `{context}`")]
    Unreachable {
        /// Host and port.
        host: String,
        /// Context.
        context: String,
        /// Why.
        source: Cause,
    },
    /// The API server's certificate is not the kubeconfig's.
    #[error("the certificate of the API server {host} does not fit the kubeconfig's context `{context}`")]
    Certificate {
        /// Host and port.
        host: String,
        /// Context.
        context: String,
        /// Why.
        source: Cause,
    },
    /// The login failed on the laptop or was refused by the server.
    #[error("the login of context `{context}` was refused")]
    Login {
        /// Context.
        context: String,
        /// Why.
        source: Cause,
    },
    /// No such namespace.
    #[error("there is no namespace `{wanted}` in the cluster of context `{context}`{}", suggestion(.near))]
    NoNamespace {
        /// What was asked for.
        wanted: String,
        /// Context.
        context: String,
        /// Names that are close.
        near: Vec<String>,
    },
    /// Nothing has the name.
    #[error("there is no {what} `{name}` in namespace `{namespace}`{}", suggestion(.near))]
    NotFound {
        /// Kinds that were looked for.
        what: &'static str,
        /// What was asked for.
        name: String,
        /// Where.
        namespace: String,
        /// Names that are close.
        near: Vec<String>,
        /// Namespaces that have one of that name.
        elsewhere: Vec<String>,
    },
    /// Something has the name and cannot be swapped.
    #[error("{what} cannot be swapped: {why}")]
    NotSwappable {
        /// Kind and name.
        what: String,
        /// Why not.
        why: String,
        /// What to do instead.
        cure: Option<String>,
    },
    /// Something has the name and no pod can be made like its pods.
    #[error("a session cannot be like {what}: {why}")]
    Unlike {
        /// Kind and name.
        what: String,
        /// Why not.
        why: String,
    },
    /// Several workloads fit.
    #[error("`{name}` could be {}", listed(.candidates))]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// `kind/name` of each.
        candidates: Vec<String>,
    },
    /// The pod has several containers and none was chosen, or it has no such container.
    #[error("{what} has {}", container_complaint(.wanted.as_deref(), .containers))]
    Container {
        /// Whose pod.
        what: String,
        /// The flag and the name that a container's can be added to: `--swap deployment/web`.
        choice: String,
        /// What was asked for.
        wanted: Option<String>,
        /// What there is.
        containers: Vec<String>,
    },
    /// A right is missing.
    #[error("this login may not {}", listed_all(.missing))]
    Forbidden {
        /// `verb resource` of each.
        missing: Vec<String>,
        /// A Role that has them all, as YAML.
        role: String,
    },
    /// The proxy pod does not start.
    #[error("the proxy pod does not start: {reason}")]
    Proxy {
        /// What the kubelet, the scheduler or the API server said.
        reason: String,
        /// What to do.
        cure: Option<String>,
    },
    /// Another session holds the workload.
    #[error("{workload} is swapped by {owner} since {since} (session {session}{})", proxy.map(|it| format!(", {it}")).unwrap_or_default())]
    Held {
        /// The workload.
        workload: Box<WorkloadRef>,
        /// `user@host`.
        owner: String,
        /// RFC 3339.
        since: String,
        /// Its session.
        session: String,
        /// Its proxy, where that was looked at.
        proxy: Option<ProxyState>,
    },
    /// The workload changed while it was being swapped.
    #[error("{workload} {what}")]
    Changed {
        /// The workload.
        workload: WorkloadRef,
        /// What happened to it.
        what: String,
    },
    /// The original is not entirely back.
    #[error("{workload} is not entirely restored: {}", .left.join("; "))]
    Restore {
        /// The workload.
        workload: Box<WorkloadRef>,
        /// What is left to do.
        left: Vec<String>,
    },
    /// The carrier to the proxy cannot be had or was lost.
    #[error("port-forward to pod {pod}, port {port}")]
    Tunnel {
        /// The pod.
        pod: String,
        /// The port.
        port: u16,
        /// Why.
        source: Cause,
    },
    /// The proxy does not admit this session or breaks the protocol.
    #[error("the proxy's answer")]
    Protocol(#[from] ProtocolError),
    /// Any other request failed.
    #[error("cannot {what}")]
    Request {
        /// What was asked, as a verb phrase.
        what: String,
        /// Why not.
        source: Cause,
    },
}

/// What is wrong with what the proxy says.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The handshake failed.
    #[error(transparent)]
    Admission(#[from] tpdocker_protocol::admission::AdmissionError),
    /// A control message is malformed.
    #[error(transparent)]
    Control(#[from] tpdocker_protocol::control::ControlError),
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The proxy closed the connection.
    #[error("the proxy closed the connection")]
    Closed,
    /// The proxy did not answer.
    #[error("no answer from the proxy in {0} s")]
    Timeout(u64),
    /// The proxy answered something else.
    #[error("unexpected answer: {0}")]
    Unexpected(String),
}

impl ClusterError {
    /// A failed request, or what it means for the whole session: a right that is missing, a login that expired.
    pub(super) fn request(what: impl Into<String>, cause: impl Into<Cause>) -> Self {
        Self::Request { what: what.into(), source: cause.into() }
    }

    /// The server's HTTP status, when it gave one.
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Self::Request { source, .. } | Self::Tunnel { source, .. } => source.status(),
            _ => None,
        }
    }
}

impl Explain for ClusterError {
    fn code(&self) -> Code {
        match self {
            Self::NoKubeconfig(_)
            | Self::BadKubeconfig(_)
            | Self::NoContext { .. }
            | Self::NoCurrentContext { .. }
            | Self::Unreachable { .. }
            | Self::Certificate { .. }
            | Self::Login { .. } => Code::Kubeconfig,
            Self::NoNamespace { .. }
            | Self::NotFound { .. }
            | Self::NotSwappable { .. }
            | Self::Unlike { .. }
            | Self::Ambiguous { .. }
            | Self::Container { .. }
            | Self::Changed { .. } => Code::Workload,
            Self::Forbidden { .. } => Code::Forbidden,
            Self::Proxy { .. } => Code::Proxy,
            Self::Held { .. } => Code::Held,
            Self::Restore { .. } => Code::Restore,
            Self::Tunnel { source, .. } if source.status() == Some(403) => Code::Forbidden,
            Self::Protocol(_) | Self::Tunnel { .. } => Code::Tunnel,
            Self::Request { source, .. } => match source {
                Cause::Status { code: 403, .. } => Code::Forbidden,
                Cause::Status { code: 404 | 409 | 422, .. } => Code::Workload,
                _ => Code::Kubeconfig,
            },
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoKubeconfig(_) => "set KUBECONFIG, or put the cluster's kubeconfig at ~/.kube/config".into(),
            Self::BadKubeconfig(_) => "kubectl config view".into(),
            Self::NoContext { .. } | Self::NoCurrentContext { .. } => {
                "choose one with --context, or: kubectl config use-context NAME".into()
            }
            Self::Unreachable { context, .. } => {
                format!("is the VPN up? Compare: kubectl --context {context} version")
            }
            Self::Certificate { .. } => {
                "fetch the kubeconfig anew; a VPN or proxy that re-encrypts TLS needs its CA in certificate-authority"
                    .into()
            }
            Self::Login { context, source } => match source {
                Cause::Login(_) => format!("log in anew; compare: kubectl --context {context} get pods"),
                _ => format!("log in anew, then: kubectl --context {context} auth can-i --list"),
            },
            Self::NoNamespace { context, .. } => format!("kubectl --context {context} get namespaces"),
            Self::NotFound { elsewhere, name, .. } if !elsewhere.is_empty() => {
                format!("namespace {} has `{name}`: add -n {}", listed(elsewhere), elsewhere[0])
            }
            Self::NotFound { namespace, .. } => format!("kubectl -n {namespace} get deployments,statefulsets,services"),
            Self::NotSwappable { cure, .. } | Self::Proxy { cure, .. } => return cure.clone(),
            Self::Ambiguous { candidates, .. } => format!("say which: --swap {}", candidates.first()?),
            Self::Container { choice, containers, .. } => format!("say which: {choice}:{}", containers.first()?),
            Self::Forbidden { role, .. } => format!("ask an administrator for this Role:\n{role}"),
            Self::Held { workload, .. } => format!(
                "take it over: add --take-over to the same command; or put it back: {}",
                restore_command(workload)
            ),
            Self::Restore { workload, .. } => restore_command(workload),
            Self::Tunnel { source, .. } if source.status() == Some(403) => {
                "the login needs `get` on `pods/portforward`, and from Kubernetes 1.35 on `create` as well".into()
            }
            Self::Tunnel { .. }
            | Self::Protocol(_)
            | Self::Request { .. }
            | Self::Changed { .. }
            | Self::Unlike { .. } => return None,
        })
    }
}

fn restore_command(workload: &WorkloadRef) -> String {
    format!("tpdocker restore -n {} {}", workload.namespace, workload.slug())
}

/// `a`, `b` and 3 more.
pub(super) fn listed(names: &[String]) -> String {
    if names.is_empty() {
        return "none".into();
    }
    let mut out = names.iter().take(MAX_LISTED).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if names.len() > MAX_LISTED {
        let _infallible = write!(out, " and {} more", names.len() - MAX_LISTED);
    }
    out
}

fn listed_all(names: &[String]) -> String {
    names.join(", ")
}

fn suggestion(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!("; near it: {}", listed(near)) }
}

fn container_complaint(wanted: Option<&str>, containers: &[String]) -> String {
    match wanted {
        Some(wanted) => format!("no container `{wanted}`; it has {}", listed(containers)),
        None => format!("several containers: {}", listed(containers)),
    }
}
