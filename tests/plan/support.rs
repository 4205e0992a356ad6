//! Manifests of `tests/plan` as workloads, without a cluster.

use std::path::Path;

use k8s_openapi::api::core::v1::Service;
use serde_json::Value;
use tpdocker::cluster::candidate::Candidate;
use tpdocker::cluster::{ClusterError, Likeness, Workload};
use tpdocker::settings::SwapTarget;

/// The items of `tests/plan/NAME.yaml`.
pub fn read(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plan").join(name).with_extension("yaml");
    let list: Value = serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    list["items"].as_array().unwrap().clone()
}

/// The one workload among the items, with the Services among them.
pub fn resolve(items: &[Value], container: Option<&str>) -> Result<Workload, ClusterError> {
    let (found, target, services) = found(items, container);
    found.into_workload(&target, &services)
}

/// What a session is that is like the one workload among the items.
pub fn likeness(items: &[Value], container: Option<&str>) -> Likeness {
    let (found, target, services) = found(items, container);
    found.into_likeness(&target, &services).unwrap()
}

fn found(items: &[Value], container: Option<&str>) -> (Candidate, SwapTarget, Vec<Service>) {
    let services: Vec<Service> = items
        .iter()
        .filter(|item| item["kind"] == "Service")
        .map(|item| serde_json::from_value(item.clone()).unwrap())
        .collect();
    let workload = items.iter().find(|item| item["kind"] != "Service").unwrap();
    let name = workload["metadata"]["name"].as_str().unwrap().to_owned();
    let target = SwapTarget { kind: None, name, container: container.map(str::to_owned) };
    (candidate(workload), target, services)
}

/// As [`resolve`], of items that can be swapped.
pub fn workload(items: &[Value], container: Option<&str>) -> Workload {
    resolve(items, container).unwrap()
}

fn candidate(item: &Value) -> Candidate {
    fn parse<K: serde::de::DeserializeOwned + Into<Candidate>>(item: &Value) -> Candidate {
        serde_json::from_value::<K>(item.clone()).unwrap().into()
    }
    match item["kind"].as_str() {
        Some("Deployment") => parse::<k8s_openapi::api::apps::v1::Deployment>(item),
        Some("StatefulSet") => parse::<k8s_openapi::api::apps::v1::StatefulSet>(item),
        Some("ReplicaSet") => parse::<k8s_openapi::api::apps::v1::ReplicaSet>(item),
        other => panic!("{other:?} is no workload"),
    }
}
