//! What the login may do, asked before anything changes.
//!
//! One `SelfSubjectAccessReview` for each right, several at a time. The tables here are at once what is asked, what the
//! code uses, and the Role that [`super::role`] prints for an administrator; `tests/kube/rights.rs` compares them with the
//! requests of a real session, both ways. A right on the one workload is asked for with its name, since the Role that
//! was granted may name it.
//! <https://kubernetes.io/docs/reference/access-authn-authz/authorization/>

use futures_util::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;

use crate::settings::{Intent, SwapTarget, TargetKind};

use super::connect::Cluster;
use super::error::ClusterError;
use super::fixture::FixtureKind;
use super::letter::ROOT_CA;
use super::role::role;
use super::stance::{Likeness, ModelKind, Stance};
use super::workload::{Kind, WorkloadRef};

/// Reviews under way at once; each may be a connection of its own.
const CONCURRENT: usize = 6;
/// From this minor release on a port-forward over WebSocket, which is a GET, asks for `create` beside `get`.
/// <https://github.com/kubernetes/kubernetes/pull/134577>
const PORT_FORWARD_CREATES: u32 = 35;

/// API group, resource, verbs.
type Row = (&'static str, &'static str, &'static [&'static str]);

/// To find the workload that is meant, if one is.
const TO_FIND: Row = ("", "services", &["list"]);
/// To know that nobody is sent to the original any more.
const TO_SWAP: Row = ("", "endpoints", &["list", "watch"]);
/// For every proxy. Its name is random, so nothing here can be narrowed to one object.
const FOR_PROXY: [Row; 3] = [
    ("", "pods", &["list", "watch"]),
    ("", "pods/portforward", &["get"]),
    ("apps", "deployments", &["create", "delete", "list", "watch"]),
];

/// Of no use but to explain why a proxy does not start; with what each is for.
const USEFUL: [(Row, &str); 2] = [
    (("", "events", &["list", "watch"]), "the warnings about a proxy that does not start"),
    (("", "pods/log", &["get"]), "the last output of a proxy that crashes"),
];

/// Of no use but to know that an autoscaler is there; with what that is for.
const USEFUL_TO_SWAP: (Row, &str) =
    (("autoscaling", "horizontalpodautoscalers", &["list"]), "the notice about an autoscaler of the workload");
/// So that the proxy can put a workload back by itself: [`super::letter`]. Its Role may hold no right that the login has not.
const FOR_LETTER: [(Row, Option<&str>); 5] = [
    (("", "configmaps", &["get"]), Some(ROOT_CA)),
    (("", "serviceaccounts", &["create"]), None),
    (("", "serviceaccounts/token", &["create"]), None),
    (("rbac.authorization.k8s.io", "rolebindings", &["create"]), None),
    (("rbac.authorization.k8s.io", "roles", &["create"]), None),
];
/// What the rights for it are useful for.
pub const LETTER: &str = "letting the proxy put the workload back when the session's machine is gone";

/// On the workload that is swapped. A list or watch of one name counts as one of that name.
const ON_WORKLOAD: &[&str] = &["get", "list", "patch", "watch"];
const ON_SCALE: &[&str] = &["get", "update"];

/// What rights are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// Sessions on any workload, named in any way.
    Any,
    /// Sessions on workloads of one kind.
    Kind(Kind),
    /// Sessions on one workload.
    Workload {
        /// Its kind.
        kind: Kind,
        /// Its name.
        name: String,
        /// It is named by its Service, and found among all of its kind.
        by_service: bool,
    },
    /// A session beside what runs pods, which it is like.
    Like {
        /// What that is.
        kind: ModelKind,
        /// Its name.
        name: String,
        /// It is named by its Service.
        by_service: bool,
    },
    /// A session on its own.
    Outgoing,
}

/// One rule of a Role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The API group; the core group is empty.
    pub group: &'static str,
    /// The resource, with its subresource.
    pub resource: String,
    /// The one object that it is about; all of the namespace when `None`.
    pub name: Option<String>,
    /// What is allowed, sorted.
    pub verbs: Vec<&'static str>,
    /// What a session does without when it is missing; needed when `None`.
    pub useful_for: Option<&'static str>,
}

// === impl Purpose ===

impl Purpose {
    /// A session on `workload`, which `target` was resolved to.
    pub fn of(target: &SwapTarget, workload: &WorkloadRef) -> Self {
        let by_service = target.kind == Some(TargetKind::Service) || target.name != workload.name;
        Self::Workload { kind: workload.kind, name: workload.name.clone(), by_service }
    }

    /// A session like `likeness`, which `target` was resolved to.
    pub fn like(target: &SwapTarget, likeness: &Likeness) -> Self {
        let by_service = target.kind == Some(TargetKind::Service) || target.name != likeness.name;
        Self::Like { kind: likeness.kind, name: likeness.name.clone(), by_service }
    }

    /// A session on the workload of this kind and name.
    pub fn on(kind: Kind, name: &str) -> Self {
        Self::Workload { kind, name: name.to_owned(), by_service: false }
    }

    /// The rules of the smallest Role. `minor` is the server's release, where it is known.
    pub fn rules(&self, minor: Option<u32>) -> Vec<Rule> {
        let mut rules = Rules(Vec::new());
        match self {
            Self::Any => {
                rules.of_swap(minor);
                for kind in Kind::ALL {
                    rules.on(kind, None);
                }
            }
            Self::Kind(kind) => {
                rules.of_swap(minor);
                rules.on(*kind, None);
            }
            Self::Workload { kind, name, by_service } => {
                rules.of_swap(minor);
                if *by_service {
                    rules.add("apps", kind.resource(), None, &["list"]);
                }
                rules.on(*kind, Some(name));
            }
            Self::Like { kind, name, by_service } => {
                rules.of_likeness(minor);
                match kind {
                    ModelKind::Workload(_) if *by_service => rules.add(kind.group(), kind.resource(), None, &["list"]),
                    // It was found among all pods, which are listed for the proxy's anyway.
                    ModelKind::Fixture(FixtureKind::Pod) if *by_service => {}
                    _ => rules.add(kind.group(), kind.resource(), Some(name), &["get"]),
                }
            }
            Self::Outgoing => rules.of_proxy(minor),
        }
        rules.finish()
    }
}

// === impl Cluster ===

impl Cluster {
    /// Finds what is meant and checks every right that a session needs for it. With what is missing and not needed.
    pub async fn find(&self, intent: &Intent) -> Result<(Stance, Lacking), ClusterError> {
        let found = match intent {
            Intent::Swap(target) => self.resolve(target).await.map(|workload| {
                let purpose = Purpose::of(target, &workload.reference);
                (Stance::Swap(workload), purpose)
            }),
            Intent::Like(target) => self.resolve_likeness(target).await.map(|likeness| {
                let purpose = Purpose::like(target, &likeness);
                (Stance::Like(likeness), purpose)
            }),
            Intent::Outgoing => Ok((Stance::outgoing(self.namespace()), Purpose::Outgoing)),
        };
        match found {
            Ok((stance, purpose)) => {
                let lacking = self.check_rights(&purpose).await?;
                Ok((stance, lacking))
            }
            Err(error) if error.status() == Some(403) => Err(self.missing_to_find(intent).await?.unwrap_or(error)),
            Err(error) => Err(error),
        }
    }

    /// Asks for every right that `purpose` needs; what is missing and not needed.
    pub async fn check_rights(&self, purpose: &Purpose) -> Result<Lacking, ClusterError> {
        let missing = match self.missing(&purpose.rules(self.minor())).await {
            Err(error) if error.status() == Some(403) => {
                let notice = "this login may not ask which rights it has; going on without knowing";
                return Ok(Lacking { notice: Some(notice.into()), letter: Vec::new() });
            }
            answer => answer?,
        };
        let (useful, needed): (Vec<_>, Vec<_>) = missing.into_iter().partition(|missing| missing.useful_for.is_some());
        if !needed.is_empty() {
            return Err(self.forbidden(needed, purpose));
        }
        let (letter, useful): (Vec<_>, Vec<_>) = useful.into_iter().partition(|it| it.useful_for == Some(LETTER));
        let told: Vec<String> =
            useful.iter().filter_map(|it| Some(format!("{} ({})", it.text, it.useful_for?))).collect();
        let notice =
            (!told.is_empty()).then(|| format!("this login may not {}; a session works without", told.join(", ")));
        Ok(Lacking { notice, letter: letter.into_iter().map(|it| it.text).collect() })
    }

    /// Which rights were missing when what is meant was looked for; `None` when it was not for one of those that are
    /// known.
    async fn missing_to_find(&self, intent: &Intent) -> Result<Option<ClusterError>, ClusterError> {
        let (target, swaps) = match intent {
            Intent::Swap(target) => (target, true),
            Intent::Like(target) => (target, false),
            Intent::Outgoing => return Ok(None),
        };
        let kinds = match target.kind {
            Some(TargetKind::Deployment) => vec![Kind::Deployment.into()],
            Some(TargetKind::StatefulSet) => vec![Kind::StatefulSet.into()],
            Some(TargetKind::ReplicaSet) => vec![Kind::ReplicaSet.into()],
            Some(TargetKind::Fixture(kind)) => vec![ModelKind::Fixture(kind)],
            Some(TargetKind::Service) | None => {
                // The workload is not known, and the name may be its Service's.
                let mut rules = Rules(Vec::new());
                if swaps {
                    rules.of_swap(self.minor());
                } else {
                    rules.of_likeness(self.minor());
                }
                let missing = self.missing(&rules.needed()).await?;
                if !missing.is_empty() {
                    return Ok(Some(self.forbidden(missing, &Purpose::Any)));
                }
                if target.kind.is_some() {
                    return Ok(None);
                }
                Kind::ALL.map(ModelKind::from).to_vec()
            }
        };
        let mut fewest: Option<(Vec<Missing>, Purpose)> = None;
        for kind in kinds {
            let purpose = match kind {
                ModelKind::Workload(kind) if swaps => Purpose::on(kind, &target.name),
                _ => Purpose::Like { kind, name: target.name.clone(), by_service: false },
            };
            let mut missing = self.missing(&purpose.rules(self.minor())).await?;
            missing.retain(|it| it.useful_for.is_none());
            // A Role that has almost all of it was meant for this kind.
            if fewest.as_ref().is_none_or(|(fewer, _)| missing.len() < fewer.len()) {
                fewest = Some((missing, purpose));
            }
        }
        Ok(fewest
            .filter(|(missing, _)| !missing.is_empty())
            .map(|(missing, purpose)| self.forbidden(missing, &purpose)))
    }

    /// The error where what the login may not list could be behind a Service.
    pub(super) fn may_not_list(&self, kind: Kind) -> ClusterError {
        let text = format!("list {}.apps", kind.resource());
        self.forbidden(vec![Missing { text, useful_for: None }], &Purpose::Kind(kind))
    }

    fn forbidden(&self, missing: Vec<Missing>, purpose: &Purpose) -> ClusterError {
        let missing = missing.into_iter().map(|missing| missing.text).collect();
        ClusterError::Forbidden { missing, role: role(purpose, self.namespace(), self.minor()) }
    }

    /// The rights among `rules` that the login has not.
    async fn missing(&self, rules: &[Rule]) -> Result<Vec<Missing>, ClusterError> {
        let questions: Vec<_> =
            rules.iter().flat_map(|rule| rule.verbs.iter().map(move |verb| (rule, *verb))).collect();
        let reviews: Vec<_> = questions
            .into_iter()
            .map(|(rule, verb)| async move {
                let text = || {
                    let dot = if rule.group.is_empty() { "" } else { "." };
                    format!("{verb} {}{dot}{}", rule.resource, rule.group)
                };
                let allowed = self.may(rule, verb).await?;
                Ok::<_, ClusterError>((!allowed).then(|| Missing { text: text(), useful_for: rule.useful_for }))
            })
            .collect();
        let answers: Vec<Option<Missing>> =
            futures_util::stream::iter(reviews).buffered(CONCURRENT).try_collect().await?;
        Ok(answers.into_iter().flatten().collect())
    }

    async fn may(&self, rule: &Rule, verb: &str) -> Result<bool, ClusterError> {
        let (resource, subresource) = match rule.resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource)),
            None => (rule.resource.as_str(), None),
        };
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    namespace: Some(self.namespace().to_owned()),
                    group: Some(rule.group.to_owned()),
                    resource: Some(resource.to_owned()),
                    subresource: subresource.map(str::to_owned),
                    name: rule.name.clone(),
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

    /// Whether no workload of the namespace can escape [`Self::swaps`].
    pub async fn may_list_workloads(&self) -> Result<bool, ClusterError> {
        let mut rules = Rules(Vec::new());
        for kind in Kind::ALL {
            rules.add("apps", kind.resource(), None, &["list"]);
        }
        Ok(self.missing(&rules.finish()).await?.is_empty())
    }

    /// The minor release of the server: 33 of `v1.33.1`.
    pub fn minor(&self) -> Option<u32> {
        let digits =
            self.facts().version.as_ref()?.strip_prefix("v1.")?.split(|it: char| !it.is_ascii_digit()).next()?;
        digits.parse().ok()
    }
}

/// Rights that a login has not, and that a session does without.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lacking {
    /// About those of no other consequence, or that the question itself is not allowed.
    pub notice: Option<String>,
    /// Those without which the proxy cannot restore by itself: `verb resource.group` of each.
    pub letter: Vec<String>,
}

impl Lacking {
    /// All of it, for a person.
    pub fn told(&self) -> Option<String> {
        let letter = (!self.letter.is_empty())
            .then(|| format!("this login may not {} ({LETTER}); a session works without", self.letter.join(", ")));
        let told: Vec<String> = self.notice.iter().cloned().chain(letter).collect();
        (!told.is_empty()).then(|| told.join("; "))
    }
}

/// A right that is not there.
struct Missing {
    /// `verb resource.group`.
    text: String,
    useful_for: Option<&'static str>,
}

/// Rules under construction: one for each resource and name.
struct Rules(Vec<Rule>);

impl Rules {
    /// Of every session that swaps a workload.
    fn of_swap(&mut self, minor: Option<u32>) {
        for (group, resource, verbs) in [TO_FIND, TO_SWAP] {
            self.add(group, resource, None, verbs);
        }
        self.of_proxy(minor);
        let (row, useful_for) = USEFUL_TO_SWAP;
        self.push(row, None, Some(useful_for));
        for (row, name) in FOR_LETTER {
            self.push(row, name, Some(LETTER));
        }
    }

    /// Of every session that is told a workload.
    fn of_likeness(&mut self, minor: Option<u32>) {
        let (group, resource, verbs) = TO_FIND;
        self.add(group, resource, None, verbs);
        self.of_proxy(minor);
    }

    /// Of every session.
    fn of_proxy(&mut self, minor: Option<u32>) {
        for (group, resource, verbs) in FOR_PROXY {
            self.add(group, resource, None, verbs);
        }
        if minor.is_none_or(|minor| minor >= PORT_FORWARD_CREATES) {
            let useful_for = minor.is_none().then_some("port-forwards, which need it from Kubernetes 1.35 on");
            self.push(("", "pods/portforward", &["create"]), None, useful_for);
        }
        for (row, useful_for) in USEFUL {
            self.push(row, None, Some(useful_for));
        }
    }

    fn on(&mut self, kind: Kind, name: Option<&str>) {
        self.add("apps", kind.resource(), name, ON_WORKLOAD);
        self.add("apps", &format!("{}/scale", kind.resource()), name, ON_SCALE);
    }

    fn push(&mut self, (group, resource, verbs): Row, name: Option<&str>, useful_for: Option<&'static str>) {
        if useful_for.is_none() {
            return self.add(group, resource, name, verbs);
        }
        let (resource, name) = (resource.to_owned(), name.map(str::to_owned));
        self.0.push(Rule { group, resource, name, verbs: verbs.to_vec(), useful_for });
    }

    /// What all objects of the resource are open to need not be said for one of them.
    fn add(&mut self, group: &'static str, resource: &str, name: Option<&str>, verbs: &[&'static str]) {
        let same = |rule: &Rule| rule.group == group && rule.resource == resource && rule.useful_for.is_none();
        let all = self.0.iter().find(|rule| same(rule) && rule.name.is_none());
        let known = all.map(|rule| rule.verbs.clone()).unwrap_or_default();
        let new = verbs.iter().filter(|verb| !known.contains(verb)).copied();
        if let Some(rule) = self.0.iter_mut().find(|rule| same(rule) && rule.name.as_deref() == name) {
            rule.verbs.extend(new);
        } else {
            let (resource, name) = (resource.to_owned(), name.map(str::to_owned));
            self.0.push(Rule { group, resource, name, verbs: new.collect(), useful_for: None });
        }
    }

    fn needed(self) -> Vec<Rule> {
        self.finish().into_iter().filter(|rule| rule.useful_for.is_none()).collect()
    }

    fn finish(mut self) -> Vec<Rule> {
        self.0.sort_by_key(|rule| rule.useful_for.is_some());
        for rule in &mut self.0 {
            rule.verbs.sort_unstable();
        }
        self.0
    }
}
