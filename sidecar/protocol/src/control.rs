//! Requests of the CLI: to the proxy (over a carrier of its own) and to the sidecar (over its Unix socket).
//!
//! Each message is one JSON value behind a big-endian `u32` length ([`encode`], [`decode`]). They are few and small;
//! the traffic of the app never travels here.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::addr::Port;
use crate::files::{FilesRequest, FilesSwap};
use crate::letter::Letter;

/// The largest message: an environment of a few thousand long variables fits with room to spare.
pub const MAX_MESSAGE: usize = 16 << 20;

/// CLI → proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ProxyRequest {
    /// Answered once with [`ProxyReply::Pod`].
    Describe,
    /// Answered with [`ProxyReply::Status`] at once and again whenever it changes, until the connection closes.
    Watch,
    /// The app has ended: its ports stay open, the pod stays ready, and who calls waits until `to` names pods of the
    /// original, to one of which it is then passed on. May be repeated. Answered once with [`ProxyReply::HandedOver`].
    HandOver {
        /// Addresses of pods that are ready; none as long as there are none.
        to: Vec<IpAddr>,
    },
    /// Answered with [`crate::files::FilesEvent`]s; the connection carries nothing else from here on.
    Files(FilesRequest),
    /// The letter to post once no client has been there for long, in the place of one that was given before. From here on
    /// the connection is a client's: it counts as there until this connection ends, or carries nothing for
    /// [`crate::contract::CLIENT_GONE_AFTER`]. Answered once with [`ProxyReply::Kept`].
    Keep(Box<Letter>),
    /// Posts the first request of the letter, which changes nothing. Answered once with [`ProxyReply::Tried`].
    Try,
    /// The client is there. Answered once with [`ProxyReply::Heard`].
    There,
}

/// Proxy → CLI.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ProxyReply {
    /// What the swapped container would see.
    Pod(PodView),
    /// What the proxy is doing.
    Status(ProxyStatus),
    /// [`ProxyRequest::HandOver`] has been carried out.
    HandedOver,
    /// [`ProxyRequest::Keep`] has been carried out.
    Kept,
    /// How [`ProxyRequest::Try`] went.
    Tried {
        /// Why the letter could not be posted at the moment, as a lowercase fragment.
        failed: Option<String>,
    },
    /// [`ProxyRequest::There`] was heard.
    Heard,
    /// The request failed.
    Error {
        /// Why, as a lowercase fragment.
        message: String,
    },
}

/// What the kubelet gave to the container that the proxy stands in for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodView {
    /// `/etc/hostname`, which is the pod's name unless its spec says otherwise.
    pub hostname: String,
    /// The proxy's own environment, in its order: the pod template's variables as the kubelet resolved them and the
    /// Service variables.
    pub env: Vec<EnvVar>,
    /// Names of variables whose value is not UTF-8, which the engine's API cannot carry.
    pub env_skipped: Vec<String>,
    /// `/etc/resolv.conf`, byte for byte where it is UTF-8.
    pub resolv_conf: String,
    /// `/etc/hosts`, likewise.
    pub hosts: String,
    /// The pod's addresses, the first one first.
    pub pod_ips: Vec<IpAddr>,
}

/// One environment variable.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Its value; may be a secret, so `Debug` does not show it.
    pub value: String,
}

impl std::fmt::Debug for EnvVar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}=<{} bytes>", self.name, self.value.len())
    }
}

/// What the proxy is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyStatus {
    /// A sidecar's tunnel is attached.
    pub attached: bool,
    /// The readiness that the kubelet's probe is told: attached, and every declared TCP port open because the app
    /// listens on it, or did until a moment ago ([`SidecarConfig::hold`]).
    pub ready: bool,
    /// Ports open at the pod's addresses.
    pub bound: Vec<Port>,
    /// Ports the app listens on that the pod cannot bind, and why.
    pub failed: Vec<PortFailure>,
}

/// A port that could not be bound in the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortFailure {
    /// The port.
    pub port: Port,
    /// Why, as a lowercase fragment.
    pub message: String,
}

/// CLI → sidecar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum SidecarRequest {
    /// Write the pod's files and set the rules; answered with [`SidecarReply::Configured`] or an error.
    Configure(SidecarConfig),
    /// Answered with [`SidecarReply::Status`] at once and again whenever it changes.
    Watch,
    /// Answered with [`SidecarReply::Swapped`] or an error.
    SwapFiles(FilesSwap),
}

/// What the sidecar needs to know about this session. Kept in the sidecar's memory only; the CLI sends it again when
/// the data plane has been restarted ([`SidecarStatus::configured`] is false then).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SidecarConfig {
    /// New content of `/etc/resolv.conf`, or `None` to leave Docker's (the user gave `--dns`).
    pub resolv_conf: Option<String>,
    /// Lines to add to `/etc/hosts` (the pod's host aliases; Docker has written the user's `--add-host`).
    pub extra_hosts: Vec<String>,
    /// Names that the pod's `/etc/hosts` gives to its own address, the longest first as the kubelet writes them.
    #[serde(default)]
    pub own_names: Vec<String>,
    /// Networks in CIDR notation that are reached directly from the laptop and not through the tunnel.
    pub bypass: Vec<String>,
    /// Ports that the cluster expects the app to serve: those the pod's spec declares and those that Services send to.
    pub declared: Vec<Port>,
    /// How long a declared TCP port stays open in the cluster after the app has stopped listening on it; connections
    /// that come meanwhile wait for it to listen again.
    pub hold: Duration,
    /// The pod's addresses, which become addresses of the namespace; the first one of each family is the source of what
    /// goes to the cluster.
    #[serde(default)]
    pub pod_ips: Vec<IpAddr>,
    /// Names that the engine has written into `/etc/hosts` for the laptop, such as `host.docker.internal`. Their addresses
    /// are reached directly, too; only the engine knows them.
    #[serde(default)]
    pub host_names: Vec<String>,
    /// Ports of the container's loopback that lead to the laptop ([`crate::contract::SIDECAR_HOST_PORT`]).
    #[serde(default)]
    pub host_ports: Vec<u16>,
    /// Containers on the same Docker networks. The sidecar answers the app's questions for their names, where
    /// `resolv_conf` is given: bare, and under every suffix of its search list.
    #[serde(default)]
    pub siblings: Vec<Sibling>,
    /// From where the ports that the app listens on are reached.
    #[serde(default)]
    pub incoming: Incoming,
}

/// From where the ports that the app listens on are reached, through the proxy's pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Incoming {
    /// From wherever the app's own addresses allow: the pod stands in for one that serves.
    #[default]
    Cluster,
    /// From other containers of the pod only, at its loopback.
    Siblings,
    /// From nowhere.
    Nobody,
}

/// A container on a network that the sidecar has joined.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Sibling {
    /// Its names, the canonical one (for reverse lookups) first. Several containers may share one.
    pub names: Vec<String>,
    /// Its addresses on the networks that it shares with the sidecar.
    pub addresses: Vec<IpAddr>,
}

/// Sidecar → CLI.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum SidecarReply {
    /// [`SidecarRequest::Configure`] has been carried out.
    Configured,
    /// [`SidecarRequest::SwapFiles`] has been carried out.
    Swapped,
    /// What the sidecar is doing.
    Status(SidecarStatus),
    /// Whatever was asked: traffic cannot be captured here, so there is no data plane that could do it.
    CannotCapture {
        /// Why, as a lowercase fragment, causes included.
        message: String,
        /// What somebody can do about it.
        cure: Option<String>,
    },
    /// The request failed.
    Error {
        /// Why, as a lowercase fragment.
        message: String,
    },
}

/// What the sidecar is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SidecarStatus {
    /// The capture rules are in the kernel, and how packets are held: `nft queue` or `xt NFQUEUE`.
    pub capture: Option<String>,
    /// [`SidecarRequest::Configure`] has been carried out since the data plane started.
    pub configured: bool,
    /// A carrier is attached and the proxy answered on it.
    pub attached: bool,
    /// Ports on which the app listens, other than on loopback.
    pub listening: Vec<Port>,
    /// Why connections from the cluster come to the app from an address of its own; `None` when it sees the callers'.
    pub own_source: Option<String>,
}

/// The intent that is recorded on a swapped workload before it is changed, as the JSON value of
/// [`crate::contract::ANNOTATION_SWAP`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SwapRecord {
    /// The session's id.
    pub session: String,
    /// Who swapped it: `user@host`.
    pub owner: String,
    /// The original number of replicas.
    pub replicas: i32,
    /// Name of the proxy's Deployment.
    pub proxy: String,
    /// When, RFC 3339 in UTC.
    pub since: String,
}

/// What is wrong with a message.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The length exceeds [`MAX_MESSAGE`].
    #[error("a control message of {0} bytes is over the limit of {MAX_MESSAGE}")]
    TooLarge(usize),
    /// The JSON is not that of a known message.
    #[error("malformed control message")]
    Malformed(#[from] serde_json::Error),
}

/// One message with its length in front.
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, ControlError> {
    let mut out = vec![0; 4];
    serde_json::to_writer(&mut out, message)?;
    let length = out.len() - 4;
    let prefix = u32::try_from(length).ok().filter(|_| length <= MAX_MESSAGE).ok_or(ControlError::TooLarge(length))?;
    out[..4].copy_from_slice(&prefix.to_be_bytes());
    Ok(out)
}

/// Takes the first message off `buffer`; `Ok(None)` asks for more bytes.
pub fn decode<M: DeserializeOwned>(buffer: &mut bytes::BytesMut) -> Result<Option<M>, ControlError> {
    let Some(prefix) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*prefix) as usize;
    if length > MAX_MESSAGE {
        return Err(ControlError::TooLarge(length));
    }
    if buffer.len() < 4 + length {
        return Ok(None);
    }
    let message = buffer.split_to(4 + length);
    Ok(Some(serde_json::from_slice(&message[4..])?))
}
