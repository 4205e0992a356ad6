//! Record, scale, restore.

use std::future::ready;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use tpdocker::cluster::{Cluster, ClusterError, Stance};
use tpdocker::error::{Code, Explain as _};
use tpdocker_protocol::contract::ANNOTATION_SWAP;
use tpdocker_protocol::control::SwapRecord;

use crate::support::{in_namespace, record, session_of, target, wait_web, web, workload};

async fn deployment(cluster: &Cluster) -> Deployment {
    let api: Api<Deployment> = Api::namespaced(cluster.client().clone(), cluster.namespace());
    api.get("web").await.unwrap()
}

#[tokio::test]
async fn a_swap_is_recorded_scaled_and_restored_from_what_the_cluster_remembers() {
    in_namespace(|cluster| async move {
        web(&cluster, 2).await;
        wait_web(cluster.client(), cluster.namespace(), 2).await;
        let workload = cluster.resolve(&target("web")).await.unwrap();

        let written = cluster.record(&workload, record("s1")).await.unwrap();
        assert_eq!(written.replicas, 2);
        assert_eq!(cluster.record(&workload, record("s1")).await.unwrap(), written, "recorded twice");
        cluster.scale(&workload.reference, "s1", 0).await.unwrap();
        cluster.wait_gone(&workload, |_| {}).await.unwrap();
        assert_eq!(deployment(&cluster).await.spec.unwrap().replicas, Some(0));
        assert_eq!(cluster.swaps().await.unwrap(), [(workload.reference.clone(), written.clone())]);

        let mut said = Vec::new();
        let restored =
            cluster.restore(&workload.reference, Some("s1"), || ready(()), |text| said.push(text)).await.unwrap();
        assert_eq!((restored.record, restored.replicas, restored.ready), (Some(written), 2, 2));
        assert!(!said.is_empty());
        let after = deployment(&cluster).await;
        assert_eq!(after.spec.unwrap().replicas, Some(2));
        assert!(!after.metadata.annotations.unwrap_or_default().contains_key(ANNOTATION_SWAP));

        let again = cluster.restore(&workload.reference, None, || ready(()), |_| {}).await.unwrap();
        assert_eq!((again.record, again.ready), (None, 2));
    })
    .await;
}

#[tokio::test]
async fn another_sessions_workload_is_neither_taken_nor_restored() {
    in_namespace(|cluster| async move {
        let workload = workload(&cluster, 1).await;
        cluster.record(&workload, record("s1")).await.unwrap();

        let error = cluster.record(&workload, record("s2")).await.unwrap_err();
        assert_eq!(error.code(), Code::Held);
        let ClusterError::Held { owner, session, .. } = &error else { panic!("{error:?}") };
        assert_eq!((owner.as_str(), session.as_str()), ("ann@laptop", "s1"));
        let error = cluster.scale(&workload.reference, "s2", 0).await.unwrap_err();
        assert_eq!(error.code(), Code::Held);

        let restored = cluster.restore(&workload.reference, Some("s2"), || ready(()), |_| {}).await.unwrap();
        assert_eq!(restored.record, None);
        assert_eq!(cluster.swap_of(&workload.reference).await.unwrap().unwrap().session, "s1");
    })
    .await;
}

#[tokio::test]
async fn a_record_that_a_rollback_brought_back_holds_nobody_up() {
    in_namespace(|cluster| async move {
        let workload = workload(&cluster, 1).await;
        let ghost = SwapRecord { since: "2020-01-01T00:00:00Z".into(), ..record("s1") };
        cluster.record(&workload, ghost).await.unwrap();
        assert_eq!(cluster.record(&workload, record("s2")).await.unwrap().session, "s2");
    })
    .await;
}

#[tokio::test]
async fn of_two_sessions_at_once_one_wins() {
    in_namespace(|cluster| async move {
        let workload = workload(&cluster, 1).await;
        let attempts = ["a", "b", "c", "d"].map(|session| {
            let (cluster, workload) = (cluster.clone(), workload.clone());
            tokio::spawn(async move { cluster.record(&workload, record(session)).await })
        });
        let mut won = 0;
        for attempt in attempts {
            match attempt.await.unwrap() {
                Ok(_) => won += 1,
                Err(error) => assert_eq!(error.code(), Code::Held, "{error:?}"),
            }
        }
        assert_eq!(won, 1);
    })
    .await;
}

#[tokio::test]
async fn replicas_that_somebody_set_meanwhile_are_left_alone() {
    in_namespace(|cluster| async move {
        let workload = workload(&cluster, 2).await;
        cluster.record(&workload, record("s1")).await.unwrap();
        cluster.scale(&workload.reference, "s1", 0).await.unwrap();
        let api: Api<Deployment> = Api::namespaced(cluster.client().clone(), cluster.namespace());
        let patch = Patch::Merge(json!({ "spec": { "replicas": 1 } }));
        api.patch("web", &PatchParams::default(), &patch).await.unwrap();
        let restore = cluster.restore(&workload.reference, None, || ready(()), |_| {});
        let restored = tokio::time::timeout(Duration::from_mins(1), restore).await.unwrap().unwrap();
        assert_eq!((restored.replicas, restored.ready), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn restoring_what_is_gone_does_nothing() {
    in_namespace(|cluster| async move {
        web(&cluster, 0).await;
        let mut reference = cluster.resolve(&target("web")).await.unwrap().reference;
        reference.name = "gone".into();
        assert_eq!(cluster.restore(&reference, None, || ready(()), |_| {}).await.unwrap().record, None);
    })
    .await;
}

#[tokio::test]
async fn a_session_takes_its_proxy_along_when_its_record_or_the_workload_is_gone() {
    in_namespace(|cluster| async move {
        web(&cluster, 0).await;
        let api: Api<Deployment> = Api::namespaced(cluster.client().clone(), cluster.namespace());
        for workload_goes in [false, true] {
            let workload = cluster.resolve(&target("web")).await.unwrap();
            let (session, name) = session_of(&cluster, Stance::Swap(workload));
            session.begin().await.unwrap();
            assert!(api.get_opt(&name).await.unwrap().is_some());

            if workload_goes {
                api.delete("web", &DeleteParams::background()).await.unwrap();
                let gone =
                    kube::runtime::wait::await_condition(api.clone(), "web", |it: Option<&Deployment>| it.is_none());
                tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap().unwrap();
            } else {
                let patch = Patch::Merge(json!({ "metadata": { "annotations": { ANNOTATION_SWAP: null } } }));
                api.patch("web", &PatchParams::default(), &patch).await.unwrap();
            }
            session.end().await.unwrap();
            assert!(api.get_opt(&name).await.unwrap().is_none(), "the proxy stays behind");
        }
    })
    .await;
}
