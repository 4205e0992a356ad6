//! The cluster's side, by reading alone.

use std::time::Duration;

use super::Line;
use super::engine::chain;
use crate::cluster::pod_security::{Level, broken};
use crate::cluster::rights::Purpose;
use crate::cluster::{Cluster, ClusterError, Kind, Stance};
use crate::error::{Code, Explain as _};
use crate::image;
use crate::session::identity::Identity;
use crate::session::proxy_of;
use crate::settings::{DoctorSettings, Intent};

const AFTER_LOGIN: [&str; 5] = ["round trip", "download", "rights", "pod security", "proxy image"];

/// The lines about the cluster.
pub(super) async fn check(cluster: &Result<Cluster, ClusterError>, settings: &DoctorSettings) -> Vec<Line> {
    let cluster = match cluster {
        Ok(cluster) => cluster,
        Err(error) => {
            let failed = Line {
                cure: error.hint(),
                code: Some(error.code().into()),
                ..Line::new("cluster", super::State::Fix, chain(error))
            };
            let others = AFTER_LOGIN.map(|check| Line::note(check, "not checked: it needs the cluster"));
            return std::iter::once(failed).chain(others).collect();
        }
    };
    let mut lines = vec![Line::ok("cluster", cluster.facts().to_string())];
    lines.push(match cluster.round_trip().await {
        Ok(time) => Line::ok("round trip", format!("{} to the API server", millis(time))),
        Err(error) => Line::failed("round trip", error),
    });
    lines.push(match cluster.download().await {
        Ok((bytes, time)) => Line::ok("download", rate(bytes, time)),
        // Not every login may read it, and nothing depends on it.
        Err(error) => Line::note("download", format!("not measured: {}", chain(&error))),
    });
    let (rights, stance) = rights(cluster, settings).await;
    lines.push(rights);
    lines.push(pod_security(cluster, stance.as_ref(), settings).await);
    lines.push(proxy_image(cluster, settings).await);
    lines
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn rate(bytes: usize, time: Duration) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let megabytes = bytes as f64 / 1e6;
    format!(
        "{megabytes:.1} MB from the API server in {}, {:.1} MB/s, the time to make it included",
        millis(time),
        megabytes / time.as_secs_f64()
    )
}

/// Of the workload that was named, else of any Deployment.
async fn rights(cluster: &Cluster, settings: &DoctorSettings) -> (Line, Option<Stance>) {
    let found = match &settings.swap {
        Some(target) => {
            cluster.find(&Intent::Swap(target.clone())).await.map(|(stance, lacking)| (lacking.told(), Some(stance)))
        }
        None => cluster.check_rights(&Purpose::Kind(Kind::Deployment)).await.map(|lacking| (lacking.told(), None)),
    };
    match found {
        Ok((Some(notice), stance)) => (Line::note("rights", notice), stance),
        Ok((None, Some(stance))) => {
            (Line::ok("rights", format!("all that a session needs on {}", swapped(&stance))), Some(stance))
        }
        Ok((None, None)) => {
            (Line::ok("rights", "all that a session needs on any Deployment; --swap NAME asks for one workload"), None)
        }
        Err(error) => (Line::failed("rights", error), None),
    }
}

fn swapped(stance: &Stance) -> String {
    stance.workload().map_or_else(|| stance.told(), |workload| workload.reference.to_string())
}

async fn pod_security(cluster: &Cluster, stance: Option<&Stance>, settings: &DoctorSettings) -> Line {
    const CHECK: &str = "pod security";
    let label = match cluster.pod_security().await {
        Ok(label) => label,
        Err(error) => return Line::note(CHECK, format!("the namespace's level is not known: {}", chain(&error))),
    };
    let Some(level) = label.as_deref().and_then(Level::of_label) else {
        let named = label.map_or_else(|| "no level".to_owned(), |label| format!("`{label}`"));
        return Line::ok(CHECK, format!("the namespace enforces {named}"));
    };
    let Some(stance) = stance else {
        return Line::note(CHECK, format!("the namespace enforces `{level}`; --swap NAME compares a workload's proxy"));
    };
    let proxy = match Identity::new().map(|identity| proxy_of(&identity, stance, settings.proxy_image.as_deref())) {
        Ok(Ok((proxy, _))) => proxy,
        Ok(Err(error)) => return Line::failed(CHECK, error),
        Err(error) => return Line::failed(CHECK, error),
    };
    let rules = proxy.spec.map(|spec| broken(level, &spec.template)).unwrap_or_default();
    if rules.is_empty() {
        return Line::ok(CHECK, format!("the namespace enforces `{level}`, which admits the proxy"));
    }
    Line::fix(
        CHECK,
        Code::Proxy,
        format!("the namespace enforces `{level}`, which refuses the proxy: {}", rules.join(", ")),
        format!("change these in the pod template of {}, from which the proxy is made", swapped(stance)),
    )
}

/// Without a pod only the nodes can tell, and few logins may see them.
async fn proxy_image(cluster: &Cluster, settings: &DoctorSettings) -> Line {
    const CHECK: &str = "proxy image";
    let image = settings.proxy_image.as_deref().unwrap_or_else(|| image::proxy().reference());
    let cure =
        "where nodes can neither find nor pull it: tpdocker image push REGISTRY/NAME, then --proxy-image REGISTRY/NAME";
    match cluster.nodes_with(image).await {
        Ok(nodes) if nodes.with == nodes.all && nodes.all > 0 => {
            Line::ok(CHECK, format!("{image} is on all of the {} nodes", nodes.all))
        }
        Ok(nodes) => {
            let text = format!(
                "{image} is known to be on {} of {} nodes; whether the others pull it shows when a proxy starts",
                nodes.with, nodes.all
            );
            Line::note(CHECK, text).with_cure(cure)
        }
        Err(_) => Line::note(
            CHECK,
            format!("whether the nodes have or pull {image} shows when a proxy starts: this login may not see nodes"),
        )
        .with_cure(cure),
    }
}
