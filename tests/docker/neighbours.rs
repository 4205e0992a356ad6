//! Who is on the networks of a sidecar, as the engine tells it.

use std::time::Duration;

use futures_util::StreamExt as _;
use tpdocker::docker::{Engine, EngineError, Joined, Sidecar, SidecarSpec};
use tpdocker::settings::NetSpec;

use crate::sidecar::spec;
use crate::support::{BUSYBOX, PATIENCE, Session, docker, reporter};

/// A range that neither engines nor clusters choose by themselves (RFC 2544: for benchmarks).
const SUBNETS: [&str; 2] = ["198.18.43.0/24", "fd00:18:43::/64"];

/// A network with everything on it.
struct Network(String);

impl Network {
    fn create(name: String) -> Self {
        let [v4, v6] = SUBNETS;
        docker(&["network", "create", "--ipv6", "--subnet", v4, "--subnet", v6, &name]);
        Self(name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for member in docker(&["ps", "-aq", "--filter", &format!("network={}", self.0)]).lines() {
            docker(&["rm", "-f", member]);
        }
        docker(&["network", "rm", &self.0]);
    }
}

async fn start(session: &Session, run_dir: &tempfile::TempDir, networks: &[String]) -> Sidecar {
    session.engine.ensure_sidecar_image(&reporter()).await.unwrap();
    let net = NetSpec { networks: networks.to_vec(), ..NetSpec::default() };
    session.engine.start_sidecar(&SidecarSpec { net, ..spec(session, run_dir.path()) }).await.unwrap()
}

/// The names of the siblings, without those that the engine makes of ids.
async fn names(engine: &Engine, sidecar: &Sidecar) -> Vec<Vec<String>> {
    let mut siblings = engine.neighbours(sidecar, false).await.unwrap().siblings;
    for sibling in &mut siblings {
        sibling.names.retain(|name| name.len() != 12 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
    siblings.into_iter().map(|sibling| sibling.names).collect()
}

#[tokio::test]
async fn the_members_of_a_network_are_known_by_name_and_both_addresses_as_they_come_and_go() {
    let Some(session) = Session::begin().await else { return };
    let network = Network::create(session.name("shop"));
    let run_dir = tempfile::tempdir().unwrap();
    let sidecar = start(&session, &run_dir, std::slice::from_ref(&network.0)).await;
    let engine = &session.engine;
    assert_eq!(engine.sidecar_of(&session.id).await.unwrap().unwrap().id, sidecar.id);
    let alone = engine.neighbours(&sidecar, false).await.unwrap();
    let subnets = SUBNETS.map(|subnet| subnet.parse().unwrap()).to_vec();
    assert_eq!(alone.networks, [Joined { name: network.0.clone(), subnets }]);
    assert_eq!(alone.siblings, [], "the sidecar is not its own sibling");

    let mut events = engine.neighbour_events();
    let database = session.name("database");
    let join = ["--network", &network.0, "--network-alias", "db"];
    docker(&[&["run", "-d", "--name", &database][..], &join, &[&BUSYBOX, "sleep", "600"]].concat());
    tokio::time::timeout(PATIENCE, events.next()).await.expect("an event tells it").unwrap().unwrap();
    let joined = async {
        while names(engine, &sidecar).await != [[database.clone(), "db".into()]] {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, joined).await.expect("the database is a sibling");
    let siblings = engine.neighbours(&sidecar, false).await.unwrap().siblings;
    let subnets = SUBNETS.map(|subnet| subnet.parse::<tpdocker_protocol::cidr::Cidr>().unwrap());
    assert!(subnets.iter().all(|subnet| siblings[0].addresses.iter().any(|a| subnet.contains(*a))), "{siblings:?}");

    let renamed = session.name("renamed");
    docker(&["rename", &database, &renamed]);
    assert_eq!(names(engine, &sidecar).await, [[renamed.clone(), "db".into()]]);
    docker(&["kill", &renamed]);
    let left = async { while !names(engine, &sidecar).await.is_empty() {} };
    tokio::time::timeout(PATIENCE, left).await.expect("the database is gone");
    engine.remove_all_of(&session.id).await.unwrap();
}

#[tokio::test]
async fn the_default_bridge_counts_only_when_it_is_asked_for_and_has_no_names() {
    let Some(session) = Session::begin().await else { return };
    let run_dir = tempfile::tempdir().unwrap();
    let sidecar = start(&session, &run_dir, &[]).await;
    let other = session.namespace();
    docker(&["network", "disconnect", "none", &other.name]);
    docker(&["network", "connect", "bridge", &other.name]);
    assert_eq!(session.engine.neighbours(&sidecar, false).await.unwrap().networks, []);
    let with = session.engine.neighbours(&sidecar, true).await.unwrap();
    assert_eq!(with.networks.iter().map(|network| network.name.as_str()).collect::<Vec<_>>(), ["bridge"]);
    assert_eq!(with.siblings, []);
    let hosts = docker(&["inspect", "-f", "{{.HostConfig.ExtraHosts}}", &sidecar.id]);
    assert_eq!(hosts, "[host.docker.internal:host-gateway]");
}

#[tokio::test]
async fn a_sidecar_that_is_removed_has_ended() {
    let Some(session) = Session::begin().await else { return };
    let run_dir = tempfile::tempdir().unwrap();
    let sidecar = start(&session, &run_dir, &[]).await;
    let ended = session.engine.sidecar_ended(&sidecar);
    tokio::pin!(ended);
    let early = tokio::time::timeout(Duration::from_millis(300), &mut ended).await;
    assert!(early.is_err(), "it runs: {early:?}");
    docker(&["rm", "-f", &sidecar.id]);
    let why = tokio::time::timeout(PATIENCE, ended).await.expect("its end is noticed");
    assert!(matches!(&why, EngineError::SidecarEnded { name } if *name == sidecar.name), "{why:?}");
    assert!(matches!(session.engine.sidecar_ended(&sidecar).await, EngineError::SidecarEnded { .. }), "a second look");
    assert!(session.engine.sidecar_of(&session.id).await.unwrap().is_none());
}
