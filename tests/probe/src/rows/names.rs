//! Names: asked through the C library (musl's, in this program), and by question and answer in each of the ways that
//! resolvers have.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};

use crate::context::Context;
use crate::{dns, said};

const DNS_PORT: u16 = 53;
/// How containers of Docker call the machine that they run on.
const HOST: &str = "host.docker.internal";
/// What resolvers offer to take that fear no fragments.
const EDNS: u16 = 4096;
const LARGEST: usize = 65_535;

pub fn run(context: &Context) {
    let namespace = context.targets.namespace.as_str();
    for name in of_the_library(context) {
        context.row(&format!("names/musl/{name}"), || library(&name));
    }
    // The laptop's address, where there is one, is whatever its engine says.
    context.row(&format!("names/musl/{HOST}"), || library(HOST).map(|_| "an address".to_owned()));
    let Some(server) = nameserver() else { return context.says("names/server", "resolv.conf has no name server") };
    for (name, kind) in questions(namespace, context) {
        context.row(&format!("names/udp/{name}/{kind}"), || udp(server, &name, kind, None));
    }
    for (of, ip) in [("a-service", context.targets.peer_service), ("a-pod", context.peer())] {
        context.row(&format!("names/udp/reverse-of-{of}/PTR"), || udp(server, &reverse(ip), "PTR", None));
    }
    let service = format!("peer.{namespace}.svc.cluster.local.");
    let nowhere = format!("nowhere.{namespace}.svc.cluster.local.");
    for (name, kind) in [(&service, "A"), (&service, "AAAA"), (&nowhere, "A")] {
        context.row(&format!("names/tcp/{name}/{kind}"), || tcp(server, name, kind));
        context.row(&format!("names/connected/{name}/{kind}"), || connected(server, name, kind));
    }
    context.row(&format!("names/parallel/{service}"), || parallel(server, &service));
    context.row(&format!("names/parallel/{nowhere}"), || parallel(server, &nowhere));
    for bytes in [600, 5000] {
        let name = format!("txt-{bytes}.dns-version.cluster.local.");
        context.row(&format!("names/udp/{name}/TXT/edns"), || udp(server, &name, "TXT", Some(EDNS)));
        context.row(&format!("names/tcp/{name}/TXT"), || tcp(server, &name, "TXT"));
        context.row(&format!("names/udp-then-tcp/{name}/TXT"), || {
            let first = exchange(server, &dns::question(2, &name, "TXT", None))?;
            if dns::truncated(&first) { tcp(server, &name, "TXT") } else { dns::describe(&first) }
        });
    }
}

/// Names as applications write them: short, qualified by degrees, absolute, and wrong.
fn of_the_library(context: &Context) -> Vec<String> {
    let namespace = &context.targets.namespace;
    let mut names: Vec<String> =
        ["peer", "peers", "subject", "database", "alias", "nowhere", "localhost", "printer"].map(Into::into).into();
    for degree in ["", ".svc", ".svc.cluster.local", ".svc.cluster.local."] {
        names.push(format!("peer.{namespace}{degree}"));
    }
    names.extend([
        "db-0.db".to_owned(),
        format!("db-0.db.{namespace}.svc.cluster.local"),
        "thing1".to_owned(),
        "thing1.staging".to_owned(),
        "kubernetes.default".to_owned(),
        context.targets.database.clone(),
    ]);
    names
}

fn questions(namespace: &str, context: &Context) -> Vec<(String, &'static str)> {
    let below = |name: &str| format!("{name}.{namespace}.svc.cluster.local.");
    vec![
        (below("peer"), "A"),
        (below("peer"), "AAAA"),
        (below("peer"), "TXT"),
        (below("peers"), "A"),
        (below("_echo._tcp.peer"), "SRV"),
        (below("_udp-echo._udp.peer"), "SRV"),
        (below("_echo._tcp.peers"), "SRV"),
        (below("db-0.db"), "A"),
        (below("_echo._tcp.db"), "SRV"),
        (below("alias"), "A"),
        (below("alias"), "CNAME"),
        (below("database"), "A"),
        (below("empty"), "A"),
        (below("nowhere"), "A"),
        (below("nowhere"), "SRV"),
        ("cluster.local.".to_owned(), "SOA"),
        ("dns-version.cluster.local.".to_owned(), "TXT"),
        ("txt-600.dns-version.cluster.local.".to_owned(), "TXT"),
        ("txt-5000.dns-version.cluster.local.".to_owned(), "TXT"),
        (format!("{}.", context.targets.database), "A"),
        (format!("{}.", context.targets.database), "AAAA"),
        (below("PeEr"), "A"),
    ]
}

/// The name under which an address is asked for (RFC 1035, section 3.5; RFC 3596, section 2.5).
fn reverse(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa.")
        }
        IpAddr::V6(v6) => {
            let nibbles = v6.octets().into_iter().rev().flat_map(|byte| [byte & 0x0F, byte >> 4]);
            nibbles.fold(String::new(), |name, nibble| name + &format!("{nibble:x}.")) + "ip6.arpa."
        }
    }
}

/// The first of resolv.conf.
fn nameserver() -> Option<SocketAddr> {
    let text = fs::read_to_string("/etc/resolv.conf").ok()?;
    let first = text.lines().find_map(|line| line.strip_prefix("nameserver"))?;
    Some((first.trim().parse::<IpAddr>().ok()?, DNS_PORT).into())
}

fn library(name: &str) -> io::Result<String> {
    let mut addresses: Vec<String> = (name, 0).to_socket_addrs()?.map(|address| address.ip().to_string()).collect();
    addresses.sort();
    addresses.dedup();
    Ok(addresses.join(" "))
}

/// From an unconnected socket, which sees who answers.
fn udp(server: SocketAddr, name: &str, kind: &str, edns: Option<u16>) -> io::Result<String> {
    dns::describe(&exchange(server, &dns::question(1, name, kind, edns))?)
}

fn exchange(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let socket = said::datagrams(said::any(server.ip()), 0)?;
    socket.send_to(question, server)?;
    let mut answer = vec![0; LARGEST];
    let (length, from) = socket.recv_from(&mut answer)?;
    if from != server {
        return Err(io::Error::other(format!("{from} answers, and not the server")));
    }
    answer.truncate(length);
    Ok(answer)
}

fn connected(server: SocketAddr, name: &str, kind: &str) -> io::Result<String> {
    let socket = said::datagrams(said::any(server.ip()), 0)?;
    socket.connect(server)?;
    socket.send(&dns::question(1, name, kind, None))?;
    let mut answer = vec![0; LARGEST];
    let length = socket.recv(&mut answer)?;
    dns::describe(&answer[..length])
}

fn tcp(server: SocketAddr, name: &str, kind: &str) -> io::Result<String> {
    let mut stream = said::connect(server)?;
    let question = dns::question(1, name, kind, None);
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), question.as_slice()].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer)?;
    dns::describe(&answer)
}

/// A and AAAA at once from one socket, answered in any order.
fn parallel(server: SocketAddr, name: &str) -> io::Result<String> {
    const IDS: [(u16, &str); 2] = [(11, "A"), (12, "AAAA")];
    let socket: UdpSocket = said::datagrams(said::any(server.ip()), 0)?;
    for (id, kind) in IDS {
        socket.send_to(&dns::question(id, name, kind, None), server)?;
    }
    let (mut said, mut answer) = (Vec::new(), vec![0; LARGEST]);
    for _ in IDS {
        let length = socket.recv(&mut answer)?;
        let kind = IDS.iter().find(|(id, _)| dns::id(&answer) == Some(*id)).map_or("unasked", |it| it.1);
        said.push(format!("{kind}: {}", dns::describe(&answer[..length])?));
    }
    said.sort();
    Ok(said.join(" / "))
}
