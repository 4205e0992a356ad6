//! Datagrams from the app, and what the network says about them.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Ipv4RecvErr;

use crate::context::{Context, ROUTER_SPEAKS_EVERY};
use crate::{ports, said};

/// What fits into a datagram over any path that takes fragments.
const LARGE: usize = 60 << 10;
/// After so long no answer comes any more.
const SILENCE: Duration = Duration::from_secs(2);
/// Datagrams after which an error that does not come is taken for silence.
const TRIES: u32 = 4;
/// Larger than any answer here.
const BUFFER: usize = 64 << 10;
/// Larger than any short answer here.
const SMALL: usize = 2048;

pub fn run(context: &Context) {
    let to = |port| SocketAddr::from((context.peer(), port));
    for (name, length) in [("empty", 0), ("1-byte", 1), ("60-kib", LARGE)] {
        context.row(&format!("udp/echo/{name}"), || echo(to(ports::UDP_ECHO), length));
    }
    context.row("udp/echo/service", || echo((context.targets.peer_service, ports::UDP_ECHO).into(), 5));
    context.row("udp/echo/one-socket-many-peers", || many(context));
    context.row("udp/echo/connected", || {
        let socket = connected(to(ports::UDP_ECHO))?;
        socket.send(b"hello")?;
        let length = socket.recv(&mut [0; SMALL])?;
        Ok(format!("{length} bytes, to {}", socket.local_addr()?.ip()))
    });
    context.row("udp/three-answers-to-one", || {
        let socket = any(context)?;
        socket.send_to(b"?", to(ports::UDP_THREE))?;
        let words: io::Result<Vec<String>> = (0..3).map(|_| Ok(receive(&socket)?.0)).collect();
        let mut words = words?;
        words.sort();
        Ok(words.join(" "))
    });
    context.row("udp/answer-from-another-port", || {
        let socket = any(context)?;
        socket.set_read_timeout(Some(SILENCE))?;
        socket.send_to(b"hello", to(ports::UDP_ELSEWHERE))?;
        let (word, from) = receive(&socket)?;
        let port = if from.port() == ports::UDP_ELSEWHERE { "the same port" } else { "another port" };
        Ok(format!("{word:?} from {} and {port}", from.ip()))
    });
    context.row("udp/seen-by-the-peer/address", || {
        let socket = any(context)?;
        socket.send_to(b"?", to(ports::UDP_WHO))?;
        let seen: SocketAddr = receive(&socket)?.0.parse().map_err(io::Error::other)?;
        let port = if seen.port() == socket.local_addr()?.port() { "the app's own" } else { "another" };
        context.says("udp/seen-by-the-peer/port", port);
        Ok(seen.ip().to_string())
    });
    failing(context);
}

fn failing(context: &Context) {
    let nobody = SocketAddr::from((context.peer(), ports::NOBODY));
    let (unreachable, empty) =
        (SocketAddr::from((context.targets.unreachable, ports::ECHO)), context.targets.empty_service);
    let filtered = SocketAddr::from((context.targets.filtered, ports::ECHO));
    for (name, to) in [
        ("port-unreachable", nobody),
        ("service-without-endpoints", empty),
        ("host-unreachable", unreachable),
        ("filtered", filtered),
    ] {
        context.row(&format!("udp/{name}/connected"), || {
            let _alone = context.alone_with_the_router();
            let socket = connected(to)?;
            socket.set_read_timeout(Some(SILENCE))?;
            socket.send(b"hello")?;
            socket.recv(&mut [0; SMALL]).map(|length| format!("{length} bytes"))
        });
    }
    // As glibc's resolver asks: for what routers say too, and not only for what is final (ip(7)).
    for (name, to) in [("port-unreachable", nobody), ("host-unreachable", unreachable)] {
        context.row(&format!("udp/{name}/told-of-errors"), || {
            let _alone = context.alone_with_the_router();
            let socket = any(context)?;
            setsockopt(&socket, Ipv4RecvErr, &true)?;
            socket.set_read_timeout(Some(ROUTER_SPEAKS_EVERY))?;
            // Routers say so only so often.
            let mut tries = (0..TRIES).map(|_| {
                socket.send_to(b"hello", to)?;
                receive(&socket).map(|(word, _)| word)
            });
            let silent = |outcome: &io::Result<String>| outcome.as_ref().is_err_and(|it| said::error(it) == "silence");
            tries.find(|outcome| !silent(outcome)).unwrap_or_else(|| Ok("silence".to_owned()))
        });
    }
    context.row("udp/port-unreachable/unconnected", || {
        let socket = any(context)?;
        socket.set_read_timeout(Some(SILENCE))?;
        socket.send_to(b"hello", nobody)?;
        receive(&socket).map(|(word, _)| word)
    });
}

pub fn echo(to: SocketAddr, length: usize) -> io::Result<String> {
    let socket = said::datagrams(said::any(to.ip()), 0)?;
    let data: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
    socket.send_to(&data, to)?;
    let mut back = vec![0; BUFFER];
    let (got, from) = socket.recv_from(&mut back)?;
    let same = if back[..got] == data { "the same" } else { "other" };
    Ok(format!("{got} bytes came back from {from}, {same}"))
}

fn many(context: &Context) -> io::Result<String> {
    let socket = any(context)?;
    let mut from = Vec::new();
    for peer in &context.targets.peers {
        for port in [ports::UDP_ECHO, ports::UDP_WHO] {
            socket.send_to(b"hello", (*peer, port))?;
        }
    }
    for _ in 0..2 * context.targets.peers.len() {
        from.push(receive(&socket)?.1.to_string());
    }
    from.sort();
    Ok(from.join(" "))
}

fn any(context: &Context) -> io::Result<UdpSocket> {
    said::datagrams(said::any(context.peer()), 0)
}

fn connected(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = said::any(to.ip());
    let socket = said::datagrams(any, 0)?;
    socket.connect(to)?;
    Ok(socket)
}

fn receive(socket: &UdpSocket) -> io::Result<(String, SocketAddr)> {
    let mut data = vec![0; BUFFER];
    let (length, from) = socket.recv_from(&mut data)?;
    Ok((String::from_utf8_lossy(&data[..length]).into_owned(), from))
}
