//! The app's questions for names: what the sidecar answers itself.
//!
//! In reading order: this file — names of sibling containers; [`message`] — a question and our own answer to it;
//! [`stream`] — over TCP. [`memory`] — what the cluster's nameservers said, for when they cannot be heard, with its parts
//! [`store`], [`waiting`] and [`exchange`], and [`recall`], which joins it to the rest; [`wire`] — what both read by.
//!
//! The app's resolver asks the cluster's nameserver, which is captured traffic like any other. A name server of the
//! cluster knows no container of the laptop, though, and what the app reaches on a Docker network it wants to reach by
//! name. So the CLI tells the names, and a question for one of them, to a nameserver of the pod's `resolv.conf`, is
//! answered here: bare, and under each suffix of the search list, since that is how a resolver with `ndots:5` asks.
//! Everything else goes to the cluster as it is. Without declared networks there is no table.
//!
//! A name exists here with the types that it has: an AAAA question for a container without IPv6 is answered with "no
//! data" (RFC 2308), since a name error would make musl and others give up on the A answer as well.

mod exchange;
pub(crate) mod foreign;
mod memory;
mod message;
mod recall;
mod store;
mod stream;
mod waiting;
mod wire;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use tpdocker_protocol::control::Sibling;

use self::message::{Answer, Kind, Question, Transport};

pub(crate) use self::recall::Recall;
pub(crate) use self::stream::serve;

/// Where nameservers listen (RFC 1035 section 4.2).
const DNS_PORT: u16 = 53;

/// The table of the moment; cheap to read.
#[derive(Debug, Default)]
pub(crate) struct Names(RwLock<Arc<Table>>);

/// What is known, by lower-case name without its last dot.
#[derive(Debug, Default)]
pub(crate) struct Table {
    resolvers: HashSet<IpAddr>,
    search: Vec<String>,
    addresses: HashMap<String, Vec<IpAddr>>,
    canonical: HashMap<IpAddr, String>,
}

// === impl Names ===

impl Names {
    /// Replaces what is known.
    pub(crate) fn set(&self, table: Table) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }

    /// What is known, if it is asked for at `remote`.
    pub(crate) fn table(&self, remote: SocketAddr) -> Option<Arc<Table>> {
        let table = self.known();
        (!table.addresses.is_empty() && table.is_asked_at(remote)).then_some(table)
    }

    /// Whether a nameserver of the pod is there.
    pub(crate) fn is_nameserver(&self, remote: SocketAddr) -> bool {
        // Most datagrams are judged by their port alone.
        remote.port() == DNS_PORT && self.known().is_asked_at(remote)
    }

    /// The answer to a datagram, if it asks for a name of ours.
    pub(crate) fn answer(&self, remote: SocketAddr, query: &[u8]) -> Option<Vec<u8>> {
        self.table(remote)?.answer(query, Transport::Datagram)
    }

    fn known(&self) -> Arc<Table> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

// === impl Table ===

impl Table {
    /// The siblings as they are asked for by a resolver with this configuration (resolv.conf(5)).
    pub(crate) fn new(resolv_conf: &str, siblings: &[Sibling]) -> Self {
        let mut table = Self::default();
        for line in resolv_conf.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => table.resolvers.extend(words.next().and_then(|ip| ip.parse::<IpAddr>().ok())),
                // The last one of both wins.
                Some("search" | "domain") => table.search = words.map(normal).collect(),
                _ => (),
            }
        }
        for sibling in siblings {
            for name in &sibling.names {
                table.addresses.entry(normal(name)).or_default().extend(&sibling.addresses);
            }
            if let Some(canonical) = sibling.names.first() {
                table.canonical.extend(sibling.addresses.iter().map(|address| (*address, normal(canonical))));
            }
        }
        table
    }

    fn is_asked_at(&self, remote: SocketAddr) -> bool {
        remote.port() == DNS_PORT && self.resolvers.contains(&remote.ip())
    }

    fn answer(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let question = Question::parse(query)?;
        let answers: Vec<Answer<'_>> = if let Some(address) = reversed(&question.name) {
            let name = self.canonical.get(&address)?;
            if question.asks_for(Kind::Ptr) { vec![Answer::Name(name)] } else { Vec::new() }
        } else {
            let addresses = self.addresses_of(&question.name)?.iter();
            addresses.filter(|address| question.asks_for(Kind::of(**address))).map(|a| Answer::Address(*a)).collect()
        };
        Some(question.answer(&answers, transport))
    }

    fn addresses_of(&self, name: &str) -> Option<&[IpAddr]> {
        let known = |name: &str| self.addresses.get(name).map(Vec::as_slice);
        let under = |suffix: &String| known(name.strip_suffix(suffix.as_str())?.strip_suffix('.')?);
        known(name).or_else(|| self.search.iter().find_map(under))
    }
}

fn normal(name: impl AsRef<str>) -> String {
    let name = name.as_ref();
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// The address that a name of a reverse lookup stands for (RFC 1035 section 3.5, RFC 3596 section 2.5).
fn reversed(name: &str) -> Option<IpAddr> {
    if let Some(octets) = name.strip_suffix(".in-addr.arpa") {
        let mut address = [0; 4];
        let mut parts = octets.split('.');
        for octet in address.iter_mut().rev() {
            *octet = parts.next()?.parse().ok()?;
        }
        return parts.next().is_none().then(|| Ipv4Addr::from(address).into());
    }
    let nibbles = name.strip_suffix(".ip6.arpa")?;
    let mut address = 0_u128;
    let mut count = 0;
    for nibble in nibbles.rsplit('.') {
        let digit = u8::from_str_radix(nibble, 16).ok().filter(|_| nibble.len() == 1)?;
        address = address << 4 | u128::from(digit);
        count += 1;
    }
    (count == 32).then(|| Ipv6Addr::from(address).into())
}

#[cfg(test)]
mod tests {
    use super::message::tests::{answers, query};
    use super::*;

    const RESOLV_CONF: &str = "search staging.svc.cluster.local svc.cluster.local. cluster.local\n\
                               nameserver 10.96.0.10\nnameserver fd00::a\noptions ndots:5\n";
    const A: u16 = 1;
    const PTR: u16 = 12;
    const TXT: u16 = 16;
    const AAAA: u16 = 28;
    const ANY: u16 = 255;

    fn names() -> Names {
        let sibling = |names: &[&str], addresses: &[&str]| Sibling {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        };
        let names = Names::default();
        names.set(Table::new(
            RESOLV_CONF,
            &[
                sibling(&["shop-db-1", "DB"], &["172.20.0.3"]),
                sibling(&["cache-1", "cache"], &["172.20.0.4", "fd00:20::4"]),
                sibling(&["cache-2", "cache"], &["172.20.0.5"]),
            ],
        ));
        names
    }

    fn resolver() -> SocketAddr {
        "10.96.0.10:53".parse().unwrap()
    }

    fn ask(name: &str, kind: u16) -> Option<Vec<String>> {
        names().answer(resolver(), &query(name, kind)).map(|message| answers(&message))
    }

    #[test]
    fn a_sibling_is_known_bare_and_under_every_search_suffix_in_any_case() {
        for name in ["db", "dB.", "db.staging.svc.cluster.local", "db.svc.cluster.local.", "DB.cluster.local"] {
            assert_eq!(ask(name, A), Some(vec!["172.20.0.3".into()]), "{name}");
        }
        assert_eq!(ask("cache", A), Some(vec!["172.20.0.4".into(), "172.20.0.5".into()]));
        assert_eq!(ask("cache", AAAA), Some(vec!["fd00:20::4".into()]));
        assert_eq!(ask("cache", ANY).map(|all| all.len()), Some(3));
    }

    #[test]
    fn a_known_name_without_data_of_that_type_is_no_name_error() {
        for kind in [AAAA, TXT] {
            assert_eq!(ask("db", kind), Some(Vec::new()));
        }
    }

    #[test]
    fn everything_else_goes_to_the_cluster() {
        for name in
            ["thing1", "thing1.staging.svc.cluster.local", "db.other", "x.db", "db.local", "", "xdb.cluster.local"]
        {
            assert_eq!(ask(name, A), None, "{name}");
        }
        let question = query("db", A);
        for elsewhere in ["10.96.0.11:53", "10.96.0.10:5353"] {
            assert_eq!(names().answer(elsewhere.parse().unwrap(), &question), None, "{elsewhere}");
        }
        assert!(names().answer("[fd00::a]:53".parse().unwrap(), &question).is_some());
        assert_eq!(Names::default().answer(resolver(), &question), None);
    }

    #[test]
    fn addresses_of_siblings_have_names() {
        assert_eq!(ask("4.0.20.172.in-addr.arpa", PTR), Some(vec!["cache-1".into()]));
        let v6 = format!("4{}.0.2.0.0.0.0.d.f.ip6.arpa", ".0".repeat(23));
        assert_eq!(ask(&v6, PTR), Some(vec!["cache-1".into()]));
        for name in ["1.0.96.10.in-addr.arpa", "4.0.20.172.1.in-addr.arpa", "20.172.in-addr.arpa", "x.ip6.arpa"] {
            assert_eq!(ask(name, PTR), None, "{name}");
        }
    }
}
