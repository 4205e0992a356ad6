//! IPv6: what the pod has of it, which may be nothing.

use std::fs;
use std::net::{Ipv6Addr, TcpListener, UdpSocket};

use crate::context::Context;
use crate::said;

/// For documentation: nobody's (RFC 3849).
const ELSEWHERE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

pub fn run(context: &Context) {
    context.row("ipv6/addresses", || {
        // One address a line: the address, four numbers, the interface. Each pod has link-local ones of its own.
        let text = fs::read_to_string("/proc/net/if_inet6")?;
        let mut kinds: Vec<&str> = text
            .lines()
            .map(|line| match line.get(..4) {
                Some("fe80") => "link-local",
                Some("0000") => "loopback",
                _ => "global",
            })
            .collect();
        kinds.sort_unstable();
        Ok(if kinds.is_empty() { "none".to_owned() } else { kinds.join(" ") })
    });
    context.row("ipv6/any", || TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).map(|_| "can be bound".to_owned()));
    context.row("ipv6/loopback", || TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).map(|_| "can be bound".to_owned()));
    context.row("ipv6/tcp-elsewhere", || said::connect((ELSEWHERE, 80).into()).map(|_| "connected".to_owned()));
    // As resolvers find out which addresses to prefer (RFC 6724): a connected socket that sends nothing.
    context.row("ipv6/udp-elsewhere", || {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
        socket.connect((ELSEWHERE, 80)).map(|()| "connected".to_owned())
    });
}
