//! The Pod Security Standards, rule by rule: what a namespace with a level refuses about a pod.
//!
//! Admission judges pods and not Deployments, so a proxy that is refused shows as a Deployment without a pod. The rules
//! are those of Kubernetes 1.33; "latest" may know more, and a server of another release decides by its own.
//! <https://kubernetes.io/docs/concepts/security/pod-security-standards/>

use std::fmt;

use k8s_openapi::api::core::v1::{
    Container, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, SecurityContext, Volume,
};

/// What a container may add in the level `baseline`.
const BASELINE_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
const SELINUX_TYPES: [&str; 5] = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];
const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// A level that refuses something; `privileged` refuses nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Known privilege escalations.
    Baseline,
    /// All that hardening asks for.
    Restricted,
}

/// One rule.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// The heading of the standard's table.
    pub name: &'static str,
    /// From this level on.
    pub level: Level,
    obeyed: fn(&Pod) -> bool,
}

/// Every rule, in the standard's order.
pub const RULES: [Rule; 18] = [
    baseline("HostProcess", |pod| !pod.windows().any(|host_process| host_process == Some(true))),
    baseline("Host Namespaces", |pod| {
        [pod.spec.host_network, pod.spec.host_pid, pod.spec.host_ipc].iter().all(|it| *it != Some(true))
    }),
    baseline("Privileged Containers", |pod| pod.each(|context| context.privileged != Some(true))),
    baseline("Capabilities (baseline)", |pod| pod.each(|context| adds_only(context, &BASELINE_CAPABILITIES))),
    baseline("HostPath Volumes", |pod| pod.volumes().all(|volume| volume.host_path.is_none())),
    baseline("Host Ports", |pod| {
        pod.containers().all(|it| it.ports.iter().flatten().all(|port| port.host_port.unwrap_or(0) == 0))
    }),
    baseline("Host Probes / Lifecycle Hooks", |pod| pod.containers().all(asks_no_other_host)),
    baseline("AppArmor", apparmor),
    baseline("SELinux", selinux),
    baseline("/proc Mount Type", |pod| {
        pod.each(|context| context.proc_mount.as_deref().is_none_or(|mount| mount == "Default"))
    }),
    baseline("Seccomp (baseline)", |pod| pod.seccomp().all(|kind| kind != Some("Unconfined"))),
    baseline("Sysctls", |pod| {
        let sysctls = pod.context.and_then(|context| context.sysctls.as_ref());
        sysctls.into_iter().flatten().all(|sysctl| SAFE_SYSCTLS.contains(&sysctl.name.as_str()))
    }),
    restricted("Volume Types", |pod| pod.volumes().all(is_of_the_pod)),
    restricted("Privilege Escalation", |pod| pod.each(|context| context.allow_privilege_escalation == Some(false))),
    restricted("Running as Non-root", |pod| {
        let by_pod = pod.context.and_then(|context| context.run_as_non_root);
        pod.each(|context| context.run_as_non_root.or(by_pod) == Some(true))
    }),
    restricted("Running as Non-root user", |pod| {
        pod.context.and_then(|context| context.run_as_user) != Some(0) && pod.each(|it| it.run_as_user != Some(0))
    }),
    restricted("Seccomp", |pod| {
        let mut kinds = pod.seccomp();
        let by_pod = kinds.next().flatten();
        kinds.all(|kind| matches!(kind.or(by_pod), Some("RuntimeDefault" | "Localhost")))
    }),
    restricted("Capabilities", |pod| {
        pod.each(|context| {
            let dropped = context.capabilities.as_ref().and_then(|it| it.drop.as_ref());
            dropped.is_some_and(|drop| drop.iter().any(|it| it == "ALL")) && adds_only(context, &["NET_BIND_SERVICE"])
        })
    }),
];

/// Names of the rules of `level` that a pod of this template breaks.
pub fn broken(level: Level, template: &PodTemplateSpec) -> Vec<&'static str> {
    let Some(spec) = &template.spec else { return Vec::new() };
    let pod = Pod { template, spec, context: spec.security_context.as_ref() };
    RULES.iter().filter(|rule| rule.level <= level && !(rule.obeyed)(&pod)).map(|rule| rule.name).collect()
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        })
    }
}

const fn baseline(name: &'static str, obeyed: fn(&Pod) -> bool) -> Rule {
    Rule { name, level: Level::Baseline, obeyed }
}

const fn restricted(name: &'static str, obeyed: fn(&Pod) -> bool) -> Rule {
    Rule { name, level: Level::Restricted, obeyed }
}

struct Pod<'a> {
    template: &'a PodTemplateSpec,
    spec: &'a PodSpec,
    context: Option<&'a PodSecurityContext>,
}

// === impl Pod ===

impl<'a> Pod<'a> {
    fn containers(&self) -> impl Iterator<Item = &'a Container> + use<'a> {
        self.spec.containers.iter().chain(self.spec.init_containers.iter().flatten())
    }

    fn volumes(&self) -> impl Iterator<Item = &'a Volume> + use<'a> {
        self.spec.volumes.iter().flatten()
    }

    /// Whether it holds for the context of every container; a missing one is empty.
    fn each(&self, holds: impl Fn(&SecurityContext) -> bool) -> bool {
        let none = SecurityContext::default();
        self.containers().all(|container| holds(container.security_context.as_ref().unwrap_or(&none)))
    }

    /// `hostProcess` of the pod and of each container.
    fn windows(&self) -> impl Iterator<Item = Option<bool>> + use<'a> {
        let by_pod = self.context.and_then(|context| context.windows_options.as_ref());
        let by_container = self
            .containers()
            .map(|it| it.security_context.as_ref().and_then(|context| context.windows_options.as_ref()));
        std::iter::once(by_pod).chain(by_container).map(|options| options.and_then(|options| options.host_process))
    }

    /// Types of the seccomp profile of the pod, then of each container.
    fn seccomp(&self) -> impl Iterator<Item = Option<&'a str>> + use<'a> {
        let by_pod = self.context.and_then(|context| context.seccomp_profile.as_ref());
        let by_container = self
            .containers()
            .map(|it| it.security_context.as_ref().and_then(|context| context.seccomp_profile.as_ref()));
        std::iter::once(by_pod).chain(by_container).map(|profile| profile.map(|profile| profile.type_.as_str()))
    }
}

fn adds_only(context: &SecurityContext, allowed: &[&str]) -> bool {
    let added = context.capabilities.as_ref().and_then(|it| it.add.as_ref());
    added.into_iter().flatten().all(|capability| allowed.contains(&capability.as_str()))
}

fn asks_no_other_host(container: &Container) -> bool {
    let own = |host: Option<&String>| host.is_none_or(String::is_empty);
    let probe = |probe: Option<&Probe>| {
        probe.is_none_or(|probe| {
            own(probe.http_get.as_ref().and_then(|get| get.host.as_ref()))
                && own(probe.tcp_socket.as_ref().and_then(|socket| socket.host.as_ref()))
        })
    };
    let hooks = container.lifecycle.iter().flat_map(|it| it.post_start.iter().chain(&it.pre_stop));
    let mut hooks = hooks.map(|hook| {
        own(hook.http_get.as_ref().and_then(|get| get.host.as_ref()))
            && own(hook.tcp_socket.as_ref().and_then(|socket| socket.host.as_ref()))
    });
    [&container.liveness_probe, &container.readiness_probe, &container.startup_probe]
        .into_iter()
        .all(|it| probe(it.as_ref()))
        && hooks.all(|own| own)
}

fn apparmor(pod: &Pod) -> bool {
    let by_pod = pod.context.and_then(|context| context.app_armor_profile.as_ref());
    let confined = |kind: &str| matches!(kind, "RuntimeDefault" | "Localhost");
    let annotations = pod.template.metadata.as_ref().and_then(|metadata| metadata.annotations.as_ref());
    by_pod.is_none_or(|profile| confined(&profile.type_))
        && pod.each(|context| context.app_armor_profile.as_ref().is_none_or(|profile| confined(&profile.type_)))
        && annotations
            .into_iter()
            .flatten()
            .filter(|(key, _)| key.starts_with(APPARMOR_ANNOTATION))
            .all(|(_, value)| value.is_empty() || value == "runtime/default" || value.starts_with("localhost/"))
}

fn selinux(pod: &Pod) -> bool {
    let fine = |options: Option<&k8s_openapi::api::core::v1::SELinuxOptions>| {
        let text = |it: &Option<String>| it.as_deref().unwrap_or_default().to_owned();
        options.is_none_or(|it| {
            SELINUX_TYPES.contains(&text(&it.type_).as_str()) && text(&it.user).is_empty() && text(&it.role).is_empty()
        })
    };
    fine(pod.context.and_then(|context| context.se_linux_options.as_ref()))
        && pod.each(|context| fine(context.se_linux_options.as_ref()))
}

/// Of the kinds that `restricted` lists.
fn is_of_the_pod(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.csi.is_some()
        || volume.downward_api.is_some()
        || volume.empty_dir.is_some()
        || volume.ephemeral.is_some()
        || volume.persistent_volume_claim.is_some()
        || volume.projected.is_some()
        || volume.secret.is_some()
}
