//! The letter: its objects, what its token may do, and what its requests do when they come in time and when they come too
//! late.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::client::Body;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tpdocker::cluster::{Cluster, Lacking, Proxy, Stance, Workload};
use tpdocker::event::{Event, Reporter, Sink};
use tpdocker::session::identity::Identity;
use tpdocker::session::{Found, Session, proxy_of};
use tpdocker_protocol::contract::{LABEL_ROLE, LABEL_SESSION, ROLE_LETTER};
use tpdocker_protocol::control::{EnvVar, SwapRecord};
use tpdocker_protocol::letter::{Letter, LetterRequest, Method};

use crate::rights::load_proxy_image;
use crate::support::{in_namespace, kubeconfig, session_of, set_token, settings, target, web};

/// RBAC's authorizer hears of a new Role by a watch, and the garbage collector of a deleted owner.
const HEARD_WITHIN: Duration = Duration::from_secs(20);
const GRACE: Duration = Duration::from_mins(1);

/// A swapped workload, with the letter of the session that swapped it.
struct Swapped {
    cluster: Cluster,
    workload: Workload,
    session: Session,
    proxy: Proxy,
    letter: Letter,
}

impl Swapped {
    async fn begin(cluster: &Cluster) -> Self {
        Box::pin(Self::swap(cluster)).await
    }

    async fn swap(cluster: &Cluster) -> Self {
        let workload = cluster.resolve(&target("web")).await.unwrap();
        // Its proxy never starts: the letter is posted by the test.
        let (session, _) = session_of(cluster, Stance::Swap(workload.clone()));
        let proxy = session.begin().await.unwrap();
        let record = cluster.swap_of(&workload.reference).await.unwrap().unwrap();
        let env = [("HOST", "10.0.0.1"), ("PORT", "443")]
            .map(|(name, value)| EnvVar { name: format!("KUBERNETES_SERVICE_{name}"), value: value.into() });
        let head = cluster.letterhead(&workload, &record, &proxy, &env, GRACE).await.unwrap();
        let letter = cluster.seal(&head).await.unwrap();
        assert_eq!(letter.check(), Ok(()));
        assert!(letter.valid >= GRACE, "{:?}", letter.valid);
        cluster.scale(&workload.reference, session.identity.id.as_str(), 0).await.unwrap();
        Self { cluster: cluster.clone(), workload, session, proxy, letter }
    }

    /// The API server as the proxy would see it.
    async fn holder(&self) -> Client {
        let mut kubeconfig = kubeconfig();
        set_token(&mut kubeconfig, &self.letter.token.0);
        let namespace = self.cluster.namespace();
        tpdocker::cluster::Cluster::connect_with(kubeconfig, &settings(namespace)).await.unwrap().client().clone()
    }

    /// Posts the letter; the statuses that it got, each of which is one that the letter expects.
    async fn post(&self) -> Vec<u16> {
        let client = self.holder().await;
        let began = Instant::now();
        while status(&client, &self.letter.requests[0]).await == 403 {
            assert!(began.elapsed() < HEARD_WITHIN, "the Role is not in force");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut statuses = Vec::new();
        for request in &self.letter.requests {
            let answered = status(&client, request).await;
            assert!(request.done.contains(&answered), "{request:?}: {answered}");
            statuses.push(answered);
        }
        statuses
    }

    async fn assert_nothing_of_it_is_left(&self) {
        let began = Instant::now();
        loop {
            let left = self.objects().await;
            if left.is_empty() {
                return;
            }
            assert!(began.elapsed() < HEARD_WITHIN, "{left:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What has the session's label, with its role.
    async fn objects(&self) -> Vec<String> {
        let ours = ListParams::default().labels(&format!("{LABEL_SESSION}={}", self.session.identity.id));
        let (client, namespace) = (self.cluster.client().clone(), self.cluster.namespace());
        macro_rules! list {
            ($kind:ty) => {
                Api::<$kind>::namespaced(client.clone(), namespace).list(&ours).await.unwrap().items.iter().map(|it| {
                    assert_eq!(it.name_any(), self.proxy.name);
                    format!("{} {}", stringify!($kind), it.labels()[LABEL_ROLE])
                })
            };
        }
        let mut all: Vec<String> = list!(Deployment).collect();
        all.extend(list!(ServiceAccount));
        all.extend(list!(Role));
        all.extend(list!(RoleBinding));
        all
    }

    async fn record(&self) -> Option<SwapRecord> {
        self.cluster.swap_of(&self.workload.reference).await.unwrap()
    }
}

async fn status(client: &Client, request: &LetterRequest) -> u16 {
    let mut built = http::Request::builder().method(request.method.as_str()).uri(&request.path);
    if let Some(kind) = &request.content_type {
        built = built.header("Content-Type", kind);
    }
    let body = Body::from(request.body.clone().into_bytes());
    client.send(built.body(body).unwrap()).await.unwrap().status().as_u16()
}

async fn replicas(cluster: &Cluster) -> Option<i32> {
    deployments(cluster).get("web").await.unwrap().spec.unwrap().replicas
}

fn deployments(cluster: &Cluster) -> Api<Deployment> {
    Api::namespaced(cluster.client().clone(), cluster.namespace())
}

#[tokio::test]
async fn a_letter_puts_the_original_back_and_leaves_nothing() {
    in_namespace(|cluster| async move {
        web(&cluster, 2).await;
        let swapped = Swapped::begin(&cluster).await;
        let letter = format!("{} {ROLE_LETTER}", "ServiceAccount");
        assert_eq!(
            swapped.objects().await,
            ["Deployment proxy", &letter, &format!("Role {ROLE_LETTER}"), &format!("RoleBinding {ROLE_LETTER}")]
        );
        assert_eq!(swapped.post().await, [200, 200, 422, 200]);
        assert_eq!((replicas(&cluster).await, swapped.record().await), (Some(2), None));
        swapped.assert_nothing_of_it_is_left().await;
    })
    .await;
}

#[tokio::test]
async fn a_letter_that_comes_after_a_take_over_changes_nothing_that_is_the_others() {
    in_namespace(|cluster| async move {
        web(&cluster, 2).await;
        let swapped = Swapped::begin(&cluster).await;
        let from = swapped.session.identity.id.to_string();
        let record = SwapRecord { session: "other".into(), ..swapped.record().await.unwrap() };
        let other = cluster.claim(&swapped.workload, record, Some(&from)).await.unwrap().record;
        assert_eq!(swapped.post().await, [200, 422, 422, 200]);
        assert_eq!((replicas(&cluster).await, swapped.record().await), (Some(0), Some(other)));
        swapped.assert_nothing_of_it_is_left().await;
    })
    .await;
}

#[tokio::test]
async fn replicas_that_somebody_set_meanwhile_stay_and_the_record_goes() {
    in_namespace(|cluster| async move {
        web(&cluster, 2).await;
        let swapped = Swapped::begin(&cluster).await;
        let patch = Patch::Merge(json!({ "spec": { "replicas": 1 } }));
        deployments(&cluster).patch("web", &PatchParams::default(), &patch).await.unwrap();
        assert_eq!(swapped.post().await, [200, 422, 200, 200]);
        assert_eq!((replicas(&cluster).await, swapped.record().await), (Some(1), None));
        swapped.assert_nothing_of_it_is_left().await;
    })
    .await;
}

#[tokio::test]
async fn another_workload_of_the_same_name_is_left_alone_and_so_is_one_that_is_gone() {
    in_namespace(|cluster| async move {
        web(&cluster, 2).await;
        for comes_again in [true, false] {
            let swapped = Swapped::begin(&cluster).await;
            let record = swapped.record().await.unwrap();
            let api = deployments(&cluster);
            let found = api.get("web").await.unwrap();
            api.delete("web", &DeleteParams::background()).await.unwrap();
            let gone = kube::runtime::wait::await_condition(api.clone(), "web", |it: Option<&Deployment>| it.is_none());
            tokio::time::timeout(HEARD_WITHIN, gone).await.unwrap().unwrap();
            if comes_again {
                // With all that a GitOps tool would bring back, the record included.
                let mut again = Deployment { status: None, ..found };
                again.metadata.resource_version = None;
                again.metadata.uid = None;
                api.create(&PostParams::default(), &again).await.unwrap();
                assert_eq!(swapped.post().await, [200, 422, 422, 200]);
                assert_eq!((replicas(&cluster).await, swapped.record().await), (Some(0), Some(record)));
                let forget = Patch::Merge(json!({ "metadata": { "annotations": { "tpdocker.dev/swap": null } } }));
                api.patch("web", &PatchParams::default(), &forget).await.unwrap();
            } else {
                assert_eq!(swapped.post().await, [404, 404, 404, 200]);
            }
            swapped.assert_nothing_of_it_is_left().await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_token_opens_nothing_but_what_the_letter_asks_for_and_ends_with_the_proxy() {
    in_namespace(|cluster| async move {
        web(&cluster, 1).await;
        let swapped = Swapped::begin(&cluster).await;
        let client = swapped.holder().await;
        let base = format!("/apis/apps/v1/namespaces/{}/deployments", cluster.namespace());
        let look = &swapped.letter.requests[0];
        let began = Instant::now();
        while status(&client, look).await != 200 {
            assert!(began.elapsed() < HEARD_WITHIN, "the Role is not in force");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let ask = |method, path: String| LetterRequest { method, path, ..look.clone() };
        for refused in [
            ask(Method::Get, base.clone()),
            ask(Method::Get, format!("{base}/{}", swapped.proxy.name)),
            ask(Method::Get, format!("/api/v1/namespaces/{}/secrets", cluster.namespace())),
            ask(Method::Get, format!("/api/v1/namespaces/{}/pods", cluster.namespace())),
            ask(Method::Delete, format!("{base}/web")),
            ask(Method::Patch, format!("{base}/{}", swapped.proxy.name)),
        ] {
            assert_eq!(status(&client, &refused).await, 403, "{refused:?}");
        }
        swapped.session.end().await.unwrap();
        swapped.assert_nothing_of_it_is_left().await;
        let began = Instant::now();
        // The API server remembers a token for some seconds, but the Role is gone.
        while status(&client, look).await == 200 {
            assert!(began.elapsed() < HEARD_WITHIN, "the token is good for something still");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

/// Why the token is bound to an account that ends with the proxy: the pod keeps the account of the workload, for the app's
/// own token, and no API server binds a token of one account to a pod that runs under another.
#[tokio::test]
async fn no_token_of_the_letters_account_can_be_bound_to_the_proxys_pod() {
    in_namespace(|cluster| async move {
        web(&cluster, 1).await;
        let swapped = Swapped::begin(&cluster).await;
        let pod = swapped.proxy.wait_scheduled(HEARD_WITHIN, |_| {}).await.unwrap();
        let uid =
            Api::<Pod>::namespaced(cluster.client().clone(), cluster.namespace()).get(&pod.name).await.unwrap().uid();
        let bound = BoundObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(pod.name.clone()),
            uid,
        };
        let spec = TokenRequestSpec { bound_object_ref: Some(bound), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let accounts = Api::<ServiceAccount>::namespaced(cluster.client().clone(), cluster.namespace());
        let asked = accounts.create_token_request(&swapped.proxy.name, &PostParams::default(), &request).await;
        let refused = asked.unwrap_err().to_string();
        assert!(refused.contains("cannot bind token for serviceaccount"), "{refused}");
        swapped.session.end().await.unwrap();
    })
    .await;
}

/// Keeps the notices.
#[derive(Default)]
struct Notices(Mutex<Vec<String>>);

impl Sink for Notices {
    fn event(&self, event: &Event) {
        if let Event::Notice(text) = event {
            self.0.lock().unwrap().push(text.clone());
        }
    }
}

/// A session up to the letter, with what it said; `env` is what the pod has beside the kubelet's own.
async fn entrusted(cluster: &Cluster, env: serde_json::Value) -> (Session, Arc<Notices>) {
    let patch = json!({ "spec": { "template": { "spec": { "containers": [{ "name": "web", "env": env }] } } } });
    deployments(cluster).patch("web", &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
    let workload = cluster.resolve(&target("web")).await.unwrap();
    let (identity, stance) = (Identity::new().unwrap(), Stance::Swap(workload));
    let (proxy, _) = proxy_of(&identity, &stance, None).unwrap();
    let found = Found { cluster: cluster.clone(), stance, lacking: Lacking::default() };
    let notices = Arc::<Notices>::default();
    let session = Session::new(identity, found, proxy, None, Reporter::new(notices.clone())).unwrap();
    let proxy = session.begin().await.unwrap();
    let attached = session.attach(proxy).await.unwrap();
    session.entrust(&attached).await;
    (session, notices)
}

#[tokio::test]
async fn where_the_pod_cannot_reach_the_api_server_a_session_says_so_once() {
    load_proxy_image();
    in_namespace(|cluster| async move {
        web(&cluster, 0).await;
        // What a network policy does, but at once: nobody listens there.
        let nobody = json!([
            { "name": "KUBERNETES_SERVICE_HOST", "value": "127.0.0.1" },
            { "name": "KUBERNETES_SERVICE_PORT", "value": "1" },
        ]);
        let (session, notices) = Box::pin(entrusted(&cluster, nobody)).await;
        let began = Instant::now();
        while notices.0.lock().unwrap().is_empty() {
            assert!(began.elapsed() < HEARD_WITHIN * 2, "nothing is said");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        session.end().await.unwrap();
        let said = notices.0.lock().unwrap().join("\n");
        assert_eq!(said.matches("cannot put deployment/web back by itself").count(), 1, "{said}");
        assert!(said.contains("127.0.0.1, port 1"), "{said}");
    })
    .await;
}
