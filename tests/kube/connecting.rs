//! Login, namespaces and names.

use k8s_openapi::api::core::v1::Pod;
use kube::config::Kubeconfig;
use serde_json::json;
use tpdocker::cluster::{Cluster, ClusterError};
use tpdocker::error::{Code, Explain as _};
use tpdocker::settings::TargetKind;

use crate::support::{connect, create, in_namespace, kubeconfig, set_token, settings, target, web};

#[tokio::test]
async fn the_facts_name_context_host_version_and_namespace() {
    let cluster = connect("kube-system").await;
    let facts = cluster.facts();
    assert_eq!(facts.namespace, "kube-system");
    assert!(facts.version.as_ref().unwrap().starts_with("v1."), "{facts:?}");
    assert!(!facts.context.is_empty() && facts.host.contains(':'), "{facts:?}");
}

#[tokio::test]
async fn a_namespace_that_does_not_exist_is_said_with_those_near_it() {
    let error = Cluster::connect_with(kubeconfig(), &settings("kube-sistem")).await.unwrap_err();
    let ClusterError::NoNamespace { near, .. } = &error else { panic!("{error:?}") };
    assert_eq!(near, &["kube-system"]);
    assert_eq!(error.code(), Code::Workload);
}

async fn connect_to(change: impl FnOnce(&mut Kubeconfig)) -> ClusterError {
    let mut kubeconfig = kubeconfig();
    change(&mut kubeconfig);
    Cluster::connect_with(kubeconfig, &settings("default")).await.unwrap_err()
}

#[tokio::test]
async fn a_dead_server_a_foreign_certificate_and_a_bad_login_are_told_apart() {
    let dead =
        connect_to(|it| it.clusters[0].cluster.as_mut().unwrap().server = Some("https://127.0.0.1:1".into())).await;
    assert!(matches!(dead, ClusterError::Unreachable { .. }), "{dead:?}");

    let foreign = connect_to(|it| {
        let cluster = it.clusters[0].cluster.as_mut().unwrap();
        (cluster.certificate_authority, cluster.certificate_authority_data) = (None, None);
    })
    .await;
    assert!(matches!(foreign, ClusterError::Certificate { .. }), "{foreign:?}");

    let stranger = connect_to(|it| set_token(it, "nonsense")).await;
    assert!(matches!(stranger, ClusterError::Login { .. }), "{stranger:?}");

    let plugin = connect_to(|it| {
        it.auth_infos[0].auth_info = Some(
            serde_json::from_value(json!({ "exec": {
                "apiVersion": "client.authentication.k8s.io/v1beta1", "interactiveMode": "Never",
                "command": "sh", "args": ["-c", "echo token expired >&2; exit 3"],
            }}))
            .unwrap(),
        );
    })
    .await;
    let ClusterError::Login { source, .. } = &plugin else { panic!("{plugin:?}") };
    assert!(source.to_string().contains("token expired"), "{source}");
    for error in [dead, foreign, stranger, plugin] {
        assert_eq!(error.code(), Code::Kubeconfig);
        assert!(error.hint().is_some());
    }
}

#[tokio::test]
async fn a_workload_is_found_by_its_name_and_by_its_services() {
    in_namespace(|cluster| async move {
        web(&cluster, 0).await;
        let mut by_kind = target("web");
        by_kind.kind = Some(TargetKind::Deployment);
        for target in [target("web"), target("web-public"), by_kind] {
            let workload = cluster.resolve(&target).await.unwrap();
            assert_eq!((workload.reference.name.as_str(), workload.replicas), ("web", 0));
            assert_eq!(workload.services, ["web-public"]);
            assert_eq!(workload.pod.ports.iter().map(ToString::to_string).collect::<Vec<_>>(), ["8080/tcp"]);
        }

        let error = cluster.resolve(&target("wep")).await.unwrap_err();
        let ClusterError::NotFound { near, .. } = &error else { panic!("{error:?}") };
        assert_eq!(near, &["web"]);

        let mut wrong_kind = target("web");
        wrong_kind.kind = Some(TargetKind::StatefulSet);
        let error = cluster.resolve(&wrong_kind).await.unwrap_err();
        assert!(matches!(error, ClusterError::NotFound { .. }), "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn a_name_of_another_namespace_is_found_there() {
    in_namespace(|cluster| async move {
        let error = cluster.resolve(&target("kube-dns")).await.unwrap_err();
        let ClusterError::NotFound { elsewhere, .. } = &error else { panic!("{error:?}") };
        assert_eq!(elsewhere, &["kube-system"]);
        assert!(error.hint().unwrap().contains("-n kube-system"));
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_swapped_is_named() {
    in_namespace(|cluster| async move {
        web(&cluster, 0).await;
        // With a token it would be refused until the controller has made one (before Kubernetes 1.24).
        let spec = json!({ "automountServiceAccountToken": false, "containers": [{ "name": "a", "image": "none" }] });
        create::<Pod>(&cluster, json!({ "metadata": { "name": "alone" }, "spec": spec })).await;
        let error = cluster.resolve(&target("alone")).await.unwrap_err();
        assert_eq!(error.to_string(), "Pod `alone` cannot be swapped: it stands alone: nothing would start it again afterwards");

        use k8s_openapi::api::core::v1::Service;
        let service = |name: &str, selector| json!({ "metadata": { "name": name }, "spec": { "selector": selector, "ports": [{ "port": 80 }] } });
        create::<Service>(&cluster, service("outside", json!(null))).await;
        let error = cluster.resolve(&target("outside")).await.unwrap_err();
        assert!(error.to_string().contains("it has no selector"), "{error}");
        create::<Service>(&cluster, service("nobody", json!({ "app": "nobody" }))).await;
        let error = cluster.resolve(&target("nobody")).await.unwrap_err();
        assert!(error.to_string().contains("fits no Deployment"), "{error}");
    })
    .await;
}
