//! `tpdocker rbac`: the smallest Role for what was asked, on stdout. The cluster is only asked where the answer depends on
//! it: what stands behind a plain name or a Service.

use crate::cluster::connect::namespace_of;
use crate::cluster::rights::Purpose;
use crate::cluster::role::{binding, role};
use crate::cluster::{Cluster, Kind};
use crate::error::Error;
use crate::output::result;
use crate::settings::{RbacSettings, RbacTarget, SwapTarget, TargetKind};

/// Carries out `tpdocker rbac`.
pub async fn rbac(settings: RbacSettings) -> Result<u8, Error> {
    let RbacSettings { cluster, swap, subjects } = settings;
    let known = match &swap {
        None => Some(Purpose::Any),
        Some(RbacTarget::Kind(kind)) => Some(workload_kind(Some(*kind)).map_or(Purpose::Any, Purpose::Kind)),
        Some(RbacTarget::One(SwapTarget { kind, name, .. })) => {
            workload_kind(*kind).map(|kind| Purpose::on(kind, name))
        }
    };
    let (purpose, namespace, minor) = match (known, &swap) {
        (None, Some(RbacTarget::One(target))) => {
            let cluster = Cluster::connect(&cluster).await?;
            let workload = cluster.resolve(target).await?;
            (Purpose::of(target, &workload.reference), cluster.namespace().to_owned(), cluster.minor())
        }
        (known, _) => (known.unwrap_or(Purpose::Any), namespace_of(&cluster)?, None),
    };
    let mut out = role(&purpose, &namespace, minor);
    if !subjects.is_empty() {
        out.push_str("---\n");
        out.push_str(&binding(&purpose, &namespace, &subjects));
    }
    result::print(&out)?;
    Ok(0)
}

/// A Service may stand in front of any of them.
fn workload_kind(kind: Option<TargetKind>) -> Option<Kind> {
    match kind? {
        // Neither is there a workload of these kinds.
        TargetKind::Service | TargetKind::Fixture(_) => None,
        TargetKind::Deployment => Some(Kind::Deployment),
        TargetKind::StatefulSet => Some(Kind::StatefulSet),
        TargetKind::ReplicaSet => Some(Kind::ReplicaSet),
    }
}
