//! Who has what the engine says is taken: a port of this machine, or the name of a container.
//!
//! The engine says "already in use" and nothing else; the person then has to look. Everything here is a best effort for
//! one sentence, so what cannot be seen (other users' processes) is left out.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bollard::query_parameters::ListContainersOptions;
use tpdocker_protocol::contract::LABEL_SESSION;

use super::engine::Engine;

/// State of a listening socket in `/proc/net/tcp` (`TCP_LISTEN`); proc(5).
const LISTENING: &str = "0A";

/// Digits of a container's id that people are shown.
const SHORT_ID: usize = 12;

impl Engine {
    /// The container, else the process, that has a port of this machine.
    pub(super) async fn holder_of_port(&self, port: u16) -> Option<String> {
        let containers = self.api.list_containers(Some(ListContainersOptions::default())).await.unwrap_or_default();
        let holder = containers
            .into_iter()
            .find(|container| container.ports.iter().flatten().any(|published| published.public_port == Some(port)));
        match holder {
            Some(container) => {
                let name = container.names.unwrap_or_default().into_iter().next().unwrap_or_default();
                Some(format!("the container {} has it", name.trim_start_matches('/')))
            }
            None => tokio::task::spawn_blocking(move || listening_process(port)).await.ok().flatten(),
        }
    }

    /// Whose a container is.
    pub(super) async fn holder_of_name(&self, name: &str) -> Option<String> {
        let found = self.api.inspect_container(name, None).await.ok()?;
        let id = found.id?.chars().take(SHORT_ID).collect::<String>();
        let running = found.state.and_then(|state| state.running).unwrap_or(false);
        let state = if running { "running" } else { "stopped" };
        let config = found.config.unwrap_or_default();
        let whose = match config.labels.unwrap_or_default().get(LABEL_SESSION) {
            Some(session) => format!(", of the tpdocker session {session}"),
            None => String::new(),
        };
        Some(format!("{id}, {state}, of image {}{whose}", config.image.unwrap_or_default()))
    }
}

/// A process of this machine that listens on a TCP port.
fn listening_process(port: u16) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .find_map(|table| listening_inode(&fs::read_to_string(table).ok()?, port))?;
    let link = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?;
    processes.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let descriptors = fs::read_dir(process.path().join("fd")).ok()?;
        let holds = descriptors
            .flatten()
            .any(|descriptor| fs::read_link(descriptor.path()).is_ok_and(|target| target == Path::new(&link)));
        holds.then(|| {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            let user = process.metadata().map(|metadata| metadata.uid()).unwrap_or_default();
            format!("the process {} (pid {pid}, user id {user}) has it", name.trim())
        })
    })
}

/// The inode of the socket that listens on `port`, in the text of a table of `/proc/net`.
fn listening_inode(table: &str, port: u16) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        // sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode
        let fields: Vec<_> = line.split_whitespace().collect();
        let (_, hex_port) = fields.get(1)?.rsplit_once(':')?;
        let matches = *fields.get(3)? == LISTENING && u16::from_str_radix(hex_port, 16) == Ok(port);
        matches.then(|| fields.get(9)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_of_this_process_is_found_by_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let holder = listening_process(listener.local_addr().unwrap().port()).unwrap();
        assert!(holder.contains(&format!("pid {}", std::process::id())), "{holder}");
    }
}
