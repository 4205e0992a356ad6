//! What the kubelet gave to the container that the proxy stands in for.

use std::ffi::OsString;
use std::net::IpAddr;

use tpdocker_protocol::control::{EnvVar, PodView};

/// Looks around in the pod.
pub(crate) fn describe() -> Result<PodView, PodError> {
    let hostname = nix::unistd::gethostname().map_err(PodError::Hostname)?.to_string_lossy().into_owned();
    let resolv_conf = read("/etc/resolv.conf")?;
    let hosts = read("/etc/hosts")?;
    let (env, env_skipped) = environment(std::env::vars_os());
    let mut pod_ips = addresses_of(&hostname, &hosts);
    if pod_ips.is_empty() {
        pod_ips = interface_addresses()?;
    }
    Ok(PodView { hostname, env, env_skipped, resolv_conf, hosts, pod_ips })
}

/// What the pod does not let the proxy see.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PodError {
    #[error("cannot read the pod's host name: {0}")]
    Hostname(nix::Error),
    #[error("cannot read {path}: {error}")]
    File { path: &'static str, error: std::io::Error },
    #[error("cannot list the pod's addresses: {0}")]
    Addresses(nix::Error),
}

fn read(path: &'static str) -> Result<String, PodError> {
    let bytes = std::fs::read(path).map_err(|error| PodError::File { path, error })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn environment(variables: impl Iterator<Item = (OsString, OsString)>) -> (Vec<EnvVar>, Vec<String>) {
    let (mut env, mut skipped) = (Vec::new(), Vec::new());
    for (name, value) in variables {
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => env.push(EnvVar { name, value }),
            (Ok(name), Err(_)) => skipped.push(name),
            (Err(name), _) => skipped.push(name.to_string_lossy().into_owned()),
        }
    }
    (env, skipped)
}

/// The pod's addresses as the kubelet wrote them into `/etc/hosts`, in the order of `status.podIPs`. Interfaces come
/// second as a source, because a pod may have more of them (a mesh, a second network) than it has addresses in the
/// sense of Kubernetes.
fn addresses_of(hostname: &str, hosts: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in hosts.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else { continue };
        if !address.is_loopback() && words.any(|name| name == hostname) && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

pub(crate) fn interface_addresses() -> Result<Vec<IpAddr>, PodError> {
    let mut found = Vec::new();
    for interface in nix::ifaddrs::getifaddrs().map_err(PodError::Addresses)? {
        let Some(address) = interface.address else { continue };
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        let v6 = address
            .as_sockaddr_in6()
            .map(nix::sys::socket::SockaddrIn6::ip)
            .filter(|ip| !ip.is_unicast_link_local())
            .map(IpAddr::V6);
        found.extend(v4.or(v6).filter(|address| !address.is_loopback()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn the_pods_addresses_are_those_of_its_own_name_in_the_kubelets_order() {
        let hosts = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n\
                     fd00::7\tweb-0\n10.244.0.7\tweb-0.web.staging.svc\tweb-0\n10.0.0.1\tother # web-0\n";
        assert_eq!(addresses_of("web-0", hosts), ["fd00::7", "10.244.0.7"].map(|ip| ip.parse::<IpAddr>().unwrap()));
        assert!(addresses_of("localhost", hosts).is_empty());
    }

    #[test]
    fn the_environment_keeps_its_order_and_names_what_it_cannot_carry() {
        let variables =
            [("B".into(), "2".into()), ("BIN".into(), OsString::from_vec(vec![0xff])), ("A".into(), "x=y\nz".into())];
        let (env, skipped) = environment(variables.into_iter());
        let names: Vec<_> = env.iter().map(|var| (var.name.as_str(), var.value.as_str())).collect();
        assert_eq!(names, [("B", "2"), ("A", "x=y\nz")]);
        assert_eq!(skipped, ["BIN"]);
    }
}
