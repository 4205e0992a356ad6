//! The pod's localhost: a container beside the app listens there, and calls the app there.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

use super::own::Own;
use super::{tcp, udp};
use crate::ask::{Request, ask};
use crate::context::Context;
use crate::{ports, said};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Ports that only the app opens.
const APP: [u16; 3] = [9191, 9192, 9193];
/// How long the pod's localhost may take to follow the app's.
const FOLLOWS: Duration = Duration::from_secs(15);

pub fn run(context: &Context) {
    let sibling = |port| SocketAddr::from((LOCALHOST, port));
    context.row("localhost/sibling/tcp", || tcp::echo(sibling(ports::ECHO)));
    context.row("localhost/sibling/tcp-by-name", || {
        let addresses = ("localhost", ports::ECHO).to_socket_addrs()?;
        let address = addresses.into_iter().find(SocketAddr::is_ipv4).ok_or_else(|| io::Error::other("no address"))?;
        tcp::echo(address)
    });
    context.row("localhost/sibling/whom-it-sees", || {
        let mut text = String::new();
        io::Read::read_to_string(&mut said::connect(sibling(ports::WHO))?, &mut text)?;
        let seen: SocketAddr = text.trim_end().parse().map_err(io::Error::other)?;
        Ok(seen.ip().to_string())
    });
    context.row("localhost/sibling/udp", || udp::echo(sibling(ports::UDP_ECHO), 5));
    context.row("localhost/nobody/tcp", || said::connect(sibling(ports::NOBODY)).map(|_| "connected".to_owned()));
    context.row("localhost/nobody/udp", || {
        let socket: UdpSocket = said::datagrams(LOCALHOST, 0)?;
        socket.connect(sibling(ports::NOBODY))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.send(b"hello")?;
        socket.recv(&mut [0; 16]).map(|length| format!("{length} bytes"))
    });
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    for (name, bound, port) in [("on-localhost", LOCALHOST, APP[0]), ("on-any-address", any, APP[1])] {
        context.row(&format!("localhost/app/called-by-the-sibling/{name}"), || {
            let _server = Own::tcp(context, (bound, port).into())?;
            called_by_the_sibling(context, sibling(port))
        });
    }
    context.row("localhost/app/called-by-itself", || {
        let _server = Own::tcp(context, sibling(APP[2]))?;
        let mut text = String::new();
        io::Read::read_to_string(&mut said::connect(sibling(APP[2]))?, &mut text)?;
        Ok(if text.starts_with(&context.nonce) { "answered" } else { "answered by somebody else" }.to_owned())
    });
}

fn called_by_the_sibling(context: &Context, to: SocketAddr) -> io::Result<String> {
    let began = Instant::now();
    loop {
        let told = ask(LOCALHOST, &Request::Connect { to, say: context.nonce.clone() })?;
        if let Some(seen) = told.heard.strip_prefix(&context.nonce) {
            let seen: SocketAddr = seen.trim().parse().map_err(io::Error::other)?;
            return Ok(format!("answered; the app sees {}", seen.ip()));
        }
        if began.elapsed() > FOLLOWS {
            return Ok(format!("not answered: {}", told.heard));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
