//! Who else decides how many replicas a workload has, told before it is swapped: an autoscaler, and a `GitOps` controller.
//!
//! An autoscaler that sees 0 replicas does nothing until it sees another number, unless its minimum is 0; so it goes on when
//! the original is back, from the number that it had. A `GitOps` controller may scale back what differs from its repository;
//! it can be told not to, and the notice says how. Helm by itself does nothing between two commands.
//! <https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#implicit-maintenance-mode-deactivation>

use std::fmt;

use k8s_openapi::api::autoscaling::v1::HorizontalPodAutoscaler;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use kube::api::ListParams;

use super::connect::Cluster;
use super::error::ClusterError;
use super::stance::Stance;
use super::workload::WorkloadRef;

/// Argo CD's label, where it tracks by one and was told to use one of its own: that of its default is set by many tools.
/// <https://argo-cd.readthedocs.io/en/stable/user-guide/resource_tracking/>
const ARGO_LABEL: &str = "argocd.argoproj.io/instance";
/// Argo CD's annotation: `APPLICATION:GROUP/KIND:NAMESPACE/NAME`.
const ARGO_ANNOTATION: &str = "argocd.argoproj.io/tracking-id";
/// Flux' labels, followed by `name` and `namespace`. <https://fluxcd.io/flux/components/kustomize/kustomizations/>
const FLUX_KUSTOMIZATION: &str = "kustomize.toolkit.fluxcd.io/";
/// <https://fluxcd.io/flux/components/helm/helmreleases/>
const FLUX_HELM: &str = "helm.toolkit.fluxcd.io/";

/// A `GitOps` controller's object that a workload belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GitOps {
    /// An Application of Argo CD.
    ArgoCd {
        /// Its name.
        application: String,
    },
    /// An object of Flux.
    Flux {
        /// `kustomization` or `helmrelease`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Its namespace.
        namespace: String,
    },
}

impl GitOps {
    /// What the object belongs to, by its well-known labels and annotations.
    pub fn of(metadata: &ObjectMeta) -> Option<Self> {
        let label = |key: &str| metadata.labels.as_ref()?.get(key).cloned();
        let annotated = metadata.annotations.as_ref().and_then(|all| all.get(ARGO_ANNOTATION));
        let tracked = annotated.and_then(|id| id.split(':').next()).map(str::to_owned);
        if let Some(application) = tracked.or_else(|| label(ARGO_LABEL)) {
            return Some(Self::ArgoCd { application });
        }
        [("kustomization", FLUX_KUSTOMIZATION), ("helmrelease", FLUX_HELM)].into_iter().find_map(|(kind, prefix)| {
            let name = label(&format!("{prefix}name"))?;
            let namespace = label(&format!("{prefix}namespace")).or_else(|| metadata.namespace.clone())?;
            Some(Self::Flux { kind, name, namespace })
        })
    }
}

impl fmt::Display for GitOps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ArgoCd { application } => write!(
                f,
                "it belongs to Argo CD's Application `{application}`, which may scale it back during the session: have it \
                 ignore /spec/replicas (ignoreDifferences, and syncOptions RespectIgnoreDifferences=true), or suspend its \
                 automatic sync"
            ),
            Self::Flux { kind, name, namespace } => write!(
                f,
                "it belongs to Flux' {kind} `{name}`, which may scale it back during the session: flux suspend {kind} {name} \
                 -n {namespace}, and flux resume afterwards"
            ),
        }
    }
}

impl Cluster {
    /// What a person should know who swaps this: who else decides about the workload's replicas. Nothing where nothing is
    /// swapped, and nothing of what the login may not see.
    pub async fn deciders(&self, stance: &Stance) -> Result<Vec<String>, ClusterError> {
        let Some(workload) = stance.workload() else { return Ok(Vec::new()) };
        let mut told: Vec<String> = workload.gitops.iter().map(ToString::to_string).collect();
        let autoscalers = self.api::<HorizontalPodAutoscaler>();
        match self.ask("list horizontalpodautoscalers", autoscalers.list(&ListParams::default())).await {
            Ok(list) => told.extend(list.iter().filter(|it| is_about(it, &workload.reference)).map(pauses)),
            // That the right is missing was said with the others.
            Err(error) if error.status() == Some(403) => tracing::debug!(%error, "no word about autoscalers"),
            Err(error) => return Err(error),
        }
        Ok(told)
    }
}

fn is_about(autoscaler: &HorizontalPodAutoscaler, workload: &WorkloadRef) -> bool {
    let target = autoscaler.spec.as_ref().map(|spec| &spec.scale_target_ref);
    target.is_some_and(|target| target.kind == workload.kind.as_str() && target.name == workload.name)
}

fn pauses(autoscaler: &HorizontalPodAutoscaler) -> String {
    let name = autoscaler.name_any();
    let spec = autoscaler.spec.as_ref();
    // The API server's default.
    let min = spec.and_then(|spec| spec.min_replicas).unwrap_or(1);
    let max = spec.map_or(min, |spec| spec.max_replicas);
    let range = format!("HorizontalPodAutoscaler `{name}` ({min} to {max}) targets it");
    if min == 0 {
        return format!("{range} and may scale it back during the session, since its minimum is 0");
    }
    format!("{range}: it pauses while the original is at 0, and goes on from there when that is back")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told(labels: &Value, annotations: &Value) -> Option<String> {
        let metadata = json!({ "namespace": "staging", "labels": labels, "annotations": annotations });
        GitOps::of(&serde_json::from_value(metadata).unwrap()).map(|it| it.to_string())
    }

    #[test]
    fn a_gitops_controllers_object_is_known_by_its_marks_and_what_only_installs_is_not() {
        let none = json!({});
        let argo = "it belongs to Argo CD's Application `shop`, ";
        let tracked = told(&none, &json!({ ARGO_ANNOTATION: "shop:apps/Deployment:staging/web" })).unwrap();
        assert!(tracked.starts_with(argo) && tracked.contains("ignoreDifferences"), "{tracked}");
        assert!(told(&json!({ ARGO_LABEL: "shop" }), &none).unwrap().starts_with(argo));
        let by = |prefix: &str| json!({ format!("{prefix}name"): "shop", format!("{prefix}namespace"): "flux-system" });
        for (prefix, kind) in [(FLUX_KUSTOMIZATION, "kustomization"), (FLUX_HELM, "helmrelease")] {
            let flux = told(&by(prefix), &none).unwrap();
            assert!(flux.contains(&format!("flux suspend {kind} shop -n flux-system, ")), "{flux}");
        }
        let helm = json!({ "app.kubernetes.io/managed-by": "Helm", "app.kubernetes.io/instance": "shop" });
        assert_eq!(told(&helm, &json!({ "meta.helm.sh/release-name": "shop" })), None);
    }
}
