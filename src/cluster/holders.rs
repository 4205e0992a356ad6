//! Who holds what: the swapped workloads of a namespace, or of all of them, each with its record and its proxy; the
//! sessions that swap nothing, and so have a proxy and no record; and the proxies of nobody.
//!
//! A proxy tells by an annotation that its session swaps nothing. Such a session is taken for dead when it is not
//! attached to its proxy, and has had the time to.
//!
//! The order of the questions matters. A session writes its record before it makes its proxy and removes it after, so
//! with the proxies listed first, a proxy without a record is nobody's: its record went, by another's hand, while it
//! stayed. The other way round every session that begins would look like that for a moment.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde::Serialize;
use tpdocker_protocol::contract::{
    ANNOTATION_OWNER, ANNOTATION_SINCE, ANNOTATION_STANCE, LABEL_ROLE, LABEL_SESSION, ROLE_PROXY,
};
use tpdocker_protocol::control::SwapRecord;

use super::connect::Cluster;
use super::error::ClusterError;
use super::stance::swaps_nothing;
use super::template::proxy_name;
use super::workload::WorkloadRef;

/// How long a session that swaps nothing may take from its proxy's creation until it is attached: as long as the proxy's
/// pod may take to start.
const ATTACHES_WITHIN: Duration = Duration::from_mins(5);

/// Where to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In the namespace in use.
    Namespace,
    /// In all of them.
    Everywhere,
}

/// What a proxy's readiness tells: it is ready while a session is attached and its app listens, and, where a letter lets its
/// callers wait, for the grace time after the session was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyState {
    /// A session is attached, or was until a moment ago, and its app listens.
    Attached,
    /// There is a proxy; no session is attached, or its app does not listen.
    NotReady,
    /// There is none.
    Missing,
}

impl std::fmt::Display for ProxyState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Attached => "attached",
            Self::NotReady => "not attached, or its app does not listen",
            Self::Missing => "without a proxy",
        })
    }
}

/// A swapped workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Which.
    pub workload: WorkloadRef,
    /// What its session wrote.
    pub record: SwapRecord,
    /// Its proxy.
    pub proxy: ProxyState,
}

/// A session that swaps nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Other {
    /// Its namespace.
    pub namespace: String,
    /// What it is: `like deployment/web`, `only outgoing`.
    pub stance: String,
    /// Its id.
    pub session: String,
    /// `user@host`.
    pub owner: String,
    /// RFC 3339.
    pub since: String,
    /// Name of its proxy's Deployment.
    pub proxy: String,
    /// The proxy.
    pub proxy_state: ProxyState,
}

/// A proxy of nobody: no record speaks of it, and no session that swaps nothing is attached to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Orphan {
    /// Its namespace.
    pub namespace: String,
    /// Name of the Deployment.
    pub name: String,
    /// The session that made it.
    pub session: String,
}

impl Orphan {
    /// Whether it stood in for `workload`.
    pub fn is_of(&self, workload: &WorkloadRef) -> bool {
        self.namespace == workload.namespace && self.name == proxy_name(&workload.name, &self.session)
    }
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holders {
    /// The swapped workloads.
    pub swaps: Vec<Holder>,
    /// The sessions that swap nothing.
    pub others: Vec<Other>,
    /// Proxies of nobody.
    pub orphans: Vec<Orphan>,
}

struct FoundProxy {
    orphan: Orphan,
    state: ProxyState,
    /// Of a session that swaps nothing.
    other: Option<Other>,
    age: Duration,
}

impl FoundProxy {
    fn of(proxy: &Deployment) -> Self {
        let annotation = |key: &str| proxy.annotations().get(key).cloned().unwrap_or_default();
        let orphan = Orphan {
            namespace: proxy.namespace().unwrap_or_default(),
            name: proxy.name_any(),
            session: proxy.labels().get(LABEL_SESSION).cloned().unwrap_or_default(),
        };
        let (stance, state) = (annotation(ANNOTATION_STANCE), state_of(proxy));
        let other = swaps_nothing(&stance).then(|| Other {
            namespace: orphan.namespace.clone(),
            stance,
            session: orphan.session.clone(),
            owner: annotation(ANNOTATION_OWNER),
            since: annotation(ANNOTATION_SINCE),
            proxy: orphan.name.clone(),
            proxy_state: state,
        });
        let age = proxy.creation_timestamp().map(|made| Timestamp::now().duration_since(made.0));
        // A clock that is behind the server's makes it young.
        let age = age.and_then(|age| age.try_into().ok()).unwrap_or_default();
        Self { orphan, state, other, age }
    }

    /// The session that swaps nothing and is attached, or may be on its way.
    fn living_other(&self) -> Option<&Other> {
        self.other.as_ref().filter(|_| self.state == ProxyState::Attached || self.age < ATTACHES_WITHIN)
    }
}

impl Cluster {
    /// Who holds what at this moment.
    pub async fn holders(&self, scope: Scope) -> Result<Holders, ClusterError> {
        let proxies = self.proxies(scope).await?;
        let swaps = self.swaps_in(scope).await?;
        let spoken_of: BTreeSet<&str> = swaps.iter().map(|(_, record)| record.session.as_str()).collect();
        let others = proxies.iter().filter_map(FoundProxy::living_other).cloned().collect();
        let orphans = proxies.iter().filter(|proxy| proxy.living_other().is_none()).map(|proxy| &proxy.orphan);
        let orphans = orphans.filter(|proxy| !spoken_of.contains(proxy.session.as_str())).cloned().collect();
        let state = |workload: &WorkloadRef, record: &SwapRecord| {
            let own =
                |proxy: &&FoundProxy| proxy.orphan.namespace == workload.namespace && proxy.orphan.name == record.proxy;
            proxies.iter().find(own).map_or(ProxyState::Missing, |proxy| proxy.state)
        };
        let swaps = swaps.into_iter().map(|(workload, record)| {
            let proxy = state(&workload, &record);
            Holder { workload, record, proxy }
        });
        Ok(Holders { swaps: swaps.collect(), others, orphans })
    }

    /// The state of the proxy that a record names.
    pub async fn proxy_state(&self, record: &SwapRecord) -> Result<ProxyState, ClusterError> {
        let proxies = self.api::<Deployment>();
        let proxy = self.ask("look for the other session's proxy", proxies.get_opt(&record.proxy)).await?;
        Ok(proxy.as_ref().map_or(ProxyState::Missing, state_of))
    }

    /// Deletes the proxies that stood in for `workload` and that no record speaks of; their number.
    pub async fn delete_orphans_of(
        &self,
        workload: &WorkloadRef,
        mut progress: impl FnMut(String),
    ) -> Result<usize, ClusterError> {
        let orphans = self.holders(Scope::Namespace).await?.orphans;
        let mut deleted = 0;
        for orphan in orphans.iter().filter(|orphan| orphan.is_of(workload)) {
            self.delete_proxy(&orphan.name, &orphan.session, &mut progress).await?;
            deleted += 1;
        }
        Ok(deleted)
    }

    async fn proxies(&self, scope: Scope) -> Result<Vec<FoundProxy>, ClusterError> {
        let api = match scope {
            Scope::Namespace => self.api::<Deployment>(),
            Scope::Everywhere => Api::all(self.client.clone()),
        };
        let ours = ListParams::default().labels(&format!("{LABEL_ROLE}={ROLE_PROXY},{LABEL_SESSION}"));
        let list = self.ask("list the proxies", api.list(&ours)).await?;
        Ok(list.items.iter().map(FoundProxy::of).collect())
    }
}

pub(super) fn state_of(proxy: &Deployment) -> ProxyState {
    let ready = proxy.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    if ready > 0 { ProxyState::Attached } else { ProxyState::NotReady }
}
