//! Connections to the app that come from their callers' addresses.
//!
//! In the pod `accept()` tells who has connected. So that it does here as well, the sidecar connects to the app from a
//! socket that is bound to the caller's address, which `IP_TRANSPARENT` allows (ip(7)). The app's answers then are for an
//! address of the cluster, and have to be brought back to that socket instead of out to the laptop's network:
//!
//! ```text
//! table ip tpdocker-callers {                            # and the same for ip6
//!   chain steer {
//!     type route hook output priority -150;              # looks the route up anew when the mark has changed
//!     meta mark DELIVERY ct mark set DELIVERY            # the sidecar's socket has this mark
//!     oifname != "lo" ct mark DELIVERY ct direction reply meta mark set DELIVERY
//!   }
//! }
//! ip rule add fwmark DELIVERY lookup TABLE
//! ip route add local default dev lo table TABLE
//! ```
//! Both directions go through `lo` with the route of their sender, so reverse path filtering has no say, and no sysctl is
//! needed. Connections that come in by a published port have no such mark and are answered where they came from.
//!
//! A kernel may lack what this needs, so it is tried, by a connection that is to be refused: an answer shows that all of
//! it works. Without it the app sees its own address as the caller's, and the sidecar's status says so.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use nix::sys::socket::SockProtocol;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::capture::MARK_DELIVERY;
use crate::capture::netlink::{self, ACK, CREATE, EXCLUSIVE, REQUEST};
use crate::capture::nft::expr::{Ct, Meta, ct, differs, equal, meta, set_ct_mark, set_mark};
use crate::capture::nft::{self, Base, Chain, Family, Hook, Rule, Table};

/// Name of the tables.
const TABLE: &str = "tpdocker-callers";
/// Number of the routing table, and place of the rule that leads to it: behind that of the namespace's own addresses (0),
/// in front of the main one (32766). Nobody else's, like the marks.
const ROUTING_TABLE: u32 = 29_808;
/// `mangle`: after connection tracking.
const PRIORITY: i32 = -150;
/// `ct direction`
const REPLY: u8 = 1;

/// `RTM_NEWROUTE`, `RTM_NEWRULE`
const NEW_ROUTE: u16 = 24;
const NEW_RULE: u16 = 32;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Interface of every namespace's loopback (`LOOPBACK_IFINDEX`).
const LO: u32 = 1;

/// Callers that do not exist, for the trial: addresses for documentation (RFC 5737, RFC 3849).
const NOBODY: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];
/// The answer to the trial comes within the call that sends it, unless it is lost.
const TRIAL_TIMEOUT: Duration = Duration::from_millis(500);

/// Whether connections can come from their callers' addresses.
#[derive(Debug)]
pub(crate) struct Callers {
    /// Why the rules are not in the kernel, per family.
    missing: [Option<String>; 2],
    works: Mutex<[bool; 2]>,
}

impl Callers {
    /// Sets the rules in the calling thread's network namespace. What the kernel refuses is told by [`Self::trial`].
    pub(crate) fn install() -> Self {
        let families = [(Family::Ip, AF_INET), (Family::Ip6, AF_INET6)];
        let missing = families.map(|(family, code)| {
            if family == Family::Ip6 && !Path::new("/proc/net/if_inet6").exists() {
                return Some("the kernel has no IPv6".to_owned());
            }
            let rules = nft::replace(&[table(family)]).map_err(|refusal| format!("{refusal}: {}", refusal.source));
            let installed =
                rules.and_then(|()| route(code).map_err(|error| format!("the kernel refused the route: {error}")));
            installed.err()
        });
        Self { missing, works: Mutex::default() }
    }

    /// Finds out whether it works with the namespace's `addresses`. Of an address family that the namespace does not
    /// have nothing is said; else why the app sees its own address as the caller's, if it does.
    pub(crate) async fn trial(&self, addresses: &[IpAddr]) -> Option<String> {
        let (mut works, mut problem) = ([false; 2], None);
        for (index, nobody) in NOBODY.into_iter().enumerate() {
            let Some(own) = addresses.iter().find(|own| own.is_ipv4() == nobody.is_ipv4()) else { continue };
            match (&self.missing[index], try_once(nobody, *own).await) {
                (None, Ok(())) => works[index] = true,
                (Some(why), _) => problem = problem.or_else(|| Some(why.clone())),
                (None, Err(error)) => problem = problem.or_else(|| Some(format!("the trial failed: {error}"))),
            }
        }
        *self.works.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = works;
        problem
    }

    /// Connects to `app` from `caller`'s address where that works. From the same port, too, unless the namespace still
    /// knows an earlier connection between the two.
    pub(crate) async fn connect(&self, caller: SocketAddr, app: SocketAddr) -> io::Result<TcpStream> {
        let works = *self.works.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if works[usize::from(caller.is_ipv6())] && caller.is_ipv4() == app.is_ipv4() && !app.ip().is_loopback() {
            for port in [caller.port(), 0] {
                match connect_from(SocketAddr::new(caller.ip(), port), app).await {
                    Err(error)
                        if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable) =>
                    {
                        tracing::debug!("no connection from {caller} port {port} to {app}: {error}");
                    }
                    outcome => return outcome,
                }
            }
        }
        connect_plainly(app).await
    }
}

/// A connection from an address of the namespace's choice.
async fn connect_plainly(app: SocketAddr) -> io::Result<TcpStream> {
    TcpSocket::from_std_stream(socket(app)?.into()).connect(app).await
}

async fn connect_from(caller: SocketAddr, app: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket(app)?;
    // The option of IPv4; Linux takes it on IPv6 sockets, too.
    socket.set_ip_transparent_v4(true)?;
    // One caller may have several connections from one port, to several ports of the app.
    socket.set_reuse_address(true)?;
    socket.bind(&caller.into())?;
    TcpSocket::from_std_stream(socket.into()).connect(app).await
}

fn socket(app: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(app), Type::STREAM.nonblocking(), None)?;
    SockRef::from(&socket).set_mark(MARK_DELIVERY)?;
    Ok(socket)
}

/// Connects from `nobody` to a port on which nobody listens.
async fn try_once(nobody: IpAddr, own: IpAddr) -> io::Result<()> {
    let closed = socket((own, 0).into())?;
    closed.bind(&SocketAddr::new(own, 0).into())?;
    let port = closed.local_addr()?.as_socket().map_or(0, |address| address.port());
    match timeout(TRIAL_TIMEOUT, connect_from((nobody, 0).into(), (own, port).into())).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Ok(Err(error)) => Err(error),
        Ok(Ok(_)) => Err(io::Error::other("somebody listens on a port that is not open")),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the answer was lost")),
    }
}

fn table(family: Family) -> Table {
    let delivery = MARK_DELIVERY.to_ne_bytes();
    let mut lo = [0; 16];
    lo[..2].copy_from_slice(b"lo");
    let ours = [meta(Meta::Mark), equal(&delivery)].into_iter().chain(set_ct_mark(MARK_DELIVERY));
    let answers =
        [meta(Meta::OifName), differs(&lo), ct(Ct::Mark), equal(&delivery), ct(Ct::Direction), equal(&[REPLY])];
    let rules = vec![
        Rule::new("meta mark DELIVERY ct mark set DELIVERY", ours),
        Rule::new(
            "oifname != \"lo\" ct mark DELIVERY ct direction reply meta mark set DELIVERY",
            answers.into_iter().chain(set_mark(MARK_DELIVERY)),
        ),
    ];
    let base = Base { kind: "route", hook: Hook::Output, priority: PRIORITY, drop: false };
    Table { family, name: TABLE, chains: vec![Chain { name: "steer", base: Some(base), rules }] }
}

/// The rule and the route, unless an earlier data plane has set them.
fn route(family: u8) -> io::Result<()> {
    let socket = netlink::Socket::open(SockProtocol::NetlinkRoute)?;
    for message in [rule_message(family), route_message(family)] {
        socket.send(&message)?;
        let mut buffer = [0; 4096];
        let error = netlink::messages(socket.recv(&mut buffer)?).find_map(|message| message.error());
        match error {
            Some(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => (),
        }
    }
    Ok(())
}

/// `struct fib_rule_hdr` and its attributes.
fn rule_message(family: u8) -> Vec<u8> {
    const TO_TABLE: u8 = 1;
    const PRIORITY: u16 = 6;
    const MARK: u16 = 10;
    const TABLE: u16 = 15;
    message(
        NEW_RULE,
        [family, 0, 0, 0, 0, 0, 0, TO_TABLE],
        &[(PRIORITY, ROUTING_TABLE), (MARK, MARK_DELIVERY), (TABLE, ROUTING_TABLE)],
    )
}

/// `struct rtmsg` and its attributes: everything is this namespace's own.
fn route_message(family: u8) -> Vec<u8> {
    const STATIC: u8 = 4;
    const SCOPE_HOST: u8 = 254;
    const LOCAL: u8 = 2;
    const OUT_INTERFACE: u16 = 4;
    const TABLE: u16 = 15;
    let header = [family, 0, 0, 0, 0, STATIC, SCOPE_HOST, LOCAL];
    message(NEW_ROUTE, header, &[(OUT_INTERFACE, LO), (TABLE, ROUTING_TABLE)])
}

fn message(kind: u16, header: [u8; 8], attributes: &[(u16, u32)]) -> Vec<u8> {
    let mut out = Vec::new();
    netlink::put_message(&mut out, kind, REQUEST | ACK | CREATE | EXCLUSIVE, 0, |out| {
        out.extend(header);
        // Flags.
        out.extend([0; 4]);
        for (kind, value) in attributes {
            netlink::put(out, *kind, &value.to_ne_bytes());
        }
    });
    out
}
