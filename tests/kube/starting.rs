//! A proxy that starts, and proxies that do not.

use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use tpdocker::cluster::{Cluster, ClusterError, Stance, proxy_deployment};
use tpdocker::error::{Code, Explain as _};

use crate::manifests;
use crate::support::{IMAGE, create, in_namespace, proxy_spec, target, web};

/// Starts a proxy with `image` for the workload `web`, and how its wait ended.
async fn start(cluster: &Cluster, image: &str, change: impl FnOnce(&mut Deployment)) -> Result<String, ClusterError> {
    let stance = Stance::Swap(cluster.resolve(&target("web")).await.unwrap());
    let (mut deployment, _) = proxy_deployment(&stance, &proxy_spec(&stance, "s1", image)).unwrap();
    change(&mut deployment);
    let proxy = cluster.create_proxy(&deployment, &stance.pod().container).await?;
    // A container that crashes may be seen running first.
    Ok(proxy.wait_ready(Duration::from_mins(1), |_| {}).await?.name)
}

/// Asserts a failure within 10 s of the kind [`ClusterError::Proxy`], whose text contains `words`.
async fn fails(cluster: Cluster, words: &str, image: &str, change: impl FnOnce(&mut Deployment)) -> ClusterError {
    let began = Instant::now();
    let error = Box::pin(start(&cluster, image, change)).await.unwrap_err();
    let took = began.elapsed();
    assert_eq!(error.code(), Code::Proxy, "{error:?}");
    assert!(error.to_string().contains(words), "{error}");
    assert!(took < Duration::from_secs(10), "said after {took:?}: {error}");
    error
}

fn container(deployment: &mut Deployment) -> &mut k8s_openapi::api::core::v1::Container {
    &mut deployment.spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers[0]
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_is_said_within_10_s_with_the_cure() {
    in_namespace(|cluster| async move {
        web(&cluster, 0).await;
        let error = fails(cluster, "127.0.0.1:1/none:none", "127.0.0.1:1/none:none", |_| {}).await;
        assert!(error.hint().unwrap().contains("tpdocker image push"), "{:?}", error.hint());
    })
    .await;
}

#[tokio::test]
async fn an_image_without_the_proxy_is_said_within_10_s() {
    in_namespace(|cluster| async move {
        web(&cluster, 0).await;
        fails(cluster, "/tpdocker-proxy", IMAGE, |_| {}).await;
    })
    .await;
}

#[tokio::test]
async fn a_missing_secret_is_said_within_10_s() {
    in_namespace(|cluster| async move {
        web(&cluster, 0).await;
        fails(cluster, "absent", IMAGE, |deployment| {
            let env = json!([{ "secretRef": { "name": "absent" } }]);
            container(deployment).env_from = Some(serde_json::from_value(env).unwrap());
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_crash_is_said_within_10_s_with_the_last_output() {
    in_namespace(|cluster| async move {
        web(&cluster, 0).await;
        fails(cluster, "no such key", IMAGE, |deployment| {
            let container = container(deployment);
            container.command = Some(["sh", "-c", "echo no such key >&2; exit 7"].map(str::to_owned).into());
            container.args = None;
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_quota_that_is_used_up_is_said_within_10_s() {
    in_namespace(|cluster| async move {
        web(&cluster, 0).await;
        create::<ResourceQuota>(
            &cluster,
            json!({ "metadata": { "name": "none" }, "spec": { "hard": { "pods": "0" } } }),
        )
        .await;
        fails(cluster, "exceeded quota", IMAGE, |_| {}).await;
    })
    .await;
}

#[tokio::test]
async fn a_proxy_runs_becomes_ready_and_is_deleted() {
    in_namespace(|cluster| async move {
        web(&cluster, 0).await;
        let stance = Stance::Swap(cluster.resolve(&target("web")).await.unwrap());
        let (mut deployment, _) = proxy_deployment(&stance, &proxy_spec(&stance, "s1", IMAGE)).unwrap();
        // Another program in the proxy's place: what is tested is the wait.
        let stand_in = container(&mut deployment);
        stand_in.command = Some(["python3", "-m", "http.server", "8080"].map(str::to_owned).into());
        stand_in.args = None;
        stand_in.readiness_probe =
            Some(serde_json::from_value(json!({ "tcpSocket": { "port": 8080 }, "periodSeconds": 1 })).unwrap());
        let proxy = cluster.create_proxy(&deployment, &stance.pod().container).await.unwrap();
        let within = Duration::from_mins(1);
        let scheduled = proxy.wait_scheduled(within, |_| {}).await.unwrap();
        let running = proxy.wait_running(within, |_| {}).await.unwrap();
        let ready = proxy.wait_ready(within, |_| {}).await.unwrap();
        assert_eq!((&scheduled.name, &running.name), (&ready.name, &ready.name));
        assert!(ready.ip.is_some() && ready.node.is_some(), "{ready:?}");
        for _ in 0..2 {
            cluster.delete_proxy(&proxy.name, &proxy.session, |_| {}).await.unwrap();
        }
        let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(cluster.client().clone(), cluster.namespace());
        let left = pods.get_opt(&ready.name).await.unwrap();
        assert!(left.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some()));
    })
    .await;
}

#[tokio::test]
async fn the_api_server_accepts_every_golden_deployment() {
    in_namespace(|cluster| async move {
        let api: Api<Deployment> = Api::namespaced(cluster.client().clone(), cluster.namespace());
        let dry_run = PostParams { dry_run: true, ..PostParams::default() };
        for name in ["plain", "siblings", "restricted", "privileged", "stateful", "volumes"] {
            let mut workload = manifests::workload(&manifests::read(name), None);
            workload.reference.namespace = cluster.namespace().to_owned();
            let stance = Stance::Swap(workload);
            let (deployment, _) = proxy_deployment(&stance, &proxy_spec(&stance, "s1", "img")).unwrap();
            api.create(&dry_run, &deployment).await.unwrap_or_else(|error| panic!("{name}: {error}"));
            let mut likeness = manifests::likeness(&manifests::read(name), None);
            likeness.namespace = cluster.namespace().to_owned();
            let stance = Stance::Like(likeness);
            let (deployment, _) = proxy_deployment(&stance, &proxy_spec(&stance, "s2", "img")).unwrap();
            api.create(&dry_run, &deployment).await.unwrap_or_else(|error| panic!("like {name}: {error}"));
        }
        let stance = Stance::outgoing(cluster.namespace());
        let (deployment, _) = proxy_deployment(&stance, &proxy_spec(&stance, "s3", "img")).unwrap();
        api.create(&dry_run, &deployment).await.unwrap();
    })
    .await;
}
