//! The user and the groups of the pod: without them its files have modes that mean nothing. A Secret with mode 0440
//! belongs to root and to the pod's `fsGroup`.
//!
//! The user's own `-u` wins; the groups are added in any case, as a pod adds them to whatever user its image has.
//! <https://kubernetes.io/docs/tasks/configure-pod-container/security-context/>

use std::collections::BTreeSet;

use crate::cluster::PodModel;
use crate::settings::AppSpec;

/// `app` as the user and in the groups that pods of the model run as.
pub(super) fn of_pod(app: &AppSpec, model: &PodModel) -> AppSpec {
    let spec = model.template.spec.as_ref();
    let pod = spec.and_then(|spec| spec.security_context.clone()).unwrap_or_default();
    let own = model.original().and_then(|container| container.security_context.clone()).unwrap_or_default();
    let user = own.run_as_user.or(pod.run_as_user).map(|user| match own.run_as_group.or(pod.run_as_group) {
        Some(group) => format!("{user}:{group}"),
        // The image's own files say to which group the user belongs, here as there.
        None => user.to_string(),
    });
    let groups: BTreeSet<i64> = pod.supplemental_groups.into_iter().flatten().chain(pod.fs_group).collect();
    let groups = app.groups.iter().cloned().chain(groups.iter().map(ToString::to_string));
    AppSpec { user: app.user.clone().or(user), groups: groups.collect(), ..app.clone() }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodTemplateSpec;

    use super::*;

    fn model(spec: &str) -> PodModel {
        let template: PodTemplateSpec = serde_saphyr::from_str(&format!("spec: {spec}")).unwrap();
        PodModel::beside(template, "web".into(), vec![])
    }

    fn account(app: &AppSpec, spec: &str) -> (Option<String>, Vec<String>) {
        let AppSpec { user, groups, .. } = of_pod(app, &model(spec));
        (user, groups)
    }

    #[test]
    fn the_containers_user_wins_over_the_pods_and_the_typed_one_over_both() {
        let spec = "{securityContext: {runAsUser: 1, runAsGroup: 2, fsGroup: 3, supplementalGroups: [5, 4]}, \
                    containers: [{name: web, securityContext: {runAsUser: 9}}, {name: other}]}";
        let groups = ["3", "4", "5"].map(str::to_owned).to_vec();
        assert_eq!(account(&AppSpec::default(), spec), (Some("9:2".into()), groups.clone()));
        let typed = AppSpec { user: Some("root".into()), ..AppSpec::default() };
        assert_eq!(account(&typed, spec), (Some("root".into()), groups));
        assert_eq!(account(&AppSpec::default(), "{containers: [{name: web}]}"), (None, vec![]));
        let alone = "{securityContext: {runAsUser: 7}, containers: [{name: web}]}";
        assert_eq!(account(&AppSpec::default(), alone), (Some("7".into()), vec![]));
    }
}
