//! The environment of the user's container: the pod's, as the kubelet resolved it, with the user's on top.
//!
//! What comes from the image and not from the pod stays the image's: the proxy's own image has no `PATH` and no home, so
//! what the runtime made up for it there says nothing about the app.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Container;
use tpdocker_protocol::control::PodView;

use crate::settings::{AppSpec, NetSpec};

/// Variables that the container runtime makes up when neither the image nor the pod has them.
const RUNTIME_MADE: [&str; 3] = ["HOME", "PATH", "TERM"];

/// Pairs of the pod that belong to the app: all but what the runtime made up for the proxy.
pub fn of_pod(pod: &PodView, original: Option<&Container>) -> Vec<(String, String)> {
    let declared: BTreeSet<&str> =
        original.into_iter().flat_map(|it| it.env.iter().flatten()).map(|variable| variable.name.as_str()).collect();
    pod.env
        .iter()
        .filter(|variable| !RUNTIME_MADE.contains(&variable.name.as_str()) || declared.contains(variable.name.as_str()))
        .map(|variable| (variable.name.clone(), variable.value.clone()))
        .collect()
}

/// The whole environment of the container, as `K=V` for the engine, which puts it on top of the image's.
pub fn merged(pod: Vec<(String, String)>, app: &AppSpec, net: &NetSpec) -> Vec<String> {
    // With a host name of the user's own, the pod's would be a lie.
    let renamed = net.hostname.is_some();
    let from_pod = pod
        .into_iter()
        .filter(|(name, _)| !app.env.contains_key(name) && !app.env_unset.contains(name))
        .filter(|(name, _)| !(renamed && name == "HOSTNAME"))
        .map(|(name, value)| format!("{name}={value}"));
    let own = app.env.iter().map(|(name, value)| format!("{name}={value}"));
    // A name without a value takes the image's away.
    from_pod.chain(own).chain(app.env_unset.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::EnvVar;

    use super::*;

    fn pod(pairs: &[(&str, &str)]) -> PodView {
        let env = pairs
            .iter()
            .map(|(name, value)| tpdocker_protocol::control::EnvVar { name: (*name).into(), value: (*value).into() });
        PodView { env: env.collect(), ..PodView::default() }
    }

    #[test]
    fn path_and_home_stay_the_images_unless_the_pod_declares_them() {
        let view = pod(&[("PATH", "/made/up"), ("HOME", "/"), ("GREETING", "hello")]);
        assert_eq!(of_pod(&view, None), [("GREETING".into(), "hello".into())]);
        let declares = Container {
            env: Some(vec![EnvVar { name: "HOME".into(), value: Some("/".into()), value_from: None }]),
            ..Container::default()
        };
        assert_eq!(of_pod(&view, Some(&declares)), [("HOME".into(), "/".into()), ("GREETING".into(), "hello".into())]);
    }

    #[test]
    fn the_users_variables_win_and_an_unset_one_is_gone() {
        let app =
            AppSpec { env: [("A".into(), "mine".into())].into(), env_unset: ["B".into()].into(), ..AppSpec::default() };
        let from_pod =
            [("A", "pod"), ("B", "pod"), ("C", "pod"), ("HOSTNAME", "pod-1")].map(|(k, v)| (k.into(), v.into()));
        assert_eq!(merged(from_pod.to_vec(), &app, &NetSpec::default()), ["C=pod", "HOSTNAME=pod-1", "A=mine", "B"]);
        let named = NetSpec { hostname: Some("mine".into()), ..NetSpec::default() };
        assert_eq!(merged(from_pod.to_vec(), &app, &named), ["C=pod", "A=mine", "B"]);
    }
}
