//! Who the process is: host name, files of names, user.

use std::collections::BTreeMap;
use std::fs;
use std::net::UdpSocket;

use nix::unistd;

use crate::context::Context;
use crate::said;

pub fn run(context: &Context) {
    for name in ["resolv.conf", "hostname"] {
        context.row(&format!("identity/{name}"), || {
            Ok(format!("{:?}", context.normal(&fs::read_to_string(format!("/etc/{name}"))?)))
        });
    }
    hosts(context);
    context.row("identity/host-name", || Ok(unistd::gethostname()?.to_string_lossy().into_owned()));
    context.row("identity/domain-name", || fs::read_to_string("/proc/sys/kernel/domainname"));
    context.row("identity/has-the-pods-address", || {
        let addresses: Vec<_> = nix::ifaddrs::getifaddrs()?.filter_map(|it| it.address).collect();
        let ours = addresses.iter().filter_map(|address| Some(address.as_sockaddr_in()?.ip().into()));
        Ok(if ours.into_iter().any(|ip| Some(ip) == context.pod_ip) { "yes" } else { "no" }.to_owned())
    });
    // What libraries do that want to know "my address".
    context.row("identity/address-towards-the-cluster", || {
        let socket = UdpSocket::bind((said::any(context.peer()), 0))?;
        socket.connect((context.peer(), 1))?;
        Ok(socket.local_addr()?.ip().to_string())
    });
    context.row("identity/user", || Ok(format!("{}:{}", unistd::getuid(), unistd::getgid())));
    context.row("identity/groups", || {
        let mut groups: Vec<u32> = unistd::getgroups()?.into_iter().map(unistd::Gid::as_raw).collect();
        groups.sort_unstable();
        Ok(format!("{groups:?}"))
    });
    context.row("identity/working-directory", || Ok(std::env::current_dir()?.display().to_string()));
    context.row("identity/may-bind-a-low-port", || {
        std::net::TcpListener::bind((said::any(context.peer()), 1)).map(|_| "yes".to_owned())
    });
}

/// A row a name of the hosts file: that is how it is read, whatever its comments and its order are.
fn hosts(context: &Context) {
    let text = match fs::read_to_string("/etc/hosts") {
        Ok(text) => text,
        Err(error) => return context.says("identity/hosts", &said::error(&error)),
    };
    let mut addresses: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(address) = words.next() else { continue };
        for name in words {
            addresses.entry(context.normal(name)).or_default().push(address);
        }
    }
    for (name, addresses) in addresses {
        context.says(&format!("identity/hosts/{name}"), &addresses.join(" "));
    }
}
