//! What the doctor says of a namespace.

use std::process::Command;

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tpdocker::cluster::Cluster;

use crate::support::{in_namespace, kubeconfig_path, web};

/// The line of one check, and the exit code.
fn doctor(namespace: &str, arguments: &[&str], check: &str) -> (Value, i32) {
    let output = Command::new(env!("CARGO_BIN_EXE_tpdocker"))
        .args(["--output", "json", "doctor", "-n", namespace])
        .args(arguments)
        .env("KUBECONFIG", kubeconfig_path())
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let line = report["checks"].as_array().unwrap().iter().find(|line| line["check"] == check);
    (line.unwrap().clone(), output.status.code().unwrap())
}

async fn enforce(cluster: &Cluster, level: &str) {
    let namespaces: Api<Namespace> = Api::all(cluster.client().clone());
    let patch = json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": level } } });
    namespaces.patch(cluster.namespace(), &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

#[tokio::test]
async fn a_level_that_would_refuse_the_proxy_is_said_with_the_rules_and_what_to_change() {
    in_namespace(|cluster| async move {
        web(&cluster, 0).await;
        let namespace = cluster.namespace();
        let swap = ["--swap", "web"];
        assert_eq!(doctor(namespace, &swap, "pod security").0["text"], "the namespace enforces no level");
        enforce(&cluster, "baseline").await;
        let (line, _) = doctor(namespace, &swap, "pod security");
        assert_eq!(line["text"], "the namespace enforces `baseline`, which admits the proxy");
        enforce(&cluster, "restricted").await;
        let (line, code) = doctor(namespace, &swap, "pod security");
        let text = "the namespace enforces `restricted`, which refuses the proxy: Running as Non-root, Seccomp";
        assert_eq!((&line["text"], &line["state"], code), (&json!(text), &json!("fix"), 84));
        assert_eq!(line["cure"], "change these in the pod template of Deployment `web`, from which the proxy is made");
        assert_eq!(doctor(namespace, &[], "pod security").0["state"], "note");
    })
    .await;
}
