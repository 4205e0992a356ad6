//! Every request that the client makes, as RBAC judges it: read from the spans of kube's own client.

use std::sync::{Mutex, OnceLock, PoisonError};

use tpdocker::cluster::rights::Rule;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

/// What the authorizer is asked about one request in a namespace.
/// <https://kubernetes.io/docs/reference/access-authn-authz/authorization/#determine-the-request-verb>
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    pub verb: &'static str,
    pub group: String,
    /// With its subresource.
    pub resource: String,
    pub name: Option<String>,
}

impl Request {
    /// Reads `GET https://…/api/v1/namespaces/NS/pods?watch=true`; `None` outside of the namespace.
    fn read(namespace: &str, method: &str, url: &str) -> Option<Self> {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let (api, path) = path.split_once(&format!("/namespaces/{namespace}/"))?;
        let group = api.split_once("/apis/").and_then(|(_, group)| Some(group.split_once('/')?.0)).unwrap_or_default();
        let mut parts = path.split('/');
        let resource = parts.next()?;
        let in_path = parts.next().map(str::to_owned);
        let resource = parts.next().map_or_else(|| resource.to_owned(), |sub| format!("{resource}/{sub}"));
        let by_field = query.split('&').find_map(|pair| pair.strip_prefix("fieldSelector=metadata.name%3D"));
        let watch = query.split('&').any(|pair| pair == "watch=true" || pair == "watch=1");
        let verb = match (method, &in_path) {
            ("GET", Some(_)) => "get",
            ("GET", None) if watch => "watch",
            ("GET", None) => "list",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", Some(_)) => "delete",
            other => panic!("{other:?} of {url}"),
        };
        let name = in_path.or_else(|| by_field.map(str::to_owned));
        Some(Self { verb, group: group.to_owned(), resource, name })
    }

    /// Whether the rule allows it.
    pub fn is_allowed_by(&self, rule: &Rule) -> bool {
        rule.group == self.group
            && rule.resource == self.resource
            && rule.verbs.contains(&self.verb)
            && (rule.name.is_none() || rule.name == self.name)
    }
}

static SEEN: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

/// From now on requests are kept.
pub fn record() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        let only = Targets::new().with_target("kube_client", LevelFilter::DEBUG);
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Recorder.with_filter(only)))
            .expect("no other subscriber");
    });
}

/// How many requests there have been, as a mark.
pub fn mark() -> usize {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner).len()
}

/// The distinct requests in `namespace` after `mark`.
pub fn since(mark: usize, namespace: &str) -> Vec<Request> {
    let seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut all: Vec<_> =
        seen[mark..].iter().filter_map(|(method, url)| Request::read(namespace, method, url)).collect();
    all.sort();
    all.dedup();
    all
}

struct Recorder;

impl<S: tracing::Subscriber> Layer<S> for Recorder {
    fn on_new_span(&self, span: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        #[derive(Default)]
        struct Fields {
            method: String,
            url: String,
        }
        impl Visit for Fields {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                match field.name() {
                    "http.method" => self.method = format!("{value:?}"),
                    "http.url" => self.url = format!("{value:?}"),
                    _ => {}
                }
            }
        }
        let mut fields = Fields::default();
        span.record(&mut fields);
        if !fields.url.is_empty() {
            SEEN.lock().unwrap_or_else(PoisonError::into_inner).push((fields.method, fields.url));
        }
    }
}
