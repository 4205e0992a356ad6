//! Logins of the cluster with the rights of a test, and nothing of them once it is over.

use std::path::Path;

use tempfile::TempPath;

use crate::support::{NAMESPACE, PATIENCE, Tpdocker, apply, config_json, kubectl, kubectl_in, until, write_config};

/// A service account, with the kubeconfig of who logs in as it.
pub struct Account {
    name: &'static str,
    config: TempPath,
    /// What gave it rights.
    granted: Vec<(&'static str, &'static str)>,
}

impl Account {
    /// May do nothing.
    pub fn without_rights(name: &'static str) -> Self {
        let secret = format!("{name}-token");
        let account = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}},
            {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
             "metadata": {"name": secret, "annotations": {"kubernetes.io/service-account.name": name}}},
        ]});
        apply(&account.to_string());
        let form = "-o=go-template={{with .data.token}}{{. | base64decode}}{{end}}";
        let token = until("the account's token", PATIENCE, || {
            let token = kubectl(&["get", "secret", &secret, form]);
            if token.is_empty() { Err("no token yet".into()) } else { Ok(token) }
        });
        let mut config = config_json();
        config["users"] = serde_json::json!([{"name": name, "user": {"token": token}}]);
        config["contexts"][0]["context"]["user"] = name.into();
        Self { name, config: write_config(&config).into_temp_path(), granted: Vec::new() }
    }

    /// May look at the namespace and no more.
    pub fn onlooker() -> Self {
        let mut account = Self::without_rights("onlooker");
        apply(
            r#"{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"RoleBinding","metadata":{"name":"onlooker"},
                "roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"view"},
                "subjects":[{"kind":"ServiceAccount","name":"onlooker","namespace":"staging"}]}"#,
        );
        account.granted.push(("rolebinding", "onlooker"));
        account
    }

    /// Applies what gives it rights.
    pub fn grant(&mut self, manifest: &str, objects: &[(&'static str, &'static str)]) {
        self.granted.extend(objects);
        apply(manifest);
    }

    /// Its kubeconfig.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Starts `tpdocker` with its login.
    pub fn start(&self, arguments: &[&str]) -> Tpdocker {
        Tpdocker::spawn(Tpdocker::command(arguments).env("KUBECONFIG", self.config()))
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let secret = format!("{}-token", self.name);
        for (kind, name) in self.granted.iter().copied().chain([("serviceaccount", self.name), ("secret", &secret)]) {
            let deleted = kubectl_in(NAMESPACE).args(["delete", kind, name, "--ignore-not-found"]).status();
            assert!(std::thread::panicking() || deleted.is_ok_and(|status| status.success()), "{kind}/{name}");
        }
    }
}
