//! Who holds a workload: the record is a lock, whoever wrote it last holds it, and the replicas of the original survive
//! every change of hands.

use std::future::ready;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tpdocker::cluster::{Cluster, ProxyState, Scope, Stance, Workload};
use tpdocker::error::{Code, Explain as _};
use tpdocker::session::Session;
use tpdocker::session::takeover::Lost;
use tpdocker_protocol::contract::ANNOTATION_SWAP;
use tpdocker_protocol::control::SwapRecord;

use crate::support::{connect, in_namespace, record, session_of, target, wait_web, web, workload};

/// As many as start at once.
const SESSIONS: usize = 10;
const PATIENCE: Duration = Duration::from_secs(20);

fn api(cluster: &Cluster) -> Api<Deployment> {
    Api::namespaced(cluster.client().clone(), cluster.namespace())
}

async fn replicas(cluster: &Cluster) -> Option<i32> {
    api(cluster).get("web").await.unwrap().spec.unwrap().replicas
}

/// [`SESSIONS`] sessions, each with a connection of its own, claim the workload at the same time; the record of the only
/// one that gets it, and how many were told that it is held.
async fn race(cluster: &Cluster, workload: &Workload, name: &str, over: Option<&str>) -> SwapRecord {
    let attempts: Vec<_> = futures_util::future::join_all((0..SESSIONS).map(|_| connect(cluster.namespace())))
        .await
        .into_iter()
        .enumerate()
        .map(|(number, cluster)| {
            let (workload, record) = (workload.clone(), record(&format!("{name}{number}")));
            let over = over.map(str::to_owned);
            tokio::spawn(async move { cluster.claim(&workload, record, over.as_deref()).await })
        })
        .collect();
    let mut won = Vec::new();
    for attempt in attempts {
        match attempt.await.unwrap() {
            Ok(claimed) => won.push(claimed.record),
            Err(error) => assert_eq!(error.code(), Code::Held, "{error:?}"),
        }
    }
    let [winner] = &won[..] else { panic!("{won:?}") };
    assert_eq!(cluster.swap_of(&workload.reference).await.unwrap().as_ref(), Some(winner));
    winner.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_ten_sessions_at_once_one_wins_and_of_ten_that_take_over_one_and_the_replicas_come_back() {
    in_namespace(|cluster| async move {
        web(&cluster, 2).await;
        wait_web(cluster.client(), cluster.namespace(), 2).await;
        let workload = cluster.resolve(&target("web")).await.unwrap();
        let first = race(&cluster, &workload, "a", None).await;
        assert_eq!(first.replicas, 2);
        cluster.scale(&workload.reference, &first.session, 0).await.unwrap();

        let second = race(&cluster, &workload, "b", Some(&first.session)).await;
        assert_eq!(second.replicas, 2, "the original's, and not those of the moment");
        assert_ne!(second.session, first.session);

        // The first has no say any more.
        let error = cluster.scale(&workload.reference, &first.session, 2).await.unwrap_err();
        assert_eq!(error.code(), Code::Held);
        let nothing = cluster.restore(&workload.reference, Some(&first.session), || ready(()), |_| {}).await.unwrap();
        assert_eq!((nothing.record, nothing.holder.as_ref(), replicas(&cluster).await), (None, Some(&second), Some(0)));
        let restored = cluster.restore(&workload.reference, Some(&second.session), || ready(()), |_| {}).await.unwrap();
        assert_eq!((restored.record, restored.ready, replicas(&cluster).await), (Some(second), 2, Some(2)));
    })
    .await;
}

#[tokio::test]
async fn whoever_scaled_the_workload_back_meanwhile_decides_what_a_take_over_comes_back_to() {
    in_namespace(|cluster| async move {
        let workload = workload(&cluster, 2).await;
        cluster.record(&workload, record("a")).await.unwrap();
        let patch = Patch::Merge(json!({ "spec": { "replicas": 1 } }));
        api(&cluster).patch("web", &PatchParams::default(), &patch).await.unwrap();
        let claimed = cluster.claim(&workload, record("b"), Some("a")).await.unwrap();
        assert_eq!((claimed.record.replicas, claimed.from.unwrap().session), (1, "a".to_owned()));
    })
    .await;
}

/// A session whose proxy never starts.
fn session(cluster: &Cluster, workload: &Workload) -> (Session, String) {
    session_of(cluster, Stance::Swap(workload.clone()))
}

async fn lost(session: &Session) -> Lost {
    tokio::time::timeout(PATIENCE, session.lost()).await.expect("it notices in time")
}

#[tokio::test]
async fn a_session_that_is_taken_over_learns_by_whom_and_neither_leaves_nor_takes_anything() {
    in_namespace(|cluster| async move {
        let workload = workload(&cluster, 0).await;
        let (first, first_proxy) = session(&cluster, &workload);
        first.begin().await.unwrap();

        let (refused, _) = session(&cluster, &workload);
        let error = refused.begin().await.unwrap_err();
        assert_eq!(error.code(), Code::Held);
        assert!(error.chain()[0].contains("not attached"), "{error:?}");
        assert!(error.hint().unwrap().contains("--take-over"), "{error:?}");

        let (second, second_proxy) = session(&cluster, &workload);
        let second = second.taking_over(true);
        second.begin().await.unwrap();
        let Lost::TakenOver { session: by, .. } = lost(&first).await else { panic!("not taken over") };
        assert_eq!(by, second.identity.id.as_str());
        assert_eq!(first.end().await.unwrap().unwrap().record, None);
        assert!(api(&cluster).get_opt(&first_proxy).await.unwrap().is_none(), "its proxy stays behind");
        assert!(api(&cluster).get_opt(&second_proxy).await.unwrap().is_some(), "the other's proxy is gone");

        assert!(second.end().await.unwrap().unwrap().record.is_some());
        assert!(api(&cluster).get_opt(&second_proxy).await.unwrap().is_none());
    })
    .await;
}

#[tokio::test]
async fn a_session_whose_swap_somebody_else_ended_learns_that() {
    in_namespace(|cluster| async move {
        let workload = workload(&cluster, 0).await;
        let (one, _) = session(&cluster, &workload);
        one.begin().await.unwrap();
        cluster.restore(&workload.reference, None, || ready(()), |_| {}).await.unwrap();
        assert!(matches!(lost(&one).await, Lost::Undone { .. }));
        assert_eq!(one.end().await.unwrap().unwrap().record, None);
    })
    .await;
}

#[tokio::test]
async fn who_took_a_dead_session_over_removes_its_proxy_at_the_end() {
    in_namespace(|cluster| async move {
        let workload = workload(&cluster, 0).await;
        let (dead, dead_proxy) = session(&cluster, &workload);
        dead.begin().await.unwrap();
        let (second, _) = session(&cluster, &workload);
        let second = second.taking_over(true);
        second.begin().await.unwrap();
        second.end().await.unwrap();
        assert!(api(&cluster).get_opt(&dead_proxy).await.unwrap().is_none(), "it stays behind");
        let holders = cluster.holders(Scope::Namespace).await.unwrap();
        assert_eq!((holders.swaps, holders.orphans), (vec![], vec![]));
    })
    .await;
}

#[tokio::test]
async fn a_proxy_whose_record_was_removed_is_nobodys() {
    in_namespace(|cluster| async move {
        let workload = workload(&cluster, 0).await;
        let (one, proxy) = session(&cluster, &workload);
        one.begin().await.unwrap();
        for scope in [Scope::Namespace, Scope::Everywhere] {
            let holders = cluster.holders(scope).await.unwrap();
            let own = holders.swaps.iter().find(|holder| holder.record.proxy == proxy).expect("the swap");
            assert_eq!((&own.workload, own.proxy), (&workload.reference, ProxyState::NotReady));
            assert!(holders.orphans.iter().all(|orphan| orphan.name != proxy));
        }
        let patch = Patch::Merge(json!({ "metadata": { "annotations": { ANNOTATION_SWAP: null } } }));
        api(&cluster).patch("web", &PatchParams::default(), &patch).await.unwrap();
        let holders = cluster.holders(Scope::Namespace).await.unwrap();
        assert_eq!(holders.swaps, []);
        let [orphan] = &holders.orphans[..] else { panic!("{holders:?}") };
        assert_eq!(orphan.name, proxy);
        let mut other = workload.reference.clone();
        other.name = "web2".into();
        assert!(orphan.is_of(&workload.reference) && !orphan.is_of(&other));
        assert_eq!(cluster.delete_orphans_of(&other, |_| {}).await.unwrap(), 0);
        assert_eq!(cluster.delete_orphans_of(&workload.reference, |_| {}).await.unwrap(), 1);
        assert_eq!(one.end().await.unwrap().unwrap().record, None);
    })
    .await;
}

#[tokio::test]
async fn a_session_that_swaps_nothing_has_a_proxy_of_its_own_and_learns_of_its_deletion() {
    in_namespace(|cluster| async move {
        let workload = workload(&cluster, 0).await;
        let likeness = cluster.resolve_likeness(&target("web")).await.unwrap();
        let (like, like_proxy) = session_of(&cluster, Stance::Like(likeness));
        let (alone, alone_proxy) = session_of(&cluster, Stance::outgoing(cluster.namespace()));
        for session in [&like, &alone] {
            session.begin().await.unwrap();
        }
        let holders = cluster.holders(Scope::Namespace).await.unwrap();
        assert_eq!((&holders.swaps[..], &holders.orphans[..]), (&[][..], &[][..]));
        let mut seen: Vec<_> = holders.others.iter().map(|it| (&it.stance[..], &it.proxy, it.proxy_state)).collect();
        seen.sort_by_key(|it| it.0);
        let state = ProxyState::NotReady;
        assert_eq!(seen, [("like deployment/web", &like_proxy, state), ("only outgoing", &alone_proxy, state)]);
        assert!(holders.others.iter().all(|it| it.owner == like.identity.owner && it.since.ends_with('Z')));
        assert_eq!(cluster.delete_orphans_of(&workload.reference, |_| {}).await.unwrap(), 0, "it goes on");

        cluster.delete_proxy(&like_proxy, like.identity.id.as_str(), |_| {}).await.unwrap();
        let told = lost(&like).await;
        assert!(matches!(&told, Lost::Deleted { proxy } if *proxy == like_proxy), "{told:?}");
        for session in [&like, &alone] {
            assert_eq!(session.end().await.unwrap(), None);
        }
        assert_eq!(cluster.holders(Scope::Namespace).await.unwrap().others, []);
    })
    .await;
}
