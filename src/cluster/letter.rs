//! The sealed letter: what the proxy may do by itself, and the requests by which it does it.
//!
//! A `ServiceAccount` of the session's own, with a Role that lets it put this one workload back and delete this one proxy.
//! The account of the pod would not do: what it may, the app may. All three objects belong to the proxy's Deployment, so
//! whoever deletes that deletes them, and with the account its tokens end. A token cannot be bound to the pod, which runs
//! under another account (the API server refuses it); to the account's existence it is bound by itself.
//!
//! ```text
//! GET     workload                                                    is the server there?
//! PATCH   workload   test uid, record, replicas 0 → replicas, record removed
//! PATCH   workload   test uid, record             → record removed        somebody else had scaled it
//! GET     endpoints  of the workload's Services: who answers the callers that have waited?
//! DELETE  proxy      precondition uid; what belongs to it goes along
//! ```
//! The conditions are tested by the API server (JSON Patch, RFC 6902), in one step with the change: a letter that comes too
//! late (taken over, restored, edited, deleted) gets 422, 404 or 409, and passes over what is not its own any more.

use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, ServiceAccount};
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource as _;
use kube::api::PostParams;
use serde_json::json;
use tpdocker_protocol::contract::{ANNOTATION_SWAP, LABEL_ROLE, LABEL_SESSION, ROLE_LETTER};
use tpdocker_protocol::control::{EnvVar, SwapRecord};
use tpdocker_protocol::letter::{Letter, LetterRequest, MAX_SERVING, Method, Token};

use super::connect::Cluster;
use super::error::{Cause, ClusterError};
use super::proxy::Proxy;
use super::workload::{Kind, Workload, WorkloadRef};

/// Where each namespace has the certificates by which its pods know the API server.
/// <https://kubernetes.io/docs/concepts/configuration/configmap/#configmaps-and-pods> has it from Kubernetes 1.20 on.
pub const ROOT_CA: &str = "kube-root-ca.crt";
/// Its key.
const ROOT_CA_KEY: &str = "ca.crt";
/// For how long a token must be good after the grace time: for an API server to come back.
const MARGIN: Duration = Duration::from_mins(20);
/// The API server gives none for less.
const SHORTEST_TOKEN: Duration = Duration::from_mins(10);

/// A letter to be, less its token.
#[derive(Debug, Clone)]
pub struct Letterhead {
    workload: WorkloadRef,
    /// The workload's.
    uid: String,
    proxy: Proxy,
    letter: Letter,
}

// === impl Letterhead ===

impl Letterhead {
    /// Writes the letter for a workload that carries `record`: what it undoes is what this says.
    pub fn write(&mut self, record: &SwapRecord) -> Result<(), ClusterError> {
        self.letter.requests = requests(self, record)?;
        Ok(())
    }

    /// What it says.
    pub fn requests(&self) -> &[LetterRequest] {
        &self.letter.requests
    }
}

// === impl Cluster ===

impl Cluster {
    /// Makes what lets `proxy` put `workload`, which carries `record`, back by itself, when it has been without a client
    /// for `grace`. `env` is what the kubelet gave the proxy.
    pub async fn letterhead(
        &self,
        workload: &Workload,
        record: &SwapRecord,
        proxy: &Proxy,
        env: &[EnvVar],
        grace: Duration,
    ) -> Result<Letterhead, ClusterError> {
        let (host, port) = server_of(env)?;
        let root = self.api::<ConfigMap>();
        let root = self.ask(format!("get the ConfigMap {ROOT_CA}"), root.get(ROOT_CA)).await?;
        let ca = root.data.and_then(|mut data| data.remove(ROOT_CA_KEY));
        let ca = ca.ok_or_else(|| unknown(format!("{ROOT_CA} has no {ROOT_CA_KEY}")))?;
        let kind = workload.reference.kind;
        self.make("create a ServiceAccount", &account(proxy)).await?;
        self.make("create a Role", &role(proxy, kind, workload)).await?;
        self.make("create a RoleBinding", &binding(proxy, self.namespace())).await?;
        let (token, valid) = (Token(String::new()), Duration::ZERO);
        let serving =
            workload.services.iter().take(MAX_SERVING).map(|name| endpoints_of(self.namespace(), name)).collect();
        let letter = Letter { host, port, ca, token, grace, valid, requests: Vec::new(), serving };
        let (reference, uid) = (workload.reference.clone(), workload.uid.clone());
        let mut head = Letterhead { workload: reference, uid, proxy: proxy.clone(), letter };
        head.write(record)?;
        Ok(head)
    }

    /// The letter, with a new token.
    pub async fn seal(&self, head: &Letterhead) -> Result<Letter, ClusterError> {
        let wanted = (head.letter.grace + MARGIN).max(SHORTEST_TOKEN);
        let spec = TokenRequestSpec {
            expiration_seconds: Some(i64::try_from(wanted.as_secs()).unwrap_or(i64::MAX)),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let accounts = self.api::<ServiceAccount>();
        let params = PostParams::default();
        let answer = accounts.create_token_request(&head.proxy.name, &params, &request);
        let answer = self.ask("create a token of the ServiceAccount", answer).await?;
        let token = answer.status.map(|status| status.token).unwrap_or_default();
        // The server may have given less.
        let valid = answer.spec.expiration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let valid = valid.map_or(wanted, Duration::from_secs);
        Ok(Letter { token: Token(token), valid, ..head.letter.clone() })
    }

    async fn make<K>(&self, what: &str, object: &K) -> Result<(), ClusterError>
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + serde::Serialize
            + serde::de::DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        self.ask(what, self.api::<K>().create(&PostParams::default(), object)).await.map(drop)
    }
}

fn unknown(why: String) -> ClusterError {
    ClusterError::request("know the API server as pods do", Cause::Way(why))
}

/// Where pods reach the API server.
/// <https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/>
fn server_of(env: &[EnvVar]) -> Result<(String, u16), ClusterError> {
    let value = |name: &str| env.iter().find(|var| var.name == name).map(|var| var.value.clone());
    let host = value("KUBERNETES_SERVICE_HOST").filter(|host| !host.is_empty());
    let port = value("KUBERNETES_SERVICE_PORT").and_then(|port| port.parse().ok());
    host.zip(port).ok_or_else(|| unknown("the pod has no KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT".into()))
}

/// Under the proxy's name, and gone with it.
fn metadata(proxy: &Proxy) -> ObjectMeta {
    let labels = [(LABEL_SESSION, proxy.session.as_str()), (LABEL_ROLE, ROLE_LETTER)];
    let owner = OwnerReference {
        api_version: Deployment::api_version(&()).into_owned(),
        kind: Deployment::kind(&()).into_owned(),
        name: proxy.name.clone(),
        uid: proxy.uid.clone(),
        ..OwnerReference::default()
    };
    ObjectMeta {
        name: Some(proxy.name.clone()),
        labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    }
}

fn account(proxy: &Proxy) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(proxy),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

fn role(proxy: &Proxy, kind: Kind, workload: &Workload) -> Role {
    let rule = |group: &str, resource: &str, names: &[String], verbs: &[&str]| PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        resource_names: Some(names.to_vec()),
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        ..PolicyRule::default()
    };
    let apps = Deployment::group(&());
    let mut rules = vec![
        rule(&apps, kind.resource(), std::slice::from_ref(&workload.reference.name), &["get", "patch"]),
        rule(&apps, Kind::Deployment.resource(), std::slice::from_ref(&proxy.name), &["delete"]),
    ];
    // A rule without names would be one for all of them.
    if !workload.services.is_empty() {
        rules.push(rule(&Endpoints::group(&()), Endpoints::plural(&()).as_ref(), &workload.services, &["list"]));
    }
    Role { metadata: metadata(proxy), rules: Some(rules) }
}

fn binding(proxy: &Proxy, namespace: &str) -> RoleBinding {
    RoleBinding {
        metadata: metadata(proxy),
        role_ref: RoleRef {
            api_group: Role::group(&()).into_owned(),
            kind: Role::kind(&()).into_owned(),
            name: proxy.name.clone(),
        },
        subjects: Some(vec![Subject {
            kind: ServiceAccount::kind(&()).into_owned(),
            name: proxy.name.clone(),
            namespace: Some(namespace.to_owned()),
            ..Subject::default()
        }]),
    }
}

/// A list of one, since a login that swaps may list them. A rule that names it covers a list that is narrowed to its name.
/// <https://kubernetes.io/docs/reference/access-authn-authz/rbac/#referring-to-resources>
fn endpoints_of(namespace: &str, service: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/endpoints?fieldSelector=metadata.name%3D{service}")
}

fn requests(head: &Letterhead, record: &SwapRecord) -> Result<Vec<LetterRequest>, ClusterError> {
    let Letterhead { workload: reference, uid, proxy, .. } = head;
    let path = |resource: &str, name: &str| {
        format!("/apis/{}/namespaces/{}/{resource}/{name}", Deployment::api_version(&()), reference.namespace)
    };
    let swapped = path(reference.kind.resource(), &reference.name);
    let record_text = serde_json::to_string(record).map_err(|bad| unknown(bad.to_string()))?;
    // RFC 6901 writes a slash in a name so.
    let record_path = format!("/metadata/annotations/{}", ANNOTATION_SWAP.replace('/', "~1"));
    let ours = [
        json!({ "op": "test", "path": "/metadata/uid", "value": uid }),
        json!({ "op": "test", "path": record_path, "value": record_text }),
    ];
    let forget = json!({ "op": "remove", "path": record_path });
    let back = [
        json!({ "op": "test", "path": "/spec/replicas", "value": 0 }),
        json!({ "op": "replace", "path": "/spec/replicas", "value": record.replicas }),
    ];
    let patch = |operations: Vec<serde_json::Value>| LetterRequest {
        method: Method::Patch,
        path: swapped.clone(),
        content_type: Some("application/json-patch+json".into()),
        body: serde_json::Value::from(operations).to_string(),
        done: vec![200, 404, 422],
    };
    let delete = json!({
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "propagationPolicy": "Background",
        "preconditions": { "uid": proxy.uid },
    });
    Ok(vec![
        LetterRequest {
            method: Method::Get,
            path: swapped.clone(),
            content_type: None,
            body: String::new(),
            done: vec![200, 404],
        },
        patch(ours.iter().chain(&back).chain([&forget]).cloned().collect()),
        patch(ours.iter().chain([&forget]).cloned().collect()),
        LetterRequest {
            method: Method::Delete,
            path: path(Kind::Deployment.resource(), &proxy.name),
            content_type: Some("application/json".into()),
            body: delete.to_string(),
            done: vec![200, 202, 404, 409],
        },
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn var(name: &str, value: &str) -> EnvVar {
        EnvVar { name: name.into(), value: value.into() }
    }

    #[test]
    fn the_server_is_the_one_that_the_kubelet_names() {
        let env = [var("KUBERNETES_SERVICE_HOST", "fd00::1"), var("KUBERNETES_SERVICE_PORT", "6443")];
        assert_eq!(server_of(&env).unwrap(), ("fd00::1".to_owned(), 6443));
        let env = [var("KUBERNETES_SERVICE_HOST", ""), var("KUBERNETES_SERVICE_PORT", "6443")];
        assert!(server_of(&env).unwrap_err().to_string().contains("as pods do"));
        assert!(server_of(&[]).is_err());
    }
}
