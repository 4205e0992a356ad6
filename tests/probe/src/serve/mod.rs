//! `probe serve`: small servers, each of which behaves in one way.

mod control;
mod tcp;
mod udp;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::said;

/// What connections left behind, by the line that they began with.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<HashMap<String, String>>>);

// === impl Memory ===

impl Memory {
    fn keep(&self, line: String, text: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(line, text);
    }

    fn recall(&self, line: &str) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(line).cloned()
    }
}

/// Serves at this address until the process is ended.
pub fn run(address: IpAddr) -> Result<(), String> {
    let memory = Memory::default();
    for (port, role) in tcp::ROLES {
        let at = SocketAddr::from((address, port));
        let listener = said::listener(at).map_err(|error| format!("{at}: {error}"))?;
        let memory = memory.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let memory = memory.clone();
                match stream {
                    Ok(stream) => drop(thread::spawn(move || {
                        // What the other end does to a connection is its business, and what it asks the control for.
                        if let Err(error) = role(stream, &memory) {
                            eprintln!("port {port}: {error}");
                        }
                    })),
                    Err(error) => eprintln!("port {port}: {error}"),
                }
            }
        });
    }
    udp::run(address).map_err(|error| format!("datagrams: {error}"))?;
    println!("serving at {address}");
    loop {
        thread::park();
    }
}
