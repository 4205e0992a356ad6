//! Saying early why the proxy pod will not start, in the words of the kubelet, the scheduler or the API server.
//!
//! A pure reading of status objects. What passes by itself (a volume being mounted, an init container at work) is
//! progress; what does not (an image that cannot be pulled, a missing Secret, a crash) is a failure at first sight,
//! because waiting three minutes for it helps nobody.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// Reasons of a waiting container that do not pass by themselves within a session's patience.
/// They are the kubelet's: `pkg/kubelet/images/types.go`, `pkg/kubelet/kuberuntime/kuberuntime_container.go`.
const IMAGE: [&str; 6] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
];
const CONTAINER: [&str; 5] = [
    "CreateContainerConfigError",
    "CreateContainerError",
    "PreCreateHookError",
    "RunContainerError",
    "PostStartHookError",
];
const CRASH: &str = "CrashLoopBackOff";

/// How a pod that is wanted looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outlook {
    /// On its way; what it waits for.
    Waiting(String),
    /// No node takes it now. An autoscaler may mend that, so it is for the caller to lose patience.
    Unschedulable(String),
    /// The proxy's container runs.
    Running,
    /// It will not come up.
    Failed(Failure),
}

/// Why a pod will not come up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// An image cannot be had.
    Image {
        /// The container that needs it.
        container: String,
        /// The image.
        image: String,
        /// The kubelet's words.
        message: String,
    },
    /// A container cannot be created.
    Container {
        /// Which.
        container: String,
        /// The kubelet's words.
        message: String,
    },
    /// A container was started and ended.
    Crash {
        /// Which.
        container: String,
        /// How.
        message: String,
        /// Whether its last output is that of the run before the present one.
        previous: bool,
    },
    /// The node threw the pod out, or the API server accepts no pod.
    Rejected(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Image { container, image, message } => {
                write!(f, "image {image} of container {container} cannot be pulled: {message}")
            }
            Self::Container { container, message } => write!(f, "container {container} cannot be created: {message}"),
            Self::Crash { container, message, .. } => write!(f, "container {container} {message}"),
            Self::Rejected(message) => f.write_str(message),
        }
    }
}

/// Reads a pod of the proxy; `proxy` is the name of its container.
pub fn outlook(pod: &Pod, proxy: &str) -> Outlook {
    let Some(status) = &pod.status else { return Outlook::Waiting("the scheduler".into()) };
    if status.phase.as_deref() == Some("Failed") {
        let why = status.message.as_deref().or(status.reason.as_deref()).unwrap_or("the pod failed");
        return Outlook::Failed(Failure::Rejected(why.to_owned()));
    }
    let scheduled = status.conditions.iter().flatten().find(|condition| condition.type_ == "PodScheduled");
    if let Some(condition) = scheduled.filter(|condition| condition.status == "False") {
        let message = condition.message.clone().unwrap_or_else(|| "no node takes the pod".into());
        return match condition.reason.as_deref() {
            Some("Unschedulable") => Outlook::Unschedulable(message),
            _ => Outlook::Waiting(message),
        };
    }
    let init = status.init_container_statuses.as_deref().unwrap_or_default();
    let main = status.container_statuses.as_deref().unwrap_or_default();
    if let Some(failure) = init.iter().chain(main).find_map(|container| failure(container, proxy)) {
        return Outlook::Failed(failure);
    }
    if main.iter().any(|container| container.name == proxy && is_running(container)) {
        return Outlook::Running;
    }
    if let Some(busy) = init.iter().find(|container| is_running(container)) {
        return Outlook::Waiting(format!("init container {}", busy.name));
    }
    let waiting = main.iter().filter(|container| container.name == proxy).find_map(waiting);
    Outlook::Waiting(match waiting {
        Some((reason, _)) if reason == "ContainerCreating" || reason == "PodInitializing" => {
            "the kubelet: image and volumes".into()
        }
        Some((reason, message)) => format!("{reason} {message}").trim_end().to_owned(),
        None if status.container_statuses.is_some() => "the proxy's container".into(),
        None => "the kubelet".into(),
    })
}

/// Whether the pod's readiness holds.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Why the controllers could not create the pod: quota, admission, a missing service account.
pub fn rejected(deployment: &Deployment) -> Option<Failure> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failed = conditions.iter().find(|it| it.type_ == "ReplicaFailure" && it.status == "True")?;
    Some(Failure::Rejected(failed.message.clone().or_else(|| failed.reason.clone())?))
}

fn failure(status: &ContainerStatus, proxy: &str) -> Option<Failure> {
    let container = status.name.clone();
    if let Some((reason, message)) = waiting(status) {
        let message = if message.is_empty() { reason.to_owned() } else { message.to_owned() };
        if IMAGE.contains(&reason) {
            return Some(Failure::Image { container, image: status.image.clone(), message });
        }
        if CONTAINER.contains(&reason) {
            return Some(Failure::Container { container, message });
        }
        if reason == CRASH && status.name == proxy {
            return Some(Failure::Crash { container, message: ended(status), previous: true });
        }
    }
    // The proxy never ends by itself, so its first end says enough. A sibling or an init container may well fail until
    // something it waits for is there; the original's do the same.
    let terminated = status.state.as_ref()?.terminated.as_ref();
    if status.name == proxy && terminated.is_some() {
        return Some(Failure::Crash { container, message: ended(status), previous: false });
    }
    None
}

/// How the last run ended.
fn ended(status: &ContainerStatus) -> String {
    let run = [&status.state, &status.last_state].into_iter().flatten().find_map(|state| state.terminated.as_ref());
    match run {
        Some(end) => match (end.reason.as_deref(), end.message.as_deref()) {
            (_, Some(message)) if !message.is_empty() => format!("ended with code {}: {message}", end.exit_code),
            (Some(reason), _) if reason != "Error" => format!("ended with code {} ({reason})", end.exit_code),
            _ => format!("ended with code {}", end.exit_code),
        },
        None => "crashes".into(),
    }
}

fn waiting(status: &ContainerStatus) -> Option<(&str, &str)> {
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    Some((waiting.reason.as_deref()?, waiting.message.as_deref().unwrap_or_default()))
}

fn is_running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.running.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(status: &serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({ "status": status })).unwrap()
    }

    fn container(name: &str, state: &serde_json::Value) -> serde_json::Value {
        serde_json::json!({ "name": name, "image": "img", "imageID": "", "ready": false, "restartCount": 0, "state": state })
    }

    #[test]
    fn an_image_that_cannot_be_pulled_fails_in_the_kubelets_words() {
        let state = serde_json::json!({ "waiting": { "reason": "ErrImagePull", "message": "not found" } });
        let seen = outlook(&pod(&serde_json::json!({ "containerStatuses": [container("app", &state)] })), "app");
        let Outlook::Failed(failure) = seen else { panic!("{seen:?}") };
        assert_eq!(failure.to_string(), "image img of container app cannot be pulled: not found");
    }

    #[test]
    fn a_missing_secret_fails_in_the_kubelets_words() {
        let state = serde_json::json!({ "waiting": { "reason": "CreateContainerConfigError", "message": "secret \"s\" not found" } });
        let seen = outlook(&pod(&serde_json::json!({ "containerStatuses": [container("app", &state)] })), "app");
        let expected = Failure::Container { container: "app".into(), message: "secret \"s\" not found".into() };
        assert_eq!(seen, Outlook::Failed(expected));
    }

    #[test]
    fn an_init_container_at_work_and_one_that_tries_again_are_progress() {
        let waits = serde_json::json!({ "waiting": { "reason": "PodInitializing" } });
        for state in [
            serde_json::json!({ "running": {} }),
            serde_json::json!({ "waiting": { "reason": "CrashLoopBackOff", "message": "back-off" } }),
        ] {
            let status = serde_json::json!({
                "initContainerStatuses": [container("migrate", &state)],
                "containerStatuses": [container("app", &waits)],
            });
            assert!(matches!(outlook(&pod(&status), "app"), Outlook::Waiting(_)));
        }
    }

    #[test]
    fn a_crash_of_the_proxy_fails_and_one_of_a_sibling_does_not() {
        let crash = serde_json::json!({ "terminated": { "exitCode": 3, "reason": "Error" } });
        let runs = serde_json::json!({ "running": {} });
        let status = |a: &serde_json::Value, b: &serde_json::Value| {
            pod(&serde_json::json!({ "containerStatuses": [container("app", a), container("mesh", b)] }))
        };
        assert!(matches!(outlook(&status(&crash, &runs), "app"), Outlook::Failed(Failure::Crash { .. })));
        assert_eq!(outlook(&status(&runs, &crash), "app"), Outlook::Running);
    }

    #[test]
    fn an_unschedulable_pod_says_what_the_scheduler_said() {
        let condition = serde_json::json!({ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes" });
        let seen = outlook(&pod(&serde_json::json!({ "conditions": [condition] })), "app");
        assert_eq!(seen, Outlook::Unschedulable("0/1 nodes".into()));
    }
}
