//! Which of the pod's mounts the user's container gets, and how: pure, from the pod's spec, the user's own mounts and
//! his choices.
//!
//! What the user mounts himself wins: at a mount's path and above it the pod's mount is left out, below it the user's is
//! put on top. Storage is the one thing that cannot be had without a choice: it is left out, and said, unless a flag
//! says otherwise.

use std::collections::BTreeMap;

use crate::cluster::{PodMount, Source};
use crate::settings::{AppSpec, MountKind, MountSpec, VolumeChoice};

/// The flag that chooses, for messages.
pub const FLAG: &str = "--pod-volume";
/// The most that `ConfigMaps`, Secrets and tokens of one session hold together. Beyond that something is wrong, and it is the
/// laptop's memory.
const PUBLISHED_SIZE: u64 = 256 << 20;

/// What the user mounts himself at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserMount {
    /// Where, in the container.
    pub path: String,
    /// It is a file and not a directory.
    pub is_file: bool,
}

/// What will be mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilesPlan {
    /// Volumes of the engine that hold the files.
    pub stores: Vec<Store>,
    /// Mounts out of them.
    pub mounts: Vec<Planned>,
    /// Directories of the laptop in the place of volumes.
    pub laptop: Vec<MountSpec>,
    /// What the user should know.
    pub notices: Vec<String>,
}

/// A volume of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// The last part of its name, which is also that of its directory in the sidecar.
    pub name: String,
    /// Where it is.
    pub medium: Medium,
}

/// Where a volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// On the laptop's disk.
    Disk,
    /// In memory.
    Memory {
        /// How much of it at most, in bytes; half of the machine's when absent.
        size: Option<u64>,
    },
}

/// One mount of the user's container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Where, in the container; also where it is in the proxy's.
    pub path: String,
    /// Index of its store.
    pub store: usize,
    /// Where its content comes from.
    pub fill: Fill,
    /// It is mounted read-only.
    pub read_only: bool,
    /// Mount points for what the user mounts below it, relative.
    pub below: Vec<UserMount>,
}

/// Where the content of a mount comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// The proxy, and again whenever it changes.
    Follow,
    /// The proxy, once.
    Copy,
    /// Nowhere: it is an empty directory.
    Empty,
}

/// A choice for a volume that the pod does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the container has no volume {name}")]
pub struct UnknownVolume {
    /// As typed.
    pub name: String,
    /// Those it has.
    pub known: Vec<String>,
}

/// A choice that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("volume {volume} cannot be copied: it is a {what}, which stays with the original's pods")]
pub struct NotCopied {
    /// The volume.
    pub volume: String,
    /// What it is.
    pub what: String,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// See there.
    #[error(transparent)]
    Unknown(#[from] UnknownVolume),
    /// See there.
    #[error(transparent)]
    NotCopied(#[from] NotCopied),
}

/// Decides about each mount of the pod.
pub fn plan(
    pod: &[PodMount],
    user: &[UserMount],
    choices: &BTreeMap<String, VolumeChoice>,
) -> Result<FilesPlan, PlanError> {
    check(pod, choices)?;
    let mut plan = FilesPlan::default();
    for mount in pod {
        let path = clean(&mount.path);
        if let Some(own) = user.iter().find(|own| is_at_or_below(&path, &clean(&own.path))) {
            plan.notices
                .push(format!("{path} is yours (mounted at {}), not the pod's volume {}", own.path, mount.volume));
            continue;
        }
        let choice = choices.iter().find(|(name, _)| names(mount, name)).map(|(_, choice)| choice);
        let (store, fill) = match (choice, &mount.source) {
            (Some(VolumeChoice::Skip), _) => continue,
            (Some(VolumeChoice::Laptop(directory)), _) => {
                plan.laptop.push(MountSpec {
                    kind: MountKind::Bind,
                    source: Some(directory.clone()),
                    target: path,
                    read_only: mount.read_only,
                });
                continue;
            }
            (Some(VolumeChoice::Copy), Source::Storage { what, in_proxy: false, .. }) => {
                return Err(NotCopied { volume: mount.volume.clone(), what: what.clone() }.into());
            }
            (Some(VolumeChoice::Empty), _) => (plan.disk(), Fill::Empty),
            (Some(VolumeChoice::Copy), Source::Published) => (plan.memory(), Fill::Copy),
            (Some(VolumeChoice::Copy), _) => (plan.disk(), Fill::Copy),
            (None, Source::Published) => (plan.memory(), if mount.part { Fill::Copy } else { Fill::Follow }),
            (None, Source::Scratch { memory, size }) => {
                // What init containers have left in it is a part of what the container finds.
                let store = match (memory, size) {
                    (false, _) => plan.disk(),
                    (true, size) => plan.own_memory(*size),
                };
                if !mount.shared_with.is_empty() {
                    let others = mount.shared_with.join(", ");
                    plan.notices.push(format!(
                        "{path} is shared with {others} in the pod; the app has its own, as it was at the start"
                    ));
                }
                (store, Fill::Copy)
            }
            (None, Source::Storage { what, claim, in_proxy }) => {
                let name = claim.as_ref().unwrap_or(&mount.volume);
                let ways = if *in_proxy { "copy, empty or a directory" } else { "empty or a directory" };
                plan.notices.push(format!("{path} is missing: {what} of the pod; {FLAG} {name}={ways} gives it"));
                continue;
            }
        };
        let below: Vec<UserMount> = user.iter().filter_map(|own| below(&path, own)).collect();
        let fill = match fill {
            Fill::Follow if !below.is_empty() => {
                plan.notices.push(format!("{path} is not refreshed, because you mount something below it"));
                Fill::Copy
            }
            fill => fill,
        };
        plan.mounts.push(Planned { path, store, fill, read_only: mount.read_only, below });
        if mount.source != Source::Published {
            plan.notices.extend(apart(pod, mount));
        }
    }
    Ok(plan)
}

/// What is written at one mount of a volume is not seen at another one; told at the last of them.
fn apart(pod: &[PodMount], mount: &PodMount) -> Option<String> {
    let same: Vec<&PodMount> = pod.iter().filter(|other| other.volume == mount.volume).collect();
    (same.len() > 1 && same.last().is_some_and(|last| *last == mount)).then(|| {
        let paths: Vec<&str> = same.iter().map(|mount| mount.path.as_str()).collect();
        format!("{} are of one volume in the pod and apart in the app", paths.join(" and "))
    })
}

/// Whether every choice is about a volume of the container.
pub fn check(pod: &[PodMount], choices: &BTreeMap<String, VolumeChoice>) -> Result<(), UnknownVolume> {
    match choices.keys().find(|name| !pod.iter().any(|mount| names(mount, name))) {
        None => Ok(()),
        Some(name) => {
            let mut known: Vec<String> = pod.iter().map(|mount| mount.volume.clone()).collect();
            known.sort();
            known.dedup();
            Err(UnknownVolume { name: name.clone(), known })
        }
    }
}

/// People know a claim's name; the pod's spec has one of its own for the volume.
fn names(mount: &PodMount, name: &str) -> bool {
    mount.volume == name || matches!(&mount.source, Source::Storage { claim: Some(claim), .. } if claim == name)
}

/// What the user mounts, by `-v` and `--mount`. `is_file` tells about paths of the laptop.
pub fn user_mounts(app: &AppSpec, is_file: impl Fn(&str) -> bool) -> Vec<UserMount> {
    let binds = app.binds.iter().map(|bind| match bind.split_once(':') {
        None => (None, bind.as_str()),
        Some((source, rest)) => (Some(source), rest.split(':').next().unwrap_or_default()),
    });
    let mounts = app.mounts.iter().map(|mount| {
        let source = mount.source.as_deref().filter(|_| mount.kind == MountKind::Bind);
        (source, mount.target.as_str())
    });
    let file = |source: Option<&str>| source.is_some_and(|source| source.starts_with('/') && is_file(source));
    binds.chain(mounts).map(|(source, path)| UserMount { path: path.to_owned(), is_file: file(source) }).collect()
}

// === impl FilesPlan ===

impl FilesPlan {
    /// Where a mount's content lies, relative to the sidecar's directory of volumes.
    pub fn place(&self, index: usize) -> String {
        format!("{}/{index}", self.stores[self.mounts[index].store].name)
    }

    /// One for everything that may be secret.
    fn memory(&mut self) -> usize {
        self.store("memory", Medium::Memory { size: Some(PUBLISHED_SIZE) })
    }

    fn disk(&mut self) -> usize {
        self.store("disk", Medium::Disk)
    }

    /// A size is of one volume, so it has a store of its own.
    fn own_memory(&mut self, size: Option<u64>) -> usize {
        let name = format!("scratch-{}", self.stores.len());
        self.store(&name, Medium::Memory { size })
    }

    fn store(&mut self, name: &str, medium: Medium) -> usize {
        self.stores.iter().position(|store| store.name == name).unwrap_or_else(|| {
            self.stores.push(Store { name: name.to_owned(), medium });
            self.stores.len() - 1
        })
    }
}

/// Without doubled and trailing slashes and dots, as the runtime takes it.
fn clean(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    format!("/{}", parts.join("/"))
}

fn is_at_or_below(path: &str, other: &str) -> bool {
    path == other || other == "/" || path.strip_prefix(other).is_some_and(|rest| rest.starts_with('/'))
}

fn below(path: &str, own: &UserMount) -> Option<UserMount> {
    let relative = clean(&own.path).strip_prefix(path)?.strip_prefix('/')?.to_owned();
    Some(UserMount { path: relative, is_file: own.is_file })
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
