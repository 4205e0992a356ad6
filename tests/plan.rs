//! The proxy's Deployment for workloads as people have them, compared with what was reviewed (`tests/plan/*.snap`).
//!
//! Each `tests/plan/NAME.yaml` is a workload and its Services. After a deliberate change of the template, read the
//! difference and accept it with `INSTA_UPDATE=always cargo test --test plan`. `tests/kube.rs` has a real API server
//! check the same Deployments.

use k8s_openapi::api::apps::v1::Deployment;
use tpdocker::cluster::template::{Note, ProxySpec, control_port, proxy_deployment, proxy_name};
use tpdocker::cluster::{ClusterError, Stance, Workload};
use tpdocker::settings::InitContainers;

#[path = "plan/pod_security.rs"]
mod pod_security;
#[path = "plan/support.rs"]
mod support;

use support::{likeness, read, workload};

fn plan(workload: &Workload) -> Result<(Deployment, Vec<Note>), ClusterError> {
    planned(&Stance::Swap(workload.clone()))
}

fn planned(stance: &Stance) -> Result<(Deployment, Vec<Note>), ClusterError> {
    let proxy = ProxySpec {
        session: "0123456789abcdef".into(),
        owner: "ann@laptop".into(),
        since: "2026-01-02T03:04:05Z".into(),
        public_key: [0xab; 32],
        image: "tpdocker-proxy:0.1.0".into(),
        control_port: control_port(stance.pod()),
    };
    proxy_deployment(stance, &proxy)
}

fn check(name: &str) {
    matches(name, &Stance::Swap(workload(&read(name), None)));
}

fn matches(name: &str, stance: &Stance) {
    let (deployment, notes) = planned(stance).unwrap();
    let notes: Vec<String> = notes.iter().map(ToString::to_string).collect();
    insta::with_settings!({ snapshot_path => "plan", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_yaml_snapshot!(name, serde_json::json!({ "deployment": deployment, "notes": notes }));
    });
}

#[test]
fn a_plain_deployment_keeps_all_but_its_program() {
    check("plain");
}

#[test]
fn init_and_sibling_containers_stay_and_the_service_chooses_the_container() {
    check("siblings");
}

#[test]
fn a_restricted_pod_stays_restricted() {
    check("restricted");
}

#[test]
fn privileges_are_not_inherited_and_port_80_can_be_bound() {
    check("privileged");
}

#[test]
fn a_stateful_set_lends_its_identity_and_keeps_its_claims() {
    check("stateful");
}

#[test]
fn volumes_stay_and_long_names_are_cut() {
    check("volumes");
}

#[test]
fn a_session_on_its_own_is_a_pod_of_the_proxy_alone_which_restricted_admits() {
    matches("outgoing", &Stance::outgoing("staging"));
}

#[test]
fn a_session_beside_a_deployment_has_what_its_pods_are_given_and_no_label_of_theirs() {
    matches("like-siblings", &Stance::Like(likeness(&read("siblings"), None)));
}

#[test]
fn without_its_init_containers_the_pod_keeps_those_that_run_beside_it() {
    let stance = Stance::Swap(workload(&read("siblings"), None)).with(InitContainers::Skip);
    let (deployment, notes) = planned(&stance).unwrap();
    let inits = deployment.spec.unwrap().template.spec.unwrap().init_containers.unwrap();
    assert_eq!(inits.iter().map(|init| init.name.as_str()).collect::<Vec<_>>(), ["proxy-init"]);
    assert!(notes.contains(&Note::SkippedInit(vec!["migrate".into()])), "{notes:?}");
}

#[test]
fn a_session_beside_a_stateful_set_is_none_of_its_pods_and_leaves_the_claims() {
    matches("like-stateful", &Stance::Like(likeness(&read("stateful"), None)));
}

#[test]
fn a_session_beside_a_deployment_leaves_its_claims_too() {
    matches("like-volumes", &Stance::Like(likeness(&read("volumes"), None)));
}

#[test]
fn a_pod_on_the_nodes_network_is_refused() {
    let mut workload = workload(&read("plain"), None);
    workload.pod.template.spec.as_mut().unwrap().host_network = Some(true);
    let error = plan(&workload).unwrap_err();
    assert!(matches!(error, ClusterError::NotSwappable { .. }), "{error:?}");
    assert!(error.to_string().contains("hostNetwork"), "{error}");
}

#[test]
fn names_fit_into_a_host_name_whatever_the_workloads_length() {
    for length in [1, 20, 46, 63, 253] {
        let name = proxy_name(&"a".repeat(length), "0123456789abcdef");
        assert!(name.len() <= 46, "{name}");
        assert!(name.ends_with("-tpdocker-01234567"), "{name}");
    }
    assert_eq!(proxy_name("service", "0123456789abcdef"), "service-tpdocker-01234567");
}

#[test]
fn a_named_container_wins_over_the_services_choice() {
    let items = read("siblings");
    assert_eq!(workload(&items, None).pod.container, "checkout");
    assert_eq!(workload(&items, Some("exporter")).pod.container, "exporter");
}

#[test]
fn without_a_service_that_decides_the_containers_are_listed() {
    let items: Vec<_> = read("siblings").into_iter().filter(|item| item["kind"] == "Deployment").collect();
    let error = support::resolve(&items, None).unwrap_err();
    assert_eq!(error.to_string(), "Deployment `checkout` has several containers: `exporter`, `checkout`");
    let error = support::resolve(&items, Some("chekout")).unwrap_err();
    assert_eq!(error.to_string(), "Deployment `checkout` has no container `chekout`; it has `exporter`, `checkout`");
}

#[test]
fn an_object_that_somebody_controls_is_refused_in_favour_of_its_owner() {
    let mut items = read("plain");
    items[0]["metadata"]["ownerReferences"] = serde_json::json!([{ "apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "name": "r", "uid": "u", "controller": true }]);
    let error = support::resolve(&items, None).unwrap_err();
    assert!(error.to_string().contains("Rollout `r` owns it"), "{error}");
}
