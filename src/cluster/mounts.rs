//! What is mounted into the swapped container, as the live pod's spec says it.
//!
//! The live pod and not the workload's template: admission adds volumes, the service account's token first of all. Pure,
//! so that the reading is tested on manifests.

use k8s_openapi::api::core::v1::{Container, DownwardAPIVolumeFile, KeyToPath, PodSpec, Volume};

use super::quantity;
use super::stance::{Withheld, WithheldClaim};

/// One mount of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodMount {
    /// Where, in the container.
    pub path: String,
    /// Name of the volume in the pod's spec.
    pub volume: String,
    /// A part of the volume (`subPath`), which Kubernetes does not refresh.
    pub part: bool,
    /// It is mounted read-only.
    pub read_only: bool,
    /// What the volume is.
    pub source: Source,
    /// Other containers of the pod that have it mounted.
    pub shared_with: Vec<String>,
}

/// What a volume is, for somebody who has to give it to a container elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `ConfigMap`, Secret, projected or downward API: small, read-only, renewed by the kubelet.
    Published,
    /// `emptyDir`.
    Scratch {
        /// `medium: Memory`.
        memory: bool,
        /// `sizeLimit`, in bytes.
        size: Option<u64>,
    },
    /// Storage that outlives the pod, or belongs to its node.
    Storage {
        /// For people: `claim data`, `hostPath /var/log`.
        what: String,
        /// The claim's name.
        claim: Option<String>,
        /// The proxy's pod has it too, and not an empty directory in its place ([`Withheld`]).
        in_proxy: bool,
    },
}

/// The mounts of `container`.
pub fn of_container(pod: &PodSpec, container: &str) -> Vec<PodMount> {
    let Some(own) = pod.containers.iter().find(|it| it.name == container) else { return Vec::new() };
    let mounts = own.volume_mounts.iter().flatten();
    mounts
        .map(|mount| {
            let volume = pod.volumes.iter().flatten().find(|volume| volume.name == mount.name);
            let others = pod.containers.iter().filter(|other| other.name != container);
            let source = volume.map_or_else(|| unknown("volume"), source_of);
            PodMount {
                path: mount.mount_path.clone(),
                volume: mount.name.clone(),
                part: [&mount.sub_path, &mount.sub_path_expr].into_iter().flatten().any(|path| !path.is_empty()),
                // Kubelets from 1.9.6 on mount what they publish read-only, whatever the spec says.
                read_only: mount.read_only.unwrap_or(false) || source == Source::Published,
                source,
                shared_with: others.filter(|it| has_mounted(it, &mount.name)).map(|it| it.name.clone()).collect(),
            }
        })
        .collect()
}

/// The same with the claims marked that stay with the original: the proxy's pod has empty directories for them.
pub fn with_claims(mut mounts: Vec<PodMount>, withheld: &[Withheld]) -> Vec<PodMount> {
    for mount in &mut mounts {
        let Some(Withheld { volume, claim }) = withheld.iter().find(|withheld| withheld.volume == mount.volume) else {
            continue;
        };
        let (what, claim) = match claim {
            WithheldClaim::Template => (format!("claim template {volume}"), volume.clone()),
            WithheldClaim::Named(claim) => (format!("claim {claim}"), claim.clone()),
        };
        mount.source = Source::Storage { what, claim: Some(claim), in_proxy: false };
    }
    mounts
}

/// The first volume of the container whose files only their owner, root, and their group may read. Where the pod has an
/// `fsGroup` every container of it is in that group.
pub(super) fn closed_volume(container: &Container, volumes: &[Volume]) -> Option<String> {
    const OTHERS_READ: i32 = 0o004;
    let mounted = volumes.iter().filter(|volume| has_mounted(container, &volume.name));
    let closed = |mode: &i32| mode & OTHERS_READ == 0;
    mounted.into_iter().find(|volume| modes(volume).iter().any(closed)).map(|volume| volume.name.clone())
}

/// Modes that a volume's source asks for.
fn modes(volume: &Volume) -> Vec<i32> {
    let mut modes = Vec::new();
    let keys = |items: &Option<Vec<KeyToPath>>| items.iter().flatten().filter_map(|item| item.mode).collect::<Vec<_>>();
    let fields = |items: &Option<Vec<DownwardAPIVolumeFile>>| {
        items.iter().flatten().filter_map(|item| item.mode).collect::<Vec<_>>()
    };
    if let Some(secret) = &volume.secret {
        modes.extend(secret.default_mode);
        modes.extend(keys(&secret.items));
    }
    if let Some(config) = &volume.config_map {
        modes.extend(config.default_mode);
        modes.extend(keys(&config.items));
    }
    if let Some(downward) = &volume.downward_api {
        modes.extend(downward.default_mode);
        modes.extend(fields(&downward.items));
    }
    if let Some(projected) = &volume.projected {
        modes.extend(projected.default_mode);
        for source in projected.sources.iter().flatten() {
            modes.extend(source.secret.iter().flat_map(|secret| keys(&secret.items)));
            modes.extend(source.config_map.iter().flat_map(|config| keys(&config.items)));
            modes.extend(source.downward_api.iter().flat_map(|downward| fields(&downward.items)));
        }
    }
    modes
}

fn has_mounted(container: &Container, volume: &str) -> bool {
    container.volume_mounts.iter().flatten().any(|mount| mount.name == volume)
}

fn source_of(volume: &Volume) -> Source {
    let published = volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some();
    if published {
        return Source::Published;
    }
    if let Some(scratch) = &volume.empty_dir {
        return Source::Scratch {
            memory: scratch.medium.as_deref() == Some("Memory"),
            size: scratch.size_limit.as_ref().and_then(|limit| quantity::bytes(&limit.0)).filter(|size| *size > 0),
        };
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        let (what, claim) = (format!("claim {}", claim.claim_name), Some(claim.claim_name.clone()));
        return Source::Storage { what, claim, in_proxy: true };
    }
    if let Some(host) = &volume.host_path {
        return unknown(&format!("hostPath {}", host.path));
    }
    // The one field that is set names the type.
    let kind = serde_json::to_value(volume)
        .ok()
        .and_then(|value| value.as_object().and_then(|fields| fields.keys().find(|key| *key != "name").cloned()));
    unknown(kind.as_deref().unwrap_or("volume"))
}

fn unknown(what: &str) -> Source {
    Source::Storage { what: what.to_owned(), claim: None, in_proxy: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(text: &str) -> PodSpec {
        serde_saphyr::from_str(text).unwrap()
    }

    #[test]
    fn each_kind_of_volume_is_told_from_the_others() {
        let pod = pod("
containers:
- name: app
  volumeMounts:
  - {name: config, mountPath: /etc/app, readOnly: true}
  - {name: config, mountPath: /etc/app.conf, subPath: app.conf}
  - {name: kube-api-access-x, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
  - {name: cache, mountPath: /cache}
  - {name: shm, mountPath: /dev/shm}
  - {name: data, mountPath: /data}
  - {name: node, mountPath: /host}
  - {name: remote, mountPath: /mnt}
  - {name: store, mountPath: /store}
- name: sibling
  volumeMounts:
  - {name: cache, mountPath: /cache}
volumes:
- {name: config, configMap: {name: app}}
- {name: kube-api-access-x, projected: {sources: []}}
- {name: cache, emptyDir: {}}
- {name: shm, emptyDir: {medium: Memory, sizeLimit: 64Mi}}
- {name: data, persistentVolumeClaim: {claimName: app-data}}
- {name: node, hostPath: {path: /var/log}}
- {name: remote, nfs: {server: a, path: /b}}
- {name: store, emptyDir: {}}
");
        let withheld = Withheld { volume: "store".to_owned(), claim: WithheldClaim::Template };
        let mounts = with_claims(of_container(&pod, "app"), &[withheld]);
        let told: Vec<_> = mounts.iter().map(|mount| (mount.path.as_str(), mount.part, &mount.source)).collect();
        let storage = |what: &str, claim: Option<&str>, in_proxy| Source::Storage {
            what: what.into(),
            claim: claim.map(str::to_owned),
            in_proxy,
        };
        assert_eq!(
            told,
            [
                ("/etc/app", false, &Source::Published),
                ("/etc/app.conf", true, &Source::Published),
                ("/var/run/secrets/kubernetes.io/serviceaccount", false, &Source::Published),
                ("/cache", false, &Source::Scratch { memory: false, size: None }),
                ("/dev/shm", false, &Source::Scratch { memory: true, size: Some(64 << 20) }),
                ("/data", false, &storage("claim app-data", Some("app-data"), true)),
                ("/host", false, &storage("hostPath /var/log", None, true)),
                ("/mnt", false, &storage("nfs", None, true)),
                ("/store", false, &storage("claim template store", Some("store"), false)),
            ]
        );
        assert_eq!(mounts[3].shared_with, ["sibling"]);
        assert!(mounts[1].read_only && !mounts[3].read_only && mounts[0].shared_with.is_empty());
        assert_eq!(of_container(&pod, "nobody"), []);
    }

    #[test]
    fn a_volume_that_only_root_may_read_is_found_if_the_container_mounts_it() {
        let closed = |volume: &str| {
            let pod = pod(&format!(
                "{{containers: [{{name: app, volumeMounts: [{{name: v, mountPath: /v}}]}}], volumes: [{volume}]}}"
            ));
            closed_volume(&pod.containers[0], pod.volumes.as_deref().unwrap())
        };
        assert_eq!(closed("{name: v, secret: {secretName: s, defaultMode: 256}}"), Some("v".to_owned()));
        assert_eq!(closed("{name: v, secret: {secretName: s, defaultMode: 292}}"), None);
        assert_eq!(closed("{name: other, secret: {secretName: s, defaultMode: 256}}"), None);
        let item = "{name: v, projected: {sources: [{secret: {name: s, items: [{key: k, path: p, mode: 384}]}}]}}";
        assert_eq!(closed(item), Some("v".to_owned()));
    }
}
