//! What the probe asks of the other end: one JSON object a connection, and one back.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{ports, said};

/// A request to port [`ports::CONTROL`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Request {
    /// Connect there, say this line, and tell the line that comes back.
    Connect {
        /// Where.
        to: SocketAddr,
        /// What to say.
        say: String,
    },
    /// Send this as a datagram, and tell the one that comes back.
    Datagram {
        /// Where.
        to: SocketAddr,
        /// What to say.
        say: String,
    },
    /// Open a TCP port after so many milliseconds, and answer connections with a line.
    OpenLater {
        /// The port.
        port: u16,
        /// The time.
        millis: u64,
    },
    /// What is remembered of the connection that began with this line.
    Recall {
        /// The line.
        line: String,
    },
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct Told {
    /// What happened: the line that came back, or the name of an error.
    pub heard: String,
    /// From which address, where there was a socket.
    pub from: Option<SocketAddr>,
}

/// Asks the `probe serve` at an address.
pub fn ask(peer: IpAddr, request: &Request) -> io::Result<Told> {
    let mut stream = said::connect((peer, ports::CONTROL).into())?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}
