//! A `run` under construction: what its flags have said up to here.

use std::collections::{BTreeMap, BTreeSet};

use crate::settings::{
    AppSpec, ClusterSettings, Grace, Hold, InitContainers, Intent, NetSpec, OutputFormat, RunSettings, SwapTarget,
    VolumeChoice,
};

use super::error::UsageError;

/// One `NAME=VALUE`, or a name whose value the CLI's environment lacks.
pub(super) type EnvEntry = (String, Option<String>);

/// What the flags have said.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) verbosity: u8,
    pub(super) output: Option<OutputFormat>,
    pub(super) cluster: ClusterSettings,
    pub(super) swap: Option<SwapTarget>,
    pub(super) like: Option<SwapTarget>,
    pub(super) init_containers: InitContainers,
    pub(super) proxy_image: Option<String>,
    pub(super) hold: Hold,
    pub(super) grace: Grace,
    pub(super) take_over: bool,
    pub(super) dry_run: bool,
    pub(super) pod_volumes: BTreeMap<String, VolumeChoice>,
    pub(super) app: AppSpec,
    pub(super) net: NetSpec,
    /// Of `--env-file`; docker lets `-e` win over files wherever they stand.
    pub(super) env_of_files: Vec<EnvEntry>,
    /// Of `-e`.
    pub(super) env: Vec<EnvEntry>,
}

impl Draft {
    /// The settings, once the image and what follows it are known.
    pub(super) fn finish(self, mut rest: Vec<String>) -> Result<RunSettings, UsageError> {
        let intent = match (self.swap, self.like) {
            (Some(_), Some(_)) => return Err(UsageError::SwapAndLike),
            (Some(target), None) => Intent::Swap(target),
            (None, Some(target)) => Intent::Like(target),
            (None, None) => Intent::Outgoing,
        };
        if self.take_over && !matches!(intent, Intent::Swap(_)) {
            return Err(UsageError::TakeOverNothing);
        }
        if rest.first().is_none_or(String::is_empty) {
            return Err(UsageError::NoImage);
        }
        let command = rest.split_off(1);
        let image = rest.remove(0);
        let (env, env_unset) = merge(self.env_of_files.into_iter().chain(self.env));
        let app = AppSpec { image, command, env, env_unset, ..self.app };
        Ok(RunSettings {
            cluster: self.cluster,
            intent,
            init_containers: self.init_containers,
            proxy_image: self.proxy_image,
            app,
            net: self.net,
            hold: self.hold,
            grace: self.grace,
            pod_volumes: self.pod_volumes,
            take_over: self.take_over,
            dry_run: self.dry_run,
        })
    }
}

/// Later entries win; an entry without a value unsets what came before it.
fn merge(entries: impl Iterator<Item = EnvEntry>) -> (BTreeMap<String, String>, BTreeSet<String>) {
    let (mut set, mut unset) = (BTreeMap::new(), BTreeSet::new());
    for (name, value) in entries {
        if let Some(value) = value {
            unset.remove(&name);
            set.insert(name, value);
        } else {
            set.remove(&name);
            unset.insert(name);
        }
    }
    (set, unset)
}
