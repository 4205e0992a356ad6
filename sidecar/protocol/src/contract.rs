//! Names on which the CLI, the sidecar and the proxy agree.

use std::time::Duration;

/// Version of everything in this crate that crosses a wire. Ends with different versions refuse each other: the CLI
/// carries both other ends inside itself, so versions differ only by mistake.
pub const PROTOCOL_VERSION: u16 = 1;

/// Label on every object of ours, in the cluster and in the engine; its value is the session's id.
pub const LABEL_SESSION: &str = "tpdocker.dev/session";
/// Label that tells the objects of one session apart; values are [`ROLE_PROXY`], [`ROLE_SIDECAR`], [`ROLE_APP`].
pub const LABEL_ROLE: &str = "tpdocker.dev/role";
/// [`LABEL_ROLE`] of the proxy's Deployment and pod.
pub const ROLE_PROXY: &str = "proxy";
/// [`LABEL_ROLE`] of the sidecar container.
pub const ROLE_SIDECAR: &str = "sidecar";
/// [`LABEL_ROLE`] of the user's container.
pub const ROLE_APP: &str = "app";
/// [`LABEL_ROLE`] of what lets the proxy post its letter: a `ServiceAccount`, a Role and its binding.
pub const ROLE_LETTER: &str = "letter";
/// Annotation on a swapped workload: a JSON [`crate::control::SwapRecord`], written before the first change.
pub const ANNOTATION_SWAP: &str = "tpdocker.dev/swap";
/// Annotation on the proxy's Deployment: who started its session, as `user@host`. With [`ANNOTATION_SINCE`] and
/// [`LABEL_SESSION`] it tells of a session that has no record on any workload, since it swaps none.
pub const ANNOTATION_OWNER: &str = "tpdocker.dev/owner";
/// Annotation on the proxy's Deployment: when its session began, RFC 3339 in UTC.
pub const ANNOTATION_SINCE: &str = "tpdocker.dev/since";
/// Annotation on the proxy's Deployment: what the session is to the workloads of the namespace, for people:
/// `deployment/web`, `like deployment/web`, `only outgoing`.
pub const ANNOTATION_STANCE: &str = "tpdocker.dev/stance";

/// Path of the proxy binary in its image, which holds nothing else.
pub const PROXY_PATH: &str = "/tpdocker-proxy";
/// Path of the sidecar binary in its image, which holds nothing else.
pub const SIDECAR_PATH: &str = "/tpdocker-sidecar";

/// Directory in the sidecar that the CLI bind-mounts from the laptop; it holds [`SIDECAR_SOCKET`].
pub const SIDECAR_RUN_DIR: &str = "/run/tpdocker";
/// Name of the sidecar's Unix socket in [`SIDECAR_RUN_DIR`].
pub const SIDECAR_SOCKET: &str = "sidecar.sock";
/// Directory in the sidecar below which the volumes with the pod's files are mounted. The app does not see it: it shares
/// the network namespace only.
pub const SIDECAR_FILES_DIR: &str = "/run/tpdocker-files";
/// First byte on the sidecar's socket: what follows are [`crate::control`] messages.
pub const SIDECAR_CONTROL: u8 = b'C';
/// First byte on the sidecar's socket: what follows are the bytes of a carrier, pumped to and from the proxy.
pub const SIDECAR_CARRIER: u8 = b'T';
/// First byte on the sidecar's socket: the connection waits for an app that connects to one of
/// [`crate::control::SidecarConfig::host_ports`]. The sidecar then sends that port, a big-endian `u16`; the CLI connects
/// on the laptop and answers with one byte, [`HOST_PORT_CONNECTED`] or another one; what follows are the bytes of the
/// connection.
pub const SIDECAR_HOST_PORT: u8 = b'H';
/// The CLI's answer when it has connected.
pub const HOST_PORT_CONNECTED: u8 = 0;
/// The CLI's answer when nobody listens on the laptop; it hangs up after that.
pub const HOST_PORT_REFUSED: u8 = 1;

/// How long a proxy that is deleted goes on to pass callers on to the original, at most; its pod is given more before it
/// is killed.
pub const PROXY_DRAINS_WITHIN: Duration = Duration::from_secs(8);
/// How often a client that has left a letter with the proxy says that it is there.
pub const CLIENT_SPEAKS_EVERY: Duration = Duration::from_secs(5);
/// A client that was silent for so long is gone, though its connection may look alive: the same as for the tunnel.
pub const CLIENT_GONE_AFTER: Duration = Duration::from_secs(15);
/// Name of the proxy's readiness socket in the pod's abstract Unix namespace. `tpdocker-proxy ready` connects to it,
/// reads one byte (`1` ready, `0` not) and exits with 0 or 1; it is an exec probe, so nothing has to listen on the
/// pod's address.
pub const PROXY_READY_SOCKET: &str = "tpdocker-proxy-ready";
