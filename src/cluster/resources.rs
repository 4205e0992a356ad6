//! How much of a node the proxy asks for.
//!
//! During a swap the proxy runs beside the original, so asking for the original's 4 GiB again would fail on a full
//! cluster or quota. It asks for the original's request or a small one, whichever is less. Limits stay (a quota may
//! demand that there are some, a `LimitRange` may bound them), but are raised to what a tunnel needs: a proxy throttled
//! to a tenth of a core would be felt in every request. A resource that the original does not mention is not mentioned
//! here, so the namespace's defaults apply to both alike. Extended resources (GPUs) and huge pages are not asked for.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::quantity;
use super::template::Note;

/// name, most that is requested, least that is the limit.
const KNOWN: [(&str, &str, &str); 3] =
    [("cpu", "100m", "500m"), ("memory", "64Mi", "256Mi"), ("ephemeral-storage", "64Mi", "64Mi")];

/// The resources of the proxy's container.
pub(super) fn for_proxy(original: &ResourceRequirements, notes: &mut Vec<Note>) -> ResourceRequirements {
    let requests = original.requests.clone().unwrap_or_default();
    let limits = original.limits.clone().unwrap_or_default();
    let mut proxy = ResourceRequirements::default();
    for (name, most, least) in KNOWN {
        let limit = limits.get(name);
        // A limit without a request is the request as well, unless there is one.
        if let Some(request) = requests.get(name).or(limit) {
            proxy.requests.get_or_insert_default().insert(name.into(), pick(request, most, |a, b| a <= b));
        }
        if let Some(limit) = limit {
            proxy.limits.get_or_insert_default().insert(name.into(), pick(limit, least, |a, b| a >= b));
        }
    }
    let known = |name: &str| KNOWN.iter().any(|(known, ..)| *known == name);
    let others: BTreeSet<&String> = requests.keys().chain(limits.keys()).filter(|name| !known(name)).collect();
    notes.extend(others.into_iter().map(|name| Note::NoResource(name.clone())));
    proxy
}

/// `theirs` when it compares well with `ours`, and when it cannot be read: the API server has accepted it.
fn pick(theirs: &Quantity, ours: &str, keep: fn(f64, f64) -> bool) -> Quantity {
    match (quantity::value(&theirs.0), quantity::value(ours)) {
        (Some(a), Some(b)) if !keep(a, b) => Quantity(ours.into()),
        _ => theirs.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn list(pairs: &[(&str, &str)]) -> Option<BTreeMap<String, Quantity>> {
        (!pairs.is_empty()).then(|| pairs.iter().map(|(k, v)| ((*k).to_owned(), Quantity((*v).to_owned()))).collect())
    }

    fn resources(requests: &[(&str, &str)], limits: &[(&str, &str)]) -> ResourceRequirements {
        ResourceRequirements { requests: list(requests), limits: list(limits), claims: None }
    }

    #[test]
    fn a_large_original_shrinks_to_what_a_proxy_needs_and_keeps_its_limits() {
        let original = resources(&[("cpu", "2"), ("memory", "4Gi")], &[("cpu", "4"), ("memory", "4Gi")]);
        let expected = resources(&[("cpu", "100m"), ("memory", "64Mi")], &[("cpu", "4"), ("memory", "4Gi")]);
        assert_eq!(for_proxy(&original, &mut Vec::new()), expected);
    }

    #[test]
    fn a_small_original_keeps_its_requests_and_its_limits_grow() {
        let original = resources(&[("cpu", "10m"), ("memory", "16Mi")], &[("cpu", "50m"), ("memory", "32Mi")]);
        let expected = resources(&[("cpu", "10m"), ("memory", "16Mi")], &[("cpu", "500m"), ("memory", "256Mi")]);
        assert_eq!(for_proxy(&original, &mut Vec::new()), expected);
    }

    #[test]
    fn a_limit_alone_gets_a_small_request_so_that_it_does_not_become_one() {
        let proxy = for_proxy(&resources(&[], &[("memory", "8Gi")]), &mut Vec::new());
        assert_eq!(proxy, resources(&[("memory", "64Mi")], &[("memory", "8Gi")]));
    }

    #[test]
    fn a_gpu_is_left_to_the_original_and_said() {
        let mut notes = Vec::new();
        let gpu = [("nvidia.com/gpu", "1")];
        assert_eq!(for_proxy(&resources(&gpu, &gpu), &mut notes), resources(&[], &[]));
        assert_eq!(notes, [Note::NoResource("nvidia.com/gpu".into())]);
    }
}
