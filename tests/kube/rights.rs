//! The printed Role is the smallest: a session under it does all that it does, uses every right of it, and misses
//! each one that is taken away before it has changed anything.

use std::process::Command;
use std::sync::Once;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use tpdocker::cluster::rights::{LETTER, Purpose, Rule};
use tpdocker::cluster::role::{binding, role};
use tpdocker::cluster::{Cluster, ClusterError, FixtureKind, Stance};
use tpdocker::error::{Code, Explain as _};
use tpdocker::output::{Audience, Console};
use tpdocker::session::identity::Identity;
use tpdocker::session::{Found, Session, proxy_of};
use tpdocker::settings::{Intent, Subject, SwapTarget, TargetKind};

use crate::requests;
use crate::support::{IMAGE, create, in_namespace, kubeconfig, set_token, settings, target, wait_web, web};

/// RBAC's authorizer hears of a changed Role by a watch.
const HEARD_WITHIN: Duration = Duration::from_secs(20);

/// The cluster as a service account `dev` sees it that has the Role and no more.
pub async fn under(purpose: &Purpose, cluster: &Cluster) -> Cluster {
    let namespace = cluster.namespace();
    create::<ServiceAccount>(cluster, json!({ "metadata": { "name": "dev" } })).await;
    create::<Role>(cluster, serde_saphyr::from_str(&role(purpose, namespace, cluster.minor())).unwrap()).await;
    let bound = binding(purpose, namespace, &[Subject::ServiceAccount("dev".into())]);
    create::<RoleBinding>(cluster, serde_saphyr::from_str(&bound).unwrap()).await;
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client().clone(), namespace);
    let request = TokenRequest { spec: TokenRequestSpec::default(), ..TokenRequest::default() };
    let token = accounts.create_token_request("dev", &PostParams::default(), &request).await.unwrap();
    let mut kubeconfig = kubeconfig();
    set_token(&mut kubeconfig, &token.status.unwrap().token);
    Cluster::connect_with(kubeconfig, &settings(namespace)).await.unwrap()
}

/// Asks until the answer is the one that is waited for.
async fn finds(
    dev: &Cluster,
    intent: &Intent,
    expected: impl Fn(&Result<Option<String>, ClusterError>) -> bool,
) -> Result<Option<String>, ClusterError> {
    let began = Instant::now();
    loop {
        let answer = dev.find(intent).await.map(|(_, lacking)| lacking.told());
        if expected(&answer) {
            return answer;
        }
        assert!(began.elapsed() < HEARD_WITHIN, "{intent:?}: {answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// All of a session that is done in the cluster; the mark after which no request may be refused. Before it other kinds
/// of workload are looked for too, of which some may not be seen.
async fn session(dev: &Cluster, intent: &Intent) -> usize {
    let (stance, lacking) = dev.find(intent).await.unwrap();
    let found_at = requests::mark();
    assert_eq!(dev.deciders(&stance).await.unwrap(), [""; 0]);
    if matches!(stance, Stance::Swap(_)) {
        // A session works without, so nothing else notices when it is not asked for.
        let asked = requests::since(found_at, dev.namespace());
        assert!(asked.iter().any(|it| it.verb == "list" && it.resource == "horizontalpodautoscalers"), "{asked:?}");
    }
    let identity = Identity::new().unwrap();
    let (proxy, _) = proxy_of(&identity, &stance, None).unwrap();
    let found = Found { cluster: dev.clone(), stance, lacking };
    let reporter = Console::new(Box::new(std::io::sink()), Audience::Pipe).reporter();
    let session = Session::new(identity, found, proxy, None, reporter).unwrap();
    let proxy = session.begin().await.unwrap();
    let attached = session.attach(proxy).await.unwrap();
    assert!(!attached.pod.pod_ips.is_empty());
    session.entrust(&attached).await;
    if let Stance::Swap(workload) = session.stance() {
        dev.scale(&workload.reference, session.identity.id.as_str(), 0).await.unwrap();
        dev.wait_gone(workload, |_| {}).await.unwrap();
    }
    let restored = session.end().await.unwrap();
    match session.stance() {
        Stance::Swap(_) => {
            assert!(restored.as_ref().is_some_and(|it| it.record.is_some() && it.ready == 1), "{restored:?}");
        }
        Stance::Like(_) | Stance::Outgoing { .. } => assert_eq!(restored, None),
    }
    found_at
}

fn assert_all_allowed(rules: &[Rule], requests: &[requests::Request]) {
    for request in requests {
        assert!(rules.iter().any(|rule| request.is_allowed_by(rule)), "no rule allows {request:?}");
    }
}

fn assert_all_used(rules: &[Rule], requests: &[requests::Request]) {
    for rule in rules.iter().filter(|rule| rule.useful_for.is_none_or(|useful_for| useful_for == LETTER)) {
        for verb in &rule.verbs {
            // A watch begins only where the first look was not enough; its right is needed all the same.
            let used = |request: &requests::Request| {
                (request.verb == *verb || (*verb == "watch" && request.verb == "list")) && {
                    let as_asked = requests::Request { verb, ..request.clone() };
                    as_asked.is_allowed_by(rule)
                }
            };
            assert!(requests.iter().any(used), "nothing needs {verb} of {rule:?}: {requests:#?}");
        }
    }
}

async fn the_printed_role_is_the_smallest(cluster: Cluster, intent: Intent) {
    requests::record();
    let namespace = cluster.namespace().to_owned();
    let purpose = match &intent {
        Intent::Swap(target) => Purpose::of(target, &cluster.resolve(target).await.unwrap().reference),
        Intent::Like(target) => Purpose::like(target, &cluster.resolve_likeness(target).await.unwrap()),
        Intent::Outgoing => Purpose::Outgoing,
    };
    let rules = purpose.rules(cluster.minor());
    let printed = role(&purpose, &namespace, cluster.minor());
    let dev = under(&purpose, &cluster).await;
    finds(&dev, &intent, |answer| matches!(answer, Ok(None))).await.unwrap();

    let mark = requests::mark();
    let found_at = Box::pin(session(&dev, &intent)).await;
    assert_all_allowed(&rules, &requests::since(found_at, &namespace));
    assert_all_used(&rules, &requests::since(mark, &namespace));

    let roles: Api<Role> = Api::namespaced(cluster.client().clone(), &namespace);
    let full: Role = serde_saphyr::from_str(&printed).unwrap();
    let name = full.metadata.name.clone().unwrap();
    let given = full.rules.clone().unwrap();
    assert_eq!(given.len(), rules.len());
    let mark = requests::mark();
    for (index, rule) in rules.iter().enumerate() {
        for verb in &rule.verbs {
            let mut less = given.clone();
            less[index].verbs.retain(|it| it != verb);
            // A rule without a verb is not valid.
            less.retain(|rule| !rule.verbs.is_empty());
            let role = Role { rules: Some(less), ..full.clone() };
            roles.replace(&name, &PostParams::default(), &role).await.unwrap();
            let dot = if rule.group.is_empty() { "" } else { "." };
            let right = format!("{verb} {}{dot}{}", rule.resource, rule.group);
            if let Some(useful_for) = rule.useful_for {
                let told = format!("this login may not {right} ({useful_for}); a session works without");
                finds(&dev, &intent, |answer| answer.as_ref().ok() == Some(&Some(told.clone()))).await.unwrap();
                continue;
            }
            let missing = |error: &ClusterError| matches!(error, ClusterError::Forbidden { missing, .. } if *missing == [right.clone()]);
            let error = finds(&dev, &intent, |answer| answer.as_ref().is_err_and(missing)).await.unwrap_err();
            assert_eq!(error.code(), Code::Forbidden);
            assert!(error.hint().unwrap().contains("kind: Role\n"), "{error:?}");
        }
    }
    let changes: Vec<_> = requests::since(mark, &namespace)
        .into_iter()
        .filter(|request| request.resource != "roles" && !["get", "list", "watch"].contains(&request.verb))
        .collect();
    assert_eq!(changes, []);
    roles.replace(&name, &PostParams::default(), &full).await.unwrap();
    finds(&dev, &intent, |answer| matches!(answer, Ok(None))).await.unwrap();
}

/// Gets the proxy image of the binary under test into the cluster, once for all tests.
pub fn load_proxy_image() {
    static LOADED: Once = Once::new();
    LOADED.call_once(|| {
        let mut image = tempfile::tempfile().unwrap();
        let save = Command::new(env!("CARGO_BIN_EXE_tpdocker"))
            .args(["image", "save"])
            .stdout(image.try_clone().unwrap())
            .status();
        assert!(save.unwrap().success());
        std::io::Seek::rewind(&mut image).unwrap();
        let load = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/load");
        assert!(Command::new(load).arg("-").stdin(image).status().unwrap().success());
    });
}

#[tokio::test]
async fn the_role_for_a_deployment_is_all_that_a_session_needs_and_no_more() {
    load_proxy_image();
    in_namespace(|cluster| async move {
        web(&cluster, 1).await;
        wait_web(cluster.client(), cluster.namespace(), 1).await;
        Box::pin(the_printed_role_is_the_smallest(cluster, Intent::Swap(target("web")))).await;
    })
    .await;
}

#[tokio::test]
async fn the_role_for_a_stateful_set_behind_a_service_is_all_that_a_session_needs_and_no_more() {
    load_proxy_image();
    in_namespace(|cluster| async move {
        stateful(&cluster).await;
        Box::pin(the_printed_role_is_the_smallest(cluster, Intent::Swap(target("db-public")))).await;
    })
    .await;
}

/// What nobody swaps is neither patched nor scaled.
fn assert_nothing_is_changed_by(purpose: &Purpose) {
    let rules = purpose.rules(None);
    assert!(rules.iter().all(|rule| !rule.verbs.contains(&"patch") && !rule.resource.contains("scale")), "{rules:?}");
}

#[tokio::test]
async fn the_role_for_a_session_on_its_own_is_all_that_it_needs_and_no_more() {
    load_proxy_image();
    assert_nothing_is_changed_by(&Purpose::Outgoing);
    in_namespace(|cluster| async move {
        Box::pin(the_printed_role_is_the_smallest(cluster, Intent::Outgoing)).await;
    })
    .await;
}

#[tokio::test]
async fn the_role_for_a_session_like_something_is_all_that_it_needs_and_no_more() {
    load_proxy_image();
    in_namespace(|cluster| async move {
        web(&cluster, 0).await;
        let web = target("web");
        assert_nothing_is_changed_by(&Purpose::like(&web, &cluster.resolve_likeness(&web).await.unwrap()));
        Box::pin(the_printed_role_is_the_smallest(cluster, Intent::Like(web))).await;
    })
    .await;
}

#[tokio::test]
async fn the_role_for_a_session_like_a_job_is_all_that_it_needs_and_no_more() {
    load_proxy_image();
    in_namespace(|cluster| async move {
        let container = json!({ "name": "report", "image": IMAGE, "imagePullPolicy": "Never" });
        let pod = json!({ "spec": { "restartPolicy": "Never", "containers": [container] } });
        create::<Job>(
            &cluster,
            json!({ "metadata": { "name": "report" }, "spec": { "parallelism": 0, "template": pod } }),
        )
        .await;
        let report = SwapTarget { kind: Some(TargetKind::Fixture(FixtureKind::Job)), ..target("report") };
        Box::pin(the_printed_role_is_the_smallest(cluster, Intent::Like(report))).await;
    })
    .await;
}

/// A `StatefulSet` `db` of one pod behind the Service `db-public`.
async fn stateful(cluster: &Cluster) {
    create::<StatefulSet>(
        cluster,
        json!({
            "metadata": { "name": "db" },
            "spec": {
                "serviceName": "db-public",
                "replicas": 1,
                "selector": { "matchLabels": { "app": "db" } },
                "template": {
                    "metadata": { "labels": { "app": "db" } },
                    "spec": {
                        "terminationGracePeriodSeconds": 1,
                        "containers": [{
                            "name": "db",
                            "image": IMAGE,
                            "imagePullPolicy": "Never",
                            "command": ["python3", "-m", "http.server", "8080"],
                            "ports": [{ "containerPort": 8080 }],
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
            "metadata": { "name": "db-public" },
            "spec": { "selector": { "app": "db" }, "ports": [{ "port": 80, "targetPort": 8080 }] },
        }),
    )
    .await;
    let sets: Api<StatefulSet> = Api::namespaced(cluster.client().clone(), cluster.namespace());
    let ready = |it: Option<&StatefulSet>| {
        it.and_then(|it| it.status.as_ref()).is_some_and(|status| status.ready_replicas == Some(1))
    };
    let wait = kube::runtime::wait::await_condition(sets, "db", ready);
    tokio::time::timeout(Duration::from_mins(1), wait).await.expect("db is ready in time").unwrap();
}

#[tokio::test]
async fn without_any_right_the_first_ones_are_named_with_a_role_that_suffices_for_any_workload() {
    in_namespace(|cluster| async move {
        web(&cluster, 0).await;
        let purpose = Purpose::Any;
        let dev = under(&purpose, &cluster).await;
        let rules: Vec<_> = purpose.rules(cluster.minor());
        for by in ["web", "web-public"] {
            finds(&dev, &Intent::Swap(target(by)), |answer| matches!(answer, Ok(None))).await.unwrap();
        }
        assert!(rules.iter().all(|rule| rule.name.is_none() || rule.useful_for == Some(LETTER)));

        let nobody: Api<RoleBinding> = Api::namespaced(cluster.client().clone(), cluster.namespace());
        nobody.delete("tpdocker", &kube::api::DeleteParams::default()).await.unwrap();
        // The rights go in the middle of an answer, too: then it names some of them only.
        let rights = ["list services", "get pods/portforward", "create deployments.apps"];
        let refused = |answer: &Result<_, ClusterError>| {
            let Err(ClusterError::Forbidden { missing, .. }) = answer else { return false };
            rights.iter().all(|right| missing.iter().any(|it| it == right))
        };
        let error = finds(&dev, &Intent::Swap(target("web")), refused).await.unwrap_err();
        let ClusterError::Forbidden { role: told, .. } = &error else { panic!("{error:?}") };
        assert_eq!(*told, role(&Purpose::Any, cluster.namespace(), cluster.minor()));
        let api: Api<Deployment> = Api::namespaced(cluster.client().clone(), cluster.namespace());
        assert_eq!(api.list(&kube::api::ListParams::default()).await.unwrap().items.len(), 1);
    })
    .await;
}
