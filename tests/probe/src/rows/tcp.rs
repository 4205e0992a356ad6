//! TCP from the app: how connections come about, and how they end.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};

use crate::ask::{Request, ask};
use crate::context::Context;
use crate::{ports, said};

/// The app's own timer for a connection that does not come about.
const OWN_TIMER: Duration = Duration::from_secs(2);
/// When a port opens that is not open yet.
const OPENS_AFTER: Duration = Duration::from_secs(1);

pub fn run(context: &Context) {
    connecting(context);
    failing(context);
    ending(context);
    seen(context);
    opens_later(context);
}

fn connecting(context: &Context) {
    context.row("tcp/connected/pod", || echo((context.peer(), ports::ECHO).into()));
    context.row("tcp/connected/service", || echo((context.targets.peer_service, ports::ECHO).into()));
    context.row("tcp/connected/server-speaks-first", || {
        let mut stream = BufReader::new(said::connect((context.peer(), ports::GREETS).into())?);
        let mut line = String::new();
        stream.read_line(&mut line)?;
        Ok(format!("{:?}", line.trim_end()))
    });
}

/// Says what came back, and both addresses of the connection.
pub fn echo(to: SocketAddr) -> io::Result<String> {
    let mut stream = said::connect(to)?;
    stream.write_all(b"hello")?;
    let mut back = [0; 5];
    stream.read_exact(&mut back)?;
    let (peer, own) = (stream.peer_addr()?, stream.local_addr()?.ip());
    Ok(format!("{:?} came back from {peer} to {own}", String::from_utf8_lossy(&back)))
}

fn failing(context: &Context) {
    let targets = &context.targets;
    let port = |ip: IpAddr| SocketAddr::from((ip, ports::ECHO));
    let nobody = SocketAddr::from((context.peer(), ports::NOBODY));
    let connect = |to: SocketAddr| said::connect(to).map(|_| "connected".to_owned());
    context.row("tcp/refused/pod", || connect(nobody));
    context.row("tcp/refused/non-blocking", || non_blocking(nobody));
    context.row("tcp/refused/service-without-endpoints", || connect(targets.empty_service));
    let router = context.alone_with_the_router();
    context.row("tcp/no-route/host", || connect(port(targets.unreachable)));
    context.row("tcp/no-route/net", || connect(port(targets.net_unreachable)));
    context.row("tcp/no-route/non-blocking", || non_blocking(port(targets.unreachable)));
    drop(router);
    context.row("tcp/filtered/own-timer", || {
        TcpStream::connect_timeout(&port(targets.filtered), OWN_TIMER).map(|_| "connected".to_owned())
    });
    context.row("tcp/filtered/kernel-timer", || {
        let socket = Socket::new(Domain::for_address(port(targets.filtered)), Type::STREAM, None)?;
        socket.set_tcp_user_timeout(Some(OWN_TIMER))?;
        socket.connect(&port(targets.filtered).into()).map(|()| "connected".to_owned())
    });
    context.row("tcp/database/by-address", || {
        let name = (targets.database.as_str(), 5432);
        let address =
            std::net::ToSocketAddrs::to_socket_addrs(&name)?.next().ok_or_else(|| io::Error::other("no address"))?;
        let mut stream = said::connect(address)?;
        // PostgreSQL's SSLRequest (protocol 3.0, section 55.7): one letter comes back.
        stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47])?;
        let mut answer = [0];
        stream.read_exact(&mut answer)?;
        Ok(format!("{:?}", char::from(answer[0])))
    });
}

/// As event loops connect: in progress, writable, and then the socket's error.
fn non_blocking(to: SocketAddr) -> io::Result<String> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let at_once = socket.connect(&to.into()).map(|()| "connected".to_owned());
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    let millis = PollTimeout::try_from(said::PATIENCE).map_err(io::Error::other)?;
    poll(&mut fds, millis)?;
    let then = socket.take_error()?.map_or_else(|| "connected".to_owned(), |error| said::error(&error));
    Ok(format!("{}, then {then}", said::of(at_once)))
}

fn ending(context: &Context) {
    let to = |port| said::connect((context.peer(), port).into());
    context.row("tcp/ends/at-once", || {
        let (count, end) = said::rest(&mut to(ports::CLOSES)?);
        Ok(format!("{count} bytes, then {end}"))
    });
    context.row("tcp/ends/reset-mid-stream", || {
        let mut stream = to(ports::RESETS)?;
        stream.read_exact(&mut [0; ports::BEFORE_RESET])?;
        stream.write_all(b"!")?;
        let (count, end) = said::rest(&mut stream);
        Ok(format!("{count} bytes more, then {end}"))
    });
    context.row("tcp/ends/half-close-by-the-app", || {
        let mut stream = to(ports::ANSWERS_AT_THE_END)?;
        stream.write_all(&[b'x'; 10_000])?;
        stream.shutdown(Shutdown::Write)?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let (count, end) = said::rest(&mut reader);
        Ok(format!("the peer read {}; {count} bytes came, then {end}", line.trim_end()))
    });
    context.row("tcp/ends/half-close-by-the-peer", || {
        let mut stream = to(ports::ENDS_FIRST)?;
        let (count, end) = said::rest(&mut stream);
        let line = format!("half {}", context.nonce);
        stream.write_all(format!("{line}\n").as_bytes())?;
        stream.write_all(&[b'x'; 10_000])?;
        drop(stream);
        let told = ask(context.peer(), &Request::Recall { line })?;
        Ok(format!("{count} bytes, then {end}; the peer read {}", told.heard))
    });
    context.row("tcp/ends/reset-by-the-app", || {
        let mut stream = to(ports::REMEMBERS)?;
        let line = format!("reset {}", context.nonce);
        stream.write_all(format!("{line}\nhello").as_bytes())?;
        // What is not read when a reset comes is lost, so the peer gets time to read it.
        std::thread::sleep(Duration::from_millis(500));
        said::reset(stream)?;
        let told = ask(context.peer(), &Request::Recall { line })?;
        Ok(format!("the peer read {}", told.heard))
    });
}

fn seen(context: &Context) {
    let who = |ip: IpAddr| -> io::Result<(SocketAddr, SocketAddr)> {
        let mut stream = said::connect((ip, ports::WHO).into())?;
        let mut line = String::new();
        stream.read_to_string(&mut line)?;
        Ok((stream.local_addr()?, line.trim_end().parse().map_err(io::Error::other)?))
    };
    context.row("tcp/seen-by-the-peer/address", || Ok(who(context.peer())?.1.ip().to_string()));
    context
        .row("tcp/seen-by-the-peer/through-the-service", || Ok(who(context.targets.peer_service)?.1.ip().to_string()));
    context.row("tcp/seen-by-the-peer/port", || {
        let (own, seen) = who(context.peer())?;
        Ok(if own.port() == seen.port() { "the app's own" } else { "another" }.to_owned())
    });
}

fn opens_later(context: &Context) {
    context.row("tcp/opens-later", || {
        let (port, to) = (ports::OPENS_LATER, SocketAddr::from((context.peer(), ports::OPENS_LATER)));
        let before = said::of(said::connect(to).map(|_| "connected".to_owned()));
        let millis = u64::try_from(OPENS_AFTER.as_millis()).map_err(io::Error::other)?;
        ask(context.peer(), &Request::OpenLater { port, millis })?;
        let began = Instant::now();
        loop {
            match said::connect(to) {
                Ok(mut stream) => {
                    let mut line = String::new();
                    stream.read_to_string(&mut line)?;
                    return Ok(format!("{before} before, {:?} after", line.trim_end()));
                }
                Err(error) if began.elapsed() > said::PATIENCE => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    });
}
