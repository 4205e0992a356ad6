//! Wherever the original obeys a rule of the Pod Security level `restricted`, the proxy obeys it too: with all of them
//! obeyed, all but one, one alone, and none.

use serde_json::{Value, json};
use tpdocker::cluster::Workload;
use tpdocker::cluster::pod_security::{Level, RULES, broken};

use crate::plan;
use crate::support::workload;

/// Breaks one rule, at one place.
type Break = (&'static str, fn(&mut Value));

/// What each rule forbids, in the pod, in the swapped container, in a sibling, in an init container.
const BREAKS: &[Break] = &[
    ("HostProcess", |pod| pod["securityContext"]["windowsOptions"] = json!({ "hostProcess": true })),
    ("HostProcess", |pod| app(pod)["windowsOptions"] = json!({ "hostProcess": true })),
    // `hostNetwork` is refused altogether.
    ("Host Namespaces", |pod| pod["hostPID"] = json!(true)),
    ("Host Namespaces", |pod| pod["hostIPC"] = json!(true)),
    ("Privileged Containers", |pod| app(pod)["privileged"] = json!(true)),
    ("Privileged Containers", |pod| sibling(pod)["privileged"] = json!(true)),
    ("Capabilities (baseline)", |pod| app(pod)["capabilities"]["add"] = json!(["NET_ADMIN"])),
    ("Capabilities (baseline)", |pod| init(pod)["capabilities"]["add"] = json!(["NET_ADMIN"])),
    ("HostPath Volumes", |pod| pod["volumes"] = json!([{ "name": "node", "hostPath": { "path": "/" } }])),
    ("Host Ports", |pod| pod["containers"][0]["ports"][0]["hostPort"] = json!(8080)),
    ("Host Ports", |pod| pod["containers"][1]["ports"] = json!([{ "containerPort": 9, "hostPort": 9 }])),
    ("Host Probes / Lifecycle Hooks", |pod| {
        pod["containers"][0]["livenessProbe"] = json!({ "tcpSocket": { "host": "192.0.2.1", "port": 1 } });
    }),
    ("Host Probes / Lifecycle Hooks", |pod| {
        pod["containers"][1]["lifecycle"] = json!({ "preStop": { "httpGet": { "host": "192.0.2.1", "port": 1 } } });
    }),
    ("AppArmor", |pod| app(pod)["appArmorProfile"] = json!({ "type": "Unconfined" })),
    ("AppArmor", |pod| pod["securityContext"]["appArmorProfile"] = json!({ "type": "Unconfined" })),
    ("SELinux", |pod| app(pod)["seLinuxOptions"] = json!({ "type": "spc_t" })),
    ("SELinux", |pod| pod["securityContext"]["seLinuxOptions"] = json!({ "user": "system_u" })),
    ("/proc Mount Type", |pod| app(pod)["procMount"] = json!("Unmasked")),
    ("/proc Mount Type", |pod| init(pod)["procMount"] = json!("Unmasked")),
    ("Seccomp (baseline)", |pod| app(pod)["seccompProfile"] = json!({ "type": "Unconfined" })),
    ("Seccomp (baseline)", |pod| pod["securityContext"]["seccompProfile"] = json!({ "type": "Unconfined" })),
    ("Sysctls", |pod| pod["securityContext"]["sysctls"] = json!([{ "name": "kernel.msgmax", "value": "1" }])),
    ("Volume Types", |pod| {
        pod["volumes"] = json!([{ "name": "share", "nfs": { "server": "192.0.2.1", "path": "/" } }]);
    }),
    ("Privilege Escalation", |pod| app(pod)["allowPrivilegeEscalation"] = json!(true)),
    ("Privilege Escalation", |pod| sibling(pod)["allowPrivilegeEscalation"] = Value::Null),
    ("Running as Non-root", |pod| app(pod)["runAsNonRoot"] = json!(false)),
    ("Running as Non-root", |pod| {
        pod["securityContext"]["runAsNonRoot"] = Value::Null;
        init(pod)["runAsNonRoot"] = Value::Null;
        app(pod)["runAsNonRoot"] = Value::Null;
    }),
    ("Running as Non-root user", |pod| app(pod)["runAsUser"] = json!(0)),
    ("Running as Non-root user", |pod| pod["securityContext"]["runAsUser"] = json!(0)),
    ("Seccomp", |pod| {
        pod["securityContext"]["seccompProfile"] = Value::Null;
        app(pod)["seccompProfile"] = Value::Null;
    }),
    ("Capabilities", |pod| app(pod)["capabilities"] = Value::Null),
    ("Capabilities", |pod| sibling(pod)["capabilities"] = json!({ "drop": ["KILL"] })),
    ("Capabilities", |pod| app(pod)["capabilities"]["add"] = json!(["CHOWN"])),
];

fn app(pod: &mut Value) -> &mut Value {
    &mut pod["containers"][0]["securityContext"]
}

fn sibling(pod: &mut Value) -> &mut Value {
    &mut pod["containers"][1]["securityContext"]
}

fn init(pod: &mut Value) -> &mut Value {
    &mut pod["initContainers"][0]["securityContext"]
}

/// Originals that obey everything: with a low port or none, with a user or none, with what can be said by the pod said by
/// the pod or by each container, with files that are root's alone or none.
fn obedient() -> Vec<Value> {
    let mut all = Vec::new();
    for (port, user, by_pod, secret) in [
        (8080, Some(10001), true, false),
        (80, Some(10001), false, false),
        (80, None, true, false),
        (8080, None, false, true),
        (80, None, false, true),
    ] {
        let own = json!({ "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] }, "readOnlyRootFilesystem": true });
        let common = json!({ "runAsNonRoot": true, "runAsUser": user, "seccompProfile": { "type": "RuntimeDefault" } });
        let container = |name: &str| {
            let mut context = own.clone();
            if !by_pod {
                context.as_object_mut().unwrap().extend(common.as_object().unwrap().clone());
            }
            json!({ "name": name, "image": "examplecom/it:1", "securityContext": context })
        };
        let mut app = container("app");
        app["ports"] = json!([{ "containerPort": port }]);
        let mut volumes = json!([{ "name": "scratch", "emptyDir": {} }]);
        if secret {
            volumes = json!([{ "name": "keys", "secret": { "secretName": "keys", "defaultMode": 256 } }]);
            app["volumeMounts"] = json!([{ "name": "keys", "mountPath": "/keys" }]);
        }
        all.push(json!({
            "securityContext": if by_pod { common.clone() } else { json!({}) },
            "volumes": volumes,
            "containers": [app, container("sibling")],
            "initContainers": [container("init")],
        }));
    }
    all
}

fn of(pod: &Value) -> Workload {
    let deployment = json!({
        "kind": "Deployment",
        "metadata": { "name": "it", "namespace": "staging", "uid": "a", "resourceVersion": "1" },
        "spec": {
            "selector": { "matchLabels": { "app": "it" } },
            "template": { "metadata": { "labels": { "app": "it" } }, "spec": pod },
        },
    });
    workload(&[deployment], Some("app"))
}

/// Asserts it of one original, and gives what that breaks.
#[track_caller]
fn proxy_breaks_no_more(pod: &Value, what: &str) -> Vec<&'static str> {
    let original = of(pod);
    let (proxy, _) = plan(&original).unwrap();
    let before = broken(Level::Restricted, &original.pod.template);
    let after = broken(Level::Restricted, &proxy.spec.unwrap().template);
    // Without a word about its user an original runs as its image says, and that may be root. No level admits it that
    // would not admit root.
    let may_be_root = before.contains(&"Running as Non-root");
    let more =
        after.iter().filter(|rule| !(before.contains(rule) || may_be_root && **rule == "Running as Non-root user"));
    assert_eq!(more.collect::<Vec<_>>(), [&""; 0], "{what}: {pod}");
    before
}

#[test]
fn a_proxy_obeys_every_rule_of_restricted_that_its_original_obeys() {
    for original in obedient() {
        assert_eq!(proxy_breaks_no_more(&original, "all obeyed"), [""; 0]);
        for (rule, change) in BREAKS {
            let mut one = original.clone();
            change(&mut one);
            let before = proxy_breaks_no_more(&one, &format!("all but {rule}"));
            assert!(before.contains(rule), "the test does not break {rule}: {one}");
        }
        for rule in RULES {
            let mut alone = original.clone();
            BREAKS.iter().filter(|(other, _)| *other != rule.name).for_each(|(_, change)| change(&mut alone));
            proxy_breaks_no_more(&alone, &format!("{} alone", rule.name));
        }
        let mut none = original.clone();
        for (_, change) in BREAKS {
            change(&mut none);
        }
        proxy_breaks_no_more(&none, "none obeyed");
    }
}

#[test]
fn there_is_something_that_breaks_each_rule() {
    for rule in RULES {
        assert!(BREAKS.iter().any(|(name, _)| *name == rule.name), "{}", rule.name);
    }
}

#[test]
fn what_admits_and_schedules_the_original_is_kept_in_its_proxy() {
    let mut pod = obedient().remove(0);
    let kept = json!({
        "serviceAccountName": "it",
        "automountServiceAccountToken": false,
        "nodeSelector": { "disk": "ssd" },
        "tolerations": [{ "key": "team", "operator": "Equal", "value": "it", "effect": "NoSchedule" }],
        "affinity": { "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [
            { "topologyKey": "kubernetes.io/hostname", "labelSelector": { "matchLabels": { "app": "other" } } }
        ] } },
        "topologySpreadConstraints": [{ "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway" }],
        "priorityClassName": "high",
        "runtimeClassName": "sandboxed",
        "imagePullSecrets": [{ "name": "registry" }],
        "hostAliases": [{ "ip": "192.0.2.7", "hostnames": ["legacy", "legacy.example.com"] }],
        "dnsPolicy": "None",
        "dnsConfig": { "nameservers": ["192.0.2.53"] },
        "shareProcessNamespace": true,
    });
    pod.as_object_mut().unwrap().extend(kept.as_object().unwrap().clone());
    let original = of(&pod);
    let (proxy, notes) = plan(&original).unwrap();
    assert_eq!(notes, []);
    let proxy = serde_json::to_value(proxy.spec.unwrap().template.spec.unwrap()).unwrap();
    for key in kept.as_object().unwrap().keys() {
        assert_eq!(proxy[key], kept[key], "{key}");
    }
    assert_eq!(proxy["securityContext"], pod["securityContext"]);
    assert_eq!(proxy["containers"][1], pod["containers"][1], "siblings stay");
    assert_eq!(proxy["initContainers"], pod["initContainers"]);
    assert_eq!(proxy["containers"][0]["securityContext"]["readOnlyRootFilesystem"], json!(true));
}
