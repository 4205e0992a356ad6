//! A session: everything between a swap and its undoing, less what differs between `run` and `compose` (who starts the
//! containers).
//!
//! Whatever a session makes, it makes so that the undoing needs no memory of how far it came: objects carry the session's
//! label, the workload carries the record, and undoing what was never done is done already. So a session that fails or
//! is interrupted at any step ends like one that ran well, with [`Session::end`].

pub mod access;
mod end;
pub mod ending;
pub mod environment;
pub mod files;
pub mod host_ports;
pub mod identity;
pub mod letter;
pub mod link;
pub mod reach;
pub mod rundir;
pub mod sidecar;
pub mod signals;
pub mod takeover;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use tokio::sync::{SetOnce, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tpdocker_protocol::control::{PodView, PortFailure, SidecarConfig, SidecarStatus, SwapRecord};

use self::access::Access;
use self::identity::Identity;
use self::letter::Keeping;
use self::link::{Link, LinkPlan};
use self::reach::Reach;
use self::rundir::{RunDir, SessionRecord};
use crate::cluster::{
    Cluster, ClusterError, Lacking, Note, PodModel, PodMount, Proxy, ProxySpec, Restored, Stance, Workload,
    control_port, proxy_deployment,
    swap::{Claimed, since_now},
};
use crate::docker::Engine;
use crate::error::{Bug, Error};
use crate::event::{Reporter, Step};
use crate::image;
use crate::plan;
use crate::settings::{ClusterSettings, Grace, Hold, InitContainers, Intent, NetSpec};

/// How long the proxy's pod may take from its creation until it runs. Init containers of the original run first, and
/// migrations take their time; a pod that cannot start is said long before.
const POD_STARTS_WITHIN: Duration = Duration::from_mins(5);
/// A swap waits for the app as long as the session lives: it may be compiling.
const APP_LISTENS_WITHIN: Duration = Duration::from_hours(7 * 24);

/// Time to tell the proxy that the app has ended, or who answers instead. A courtesy to callers, for which nobody who ends
/// a session waits longer.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(3);

/// Pause before a proxy that was lost is asked again: its Deployment takes a second or two for another pod.
const WATCH_AGAIN: Duration = Duration::from_secs(1);

/// What was found in the cluster before anything is changed.
#[derive(Debug)]
pub struct Found {
    /// Where.
    pub cluster: Cluster,
    /// What the session is to the workloads there.
    pub stance: Stance,
    /// What the login may not, and the session does without.
    pub lacking: Lacking,
}

/// Connects, finds what is meant, and checks the rights.
pub async fn find(
    settings: &ClusterSettings,
    intent: &Intent,
    init_containers: InitContainers,
    reporter: &Reporter,
) -> Result<Found, Error> {
    let step = reporter.step("cluster");
    let cluster = Cluster::connect(settings).await?;
    step.done(cluster.facts().to_string());
    let step = reporter.step("workload");
    let (stance, lacking) = cluster.find(intent).await?;
    let stance = stance.with(init_containers);
    if let Some(notice) = &lacking.notice {
        reporter.notice(notice);
    }
    for notice in cluster.deciders(&stance).await? {
        reporter.notice(notice);
    }
    step.done(plan::describe(&stance));
    Ok(Found { cluster, stance, lacking })
}

/// A session with one proxy.
#[derive(Debug)]
pub struct Session {
    /// Who it is.
    pub identity: Identity,
    /// Its directory on the laptop.
    pub run_dir: RunDir,
    /// What other processes know of it.
    pub record: SessionRecord,
    found: Found,
    deployment: Deployment,
    control_port: u16,
    /// The way to a proxy whose callers wait for the original.
    waiting: OnceLock<Arc<Access>>,
    reporter: Reporter,
    /// `--take-over`.
    take_over: bool,
    /// `--grace`.
    grace: Grace,
    /// What is on the workload, once it is.
    claimed: watch::Sender<Option<SwapRecord>>,
    /// The proxy's name, once it is there.
    begun: SetOnce<String>,
    /// Keeps the proxy's letter good.
    keeping: OnceLock<Keeping>,
    /// Somebody has deleted the workload.
    deleted: AtomicBool,
    /// Somebody does not want to wait for the end.
    haste: CancellationToken,
}

/// A proxy whose program answers.
#[derive(Debug)]
pub struct Attached {
    /// The way to it.
    access: Arc<Access>,
    /// Its Deployment.
    proxy: Proxy,
    /// What the swapped container would see.
    pub pod: PodView,
    /// What is mounted into the proxy's container.
    pub mounts: Vec<PodMount>,
}

/// The proxy as it will be created, and what is different about its pod.
pub fn proxy_of(
    identity: &Identity,
    stance: &Stance,
    image: Option<&str>,
) -> Result<(Deployment, Vec<Note>), ClusterError> {
    let spec = ProxySpec {
        session: identity.id.to_string(),
        owner: identity.owner.clone(),
        since: since_now(),
        public_key: identity.key.verifying_key().to_bytes(),
        image: image.unwrap_or_else(|| image::proxy().reference()).to_owned(),
        control_port: control_port(stance.pod()),
    };
    proxy_deployment(stance, &spec)
}

impl Session {
    /// Prepares a session; nothing is changed in the cluster yet.
    pub fn new(
        identity: Identity,
        found: Found,
        deployment: Deployment,
        compose_project: Option<String>,
        reporter: Reporter,
    ) -> Result<Self, Error> {
        let mut run_dir = RunDir::create(&identity.id)?;
        let record = SessionRecord {
            session: identity.id.to_string(),
            pid: std::process::id(),
            workload: found.stance.told(),
            namespace: found.stance.namespace().to_owned(),
            context: found.cluster.facts().context.clone(),
            server: found.cluster.facts().host.clone(),
            compose_project,
        };
        run_dir.record(&record)?;
        let control_port = control_port(found.stance.pod());
        Ok(Self {
            identity,
            run_dir,
            record,
            found,
            deployment,
            control_port,
            waiting: OnceLock::new(),
            reporter,
            take_over: false,
            grace: Grace::default(),
            claimed: watch::Sender::default(),
            begun: SetOnce::new(),
            keeping: OnceLock::new(),
            deleted: AtomicBool::new(false),
            haste: CancellationToken::new(),
        })
    }

    /// What it is to the workloads of its namespace.
    pub fn stance(&self) -> &Stance {
        &self.found.stance
    }

    /// The pod that its proxy's is made after.
    pub fn pod(&self) -> &PodModel {
        self.found.stance.pod()
    }

    /// Name of its proxy's Deployment.
    pub fn proxy_name(&self) -> &str {
        self.deployment.metadata.name.as_deref().unwrap_or_default()
    }

    /// Records the swap, if it is one, and creates the proxy.
    pub async fn begin(&self) -> Result<Proxy, Error> {
        if let Some(workload) = self.found.stance.workload() {
            self.claim(workload).await?;
        }
        let proxy = self.found.cluster.create_proxy(&self.deployment, &self.pod().container).await?;
        if self.begun.set(proxy.name.clone()).is_err() {
            return Err(Bug::new("a session began twice").into());
        }
        Ok(proxy)
    }

    async fn claim(&self, workload: &Workload) -> Result<(), Error> {
        let record = SwapRecord {
            session: self.identity.id.to_string(),
            owner: self.identity.owner.clone(),
            replicas: workload.replicas,
            proxy: self.deployment.metadata.name.clone().unwrap_or_default(),
            since: since_now(),
        };
        let step = self.reporter.step("record");
        let cluster = &self.found.cluster;
        let over = if self.take_over { cluster.swap_of(&workload.reference).await? } else { None };
        let over = over.map(|held| held.session);
        let Claimed { record, from } = cluster.claim(workload, record, over.as_deref()).await?;
        let from = from.map(|it| format!(", taken over from {} (session {})", it.owner, it.session));
        let (session, owner, from) = (&record.session, &record.owner, from.unwrap_or_default());
        step.done(format!("session {session} of {owner}, {} to come back to{from}", record.replicas));
        self.claimed.send_replace(Some(record));
        Ok(())
    }

    /// Waits until the proxy's program answers, and asks it what the container would see.
    pub async fn attach(&self, proxy: Proxy) -> Result<Attached, Error> {
        let step = self.reporter.step("proxy");
        step.progress("waiting for its pod");
        let pod = proxy.wait_running(POD_STARTS_WITHIN, |text| step.progress(text)).await?;
        let mut facts = format!("pod {}", pod.name);
        if let (Some(node), Some(ip)) = (&pod.node, &pod.ip) {
            facts = format!("{facts} on {node}, {ip}");
        }
        let cluster = self.found.cluster.clone();
        let mounts = pod.mounts.clone();
        let access = Access::new(cluster, proxy.clone(), self.control_port, self.identity.clone(), pod);
        let pod = access.control().await?.describe().await?;
        step.done(format!("{facts}, {} variables", pod.env.len()));
        if !pod.env_skipped.is_empty() {
            let names = pod.env_skipped.join(", ");
            self.reporter.warn(format!("variables whose values are not UTF-8 cannot pass the engine's API: {names}"));
        }
        Ok(Attached { access: Arc::new(access), proxy, pod, mounts })
    }

    /// Builds the tunnel between the proxy and the sidecar that listens in the session's directory. With a `--dns` the
    /// sidecar keeps the resolver that the engine gave it.
    pub async fn link(&self, attached: &Attached, engine: &Engine, net: &NetSpec, hold: Hold) -> Result<Link, Error> {
        let step = self.reporter.step("tunnel");
        let config = SidecarConfig {
            resolv_conf: net.dns.is_empty().then(|| attached.pod.resolv_conf.clone()),
            extra_hosts: self.host_aliases(),
            own_names: own_names(&attached.pod),
            declared: self.pod().ports.clone(),
            incoming: self.stance().incoming(),
            hold: hold.0,
            pod_ips: attached.pod.pod_ips.clone(),
            ..SidecarConfig::default()
        };
        let socket = self.run_dir.socket();
        sidecar::wait_listening(&socket).await?;
        let reach = Reach::of(engine, self.identity.id.as_str(), net).await?;
        let around = reach.look().await?;
        for warning in reach::overlaps(&around, &net.bypass, &reach::addresses_of(&attached.pod)) {
            self.reporter.warn(warning);
        }
        let direct = reach::describe(&around, &net.bypass);
        let plan = LinkPlan {
            access: Arc::clone(&attached.access),
            socket,
            config: reach.configured(config, &around),
            host_ports: net.host_ports.clone(),
            reach,
        };
        let link = Link::up(plan, self.reporter.clone()).await?;
        let SidecarStatus { capture, own_source, .. } = link.status.borrow().clone();
        step.done(format!("port-forward over WebSocket, capture by {}{direct}", capture.unwrap_or_default()));
        if let Some(why) = own_source {
            self.reporter.notice(format!("the app does not see the addresses of its callers in the cluster: {why}"));
        }
        Ok(link)
    }

    /// Where a workload is swapped: waits until the app listens, then takes the original out of the Service. Dropped when
    /// the app ends before.
    pub async fn swap(&self, attached: &Attached) -> Result<(), Error> {
        let Some(workload) = self.found.stance.workload() else { return Ok(()) };
        let step = self.reporter.step("swap").unless("the app ended before it was needed");
        let Workload { reference, services, .. } = workload;
        let swapped = async {
            let back = self.take_over(workload, attached, &step).await?;
            self.displace(reference, &step).await?;
            Ok::<_, ClusterError>(back)
        };
        let back = match swapped.await {
            Ok(back) => back,
            Err(error) => {
                step.fail();
                return Err(error.into());
            }
        };
        let answered = match &services[..] {
            [] => "its place is taken".to_owned(),
            services => format!("service {} is answered here", services.join(", ")),
        };
        step.done(match back {
            None => format!("{answered}; {} is at 0", reference.name),
            Some(back) => format!("{answered}, and by {}, which somebody has scaled back to {back}", reference.name),
        });
        Ok(())
    }

    /// `Some` with the number of replicas that somebody else has scaled it back to.
    async fn take_over(
        &self,
        workload: &Workload,
        attached: &Attached,
        step: &Step,
    ) -> Result<Option<i32>, ClusterError> {
        let cluster = &self.found.cluster;
        step.progress(format!("waiting until the app listens on {}", plan::ports(&workload.pod)));
        tokio::select! {
            ready = attached.proxy.wait_ready(APP_LISTENS_WITHIN, |text| step.progress(text)) => { ready?; }
            never = self.tell_closed_ports(attached) => match never {},
        }
        while let Some(record) = cluster.scale_or_learn(&workload.reference, self.identity.id.as_str(), 0).await? {
            self.rewrite_letter(record).await;
        }
        cluster.wait_gone(workload, |text| step.progress(text)).await
    }

    /// Warns of ports that the app listens on and the pod cannot open: the wait would be in vain, and silent. When the
    /// connection is lost the pod of the moment is asked, which may be another one.
    async fn tell_closed_ports(&self, attached: &Attached) -> Infallible {
        let mut told = Vec::new();
        loop {
            let Err(error) = self.watch_closed_ports(attached, &mut told).await;
            tracing::info!(%error, "the proxy's ports are watched anew");
            tokio::time::sleep(WATCH_AGAIN).await;
        }
    }

    async fn watch_closed_ports(
        &self,
        attached: &Attached,
        told: &mut Vec<PortFailure>,
    ) -> Result<Infallible, ClusterError> {
        let mut control = attached.access.control().await?;
        control.watch().await?;
        loop {
            for failure in control.status().await?.failed {
                if !told.contains(&failure) {
                    self.reporter
                        .warn(format!("port {} cannot be opened in the pod: {}", failure.port, failure.message));
                    told.push(failure);
                }
            }
        }
    }

    /// Has who calls from now on wait for the original: the app has ended, or is told to. To be called while the tunnel is
    /// there. Nobody calls a session that swaps nothing.
    pub async fn hand_over(&self, attached: &Attached) {
        if self.found.stance.workload().is_none() {
            return;
        }
        match self.tell_successors(&attached.access, Vec::new()).await {
            // Told a second time, the proxy is reached in the same way as the first.
            Ok(()) => drop(self.waiting.set(Arc::clone(&attached.access))),
            Err(why) => self.reporter.notice(format!("callers are refused until the original is back: {why}")),
        }
    }

    /// Has the proxy pass on its callers to the pods of the original that are ready.
    async fn pass_on(&self, workload: &Workload) {
        let Some(access) = self.waiting.get() else { return };
        let told = match self.found.cluster.serving(workload).await {
            Ok(to) => self.tell_successors(access, to).await,
            Err(error) => Err(error.to_string()),
        };
        if let Err(why) = told {
            self.reporter.notice(format!("who called meanwhile is not passed on to the original: {why}"));
        }
    }

    async fn tell_successors(&self, access: &Access, to: Vec<IpAddr>) -> Result<(), String> {
        let told = timeout(HAND_OVER_WITHIN, async { access.control().await?.hand_over(to).await });
        match told.await {
            Ok(told) => told.map_err(|error: ClusterError| error.to_string()),
            Err(_) => Err("the proxy does not answer".into()),
        }
    }

    /// Where nothing was swapped there is only the proxy.
    async fn leave(&self, step: &Step) -> Result<String, ClusterError> {
        self.found
            .cluster
            .delete_proxy(self.proxy_name(), self.identity.id.as_str(), |text| step.progress(text))
            .await?;
        Ok("proxy deleted; nothing was swapped".to_owned())
    }

    async fn restore(&self, workload: &Workload, step: &Step) -> Result<(String, Restored), ClusterError> {
        let reference = &workload.reference;
        let session = self.identity.id.as_str();
        if self.deleted.load(Ordering::Relaxed) {
            let proxy = self.proxy_name();
            let deleted = self.found.cluster.delete_proxy(proxy, session, |text| step.progress(text)).await;
            return self.end_without(reference, deleted);
        }
        let restored = self
            .found
            .cluster
            .restore(reference, Some(session), || self.pass_on(workload), |text| step.progress(text))
            .await?;
        let facts = if let Some(record) = &restored.record {
            let Restored { ready, replicas, .. } = restored;
            let set = if record.replicas == replicas {
                String::new()
            } else {
                format!(", as somebody has set it (it had {})", record.replicas)
            };
            format!("{} is back, {ready}/{replicas} ready{set}, proxy deleted", reference.name)
        } else {
            // Nothing was swapped, or whoever changed or deleted the workload took the record along; not the proxy.
            self.found.cluster.delete_proxy(self.proxy_name(), session, |text| step.progress(text)).await?;
            match &restored.holder {
                Some(other) => format!("{} is {}'s now (session {})", reference.name, other.owner, other.session),
                None if restored.missing => format!("{} is gone, proxy deleted", reference.name),
                None => format!("{} is as it was", reference.name),
            }
        };
        Ok((facts, restored))
    }

    /// The pod's `hostAliases`, as lines of `/etc/hosts`.
    fn host_aliases(&self) -> Vec<String> {
        let spec = self.pod().template.spec.as_ref();
        spec.into_iter()
            .flat_map(|spec| spec.host_aliases.iter().flatten())
            .map(|alias| {
                format!(
                    "{}\t{}",
                    alias.ip,
                    alias.hostnames.iter().flatten().map(String::as_str).collect::<Vec<_>>().join("\t")
                )
            })
            .collect()
    }
}

/// The names of the pod's own line in its `/etc/hosts`: with a `subdomain` (pods of a `StatefulSet`) the full one as well.
fn own_names(pod: &PodView) -> Vec<String> {
    let names = |line: &str| {
        let mut words = line.split('#').next()?.split_whitespace();
        let address = words.next()?.parse().ok()?;
        pod.pod_ips.contains(&address).then(|| words.map(str::to_owned).collect())
    };
    pod.hosts.lines().find_map(names).unwrap_or_default()
}
