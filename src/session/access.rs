//! How this session reaches its proxy, whichever pod that is at the moment.

use std::time::Duration;

use tokio::sync::Mutex;
use tpdocker_protocol::admission::Role;

use super::identity::Identity;
use crate::cluster::{Cluster, ClusterError, ControlClient, PortForward, Proxy, ProxyPod, control};

/// How long a pod that came in the place of a lost one may take; somebody who waits for the tunnel is told meanwhile.
const NEXT_POD: Duration = Duration::from_secs(30);

/// The way to the proxy.
#[derive(Debug)]
pub struct Access {
    cluster: Cluster,
    proxy: Proxy,
    port: u16,
    identity: Identity,
    pod: Mutex<ProxyPod>,
}

impl Access {
    /// To `port` of the loopback of `pod`.
    pub fn new(cluster: Cluster, proxy: Proxy, port: u16, identity: Identity, pod: ProxyPod) -> Self {
        Self { cluster, proxy, port, identity, pod: Mutex::new(pod) }
    }

    fn identity(&self) -> control::Identity<'_> {
        control::Identity { key: &self.identity.key, session: self.identity.id.as_str() }
    }

    /// An admitted connection. When the pod that answered last does not, the Deployment may have another by now.
    pub async fn open(&self, role: Role) -> Result<PortForward, ClusterError> {
        let mut pod = self.pod.lock().await;
        match self.cluster.dial(&pod.name, self.port, self.identity(), role).await {
            Ok(stream) => return Ok(stream),
            Err(error) => tracing::debug!(%error, pod = pod.name, "looking for another pod of the proxy"),
        }
        *pod = self.proxy.wait_running(NEXT_POD, |_| {}).await?;
        self.cluster.dial(&pod.name, self.port, self.identity(), role).await
    }

    /// Name of the pod that answered last.
    pub async fn pod(&self) -> String {
        self.pod.lock().await.name.clone()
    }

    /// A control connection to the pod that answered last: who carries the tunnel looks for another.
    pub async fn control_of_last(&self) -> Result<ControlClient<PortForward>, ClusterError> {
        let pod = self.pod().await;
        Ok(ControlClient::new(self.cluster.dial(&pod, self.port, self.identity(), Role::Control).await?))
    }

    /// A control connection.
    pub async fn control(&self) -> Result<ControlClient<PortForward>, ClusterError> {
        Ok(ControlClient::new(self.open(Role::Control).await?))
    }
}
