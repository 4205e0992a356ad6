//! ICMP: echoes, and what routers say instead.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::context::{Context, ROUTER_SPEAKS_EVERY};

/// An echo that is not answered is repeated after so long, and so often.
const INTERVAL: Duration = ROUTER_SPEAKS_EVERY;
const TRIES: usize = 3;
/// RFC 792.
const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const ECHO: u8 = 8;
/// Header of IPv4 without options, and of an echo.
const IP_HEADER: usize = 20;
const ICMP_HEADER: usize = 8;

pub fn run(context: &Context) {
    let targets = &context.targets;
    let raw = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4));
    for (id, name, to, length) in [
        (1, "pod", context.peer(), 56),
        (2, "pod-large", context.peer(), 8000),
        (3, "unreachable", targets.unreachable, 56),
        (4, "filtered", targets.filtered, 56),
    ] {
        context.row(&format!("icmp/echo/{name}"), || {
            let _alone = context.alone_with_the_router();
            echo(&raw()?, to, id, length, true)
        });
    }
    // As `ping` without rights does: the kernel chooses the id, and shows neither it nor the header of IP.
    context.row("icmp/echo/unprivileged-socket", || {
        echo(&Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::ICMPV4))?, context.peer(), 0, 56, false)
    });
}

fn echo(socket: &Socket, to: IpAddr, id: u16, length: usize, raw: bool) -> io::Result<String> {
    // Of this process, so that several may run beside one another.
    let id = id.to_be_bytes().map(|byte| byte ^ std::process::id().to_be_bytes()[3]);
    let mut request = vec![ECHO, 0, 0, 0, id[0], id[1], 0, 1];
    request.extend((0..=u8::MAX).cycle().take(length));
    let sum = checksum(&request).to_be_bytes();
    request[2..4].copy_from_slice(&sum);
    let to = SocketAddr::from((to, 0)).into();
    socket.set_read_timeout(Some(INTERVAL))?;
    socket.send_to(&request, &to)?;
    let (mut began, mut packet, mut tries) = (Instant::now(), vec![0; 65_535], 0..TRIES);
    loop {
        if began.elapsed() >= INTERVAL {
            if tries.next().is_none() {
                return Ok("silence".to_owned());
            }
            began = Instant::now();
            socket.send_to(&request, &to)?;
        }
        let got = match (&*socket).read(&mut packet) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            got => got?,
        };
        let skip = if raw { usize::from(packet[0] & 0x0F) * 4 } else { 0 };
        let Some(message) = packet.get(skip..got).filter(|it| it.len() >= ICMP_HEADER) else { continue };
        match message[0] {
            ECHO_REPLY if !raw || message[4..6] == id => {
                let same = if message[ICMP_HEADER..] == request[ICMP_HEADER..] { "the same" } else { "other" };
                return Ok(format!("{} bytes came back, {same}", message.len() - ICMP_HEADER));
            }
            // It holds the beginning of what was sent, the header of IP first.
            UNREACHABLE if message.get(ICMP_HEADER + IP_HEADER + 4..ICMP_HEADER + IP_HEADER + 6) == Some(&id) => {
                return Ok(format!("unreachable, code {}", message[1]));
            }
            _ => {}
        }
    }
}

/// RFC 1071.
fn checksum(data: &[u8]) -> u16 {
    let words = data.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)));
    let sum = words.fold(0, |sum: u32, word| {
        let sum = sum + word;
        (sum & 0xFFFF) + (sum >> 16)
    });
    !u16::try_from(sum).unwrap_or(u16::MAX)
}
