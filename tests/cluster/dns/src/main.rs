//! The DNS server of the test cluster.
//!
//! It watches Services and Endpoints and answers as the Kubernetes DNS specification says, which is
//! what `CoreDNS` does in most clusters; `CoreDNS` itself cannot be had from a package. Three inputs: the API
//! server (by the pod's service account), the pod's resolv.conf for upstream, and a hosts file for names
//! that only this cluster knows.
//!
//! ```text
//! watch --Snapshot--> records --Zone--> handler <--question-- client
//!                                          └── forward --> upstream
//! ```

mod forward;
mod handler;
mod records;
mod watch;
mod zone;

use std::sync::Arc;
use std::time::Duration;
use std::{env, fs};

use hickory_server::Server;
use hickory_server::proto::rr::Name;
use tokio::net::{TcpListener, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};

type Error = Box<dyn std::error::Error + Send + Sync>;

const TCP_IDLE: Duration = Duration::from_secs(10);
/// Replies that may wait for a slow TCP client.
const TCP_REPLIES: usize = 32;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let listen = env::var("LISTEN").unwrap_or_else(|_| "0.0.0.0:53".to_owned());
    let domain = Name::from_ascii(env::var("CLUSTER_DOMAIN").unwrap_or_else(|_| "cluster.local.".to_owned()))?;
    let hosts = match env::var("HOSTS_FILE") {
        Ok(file) => records::hosts(&fs::read_to_string(file)?),
        Err(_) => Vec::new(),
    };
    let upstreams = forward::Upstreams::parse(&fs::read_to_string("/etc/resolv.conf")?);

    // Bound only when the first answer would be right: an open port is the readiness probe.
    let client = kube::Client::try_default().await?;
    let (zone, watching) = watch::zone(client, domain, hosts).await?;
    let mut server = Server::new(handler::Handler { zone, upstreams, turn: 0.into() });
    server.register_socket(UdpSocket::bind(&listen).await?);
    server.register_listener(TcpListener::bind(&listen).await?, TCP_IDLE, TCP_REPLIES);
    println!("listening on {listen}");

    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(server.shutdown_gracefully().await?),
        ended = server.block_until_done() => Ok(ended?),
        ended = watching => Err(format!("the watch ended: {ended:?}").into()),
    }
}

type SharedZone = Arc<zone::Zone>;
