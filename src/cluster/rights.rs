//! What the login may do, asked before anything changes.
//!
//! One `SelfSubjectAccessReview` for each right, several at a time. The table [`NEEDED`] is at once what is asked, what
//! the code uses, and the Role that is printed for an administrator.
//! <https://kubernetes.io/docs/reference/access-authn-authz/authorization/>

use std::fmt::Write as _;

use futures_util::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;

use super::connect::Cluster;
use super::error::ClusterError;
use super::stance::Stance;
use super::workload::Kind;

/// Reviews under way at once; each may be a connection of its own.
const CONCURRENT: usize = 6;

/// What a session is for, as far as its rights go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To swap a workload of this kind.
    Swap(Kind),
    /// To be like one.
    Like,
    /// To be on its own.
    Outgoing,
}

impl From<&Stance> for Purpose {
    fn from(stance: &Stance) -> Self {
        match stance {
            Stance::Swap(workload) => Self::Swap(workload.reference.kind),
            Stance::Like(_) => Self::Like,
            Stance::Outgoing { .. } => Self::Outgoing,
        }
    }
}

/// API group, resource, verbs.
type Rule = (&'static str, &'static str, &'static [&'static str]);
/// API group, resource, verb.
type Question = (&'static str, String, &'static str);

/// For every kind of workload.
const NEEDED: [Rule; 6] = [
    ("", "services", &["list"]),
    ("", "endpoints", &["list", "watch"]),
    ("", "pods", &["list", "watch"]),
    ("", "pods/portforward", &["get"]),
    ("apps", "deployments", &["get", "list", "watch", "create", "delete"]),
    ("apps", "statefulsets", &["get", "list"]),
];

/// For a proxy that swaps nothing.
const FOR_PROXY: [Rule; 3] = [
    ("", "pods", &["list", "watch"]),
    ("", "pods/portforward", &["get"]),
    ("apps", "deployments", &["list", "watch", "create", "delete"]),
];

/// To find what it is to be like, beside [`FOR_PROXY`].
const FOR_LIKENESS: [Rule; 3] =
    [("", "services", &["list"]), ("apps", "deployments", &["get"]), ("apps", "statefulsets", &["get", "list"])];

/// Useful and not needed: shown in the Role, not asked for. `create` on `pods/portforward` is asked of WebSocket
/// clients by releases from 1.35 on.
const USEFUL: [Rule; 4] = [
    ("", "pods/portforward", &["create"]),
    ("", "pods", &["get"]),
    ("", "pods/log", &["get"]),
    ("", "events", &["list", "watch"]),
];

/// For the workload that is swapped, beside [`NEEDED`].
const ON_WORKLOAD: &[&str] = &["get", "list", "watch", "patch"];
const ON_SCALE: &[&str] = &["get", "update"];

impl Cluster {
    /// Asks for every right that a session needs. `Ok(Some(notice))` when the question itself is not allowed.
    pub async fn check_rights(&self, purpose: Purpose) -> Result<Option<String>, ClusterError> {
        let mut questions: Vec<Question> = needed(purpose)
            .into_iter()
            .flat_map(|(group, resource, verbs)| verbs.into_iter().map(move |verb| (group, resource.clone(), verb)))
            .collect();
        questions.sort_unstable();
        questions.dedup();
        let reviews: Vec<_> = questions.into_iter().map(|question| self.missing(question)).collect();
        let answers: Result<Vec<Option<String>>, ClusterError> =
            futures_util::stream::iter(reviews).buffered(CONCURRENT).try_collect().await;
        let missing: Vec<String> = match answers {
            Ok(answers) => answers.into_iter().flatten().collect(),
            Err(error) if error.status() == Some(403) => {
                return Ok(Some("this login may not ask which rights it has; going on without knowing".into()));
            }
            Err(error) => return Err(error),
        };
        if missing.is_empty() {
            Ok(None)
        } else {
            Err(ClusterError::Forbidden { missing, role: role(self.namespace()) })
        }
    }

    /// `verb resource` if the login may not.
    async fn missing(&self, (group, resource, verb): Question) -> Result<Option<String>, ClusterError> {
        let allowed = self.may(group, &resource, verb).await?;
        let dot = if group.is_empty() { "" } else { "." };
        Ok((!allowed).then(|| format!("{verb} {resource}{dot}{group}")))
    }

    async fn may(&self, group: &str, resource: &str, verb: &str) -> Result<bool, ClusterError> {
        let (resource, subresource) = match resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource)),
            None => (resource, None),
        };
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    namespace: Some(self.namespace().to_owned()),
                    group: Some(group.to_owned()),
                    resource: Some(resource.to_owned()),
                    subresource: subresource.map(str::to_owned),
                    verb: Some(verb.to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let reviews: Api<SelfSubjectAccessReview> = Api::all(self.client.clone());
        let answer = self.ask("ask for the login's rights", reviews.create(&PostParams::default(), &review)).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}

/// What a session of this purpose needs.
fn needed(purpose: Purpose) -> Vec<(&'static str, String, Vec<&'static str>)> {
    let owned = |rules: &[Rule]| -> Vec<_> {
        rules.iter().map(|(group, resource, verbs)| (*group, (*resource).to_owned(), verbs.to_vec())).collect()
    };
    match purpose {
        Purpose::Swap(kind) => rules(kind),
        Purpose::Like => [owned(&FOR_PROXY), owned(&FOR_LIKENESS)].concat(),
        Purpose::Outgoing => owned(&FOR_PROXY),
    }
}

fn rules(kind: Kind) -> Vec<(&'static str, String, Vec<&'static str>)> {
    let own = |resource: String, verbs: &[&'static str]| ("apps", resource, verbs.to_vec());
    let mut rules: Vec<_> =
        NEEDED.iter().map(|(group, resource, verbs)| (*group, (*resource).to_owned(), verbs.to_vec())).collect();
    rules.push(own(kind.resource().to_owned(), ON_WORKLOAD));
    rules.push(own(format!("{}/scale", kind.resource()), ON_SCALE));
    rules
}

/// A Role with everything that a session uses, for any kind of workload.
pub fn role(namespace: &str) -> String {
    let mut merged: Vec<(&str, String, Vec<&str>)> = Vec::new();
    let useful = USEFUL.iter().map(|(group, resource, verbs)| (*group, (*resource).to_owned(), verbs.to_vec()));
    let all = [Kind::Deployment, Kind::StatefulSet, Kind::ReplicaSet].into_iter().flat_map(rules).chain(useful);
    for (group, resource, verbs) in all {
        match merged.iter_mut().find(|(other, name, _)| *other == group && *name == resource) {
            Some((.., known)) => known.extend(verbs),
            None => merged.push((group, resource, verbs)),
        }
    }
    let mut out = format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata:\n  name: tpdocker\n  namespace: {namespace}\nrules:\n"
    );
    for (group, resource, mut verbs) in merged {
        verbs.sort_unstable();
        verbs.dedup();
        let _infallible = writeln!(
            out,
            "- apiGroups: [\"{group}\"]\n  resources: [\"{resource}\"]\n  verbs: [{}]",
            verbs.iter().map(|verb| format!("\"{verb}\"")).collect::<Vec<_>>().join(", ")
        );
    }
    out
}
