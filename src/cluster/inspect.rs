//! What `tpdocker doctor` wants to know of a cluster, found out by reading alone.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};

use super::connect::Cluster;
use super::error::{Cause, ClusterError};
use super::pod_security::Level;

/// What admission does to the pods of a namespace.
/// <https://kubernetes.io/docs/tasks/configure-pod-container/enforce-standards-namespace-labels/>
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
/// Enough for a median, and over before anybody waits.
const ROUND_TRIPS: usize = 5;
/// The largest thing that every login may read: the description of the API, a few megabytes.
const LARGE: &str = "/openapi/v2";

/// Nodes and whether they have an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnNodes {
    /// Nodes that say that they have it. A node names 50 of its images, the largest first, unless told otherwise.
    pub with: usize,
    /// All nodes.
    pub all: usize,
}

impl Cluster {
    /// The median time of a small request and its answer.
    pub async fn round_trip(&self) -> Result<Duration, ClusterError> {
        let mut times = Vec::with_capacity(ROUND_TRIPS);
        for _ in 0..ROUND_TRIPS {
            let began = Instant::now();
            match self.ask("ask for the version", self.client.apiserver_version()).await {
                Ok(_) => {}
                // An answer is an answer.
                Err(error) if error.status().is_some() => {}
                Err(error) => return Err(error),
            }
            times.push(began.elapsed());
        }
        times.sort_unstable();
        Ok(times[ROUND_TRIPS / 2])
    }

    /// Downloads something large: how many bytes, in which time.
    pub async fn download(&self) -> Result<(usize, Duration), ClusterError> {
        let request = http::Request::get(LARGE).header(http::header::ACCEPT, "application/json").body(Vec::new());
        let request =
            request.map_err(|bad| ClusterError::request("measure a download", Cause::Way(bad.to_string())))?;
        let began = Instant::now();
        let text = self.ask("measure a download", self.client.request_text(request)).await?;
        Ok((text.len(), began.elapsed()))
    }

    /// The Pod Security level that the namespace enforces, as its label says it.
    pub async fn pod_security(&self) -> Result<Option<String>, ClusterError> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace = self.ask("see the namespace", namespaces.get_metadata(self.namespace())).await?;
        Ok(namespace.labels().get(ENFORCE).cloned())
    }

    /// Which nodes say that they have `image`.
    pub async fn nodes_with(&self, image: &str) -> Result<OnNodes, ClusterError> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let nodes = self.ask("list nodes", nodes.list(&ListParams::default())).await?.items;
        let has = |node: &&Node| {
            let images = node.status.iter().flat_map(|status| status.images.iter().flatten());
            // The runtime writes names in full: `docker.io/` in front of what Docker leaves without a registry.
            let mut names = images.flat_map(|it| it.names.iter().flatten());
            names.any(|name| name == image || name.strip_suffix(image).is_some_and(|registry| registry.ends_with('/')))
        };
        Ok(OnNodes { with: nodes.iter().filter(has).count(), all: nodes.len() })
    }
}

impl Level {
    /// The level of a namespace's label; `None` for `privileged`, and for what no release knows.
    pub fn of_label(label: &str) -> Option<Self> {
        match label {
            "baseline" => Some(Self::Baseline),
            "restricted" => Some(Self::Restricted),
            _ => None,
        }
    }
}
