//! The proxy's security context: never more than the original's, and never weaker than it must be.
//!
//! User, group, seccomp and the like stay what the original has, so that a policy which admits the original admits the
//! proxy (Pod Security `restricted` included, whose demands the original then meets itself). Privileges go:
//! no privileged mode, no escalation, all capabilities dropped. One case needs care: the proxy's image runs as an
//! ordinary user, and a server such as nginx on port 80 runs as root without saying so. When the template leaves the
//! user open and a port below 1024 is declared, the proxy becomes root with `NET_BIND_SERVICE` alone; when it mounts a
//! volume whose files are root's alone, root without any capability.
//! <https://kubernetes.io/docs/concepts/security/pod-security-standards/>

use k8s_openapi::api::core::v1::{Capabilities, PodSecurityContext, SecurityContext};
use tpdocker_protocol::addr::Port;

use super::template::Note;

/// The only capability that Pod Security `restricted` lets a container add.
const NET_BIND_SERVICE: &str = "NET_BIND_SERVICE";
/// Ports below this one need the capability, where the node has not lowered `ip_unprivileged_port_start`.
const FIRST_UNPRIVILEGED_PORT: u16 = 1024;

/// The context of the proxy's container.
pub(super) fn for_proxy(
    original: Option<&SecurityContext>,
    pod: &PodSecurityContext,
    ports: &[Port],
    closed_volume: Option<String>,
    notes: &mut Vec<Note>,
) -> SecurityContext {
    let original = original.cloned().unwrap_or_default();
    if original.privileged == Some(true) {
        notes.push(Note::Unprivileged);
    }
    let mut context = SecurityContext {
        allow_privilege_escalation: Some(false),
        privileged: None,
        proc_mount: None,
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
        ..original
    };
    // An image that says nothing runs as root, and reads what is root's; the proxy has to, to hand it on.
    let open_user = context.run_as_user.or(pod.run_as_user).is_none()
        && !context.run_as_non_root.or(pod.run_as_non_root).unwrap_or(false);
    if let Some(volume) = closed_volume.filter(|_| open_user && pod.fs_group.is_none()) {
        context.run_as_user = Some(0);
        notes.push(Note::RootForFiles(volume));
    }
    if let Some(low) = ports.iter().find(|port| port.number < FIRST_UNPRIVILEGED_PORT) {
        let user = context.run_as_user.or(pod.run_as_user);
        let non_root = context.run_as_non_root.or(pod.run_as_non_root).unwrap_or(false);
        match user {
            Some(0) => grant_low_ports(&mut context),
            None if !non_root => {
                context.run_as_user = Some(0);
                grant_low_ports(&mut context);
                notes.push(Note::RootForLowPort(*low));
            }
            // The capability means nothing to another user, since the binary cannot carry it through
            // no_new_privs; the node may still allow the port.
            _ if !lowered(pod) => notes.push(Note::LowPort(*low)),
            _ => {}
        }
    }
    context
}

fn grant_low_ports(context: &mut SecurityContext) {
    if let Some(capabilities) = &mut context.capabilities {
        capabilities.add = Some(vec![NET_BIND_SERVICE.into()]);
    }
}

/// Whether the pod itself lets everybody bind low ports.
fn lowered(pod: &PodSecurityContext) -> bool {
    pod.sysctls.iter().flatten().any(|sysctl| sysctl.name == "net.ipv4.ip_unprivileged_port_start")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxy_is_root_for_roots_files_only_where_the_original_may_be() {
        let user = |pod: &PodSecurityContext, volume: Option<&str>| {
            let mut notes = Vec::new();
            for_proxy(None, pod, &[], volume.map(str::to_owned), &mut notes).run_as_user
        };
        let open = PodSecurityContext::default();
        assert_eq!((user(&open, Some("keys")), user(&open, None)), (Some(0), None));
        for pod in [
            PodSecurityContext { run_as_user: Some(1000), ..open.clone() },
            PodSecurityContext { run_as_non_root: Some(true), ..open.clone() },
            PodSecurityContext { fs_group: Some(2000), ..open.clone() },
        ] {
            assert_eq!(user(&pod, Some("keys")), None, "{pod:?}");
        }
    }
}
