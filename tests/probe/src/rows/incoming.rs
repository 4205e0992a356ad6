//! Traffic to the pod: a peer calls, and both ends say whom they saw.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use super::own::Own;
use crate::ask::{Request, Told, ask};
use crate::context::Context;
use crate::{ports, said};

/// How long a port may take to open or to close in the pod after it did in the app.
const FOLLOWS: Duration = Duration::from_secs(15);
/// How long the cluster may take to send a Service's traffic to the app.
const ROUTED: Duration = Duration::from_mins(1);
/// The port of [`ports::OWN_UNDECLARED`]'s kind that is closed again.
const CLOSED_AGAIN: u16 = 9095;
/// A port that is open on loopback only.
const LOOPBACK_ONLY: u16 = 9096;
/// A port that takes both families with one socket.
const BOTH_FAMILIES: u16 = 9097;

#[derive(Clone, Copy)]
enum Over {
    Tcp,
    Udp,
}

/// Ports of TCP.
pub fn tcp(context: &Context) {
    let Some(own) = context.pod_ip else { return context.says("incoming/tcp", "the pod has no address") };
    let any = said::any(own);
    for port in ports::OWN_DECLARED {
        context.row(&format!("incoming/tcp/{port}/declared"), || {
            answered(context, Over::Tcp, (own, port).into(), FOLLOWS)
        });
        context.row(&format!("incoming/tcp/{port}/through-the-service"), || {
            answered(context, Over::Tcp, (context.targets.own_service, port).into(), ROUTED)
        });
    }
    for port in ports::OWN_UNDECLARED {
        context.row(&format!("incoming/tcp/{port}/undeclared"), || {
            let _server = Own::tcp(context, (any, port).into())?;
            answered(context, Over::Tcp, (own, port).into(), FOLLOWS)
        });
    }
    context.row("incoming/tcp/both-families", || {
        let _server = Own::tcp(context, SocketAddr::from(([0u16; 8], BOTH_FAMILIES)))?;
        answered(context, Over::Tcp, (own, BOTH_FAMILIES).into(), FOLLOWS)
    });
    context.row("incoming/tcp/closed-again", || {
        let server = Own::tcp(context, (any, CLOSED_AGAIN).into())?;
        let open = answered(context, Over::Tcp, (own, CLOSED_AGAIN).into(), FOLLOWS)?;
        drop(server);
        Ok(format!("{open}; then {}", refused(context, Over::Tcp, (own, CLOSED_AGAIN).into())?))
    });
    context.row("incoming/tcp/loopback-only", || {
        let _server = Own::tcp(context, SocketAddr::from(([127, 0, 0, 1], LOOPBACK_ONLY)))?;
        refused(context, Over::Tcp, (own, LOOPBACK_ONLY).into())
    });
    context.row("incoming/tcp/nobody-listens", || refused(context, Over::Tcp, (own, ports::NOBODY).into()));
}

/// Ports of UDP.
pub fn udp(context: &Context) {
    let Some(own) = context.pod_ip else { return context.says("incoming/udp", "the pod has no address") };
    let any: IpAddr = said::any(own);
    let declared = ports::OWN_UDP_DECLARED;
    context.row(&format!("incoming/udp/{declared}/declared"), || {
        answered(context, Over::Udp, (own, declared).into(), FOLLOWS)
    });
    context.row(&format!("incoming/udp/{declared}/through-the-service"), || {
        answered(context, Over::Udp, (context.targets.own_service, declared).into(), ROUTED)
    });
    for port in ports::OWN_UDP_UNDECLARED {
        context.row(&format!("incoming/udp/{port}/undeclared"), || {
            let _server = Own::udp(context, (any, port).into())?;
            answered(context, Over::Udp, (own, port).into(), FOLLOWS)
        });
    }
    context.row("incoming/udp/nobody-listens", || refused(context, Over::Udp, (own, ports::NOBODY).into()));
}

/// Calls until the app answers, and says whom it sees.
fn answered(context: &Context, over: Over, to: SocketAddr, within: Duration) -> io::Result<String> {
    let told = until(within, || call(context, over, to), |told| told.heard.starts_with(&context.nonce))?;
    let Some(seen) = told.heard.strip_prefix(&context.nonce) else {
        // A host says only so often that a port is not open, so refused and silent datagrams are the same.
        return Ok(match over {
            Over::Tcp => format!("not answered: {}", told.heard),
            Over::Udp => "not answered".to_owned(),
        });
    };
    let seen: SocketAddr = seen.trim().parse().map_err(io::Error::other)?;
    let port =
        if told.from.is_some_and(|from| from.port() == seen.port()) { "the caller's port" } else { "another port" };
    Ok(format!("answered; the app sees {} and {port}", seen.ip()))
}

/// Calls until nobody answers, and says how it is refused.
fn refused(context: &Context, over: Over, to: SocketAddr) -> io::Result<String> {
    let told = until(FOLLOWS, || call(context, over, to), |told| told.heard == "ECONNREFUSED")?;
    Ok(told.heard.replace(&context.nonce, "answered to"))
}

fn call(context: &Context, over: Over, to: SocketAddr) -> io::Result<Told> {
    let say = context.nonce.clone();
    let request = match over {
        Over::Tcp => Request::Connect { to, say },
        Over::Udp => Request::Datagram { to, say },
    };
    ask(context.peer(), &request)
}

/// The first that will do, or the last of all.
fn until(within: Duration, attempt: impl Fn() -> io::Result<Told>, fine: impl Fn(&Told) -> bool) -> io::Result<Told> {
    let began = Instant::now();
    loop {
        let told = attempt()?;
        if fine(&told) || began.elapsed() > within {
            return Ok(told);
        }
        thread::sleep(Duration::from_millis(100));
    }
}
