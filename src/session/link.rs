//! The way between sidecar and proxy: the CLI fetches a carrier from the API server, proves the session's right to it,
//! and from then on only pumps bytes between it and the sidecar's socket. The ends of the tunnel speak past it.
//!
//! ```text
//! sidecar ══ Unix socket ══ CLI (this pump) ══ port-forward ══ proxy
//! ```
//! When a carrier is lost, the next one is fetched; when the sidecar's data plane was restarted, it is told its
//! configuration again. Both go on until the session ends. So do what changes the configuration (who is on the Docker
//! networks) and what else runs through the sidecar's socket (the laptop's ports).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tpdocker_protocol::admission::Role;
use tpdocker_protocol::control::{SidecarConfig, SidecarStatus};

use super::access::Access;
use super::reach::Reach;
use super::sidecar::{self, Sidecar, SidecarError};
use super::{host_ports, reach};
use crate::cluster::{ClusterError, PortForward};
use crate::docker::EngineError;
use crate::error::Error;
use crate::event::Reporter;
use crate::settings::HostPort;

/// First and longest pause between two attempts to get a carrier: a blink of the network costs no second, and a
/// long outage does not make a busy loop.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Bytes in flight through the pump, each way: more than one round trip of a fast carrier needs, since both sides
/// buffer in the kernel too.
const PUMP_BUFFER: usize = 256 * 1024;
/// A carrier that carries a tunnel does so after a round trip; the ends themselves take 15 s of silence for an end.
const ATTACHED_WITHIN: Duration = Duration::from_secs(20);
/// A carrier that ends in order does so within a round trip of its tunnel's end.
const ENDS_WITHIN: Duration = Duration::from_secs(1);
/// Time for a new pod to say its address: a round trip on a way that has just been built. The tunnel waits for it, so
/// that the app's first connection has the right source.
const DESCRIBED_WITHIN: Duration = Duration::from_secs(3);

/// What the link needs.
#[derive(Debug, Clone)]
pub struct LinkPlan {
    /// How to reach the proxy.
    pub access: Arc<Access>,
    /// The sidecar's socket.
    pub socket: PathBuf,
    /// What the sidecar has to be told at first.
    pub config: SidecarConfig,
    /// What it has to be told as the Docker networks change.
    pub reach: Reach,
    /// Ports of the container that lead to the laptop.
    pub host_ports: Vec<HostPort>,
}

/// A link that keeps itself up until it is dropped.
#[derive(Debug)]
pub struct Link {
    /// What the sidecar is doing; `attached` is true while the tunnel carries traffic.
    pub status: watch::Receiver<SidecarStatus>,
    reach: Reach,
    cancel: CancellationToken,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Link {
    /// Configures the sidecar, builds the first carrier, and returns once the tunnel carries traffic.
    pub async fn up(plan: LinkPlan, reporter: Reporter) -> Result<Self, Error> {
        let mut control = Sidecar::connect(&plan.socket).await?;
        control.configure(plan.config.clone()).await?;
        let first = Carrier::build(&plan).await?;
        let (config_tx, config_rx) = watch::channel(plan.config.clone());
        let (status_tx, status_rx) = watch::channel(SidecarStatus::default());
        let link = Self { status: status_rx, reach: plan.reach.clone(), cancel: CancellationToken::new() };
        control.watch().await?;
        let mut ports = host_ports::Doorway::new(&plan.socket, &plan.host_ports);
        tokio::spawn(link.cancel.clone().run_until_cancelled_owned(async move { ports.serve().await }));
        tokio::spawn(
            link.cancel.clone().run_until_cancelled_owned(reach::follow(plan.reach.clone(), config_tx.clone())),
        );
        let configured = keep_configured(plan.clone(), control, config_rx, status_tx);
        tokio::spawn(link.cancel.clone().run_until_cancelled_owned(configured));
        let carried = keep_carried(plan, first, config_tx, link.status.clone(), reporter);
        tokio::spawn(link.cancel.clone().run_until_cancelled_owned(carried));
        let mut attached = link.status.clone();
        tokio::select! {
            attached = attached.wait_for(|status| status.attached) => {
                attached
                    .map_err(|_| SidecarError::Failed("its data plane went away while the tunnel was built".into()))?;
            }
            gone = link.sidecar_ended() => return Err(gone.into()),
        }
        Ok(link)
    }

    /// Resolves when the sidecar container does not run any more: nothing that is done here brings it back, since the
    /// app would stay in the namespace that it has left behind.
    pub async fn sidecar_ended(&self) -> EngineError {
        self.reach.sidecar_ended().await
    }
}

/// The two ends that the pump connects.
struct Carrier {
    cluster: PortForward,
    sidecar: tokio::net::UnixStream,
}

impl Carrier {
    async fn build(plan: &LinkPlan) -> Result<Self, Error> {
        let cluster = plan.access.open(Role::Tunnel).await?;
        let sidecar = sidecar::carrier(&plan.socket).await?;
        Ok(Self { cluster, sidecar })
    }

    /// Pumps until one side ends or nothing comes through; says why.
    async fn pump(mut self, status_rx: watch::Receiver<SidecarStatus>) -> String {
        let copied =
            tokio::io::copy_bidirectional_with_sizes(&mut self.sidecar, &mut self.cluster, PUMP_BUFFER, PUMP_BUFFER);
        tokio::select! {
            copied = copied => match copied {
                Ok(_) => "the connection was closed".into(),
                Err(error) => error.to_string(),
            },
            () = given_up(status_rx) => "nothing comes through".into(),
        }
    }
}

/// Resolves when the sidecar has given the carrier up, which does not end by that: where packets are dropped, or the API
/// server hangs, its other end never answers to anything.
async fn given_up(mut status_rx: watch::Receiver<SidecarStatus>) {
    let mut attached_within = ATTACHED_WITHIN;
    loop {
        let attached = timeout(attached_within, status_rx.wait_for(|status| status.attached)).await;
        match attached.map(|attached| attached.is_ok()) {
            Ok(true) => {}
            // Nobody tells any more: the link ends.
            Ok(false) => return std::future::pending().await,
            Err(_) => return,
        }
        if status_rx.wait_for(|status| !status.attached).await.is_err() {
            return std::future::pending().await;
        }
        attached_within = ENDS_WITHIN;
    }
}

/// Pumps, and fetches the next carrier when one is lost. It may lead to another pod.
async fn keep_carried(
    plan: LinkPlan,
    first: Carrier,
    config_tx: watch::Sender<SidecarConfig>,
    status_rx: watch::Receiver<SidecarStatus>,
    reporter: Reporter,
) {
    let mut carrier = first;
    let mut pod = plan.access.pod().await;
    loop {
        let reason = carrier.pump(status_rx.clone()).await;
        let lost = Instant::now();
        reporter.warn(format!("tunnel lost: {reason}; reconnecting"));
        carrier = fetch(&plan, &reporter).await;
        let now = plan.access.pod().await;
        if now != pod {
            match timeout(DESCRIBED_WITHIN, follow_pod(&plan, &config_tx)).await {
                Ok(Ok(())) => pod = now,
                Ok(Err(error)) => reporter.warn(format!("the address of pod {now} is not known: {error}")),
                Err(_) => reporter.warn(format!("the address of pod {now} is not known: it does not answer")),
            }
        }
        reporter.notice(format!(
            "tunnel back after {:.1} s; connections from before were reset",
            lost.elapsed().as_secs_f32()
        ));
    }
}

/// Has the sidecar take over the addresses of the pod that has come in the place of a lost one.
async fn follow_pod(plan: &LinkPlan, config_tx: &watch::Sender<SidecarConfig>) -> Result<(), ClusterError> {
    let pod = plan.access.control().await?.describe().await?;
    config_tx.send_if_modified(|config| {
        let changed = config.pod_ips != pod.pod_ips;
        config.pod_ips = pod.pod_ips;
        changed
    });
    Ok(())
}

async fn fetch(plan: &LinkPlan, reporter: &Reporter) -> Carrier {
    let mut pause = RETRY.0;
    let mut said = String::new();
    loop {
        match Carrier::build(plan).await {
            Ok(carrier) => return carrier,
            Err(error) => {
                let text = error.chain().join(": ");
                if text != said {
                    reporter.warn(format!("no tunnel yet: {text}"));
                    said = text;
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

/// Passes the sidecar's state on, and tells it its configuration when that changes, and a restarted data plane again.
async fn keep_configured(
    plan: LinkPlan,
    first: Sidecar,
    mut config_rx: watch::Receiver<SidecarConfig>,
    status_tx: watch::Sender<SidecarStatus>,
) {
    let mut control = first;
    loop {
        let error = loop {
            tokio::select! {
                status = control.status() => match status {
                    Ok(status) => status_tx.send_replace(status),
                    Err(error) => break error,
                },
                Ok(()) = config_rx.changed() => {
                    // On a conversation of its own: in this one states come at any time.
                    let changed = config_rx.borrow_and_update().clone();
                    match configured(&plan, changed).await {
                        Ok(_) => continue,
                        Err(error) => break error,
                    }
                }
            };
        };
        tracing::info!(%error, "the sidecar's data plane went away");
        status_tx.send_replace(SidecarStatus::default());
        let mut said = String::new();
        control = loop {
            let config = config_rx.borrow_and_update().clone();
            match watched(&plan, config).await {
                Ok(control) => break control,
                // Each reason once: there are many attempts.
                Err(error) if error.to_string() == said => {}
                Err(error) => {
                    said = error.to_string();
                    tracing::warn!(%error, "the sidecar is not back yet");
                }
            }
            tokio::time::sleep(RETRY.0).await;
        };
    }
}

async fn configured(plan: &LinkPlan, config: SidecarConfig) -> Result<Sidecar, SidecarError> {
    let mut control = Sidecar::connect(&plan.socket).await?;
    control.configure(config).await?;
    Ok(control)
}

async fn watched(plan: &LinkPlan, config: SidecarConfig) -> Result<Sidecar, SidecarError> {
    let mut control = configured(plan, config).await?;
    control.watch().await?;
    Ok(control)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(attached: bool) -> SidecarStatus {
        SidecarStatus { attached, ..SidecarStatus::default() }
    }

    async fn is_given_up(status_rx: &watch::Receiver<SidecarStatus>, within: Duration) -> bool {
        timeout(within, given_up(status_rx.clone())).await.is_ok()
    }

    #[tokio::test]
    async fn a_carrier_is_given_up_a_moment_after_its_tunnel_has_ended() {
        let (status_tx, status_rx) = watch::channel(status(true));
        assert!(!is_given_up(&status_rx, ENDS_WITHIN * 2).await, "while it carries");
        let watched = tokio::spawn(given_up(status_rx.clone()));
        tokio::task::yield_now().await;
        status_tx.send_replace(status(false));
        tokio::task::yield_now().await;
        // What was told of the carrier before comes late.
        status_tx.send_replace(status(true));
        assert!(!is_given_up(&status_rx, ENDS_WITHIN * 2).await && !watched.is_finished());
        status_tx.send_replace(status(false));
        timeout(ENDS_WITHIN * 3, watched).await.expect("it is given up").unwrap();
    }
}
