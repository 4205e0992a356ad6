//! The command line of `tpdocker-proxy`.
//!
//! Everything comes in arguments and nothing in the environment: the environment is the pod's, and the CLI reads it
//! from this process as what the swapped container would see. The arguments are written by the CLI only, so they are
//! parsed by hand; an argument parser would be the largest part of the binary.

use std::net::SocketAddr;

use ed25519_dalek::VerifyingKey;
use tpdocker_protocol::addr::{Port, Transport};
use tpdocker_protocol::contract::PROXY_READY_SOCKET;
use tracing::level_filters::LevelFilter;

use crate::server::Config;

/// What the process was started for.
#[derive(Debug)]
pub enum Command {
    /// Stand in for the swapped container.
    Serve {
        /// With this session.
        config: Box<Config>,
        /// Verbosity of stderr.
        log: LevelFilter,
    },
    /// The kubelet's readiness probe.
    Ready,
}

/// Why the command line means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    /// Neither `serve` nor `ready`.
    #[error(
        "usage: tpdocker-proxy serve --listen IP:PORT --key HEX --session ID [--port N/tcp]… [--log LEVEL] | ready"
    )]
    Usage,
    /// An option that does not exist.
    #[error("unknown option {0}")]
    Unknown(String),
    /// An option without its value.
    #[error("{0} needs a value")]
    NoValue(String),
    /// A value that cannot be read.
    #[error("{option} cannot be {value}: {reason}")]
    Value {
        /// The option.
        option: String,
        /// What was given.
        value: String,
        /// What is expected.
        reason: &'static str,
    },
    /// An option that `serve` cannot do without.
    #[error("serve needs {0}")]
    Missing(&'static str),
}

impl Command {
    /// Reads the arguments after the program's name.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, ArgsError> {
        let mut arguments = arguments.into_iter();
        match arguments.next().as_deref() {
            Some("serve") => serve(arguments),
            Some("ready") if arguments.next().is_none() => Ok(Self::Ready),
            _ => Err(ArgsError::Usage),
        }
    }
}

fn serve(mut arguments: impl Iterator<Item = String>) -> Result<Command, ArgsError> {
    let (mut listen, mut key, mut session) = (None, None, None);
    let mut declared = Vec::new();
    let mut log = LevelFilter::WARN;
    while let Some(option) = arguments.next() {
        if !["--listen", "--key", "--session", "--port", "--log"].contains(&option.as_str()) {
            return Err(ArgsError::Unknown(option));
        }
        let value = arguments.next().ok_or_else(|| ArgsError::NoValue(option.clone()))?;
        let wrong = |reason| ArgsError::Value { option: option.clone(), value: value.clone(), reason };
        match option.as_str() {
            "--listen" => listen = Some(value.parse::<SocketAddr>().map_err(|_| wrong("an address is IP:PORT"))?),
            "--key" => key = Some(public_key(&value).ok_or_else(|| wrong("a key is 64 hexadecimal digits"))?),
            "--session" => session = Some(value),
            "--port" => declared.push(port(&value).ok_or_else(|| wrong("a port is NUMBER/tcp or NUMBER/udp"))?),
            _ => log = value.parse().map_err(|_| wrong("a level is off, error, warn, info, debug or trace"))?,
        }
    }
    let config = Config {
        listen: listen.ok_or(ArgsError::Missing("--listen"))?,
        key: key.ok_or(ArgsError::Missing("--key"))?,
        session: session.ok_or(ArgsError::Missing("--session"))?,
        declared,
        ready_socket: PROXY_READY_SOCKET.to_owned(),
    };
    Ok(Command::Serve { config: Box::new(config), log })
}

/// An Ed25519 public key (RFC 8032) in hexadecimal.
fn public_key(text: &str) -> Option<VerifyingKey> {
    let digits = text.as_bytes();
    let mut bytes = [0; 32];
    if digits.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    VerifyingKey::from_bytes(&bytes).ok()
}

fn port(text: &str) -> Option<Port> {
    let (number, transport) = text.split_once('/')?;
    let transport = match transport {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        _ => return None,
    };
    number.parse().ok().filter(|&number| number != 0).map(|number| Port { transport, number })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first test vector of RFC 8032, section 7.1.
    const KEY: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    fn parse(line: &str) -> Result<Command, ArgsError> {
        Command::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_full_command_line_means_what_it_says() {
        let line =
            format!("serve --listen 127.0.0.1:7 --key {KEY} --session s1 --port 80/tcp --port 53/udp --log info");
        let Ok(Command::Serve { config, log }) = parse(&line) else { panic!("not parsed") };
        assert_eq!(config.listen, "127.0.0.1:7".parse().unwrap());
        assert_eq!(config.session, "s1");
        assert_eq!(config.key.as_bytes()[..2], [0xd7, 0x5a]);
        let ports: Vec<String> = config.declared.iter().map(Port::to_string).collect();
        assert_eq!(ports, ["80/tcp", "53/udp"]);
        assert_eq!(log, LevelFilter::INFO);
        assert!(matches!(parse("ready"), Ok(Command::Ready)));
    }

    #[test]
    fn what_is_missing_unknown_or_malformed_is_named() {
        let error = |line: &str| parse(line).unwrap_err();
        assert_eq!(error(""), ArgsError::Usage);
        assert_eq!(error("ready now"), ArgsError::Usage);
        assert_eq!(error("serve"), ArgsError::Missing("--listen"));
        assert_eq!(error("serve --verbose"), ArgsError::Unknown("--verbose".into()));
        assert_eq!(error("serve --key"), ArgsError::NoValue("--key".into()));
        for line in ["--port 80", "--port 0/tcp", "--port 80/sctp", "--key 00", "--listen here", "--log loud"] {
            assert!(matches!(error(&format!("serve {line}")), ArgsError::Value { .. }), "{line}");
        }
    }
}
