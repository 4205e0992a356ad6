//! `tpdocker rbac`: the smallest Role for what was asked, on stdout. The cluster is only asked where the answer depends on
//! it: what stands behind a plain name or a Service.

use crate::cluster::connect::namespace_of;
use crate::cluster::rights::Purpose;
use crate::cluster::role::{binding, role};
use crate::cluster::stance::ModelKind;
use crate::cluster::{Cluster, Kind};
use crate::error::Error;
use crate::output::result;
use crate::settings::{RbacSettings, RbacTarget, SwapTarget, TargetKind};

/// Carries out `tpdocker rbac`.
pub async fn rbac(settings: RbacSettings) -> Result<u8, Error> {
    let RbacSettings { cluster, target, subjects } = settings;
    let known = match &target {
        RbacTarget::Any => Some(Purpose::Any),
        RbacTarget::Outgoing => Some(Purpose::Outgoing),
        // A Service may stand in front of any workload.
        RbacTarget::Kind(kind) => Some(workload_kind(*kind).map_or(Purpose::Any, Purpose::Kind)),
        RbacTarget::Swap(SwapTarget { kind, name, .. }) => {
            kind.and_then(workload_kind).map(|kind| Purpose::on(kind, name))
        }
        RbacTarget::Like(SwapTarget { kind, name, .. }) => {
            kind.and_then(model_kind).map(|kind| Purpose::Like { kind, name: name.clone(), by_service: false })
        }
    };
    let (purpose, namespace, minor) = if let Some(purpose) = known {
        (purpose, namespace_of(&cluster)?, None)
    } else {
        let cluster = Cluster::connect(&cluster).await?;
        let purpose = match &target {
            RbacTarget::Like(target) => Purpose::like(target, &cluster.resolve_likeness(target).await?),
            RbacTarget::Swap(target) => Purpose::of(target, &cluster.resolve(target).await?.reference),
            RbacTarget::Any | RbacTarget::Outgoing | RbacTarget::Kind(_) => Purpose::Any,
        };
        (purpose, cluster.namespace().to_owned(), cluster.minor())
    };
    let mut out = role(&purpose, &namespace, minor);
    if !subjects.is_empty() {
        out.push_str("---\n");
        out.push_str(&binding(&purpose, &namespace, &subjects));
    }
    result::print(&out)?;
    Ok(0)
}

/// `None` for what is no kind of workload.
fn workload_kind(kind: TargetKind) -> Option<Kind> {
    match kind {
        TargetKind::Service | TargetKind::Fixture(_) => None,
        TargetKind::Deployment => Some(Kind::Deployment),
        TargetKind::StatefulSet => Some(Kind::StatefulSet),
        TargetKind::ReplicaSet => Some(Kind::ReplicaSet),
    }
}

/// `None` for a Service.
fn model_kind(kind: TargetKind) -> Option<ModelKind> {
    match kind {
        TargetKind::Fixture(kind) => Some(ModelKind::Fixture(kind)),
        kind => workload_kind(kind).map(ModelKind::Workload),
    }
}
