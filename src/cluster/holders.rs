//! Who holds what: the swapped workloads of a namespace, or of all of them, each with its record and its proxy, and the
//! proxies that no record speaks of.
//!
//! The order of the questions matters. A session writes its record before it makes its proxy and removes it after, so
//! with the proxies listed first, a proxy without a record is nobody's: its record went, by another's hand, while it
//! stayed. The other way round every session that begins would look like that for a moment.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde::Serialize;
use tpdocker_protocol::contract::{LABEL_ROLE, LABEL_SESSION, ROLE_PROXY};
use tpdocker_protocol::control::SwapRecord;

use super::connect::Cluster;
use super::error::ClusterError;
use super::template::proxy_name;
use super::workload::WorkloadRef;

/// Where to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In the namespace in use.
    Namespace,
    /// In all of them.
    Everywhere,
}

/// What a proxy's readiness tells: it is ready only while a session is attached and its app listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyState {
    /// A session is attached, and its app listens.
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

/// A proxy that no record speaks of.
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
    /// Proxies of nobody.
    pub orphans: Vec<Orphan>,
}

struct FoundProxy {
    orphan: Orphan,
    state: ProxyState,
}

impl Cluster {
    /// Who holds what at this moment.
    pub async fn holders(&self, scope: Scope) -> Result<Holders, ClusterError> {
        let proxies = self.proxies(scope).await?;
        let swaps = self.swaps_in(scope).await?;
        let spoken_of: BTreeSet<&str> = swaps.iter().map(|(_, record)| record.session.as_str()).collect();
        let orphans = proxies.iter().map(|proxy| &proxy.orphan);
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
        Ok(Holders { swaps: swaps.collect(), orphans })
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
        let found = list.items.iter().map(|proxy| FoundProxy {
            orphan: Orphan {
                namespace: proxy.namespace().unwrap_or_default(),
                name: proxy.name_any(),
                session: proxy.labels().get(LABEL_SESSION).cloned().unwrap_or_default(),
            },
            state: state_of(proxy),
        });
        Ok(found.collect())
    }
}

pub(super) fn state_of(proxy: &Deployment) -> ProxyState {
    let ready = proxy.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    if ready > 0 { ProxyState::Attached } else { ProxyState::NotReady }
}
