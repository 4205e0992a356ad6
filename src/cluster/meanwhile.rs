//! What others do to a workload while it is swapped: a person, a pipeline, a `GitOps` controller or an autoscaler scales it
//! back, or gives it another pod template. All of it is noticed and said, and none of it is undone: whoever does such a
//! thing has a reason, and a controller would do it again. What they set stays at the end.
//!
//! A state machine without a cluster: it is shown the workload whenever that changes, and has lines for people. About each
//! matter there is one at once and then at most one in [`TELL_EVERY`], with the number of times.
//!
//! Who it was is told by `metadata.managedFields`, where the server keeps book: the owner of the field that was not there
//! before. Before Kubernetes 1.22 changes by the scale subresource, such as those of `kubectl scale`, are not in it.
//! <https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management>

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use kube::api::DynamicObject;

use super::workload::{Workload, WorkloadRef};

#[cfg(test)]
mod tests;

/// A controller that scales back and another that scales to 0 would otherwise fill the terminal.
pub(super) const TELL_EVERY: Duration = Duration::from_mins(1);
/// The server's name for a client that gave none; so it is nobody's.
const UNNAMED: &str = "unknown";
/// Where the number of replicas and the pod template are, as managedFields has it.
const REPLICAS: &str = "/f:spec/f:replicas";
const TEMPLATE: &str = "/f:spec/f:template";

/// What others have done to one workload.
#[derive(Debug)]
pub(super) struct Meanwhile<'a> {
    workload: &'a Workload,
    scale: Scale,
    edits: Edits,
}

#[derive(Debug)]
struct Scale {
    /// It has been at 0: any other number is somebody else's from then on.
    taken: bool,
    replicas: i32,
    owners: Owners,
    by: Option<String>,
    /// That it is not at 0 was said last.
    told_back: bool,
    pace: Pace,
}

#[derive(Debug)]
struct Edits {
    template: PodTemplateSpec,
    owners: Owners,
    by: Option<String>,
    pace: Pace,
}

/// How often something happened that was not told, and when it may be.
#[derive(Debug, Default)]
struct Pace {
    times: u32,
    told: Option<Instant>,
}

/// Who owned a field, and since when.
#[derive(Debug, Default)]
struct Owners(Option<Vec<(String, Option<Time>)>>);

// === impl Meanwhile ===

impl<'a> Meanwhile<'a> {
    pub(super) fn new(workload: &'a Workload) -> Self {
        let scale = Scale {
            taken: false,
            replicas: workload.replicas,
            owners: Owners::default(),
            by: None,
            told_back: false,
            pace: Pace::default(),
        };
        let template = (*workload.template).clone();
        let edits = Edits { template, owners: Owners::default(), by: None, pace: Pace::default() };
        Self { workload, scale, edits }
    }

    /// Takes in the workload as it is.
    pub(super) fn handle_input(&mut self, object: &DynamicObject) {
        let replicas = replicas_of(object);
        let scale = &mut self.scale;
        let by = scale.owners.follow(object, REPLICAS);
        if scale.taken && scale.replicas == 0 && replicas != 0 {
            scale.pace.times += 1;
            scale.by = by;
        }
        scale.taken |= replicas == 0;
        scale.replicas = replicas;

        let edits = &mut self.edits;
        let by = edits.owners.follow(object, TEMPLATE);
        let template = object.data.pointer("/spec/template").cloned().map(serde_json::from_value);
        // One that cannot be read is of a later release than this program, and no news.
        if let Some(Ok(template)) = template
            && template != edits.template
        {
            edits.template = template;
            edits.pace.times += 1;
            edits.by = by;
        }
    }

    /// When [`Self::poll_event`] will have something that it has not at the moment.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let scale = self.scale.news().then(|| self.scale.pace.next()).flatten();
        let edits = self.edits.pace.news().then(|| self.edits.pace.next()).flatten();
        [scale, edits].into_iter().flatten().min()
    }

    /// A line for people.
    pub(super) fn poll_event(&mut self, now: Instant) -> Option<String> {
        if self.scale.news() && self.scale.pace.may(now) {
            let times = self.scale.pace.told(now);
            self.scale.told_back = self.scale.replicas != 0;
            return Some(self.scaled(times));
        }
        if self.edits.pace.news() && self.edits.pace.may(now) {
            let times = self.edits.pace.told(now);
            return Some(self.edited(times));
        }
        None
    }

    fn scaled(&self, times: u32) -> String {
        let Workload { reference, services, .. } = self.workload;
        let Scale { replicas, by, .. } = &self.scale;
        let alone = match &services[..] {
            [] => "nothing of it runs beside this session".to_owned(),
            services => format!("service {} is answered here alone", services.join(", ")),
        };
        if *replicas == 0 {
            let before =
                if times > 0 { format!(", after somebody scaled it back{}", told_times(times)) } else { String::new() };
            return format!("{reference} is at 0 again{before}: {alone}");
        }
        let beside = match &services[..] {
            [] => "its pods run beside this session".to_owned(),
            services => format!("its pods answer service {} beside this session", services.join(", ")),
        };
        format!(
            "{} scaled {reference} back to {replicas}{}: {beside}. That is left as it is, at the end too; to change it, stop \
             the controller that does it, if it was one, and then: {}",
            who(by.as_deref()),
            told_times(times),
            scale_command(reference)
        )
    }

    fn edited(&self, times: u32) -> String {
        let reference = &self.workload.reference;
        let Edits { template, by, .. } = &self.edits;
        if *template == *self.workload.template {
            return format!("{reference} has the pod template again that this session began with");
        }
        format!(
            "{} changed the pod template of {reference}{}{}: this session goes on with the environment and files of the one \
             before; the change stays, and the original comes back with it",
            who(by.as_deref()),
            told_times(times),
            images(&self.workload.template, template)
        )
    }
}

// === impl Scale ===

impl Scale {
    fn news(&self) -> bool {
        self.taken && (self.pace.news() || self.told_back != (self.replicas != 0))
    }
}

// === impl Pace ===

impl Pace {
    fn news(&self) -> bool {
        self.times > 0
    }

    fn next(&self) -> Option<Instant> {
        self.told.map(|told| told + TELL_EVERY)
    }

    fn may(&self, now: Instant) -> bool {
        self.next().is_none_or(|next| next <= now)
    }

    fn told(&mut self, now: Instant) -> u32 {
        self.told = Some(now);
        std::mem::take(&mut self.times)
    }
}

// === impl Owners ===

impl Owners {
    /// Who owns the field at `path` and did not before, where that has a name.
    fn follow(&mut self, object: &DynamicObject, path: &str) -> Option<String> {
        let entries = object.managed_fields().iter();
        let owning = entries.filter(|entry| entry.fields_v1.as_ref().is_some_and(|it| it.0.pointer(path).is_some()));
        let owners: Vec<_> =
            owning.map(|entry| (entry.manager.clone().unwrap_or_default(), entry.time.clone())).collect();
        let new = match &self.0 {
            Some(before) => owners.iter().find(|owner| !before.contains(owner)).map(|(manager, _)| manager.clone()),
            None => None,
        };
        self.0 = Some(owners);
        new.filter(|manager| !manager.is_empty() && manager != UNNAMED)
    }
}

/// `spec.replicas`; absent, it is the API server's default.
pub(super) fn replicas_of(object: &DynamicObject) -> i32 {
    let number = object.data.pointer("/spec/replicas").and_then(serde_json::Value::as_i64);
    number.and_then(|number| i32::try_from(number).ok()).unwrap_or(1)
}

fn who(manager: Option<&str>) -> String {
    manager.map_or_else(|| "somebody".to_owned(), |manager| format!("`{manager}`"))
}

fn told_times(times: u32) -> String {
    if times > 1 { format!(" ({times} times)") } else { String::new() }
}

fn scale_command(reference: &WorkloadRef) -> String {
    let WorkloadRef { kind, namespace, name } = reference;
    format!("kubectl -n {namespace} scale {}/{name} --replicas=0", kind.slug())
}

/// The images that are new.
fn images(old: &PodTemplateSpec, new: &PodTemplateSpec) -> String {
    fn containers(template: &PodTemplateSpec) -> impl Iterator<Item = &Container> {
        template.spec.iter().flat_map(|spec| &spec.containers)
    }
    let is_new = |it: &&Container| !containers(old).any(|old| old.name == it.name && old.image == it.image);
    let new = containers(new).filter(is_new);
    let new: Vec<_> =
        new.map(|it| format!("{} is {} now", it.name, it.image.as_deref().unwrap_or("without an image"))).collect();
    if new.is_empty() { String::new() } else { format!(" ({})", new.join(", ")) }
}
