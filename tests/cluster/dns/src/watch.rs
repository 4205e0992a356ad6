//! Keeps the zone in step with the cluster: every change makes a new one.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use hickory_server::proto::rr::Name;
use k8s_openapi::api::core::v1::{Endpoints, Service};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client};
use tokio::sync::watch::{Receiver, channel};
use tokio::task::JoinHandle;

use crate::records::{Snapshot, zone as make_zone};
use crate::{Error, SharedZone};

/// Waits until the cluster is known; then gives the zone and the task that renews it.
pub async fn zone(
    client: Client,
    domain: Name,
    hosts: Vec<(IpAddr, Name)>,
) -> Result<(Receiver<SharedZone>, JoinHandle<()>), Error> {
    let (services, services_writer) = reflector::store();
    let (endpoints, endpoints_writer) = reflector::store();
    let (services_seen, endpoints_seen) = (services.clone(), endpoints.clone());
    let snapshot = move || Snapshot { services: services.state(), endpoints: endpoints.state(), hosts: hosts.clone() };
    let (zone_tx, zone_rx) = channel(Arc::new(make_zone(&domain, &Snapshot::default())));

    let changes = stream::select(
        watcher(Api::<Service>::all(client.clone()), watcher::Config::default())
            .default_backoff()
            .reflect(services_writer)
            .map(|event| event.map(drop)),
        watcher(Api::<Endpoints>::all(client), watcher::Config::default())
            .default_backoff()
            .reflect(endpoints_writer)
            .map(|event| event.map(drop)),
    );
    let watching = tokio::spawn(async move {
        let mut changes = pin!(changes);
        while let Some(change) = changes.next().await {
            match change {
                Ok(()) => drop(zone_tx.send_replace(Arc::new(make_zone(&domain, &snapshot())))),
                Err(error) => eprintln!("watching: {error}"), // the stream tries again by itself
            }
        }
    });
    services_seen.wait_until_ready().await?;
    endpoints_seen.wait_until_ready().await?;
    Ok((zone_rx, watching))
}
