//! A namespace for one test, and a small workload in it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Service, ServiceAccount};
use kube::api::{DeleteParams, PostParams};
use kube::config::Kubeconfig;
use kube::{Api, Client};
use serde_json::json;
use tpdocker::cluster::swap::since_now;
use tpdocker::cluster::{Cluster, Lacking, ProxySpec, Stance, Workload};
use tpdocker::output::{Audience, Console};
use tpdocker::session::identity::Identity;
use tpdocker::session::{Found, Session, proxy_of};
use tpdocker::settings::{ClusterSettings, SwapTarget};
use tpdocker_protocol::control::SwapRecord;

/// In every cluster that the staging example was put into; it has Python.
pub const IMAGE: &str = "examplecom/thing:latest";

/// The cluster under test: `TPDOCKER_TEST_KUBECONFIG`, or the one that `make cluster` makes.
pub fn kubeconfig() -> Kubeconfig {
    Kubeconfig::read_from(kubeconfig_path()).unwrap_or_else(|error| panic!("no cluster ({error}): run `make cluster`"))
}

/// Where that is.
pub fn kubeconfig_path() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/staging/kubeconfig");
    std::env::var_os("TPDOCKER_TEST_KUBECONFIG").map_or(built, PathBuf::from)
}

pub fn settings(namespace: &str) -> ClusterSettings {
    ClusterSettings { context: None, namespace: Some(namespace.to_owned()) }
}

/// Gives the current login another token.
pub fn set_token(kubeconfig: &mut Kubeconfig, token: &str) {
    kubeconfig.auth_infos[0].auth_info = Some(serde_json::from_value(json!({ "token": token })).unwrap());
}

pub async fn connect(namespace: &str) -> Cluster {
    Cluster::connect_with(kubeconfig(), &settings(namespace)).await.unwrap()
}

/// Runs a test in a namespace of its own and deletes that, whatever happened.
pub async fn in_namespace<F: Future<Output = ()> + Send + 'static>(test: impl FnOnce(Cluster) -> F) {
    let client = connect("default").await.client().clone();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace: Namespace =
        serde_json::from_value(json!({ "metadata": { "generateName": "tpdocker-test-" } })).unwrap();
    let name = namespaces.create(&PostParams::default(), &namespace).await.unwrap().metadata.name.unwrap();
    // Pods are refused until the controller has made this.
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &name);
    let made = kube::runtime::wait::await_condition(accounts, "default", |it: Option<&ServiceAccount>| it.is_some());
    tokio::time::timeout(Duration::from_secs(20), made).await.unwrap().unwrap();

    let outcome = tokio::spawn(test(connect(&name).await)).await;
    if std::env::var_os("TPDOCKER_TEST_KEEP").is_none() {
        namespaces.delete(&name, &DeleteParams::background()).await.unwrap();
    }
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic.into_panic());
    }
}

pub async fn create<K>(cluster: &Cluster, object: serde_json::Value)
where
    K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + serde::Serialize
        + serde::de::DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(cluster.client().clone(), cluster.namespace());
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
}

/// A web server of `replicas` pods behind the Service `web-public`.
pub async fn web(cluster: &Cluster, replicas: i32) {
    create::<Deployment>(
        cluster,
        json!({
            "metadata": { "name": "web" },
            "spec": {
                "replicas": replicas,
                "selector": { "matchLabels": { "app": "web" } },
                "template": {
                    "metadata": { "labels": { "app": "web" } },
                    "spec": {
                        "terminationGracePeriodSeconds": 1,
                        "containers": [{
                            "name": "web",
                            "image": IMAGE,
                            "imagePullPolicy": "Never",
                            "command": ["python3", "-m", "http.server", "8080"],
                            "ports": [{ "name": "http", "containerPort": 8080 }],
                            "readinessProbe": { "tcpSocket": { "port": 8080 }, "periodSeconds": 1 },
                        }],
                    },
                },
            },
        }),
    )
    .await;
    create::<Service>(
        cluster,
        json!({
            "metadata": { "name": "web-public" },
            "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": "http" }] },
        }),
    )
    .await;
}

pub fn target(name: &str) -> SwapTarget {
    SwapTarget { kind: None, name: name.to_owned(), container: None }
}

pub fn proxy_spec(stance: &Stance, session: &str, image: &str) -> ProxySpec {
    ProxySpec {
        session: session.to_owned(),
        owner: "ann@laptop".into(),
        since: since_now(),
        public_key: [1; 32],
        image: image.to_owned(),
        control_port: tpdocker::cluster::template::control_port(stance.pod()),
    }
}

/// The Deployment `web` of [`web`], found.
pub async fn workload(cluster: &Cluster, replicas: i32) -> Workload {
    web(cluster, replicas).await;
    cluster.resolve(&target("web")).await.unwrap()
}

/// A session whose proxy never starts, and the proxy's name.
pub fn session_of(cluster: &Cluster, stance: Stance) -> (Session, String) {
    let identity = Identity::new().unwrap();
    let (proxy, _) = proxy_of(&identity, &stance, Some("example.com/nobody/has/this:1")).unwrap();
    let name = proxy.metadata.name.clone().unwrap();
    let found = Found { cluster: cluster.clone(), stance, lacking: Lacking::default() };
    let reporter = Console::new(Box::new(std::io::sink()), Audience::Pipe).reporter();
    (Session::new(identity, found, proxy, None, reporter).unwrap(), name)
}

/// The record of a session that swaps `web`.
pub fn record(session: &str) -> SwapRecord {
    SwapRecord {
        session: session.into(),
        owner: "ann@laptop".into(),
        replicas: -1,
        proxy: format!("web-tpdocker-{session}"),
        since: since_now(),
    }
}

/// Waits until `ready` pods of the Deployment `web` are ready.
pub async fn wait_web(client: &Client, namespace: &str, ready: i32) {
    let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let enough = move |it: Option<&Deployment>| {
        let status = it.and_then(|it| it.status.as_ref());
        status.is_some_and(|status| status.ready_replicas.unwrap_or(0) == ready)
    };
    let wait = kube::runtime::wait::await_condition(api, "web", enough);
    tokio::time::timeout(Duration::from_mins(1), wait).await.expect("web is ready in time").unwrap();
}
