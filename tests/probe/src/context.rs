//! What all rows share: the targets, the pod's identity, and the one way to say something.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;

use crate::said;
use crate::targets::Targets;

/// The pod's own address, by the downward API.
const POD_IP: &str = "POD_IP";
/// The pod's own name, by the downward API.
const POD_NAME: &str = "POD_NAME";
/// The pod's own id, by the downward API.
const POD_UID: &str = "POD_UID";

/// Linux sends an address a "host unreachable" once in two seconds, in the long run: it counts each against two limits of
/// one a second, that of the route and that of ICMP. Asked more often, it may say nothing for long.
pub const ROUTER_SPEAKS_EVERY: Duration = Duration::from_millis(2500);

pub struct Context {
    pub targets: Targets,
    /// The pod's address. Without one, no address at all: then its rows say so by themselves.
    pub pod_ip: Option<IpAddr>,
    /// What stands for texts that differ from pod to pod, or from cluster to cluster.
    placeholders: Vec<(String, String)>,
    /// Something that only this process knows.
    pub nonce: String,
    router: Mutex<()>,
}

// === impl Context ===

impl Context {
    pub fn new(targets: Targets) -> Self {
        let of_pod = [POD_IP, POD_NAME, POD_UID].map(|name| (env::var(name).unwrap_or_default(), format!("<{name}>")));
        let peers = targets.peers.iter().enumerate().map(|(at, ip)| (ip.to_string(), format!("<PEER_{}>", at + 1)));
        let services = [(targets.peer_service, "PEER_SERVICE"), (targets.own_service, "OWN_SERVICE")];
        let services = services.map(|(ip, name)| (ip.to_string(), format!("<{name}>")));
        let placeholders = of_pod.into_iter().chain(peers).chain(services).chain(of_container());
        let placeholders = placeholders.filter(|(text, _)| !text.is_empty());
        let nanos = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos());
        Self {
            placeholders: placeholders.collect(),
            pod_ip: env::var(POD_IP).ok().and_then(|text| text.parse().ok()),
            nonce: format!("{nanos}-{}", std::process::id()),
            router: Mutex::new(()),
            targets,
        }
    }

    /// To be held while a router's errors are waited for: rows that ask at once would take them from one another.
    pub fn alone_with_the_router(&self) -> MutexGuard<'_, ()> {
        self.router.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first of the pods that answer.
    pub fn peer(&self) -> IpAddr {
        self.targets.peers[0]
    }

    /// Carries out one row and prints it.
    pub fn row(&self, name: &str, carry_out: impl FnOnce() -> io::Result<String>) {
        self.says(name, &said::of(carry_out()));
    }

    /// Prints one row.
    pub fn says(&self, name: &str, text: &str) {
        let line = json!({"row": name, "says": self.normal(text)});
        let mut out = io::stdout().lock();
        if let Err(error) = writeln!(out, "{line}").and_then(|()| out.flush()) {
            eprintln!("probe: {name}: {error}");
        }
    }

    /// The text with placeholders where they stand for whole words.
    pub fn normal(&self, text: &str) -> String {
        self.placeholders.iter().fold(text.to_owned(), |text, (from, to)| replace_words(&text, from, to))
    }
}

/// The addresses that an interface other than loopback has, and that of the default gateway: where they are not the
/// pod's, they are those of the container's network.
fn of_container() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten().filter(|it| it.interface_name != "lo");
    for address in interfaces.filter_map(|it| Some(it.address?.as_sockaddr_in()?.ip())) {
        found.push((address.to_string(), "<CONTAINER_IP>".to_owned()));
    }
    // Hexadecimal, in the byte order of this machine: interface, destination, gateway, and the rest.
    for line in fs::read_to_string("/proc/net/route").unwrap_or_default().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [_, "00000000", gateway, _, _, _, _, "00000000", ..] = words.as_slice()
            && let Ok(gateway) = u32::from_str_radix(gateway, 16)
        {
            found.push((Ipv4Addr::from(gateway.to_ne_bytes()).to_string(), "<GATEWAY>".to_owned()));
        }
    }
    found
}

/// Replaces `from` where no letter or digit is next to it: 10.0.0.1 is no part of 10.0.0.12.
fn replace_words(text: &str, from: &str, to: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(from) {
        let (before, behind) = (&rest[..at], &rest[at + from.len()..]);
        let joined = |neighbour: Option<char>| neighbour.is_some_and(char::is_alphanumeric);
        let left = before.chars().next_back().or_else(|| out.chars().next_back());
        out.push_str(before);
        out.push_str(if joined(left) || joined(behind.chars().next()) { from } else { to });
        rest = behind;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_words_are_replaced() {
        let replaced = |text| replace_words(text, "10.0.0.1", "<IP>");
        assert_eq!(replaced("10.0.0.1 10.0.0.12 110.0.0.1 [10.0.0.1]:80"), "<IP> 10.0.0.12 110.0.0.1 [<IP>]:80");
        assert_eq!(replaced("10.0.0.110.0.0.1"), "10.0.0.110.0.0.1");
        assert_eq!(replaced("nothing"), "nothing");
    }
}
