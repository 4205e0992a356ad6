//! The smallest Role for a purpose, as YAML that `kubectl apply -f -` takes, and who is to have it.
//!
//! A Role that names its workload has a name of its own, so that one does not replace the other. What Kubernetes lets
//! nobody narrow stays wide: the proxy's Deployment has a random name, so its deletion is a right on every Deployment of
//! the namespace. <https://kubernetes.io/docs/reference/access-authn-authz/rbac/>

use std::fmt::{self, Write as _};

use crate::settings::Subject;

use super::rights::Purpose;

/// The Role for `purpose`. `minor` is the server's release, where it is known.
pub fn role(purpose: &Purpose, namespace: &str, minor: Option<u32>) -> String {
    let mut out = head("Role", purpose, namespace) + "rules:\n";
    let mut told = None;
    for rule in purpose.rules(minor) {
        if let Some(what) = rule.useful_for.filter(|what| told != Some(*what)) {
            let _infallible = writeln!(out, "# Only for {what}:");
        }
        told = rule.useful_for;
        let (group, resource) = (quoted(rule.group), quoted(&rule.resource));
        let _infallible = writeln!(out, "- apiGroups: [{group}]\n  resources: [{resource}]");
        if let Some(name) = &rule.name {
            let _infallible = writeln!(out, "  resourceNames: [{}]", quoted(name));
        }
        let verbs: Vec<String> = rule.verbs.iter().map(|verb| quoted(verb)).collect();
        let _infallible = writeln!(out, "  verbs: [{}]", verbs.join(", "));
    }
    out
}

/// The binding of that Role to `subjects`.
pub fn binding(purpose: &Purpose, namespace: &str, subjects: &[Subject]) -> String {
    let mut out = head("RoleBinding", purpose, namespace);
    let _infallible = writeln!(
        out,
        "roleRef:\n  apiGroup: rbac.authorization.k8s.io\n  kind: Role\n  name: {}\nsubjects:",
        quoted(&Named(purpose).to_string())
    );
    for subject in subjects {
        let (kind, rest, name) = match subject {
            Subject::User(name) => ("User", "apiGroup: rbac.authorization.k8s.io".to_owned(), name),
            Subject::Group(name) => ("Group", "apiGroup: rbac.authorization.k8s.io".to_owned(), name),
            Subject::ServiceAccount(name) => ("ServiceAccount", format!("namespace: {}", quoted(namespace)), name),
        };
        let _infallible = writeln!(out, "- kind: {kind}\n  {rest}\n  name: {}", quoted(name));
    }
    out
}

fn head(kind: &str, purpose: &Purpose, namespace: &str) -> String {
    let name = quoted(&Named(purpose).to_string());
    format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}\nmetadata:\n  name: {name}\n  namespace: {}\n",
        quoted(namespace)
    )
}

/// The Role's name.
struct Named<'a>(&'a Purpose);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Purpose::Any => f.write_str("tpdocker"),
            Purpose::Kind(kind) => write!(f, "tpdocker-{}", kind.slug()),
            Purpose::Workload { kind, name, .. } => write!(f, "tpdocker-{}-{name}", kind.slug()),
            Purpose::Like { kind, name, .. } => write!(f, "tpdocker-like-{}-{name}", kind.slug()),
            Purpose::Outgoing => f.write_str("tpdocker-outgoing"),
        }
    }
}

/// A string of JSON is one of YAML, whatever is in it.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
