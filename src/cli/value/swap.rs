//! `--swap`, `--like` and `--namespace`: names of the cluster.

use std::str::FromStr;

use super::Applied;
use crate::cli::Surroundings;
use crate::cli::draft::Draft;
use crate::cli::error::ValueError;
use crate::cluster::FixtureKind;
use crate::settings::{RbacTarget, SwapTarget, TargetKind};

/// Kinds by the names kubectl knows them by, without their group.
const KINDS: &[(&[&str], TargetKind, &str)] = &[
    (&["service", "services", "svc"], TargetKind::Service, ""),
    (&["deployment", "deployments", "deploy"], TargetKind::Deployment, "apps"),
    (&["statefulset", "statefulsets", "sts"], TargetKind::StatefulSet, "apps"),
    (&["replicaset", "replicasets", "rs"], TargetKind::ReplicaSet, "apps"),
    (&["daemonset", "daemonsets", "ds"], TargetKind::Fixture(FixtureKind::DaemonSet), "apps"),
    (&["job", "jobs"], TargetKind::Fixture(FixtureKind::Job), "batch"),
    (&["cronjob", "cronjobs", "cj"], TargetKind::Fixture(FixtureKind::CronJob), "batch"),
    (&["pod", "pods", "po"], TargetKind::Fixture(FixtureKind::Pod), ""),
];
/// Kinds that run pods and are not looked into.
const UNSUPPORTED: &[(&[&str], &str)] = &[
    (&["replicationcontroller", "replicationcontrollers", "rc"], "a ReplicationController"),
    (&["rollout", "rollouts", "ro"], "a Rollout"),
];
const INSTEAD: &str = "service/NAME, deployment/NAME, statefulset/NAME, replicaset/NAME, or NAME alone";
/// RFC 1123, section 2.1, and RFC 1035, section 2.3.4, as Kubernetes' object names and labels keep to them.
const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;

pub(in crate::cli) fn swap(draft: &mut Draft, value: &str, _: &Surroundings) -> Applied {
    draft.swap = Some(value.parse()?);
    Ok(())
}

pub(in crate::cli) fn like(draft: &mut Draft, value: &str, _: &Surroundings) -> Applied {
    draft.like = Some(value.parse()?);
    Ok(())
}

impl FromStr for SwapTarget {
    type Err = ValueError;

    /// `[KIND/]NAME[:CONTAINER]`.
    fn from_str(value: &str) -> Result<Self, ValueError> {
        let (target, container) = match value.split_once(':') {
            Some((target, container)) => (target, Some(container)),
            None => (value, None),
        };
        let (kind, name) = match target.split_once('/') {
            Some((kind, name)) => (Some(self::kind(kind)?), name),
            None => (None, target),
        };
        if !is_subdomain(name) {
            return Err(ValueError::grammar(format!("{name:?} is not the name of a Service or workload")));
        }
        if let Some(container) = container.filter(|container| !is_label(container)) {
            return Err(ValueError::grammar(format!("{container:?} is not the name of a container")));
        }
        Ok(Self { kind, name: name.to_owned(), container: container.map(str::to_owned) })
    }
}

impl FromStr for RbacTarget {
    type Err = ValueError;

    /// `KIND`, or as `--swap` of `run`. A workload that is called like a kind is named with its kind.
    fn from_str(value: &str) -> Result<Self, ValueError> {
        let target = match kind(value) {
            Ok(kind) => Self::Kind(kind),
            Err(_) => Self::Swap(value.parse()?),
        };
        match target {
            Self::Kind(TargetKind::Fixture(kind))
            | Self::Swap(SwapTarget { kind: Some(TargetKind::Fixture(kind)), .. }) => Err(ValueError::Unsupported {
                what: format!("a {} cannot be swapped", kind.as_str()),
                instead: INSTEAD.to_owned(),
            }),
            target => Ok(target),
        }
    }
}

pub(in crate::cli) fn namespace(draft: &mut Draft, value: &str, _: &Surroundings) -> Applied {
    if !is_label(value) {
        return Err(ValueError::grammar("it is not the name of a namespace"));
    }
    draft.cluster.namespace = Some(value.to_owned());
    Ok(())
}

/// `deploy`, `deployments`, `deployment.apps`, `deployments.v1.apps`, in any case.
fn kind(typed: &str) -> Result<TargetKind, ValueError> {
    let lower = typed.to_ascii_lowercase();
    let (name, group) = lower.split_once('.').unwrap_or((&lower, ""));
    for (names, kind, its_group) in KINDS {
        let in_group = group.is_empty() || group == *its_group || group.strip_prefix("v1") == Some(&dotted(its_group));
        if names.contains(&name) && in_group {
            return Ok(*kind);
        }
    }
    let instead = INSTEAD.to_owned();
    match UNSUPPORTED.iter().find(|(names, _)| names.contains(&name)) {
        Some((_, article)) => {
            Err(ValueError::Unsupported { what: format!("{article} cannot be swapped yet"), instead })
        }
        None => Err(ValueError::Unsupported { what: format!("{typed:?} is not a kind that can be swapped"), instead }),
    }
}

fn dotted(group: &str) -> String {
    if group.is_empty() { String::new() } else { format!(".{group}") }
}

fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty()
        && text.len() <= LABEL_MAX
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= SUBDOMAIN_MAX && text.split('.').all(is_label)
}
