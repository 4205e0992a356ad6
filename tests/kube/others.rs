//! What others do to a workload while it is swapped: seen and told by the session, and left as it is.

use std::future::ready;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v1::HorizontalPodAutoscaler;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::Api;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tpdocker::cluster::{Cluster, Kind, Loss, Purpose, Restored, Stance, Workload, proxy_deployment};
use tpdocker::error::{Code, Explain as _};
use tpdocker::session::takeover::Lost;
use tpdocker_protocol::contract::ANNOTATION_SWAP;
use tpdocker_protocol::control::SwapRecord;

use crate::rights;
use crate::support::{IMAGE, create, in_namespace, proxy_spec, record, session_of, target, wait_web, web, workload};

/// An autoscaler looks every 15 s.
const PATIENCE: Duration = Duration::from_mins(1);
const SESSION: &str = "s1";

fn api(cluster: &Cluster) -> Api<Deployment> {
    Api::namespaced(cluster.client().clone(), cluster.namespace())
}

async fn patch(cluster: &Cluster, patch: Value) {
    api(cluster).patch("web", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

async fn set_replicas(cluster: &Cluster, replicas: i32) {
    patch(cluster, json!({ "spec": { "replicas": replicas } })).await;
}

async fn deployment(cluster: &Cluster) -> Deployment {
    api(cluster).get("web").await.unwrap()
}

async fn replicas(cluster: &Cluster) -> Option<i32> {
    deployment(cluster).await.spec.unwrap().replicas
}

/// The watch of a session, and what it tells.
struct Watching {
    lost: JoinHandle<Loss>,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Watching {
    fn begin(cluster: &Cluster, workload: &Workload) -> Self {
        let (line_tx, lines) = mpsc::unbounded_channel();
        let (cluster, workload) = (cluster.clone(), workload.clone());
        let lost = tokio::spawn(async move {
            let tell = |text| line_tx.send(text).unwrap();
            cluster.wait_lost(&workload, SESSION, &record(SESSION).proxy, tell).await
        });
        Self { lost, lines }
    }

    async fn line(&mut self) -> String {
        tokio::time::timeout(PATIENCE, self.lines.recv()).await.expect("it tells in time").unwrap()
    }

    /// Asserts that it has told nothing more, and watches on.
    fn silent(&mut self) {
        assert_eq!(self.lines.try_recv().ok(), None);
        assert!(!self.lost.is_finished());
    }
}

/// The workload `web` with `replicas`, swapped, and the watch of its session.
async fn swapped(cluster: &Cluster, replicas: i32) -> (Workload, Watching) {
    web(cluster, replicas).await;
    wait_web(cluster.client(), cluster.namespace(), replicas).await;
    let workload = cluster.resolve(&target("web")).await.unwrap();
    cluster.record(&workload, record(SESSION)).await.unwrap();
    let watching = Watching::begin(cluster, &workload);
    cluster.scale(&workload.reference, SESSION, 0).await.unwrap();
    assert_eq!(cluster.wait_gone(&workload, |_| {}).await.unwrap(), None);
    (workload, watching)
}

async fn restore(cluster: &Cluster, workload: &Workload) -> (i32, i32) {
    let restore = cluster.restore(&workload.reference, Some(SESSION), || ready(()), |_| {});
    let restored = tokio::time::timeout(PATIENCE, restore).await.unwrap().unwrap();
    let annotations = deployment(cluster).await.metadata.annotations.unwrap_or_default();
    assert!(!annotations.contains_key(ANNOTATION_SWAP), "{annotations:?}");
    (restored.record.unwrap().replicas, restored.replicas)
}

#[tokio::test]
async fn who_scales_the_original_up_is_told_once_and_has_the_last_word() {
    in_namespace(|cluster| async move {
        let (workload, mut watching) = swapped(&cluster, 1).await;
        set_replicas(&cluster, 3).await;
        let line = watching.line().await;
        for words in [
            " scaled Deployment `web` back to 3: ",
            "its pods answer service web-public beside this session",
            &format!("kubectl -n {} scale deployment/web --replicas=0", cluster.namespace()),
        ] {
            assert!(line.contains(words), "{words:?} is not in: {line}");
        }
        wait_web(cluster.client(), cluster.namespace(), 3).await;
        watching.silent();
        assert_eq!(restore(&cluster, &workload).await, (1, 3));
        assert_eq!(replicas(&cluster).await, Some(3));
    })
    .await;
}

#[tokio::test]
async fn who_patched_it_is_named_where_the_server_keeps_book() {
    in_namespace(|cluster| async move {
        let (_, mut watching) = swapped(&cluster, 1).await;
        let params = PatchParams { field_manager: Some("pipeline".into()), ..PatchParams::default() };
        let up = Patch::Merge(json!({ "spec": { "replicas": 2 } }));
        api(&cluster).patch("web", &params, &up).await.unwrap();
        let line = watching.line().await;
        assert!(line.starts_with("`pipeline` scaled Deployment `web` back to 2"), "{line}");
    })
    .await;
}

#[tokio::test]
async fn what_was_set_between_the_record_and_the_swap_comes_back() {
    in_namespace(|cluster| async move {
        web(&cluster, 1).await;
        let workload = cluster.resolve(&target("web")).await.unwrap();
        cluster.record(&workload, record(SESSION)).await.unwrap();
        set_replicas(&cluster, 2).await;
        cluster.scale(&workload.reference, SESSION, 0).await.unwrap();
        assert_eq!(replicas(&cluster).await, Some(0));
        assert_eq!(restore(&cluster, &workload).await, (2, 2));
    })
    .await;
}

/// Scales `web` to `replicas` whenever it sees another number, as a `GitOps` controller does; how often it has.
fn keeps(cluster: &Cluster, replicas: i32) -> (JoinHandle<()>, mpsc::UnboundedReceiver<()>) {
    let (did_tx, did) = mpsc::unbounded_channel();
    let cluster = cluster.clone();
    let controller = tokio::spawn(async move {
        let seen = watcher(api(&cluster), watcher::Config::default().fields("metadata.name=web")).applied_objects();
        let mut seen = std::pin::pin!(seen);
        while let Some(seen) = futures_util::StreamExt::next(&mut seen).await {
            if seen.unwrap().spec.unwrap().replicas != Some(replicas) {
                set_replicas(&cluster, replicas).await;
                did_tx.send(()).unwrap();
            }
        }
    });
    (controller, did)
}

#[tokio::test]
async fn a_controller_that_scales_back_at_once_ends_the_wait_and_is_not_fought() {
    in_namespace(|cluster| async move {
        web(&cluster, 2).await;
        wait_web(cluster.client(), cluster.namespace(), 2).await;
        let workload = cluster.resolve(&target("web")).await.unwrap();
        cluster.record(&workload, record(SESSION)).await.unwrap();
        let mut watching = Watching::begin(&cluster, &workload);
        // By this line it is known to see what happens from now on.
        patch(&cluster, json!({ "spec": { "template": { "metadata": { "labels": { "edited": "yes" } } } } })).await;
        assert!(watching.line().await.contains("changed the pod template"));
        let (controller, mut did) = keeps(&cluster, 2);
        cluster.scale(&workload.reference, SESSION, 0).await.unwrap();
        let began = Instant::now();
        assert_eq!(cluster.wait_gone(&workload, |_| {}).await.unwrap(), Some(2));
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        let line = watching.line().await;
        assert!(line.contains("back to 2: "), "{line}");
        did.recv().await.unwrap();

        // An autoscaler that disagrees with it: many rounds, and no line for each.
        for _ in 0..5 {
            set_replicas(&cluster, 0).await;
            did.recv().await.unwrap();
        }
        wait_web(cluster.client(), cluster.namespace(), 2).await;
        watching.silent();
        let settled = deployment(&cluster).await.metadata.generation;
        assert_eq!(restore(&cluster, &workload).await, (2, 2));
        // The server counts a change of annotations, too: that is the record's removal.
        let counted = deployment(&cluster).await.metadata.generation.unwrap();
        assert_eq!(counted, settled.unwrap() + 1, "somebody has scaled it again");
        controller.abort();
    })
    .await;
}

#[tokio::test]
async fn an_edit_is_told_and_comes_back_with_the_original() {
    in_namespace(|cluster| async move {
        let (workload, mut watching) = swapped(&cluster, 1).await;
        let env = json!([{ "name": "NEW", "value": "1" }]);
        let container = json!({ "name": "web", "env": env, "image": format!("docker.io/{IMAGE}") });
        let edit = json!({ "spec": { "template": { "spec": { "containers": [container] } } } });
        let params = PatchParams { field_manager: Some("pipeline".into()), ..PatchParams::default() };
        api(&cluster).patch("web", &params, &Patch::Strategic(edit)).await.unwrap();
        let line = watching.line().await;
        let told = format!(
            "`pipeline` changed the pod template of Deployment `web` (web is docker.io/{IMAGE} now): this session goes on"
        );
        assert!(line.starts_with(&told), "{line}");
        watching.silent();
        let edited = deployment(&cluster).await.spec.unwrap().template;
        assert_eq!(restore(&cluster, &workload).await, (1, 1));
        assert_eq!(deployment(&cluster).await.spec.unwrap().template, edited);
    })
    .await;
}

#[tokio::test]
async fn a_deleted_workload_ends_the_session_and_so_does_one_made_anew() {
    in_namespace(|cluster| async move {
        for anew in [false, true] {
            let (workload, watching) = swapped(&cluster, 0).await;
            let mut made_again = deployment(&cluster).await;
            api(&cluster).delete("web", &DeleteParams::background()).await.unwrap();
            if anew {
                made_again.metadata.resource_version = None;
                made_again.metadata.annotations = None;
                api(&cluster).create(&PostParams::default(), &made_again).await.unwrap();
            }
            let lost = tokio::time::timeout(PATIENCE, watching.lost).await.expect("it notices in time").unwrap();
            assert!(matches!(lost, Loss::Deleted { .. }), "{lost:?}");
            let restored = cluster.restore(&workload.reference, Some(SESSION), || ready(()), |_| {}).await.unwrap();
            assert_eq!((restored.record, restored.missing), (None, !anew));
            let services: Api<k8s_openapi::api::core::v1::Service> =
                Api::namespaced(cluster.client().clone(), cluster.namespace());
            services.delete("web-public", &DeleteParams::default()).await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_login_that_loses_its_rights_with_the_workload_ends_the_session_all_the_same() {
    in_namespace(|cluster| async move {
        let found = workload(&cluster, 0).await;
        let dev = rights::under(&Purpose::on(Kind::Deployment, "web"), &cluster).await;
        let (session, proxy) = session_of(&dev, Stance::Swap(found));
        session.begin().await.unwrap();
        api(&cluster).delete("web", &DeleteParams::background()).await.unwrap();
        let lost = tokio::time::timeout(PATIENCE, session.lost()).await.expect("it notices in time");
        assert!(matches!(lost, Lost::Gone { anew: false, .. }), "{lost:?}");
        assert_eq!(lost.code(), Code::Workload);

        // As the end of a namespace takes everything in it, in whatever order.
        let bindings: Api<RoleBinding> = Api::namespaced(cluster.client().clone(), cluster.namespace());
        bindings.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
        let began = Instant::now();
        while dev.swaps().await.is_ok() {
            assert!(began.elapsed() < PATIENCE, "the rights stay");
        }
        assert_eq!(session.end().await.unwrap(), Some(Restored::missing()));
        assert!(api(&cluster).get_opt(&proxy).await.unwrap().is_some());
    })
    .await;
}

#[tokio::test]
async fn an_autoscaler_pauses_at_0_and_goes_on_from_the_restored_number() {
    in_namespace(|cluster| async move {
        let scaler = json!({
            "metadata": { "name": "busy" },
            "spec": {
                "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "web" },
                "minReplicas": 2, "maxReplicas": 3, "targetCPUUtilizationPercentage": 80,
            },
        });
        web(&cluster, 2).await;
        let stance = Stance::Swap(cluster.resolve(&target("web")).await.unwrap());
        assert_eq!(cluster.deciders(&stance).await.unwrap(), [""; 0]);
        create::<HorizontalPodAutoscaler>(&cluster, scaler).await;
        let told = cluster.deciders(&stance).await.unwrap();
        let [told] = &told[..] else { panic!("{told:?}") };
        assert!(told.starts_with("HorizontalPodAutoscaler `busy` (2 to 3) targets it: it pauses"), "{told}");

        let workload = stance.workload().unwrap();
        cluster.record(workload, record(SESSION)).await.unwrap();
        let mut watching = Watching::begin(&cluster, workload);
        cluster.scale(&workload.reference, SESSION, 0).await.unwrap();
        cluster.wait_gone(workload, |_| {}).await.unwrap();
        let says = |words: &'static str| {
            move |it: Option<&HorizontalPodAutoscaler>| {
                let annotations = it.and_then(|it| it.metadata.annotations.as_ref());
                annotations
                    .and_then(|all| all.get("autoscaling.alpha.kubernetes.io/conditions"))
                    .is_some_and(|it| it.contains(words))
            }
        };
        let scalers: Api<HorizontalPodAutoscaler> = Api::namespaced(cluster.client().clone(), cluster.namespace());
        let paused = kube::runtime::wait::await_condition(scalers.clone(), "busy", says("ScalingDisabled"));
        tokio::time::timeout(PATIENCE, paused).await.expect("it pauses in time").unwrap();
        assert_eq!(replicas(&cluster).await, Some(0));
        watching.silent();

        assert_eq!(restore(&cluster, workload).await, (2, 2));
        let goes_on = |it: Option<&HorizontalPodAutoscaler>| {
            it.and_then(|it| it.status.as_ref()).is_some_and(|status| status.current_replicas == 2)
        };
        let goes_on = kube::runtime::wait::await_condition(scalers, "busy", goes_on);
        tokio::time::timeout(PATIENCE, goes_on).await.expect("it goes on in time").unwrap();
        assert_eq!(replicas(&cluster).await, Some(2));
    })
    .await;
}

/// A `PodDisruptionBudget`, of whichever version the server has.
fn budgets(cluster: &Cluster) -> Api<DynamicObject> {
    let version = if cluster.minor().is_some_and(|minor| minor < 21) { "v1beta1" } else { "v1" };
    let kind = GroupVersionKind::gvk("policy", version, "PodDisruptionBudget");
    Api::namespaced_with(cluster.client().clone(), cluster.namespace(), &ApiResource::from_gvk(&kind))
}

/// Waits until the budget counts `healthy` pods.
async fn counts(budgets: &Api<DynamicObject>, healthy: i64) {
    let counts = |it: Option<&DynamicObject>| {
        let status = |field: &str| it.and_then(|it| it.data.pointer(&format!("/status/{field}"))?.as_i64());
        status("currentHealthy") == Some(healthy)
            && status("desiredHealthy") == Some(2)
            && status("disruptionsAllowed") == Some(0)
    };
    let wait = kube::runtime::wait::await_condition(budgets.clone(), "web", counts);
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("it never counts {healthy}")).unwrap();
}

#[tokio::test]
async fn a_disruption_budget_neither_hinders_the_swap_nor_the_restore_and_guards_the_proxy() {
    in_namespace(|cluster| async move {
        web(&cluster, 2).await;
        wait_web(cluster.client(), cluster.namespace(), 2).await;
        let budgets = budgets(&cluster);
        let budget = json!({
            "metadata": { "name": "web" },
            "spec": { "minAvailable": 2, "selector": { "matchLabels": { "app": "web" } } },
        });
        let mut budget: DynamicObject = serde_json::from_value(budget).unwrap();
        budget.types = None;
        budgets.create(&PostParams::default(), &budget).await.unwrap();
        counts(&budgets, 2).await;

        let stance = Stance::Swap(cluster.resolve(&target("web")).await.unwrap());
        let workload = stance.workload().unwrap();
        let (mut deployment, _) = proxy_deployment(&stance, &proxy_spec(&stance, SESSION, IMAGE)).unwrap();
        // Another program in the proxy's place: what is tested is the count.
        let stand_in = &mut deployment.spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers[0];
        stand_in.command = Some(["python3", "-m", "http.server", "8080"].map(str::to_owned).into());
        stand_in.args = None;
        let probe = json!({ "tcpSocket": { "port": 8080 }, "periodSeconds": 1 });
        stand_in.readiness_probe = Some(serde_json::from_value(probe).unwrap());
        let proxy = SwapRecord { proxy: deployment.metadata.name.clone().unwrap(), ..record(SESSION) };
        cluster.record(workload, proxy).await.unwrap();
        let proxy = cluster.create_proxy(&deployment, &stance.pod().container).await.unwrap();
        proxy.wait_ready(PATIENCE, |_| {}).await.unwrap();
        cluster.scale(&workload.reference, SESSION, 0).await.unwrap();
        assert_eq!(cluster.wait_gone(workload, |_| {}).await.unwrap(), None);
        // The proxy has the original's labels, so it counts, and as no disruption is allowed nobody may evict it.
        counts(&budgets, 1).await;
        assert_eq!(restore(&cluster, workload).await, (2, 2));
        counts(&budgets, 2).await;
    })
    .await;
}
