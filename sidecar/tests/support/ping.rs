//! `ping` as a raw socket does it.

use std::io::{ErrorKind, Read};
use std::net::SocketAddr;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::PATIENCE;

const IDENTIFIER: u16 = 0x7470;

/// A socket that asks one host.
pub struct Ping {
    socket: Socket,
    to: SocketAddr,
}

impl Ping {
    /// In the namespace of the calling thread.
    pub fn open(to: SocketAddr) -> Self {
        let protocol = if to.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
        let socket = Socket::new(Domain::for_address(to), Type::RAW, Some(protocol)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, to }
    }

    /// Sends an echo request.
    pub fn send(&self, sequence: u16, payload: &[u8]) {
        let ([a, b], [c, d]) = (IDENTIFIER.to_be_bytes(), sequence.to_be_bytes());
        let kind = if self.to.is_ipv4() { 8 } else { 128 };
        let mut message = [&[kind, 0, 0, 0, a, b, c, d], payload].concat();
        // The kernel does it for IPv6.
        let sum = checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
        // The kernel tells a sender whose packet a rule drops.
        let sent = self.socket.send_to(&message, &SockAddr::from(self.to));
        assert!(sent.is_ok() || sent.unwrap_err().kind() == ErrorKind::PermissionDenied);
    }

    /// Type and code of the next answer to this socket's identifier, which request it is for, and its payload.
    pub fn answer(&self) -> ((u8, u8), u16, Vec<u8>) {
        loop {
            let mut buffer = vec![0; 1 << 16];
            let length = (&self.socket).read(&mut buffer).expect("an answer to the ping");
            // A raw socket of IPv4 sees the IP header, too.
            let header = if self.to.is_ipv4() { 20 } else { 0 };
            let message = &buffer[header..length];
            let kind = (message[0], message[1]);
            let quoted = match kind.0 {
                0 | 129 => message,
                3 => &message[8 + 20..],
                1 => &message[8 + 40..],
                _ => continue,
            };
            if quoted[4..6] == IDENTIFIER.to_be_bytes() {
                return (kind, u16::from_be_bytes([quoted[6], quoted[7]]), quoted[8..].to_vec());
            }
        }
    }

    /// An echo reply.
    pub fn reply(&self) -> (u8, u8) {
        if self.to.is_ipv4() { (0, 0) } else { (129, 0) }
    }

    /// "Administratively prohibited".
    pub fn prohibited(&self) -> (u8, u8) {
        if self.to.is_ipv4() { (3, 13) } else { (1, 1) }
    }
}

fn checksum(message: &[u8]) -> u16 {
    let words = message.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    !u16::try_from((sum >> 16) + (sum & 0xffff)).unwrap()
}
