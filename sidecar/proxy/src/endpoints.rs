//! Who stands behind a Service: the addresses of its Endpoints, read from a list of them.
//! <https://kubernetes.io/docs/reference/kubernetes-api/service-resources/endpoints-v1/>

use std::net::IpAddr;

use serde_json::Value;

/// The addresses that are ready, in the order of an `EndpointsList` in JSON; none where it is something else.
pub(crate) fn ready(list: &[u8]) -> Vec<IpAddr> {
    let list: Value = serde_json::from_slice(list).unwrap_or_default();
    let each = |of: &Value, name: &str| of[name].as_array().cloned().unwrap_or_default();
    let mut ready = Vec::new();
    for endpoints in each(&list, "items") {
        for subset in each(&endpoints, "subsets") {
            for address in each(&subset, "addresses") {
                let ip = address["ip"].as_str().and_then(|ip| ip.parse().ok());
                ready.extend(ip.filter(|ip| !ready.contains(ip)));
            }
        }
    }
    ready
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_addresses_of_all_subsets_are_read_once_each() {
        let list = br#"{"kind": "EndpointsList", "items": [
            {"subsets": [
                {"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "notReadyAddresses": [{"ip": "10.0.0.9"}]},
                {"addresses": [{"ip": "10.0.0.1"}]}, {"notReadyAddresses": []}]},
            {"metadata": {"name": "empty"}}, {"subsets": null}]}"#;
        let expected: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        assert_eq!(ready(list), expected);
    }

    #[test]
    fn what_is_no_list_names_nobody() {
        for other in [
            &b""[..],
            b"{",
            b"[]",
            b"7",
            br#"{"items": 7}"#,
            br#"{"items": [{"subsets": [{"addresses": [{"ip": "x"}]}]}]}"#,
        ] {
            assert!(ready(other).is_empty());
        }
    }
}
