//! A writer of `nf_tables` rules: just the part of nft(8) that the capture needs, spoken to the kernel directly.
//!
//! The image holds nothing but the sidecar, so there is no `nft` to run; and a ruleset that is one value, sent in one
//! transaction, is either in force as a whole or not at all.

pub(crate) mod expr;
mod probe;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
};

use nix::sys::socket::SockProtocol;

use self::expr::Expr;
use super::netlink::{self, ACK, APPEND, CREATE, REQUEST, Socket};

/// `NFNL_SUBSYS_NFTABLES`
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;

/// Room for the acknowledgement of every message of a batch at about 1 KiB of kernel memory each.
const ACKNOWLEDGEMENTS: usize = 4 << 20;

/// Address family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    /// `ip`
    Ip,
    /// `ip6`
    Ip6,
}

impl Family {
    /// `NFPROTO_IPV4`, `NFPROTO_IPV6`
    fn code(self) -> u8 {
        match self {
            Self::Ip => 2,
            Self::Ip6 => 10,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Ip { "ip" } else { "ip6" })
    }
}

/// Where in the kernel a chain is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    /// `hook prerouting`
    Prerouting,
    /// `hook output`
    Output,
    /// `hook postrouting`
    Postrouting,
}

/// What makes a chain a base chain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Base {
    /// `filter` or `nat`
    pub(crate) kind: &'static str,
    pub(crate) hook: Hook,
    pub(crate) priority: i32,
    /// `policy drop` if true, else `policy accept`
    pub(crate) drop: bool,
}

/// A chain and its rules.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    /// `None`: a chain to jump to.
    pub(crate) base: Option<Base>,
    pub(crate) rules: Vec<Rule>,
}

/// A rule: its nft text, for people, and what the kernel is told.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) text: String,
    pub(crate) exprs: Vec<Expr>,
}

impl Rule {
    pub(crate) fn new(text: impl Into<String>, exprs: impl IntoIterator<Item = Expr>) -> Self {
        Self { text: text.into(), exprs: exprs.into_iter().collect() }
    }
}

/// A table, chains before those that jump to them.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) family: Family,
    pub(crate) name: &'static str,
    pub(crate) chains: Vec<Chain>,
}

/// A piece of `nf_tables` that a kernel has or lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Piece {
    /// All of it.
    Tables,
    /// Base chains of this type.
    Chain(Family, &'static str),
    /// The expression of this name.
    Expression(Family, &'static str),
}

/// What the kernel did not take.
#[derive(Debug, thiserror::Error)]
#[error("the kernel refused {step}")]
pub(crate) struct Refusal {
    /// The first thing that was refused, as nft text.
    pub(crate) step: String,
    /// Everything in the transaction that the kernel does not have; empty if it refused for another reason.
    pub(crate) lacking: BTreeSet<Piece>,
    /// Why.
    pub(crate) source: io::Error,
}

/// Puts `tables` in the place of what has their names, in one transaction.
pub(crate) fn replace(tables: &[Table]) -> Result<(), Refusal> {
    let mut batch = Batch::begin();
    for table in tables {
        batch.replace(table);
    }
    batch.commit()
}

/// A transaction in the making. The sequence number of a message is its index in `steps`.
struct Batch {
    bytes: Vec<u8>,
    steps: Vec<Step>,
}

/// What a message of a transaction asks for: its nft text, and what the kernel needs for it.
type Step = (String, Option<Asked>);

#[derive(Debug, Clone)]
enum Asked {
    Piece(Piece),
    Rule(Family, Vec<Expr>),
}

impl Batch {
    fn begin() -> Self {
        let mut batch = Self { bytes: Vec::new(), steps: Vec::new() };
        batch.edge(BATCH_BEGIN);
        batch
    }

    /// Adding a table that is there is no error, deleting one that is not is; so it is added, deleted and added anew.
    fn replace(&mut self, table: &Table) {
        let Table { family, name, chains } = table;
        for (kind, verb) in [(NEW_TABLE, "add"), (DELETE_TABLE, "delete"), (NEW_TABLE, "add")] {
            let flags = if kind == NEW_TABLE { CREATE } else { 0 };
            let step = format!("`{verb} table {family} {name}`");
            self.step(step, Some(Asked::Piece(Piece::Tables)), kind, flags, *family, |out| {
                netlink::put_text(out, 1, name);
            });
        }
        for chain in chains {
            let step = format!("`add chain {family} {name} {}`", chain.name);
            let asked = chain.base.map(|base| Asked::Piece(Piece::Chain(*family, base.kind)));
            self.step(step, asked, NEW_CHAIN, CREATE, *family, |out| put_chain(out, name, chain));
        }
        for chain in chains {
            for rule in &chain.rules {
                let step = format!("`add rule {family} {name} {} {}`", chain.name, rule.text);
                let asked = Asked::Rule(*family, rule.exprs.clone());
                self.rule(step, Some(asked), *family, [name, chain.name], &rule.exprs);
            }
        }
    }

    fn commit(mut self) -> Result<(), Refusal> {
        let mut refused = match self.finish() {
            Ok(refused) => refused,
            Err(source) => BTreeMap::from([(0, source)]),
        };
        let lacking = self.lacking(&refused);
        match refused.pop_first() {
            Some((sequence, source)) => Err(Refusal { step: self.step_of(sequence).0, lacking, source }),
            None => Ok(()),
        }
    }

    /// What the kernel has said that it does not have.
    fn lacking(&self, refused: &BTreeMap<u32, io::Error>) -> BTreeSet<Piece> {
        let mut lacking = BTreeSet::new();
        let mut rules = Vec::new();
        for (sequence, _) in refused.iter().filter(|(_, error)| probe::is_absence(error)) {
            match self.step_of(*sequence).1 {
                Some(Asked::Piece(piece)) => _ = lacking.insert(piece),
                Some(Asked::Rule(family, exprs)) => rules.push((family, exprs)),
                None => {}
            }
        }
        if !rules.is_empty() {
            match probe::unknown(&rules) {
                Ok(unknown) => lacking.extend(unknown),
                Err(error) => tracing::warn!(%error, "cannot find out which part of the rules the kernel lacks"),
            }
        }
        lacking
    }

    /// Sends the transaction; gives the errors among the kernel's answers, by sequence number. It answers for each
    /// step, also for those after the first that it refuses.
    fn finish(&mut self) -> io::Result<BTreeMap<u32, io::Error>> {
        self.edge(BATCH_END);
        let socket = Socket::open(SockProtocol::NetlinkNetFilter)?;
        socket.set_receive_buffer(ACKNOWLEDGEMENTS)?;
        socket.send(&self.bytes)?;
        let mut errors = BTreeMap::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match socket.recv(&mut buffer) {
                Ok(datagram) => errors.extend(
                    netlink::messages(datagram)
                        .filter(|message| message.kind == netlink::ERROR)
                        .filter_map(|message| Some((message.sequence, message.error()?))),
                ),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(errors),
                Err(error) => return Err(error),
            }
        }
    }

    fn step_of(&self, sequence: u32) -> Step {
        let index = usize::try_from(sequence).unwrap_or(usize::MAX);
        self.steps.get(index).cloned().unwrap_or_default()
    }

    fn sequence(&self) -> u32 {
        u32::try_from(self.steps.len()).expect("a batch has a few hundred messages")
    }

    fn edge(&mut self, kind: u16) {
        let sequence = self.sequence();
        netlink::put_message(&mut self.bytes, kind, REQUEST, sequence, |out| {
            netlink::put_nfgenmsg(out, 0, SUBSYSTEM);
        });
        self.steps.push(("the transaction".to_owned(), Some(Asked::Piece(Piece::Tables))));
    }

    fn rule(&mut self, text: String, asked: Option<Asked>, family: Family, [table, chain]: [&str; 2], exprs: &[Expr]) {
        self.step(text, asked, NEW_RULE, CREATE | APPEND, family, |out| {
            netlink::put_text(out, 1, table);
            netlink::put_text(out, 2, chain);
            netlink::put_nested(out, 4, |out| exprs.iter().for_each(|expr| expr.put(out)));
        });
    }

    fn step(
        &mut self,
        text: String,
        asked: Option<Asked>,
        kind: u16,
        flags: u16,
        family: Family,
        fill: impl FnOnce(&mut Vec<u8>),
    ) {
        let sequence = self.sequence();
        netlink::put_message(&mut self.bytes, SUBSYSTEM << 8 | kind, REQUEST | ACK | flags, sequence, |out| {
            netlink::put_nfgenmsg(out, family.code(), 0);
            fill(out);
        });
        self.steps.push((text, asked));
    }
}

fn put_chain(out: &mut Vec<u8>, table: &str, chain: &Chain) {
    netlink::put_text(out, 1, table);
    netlink::put_text(out, 3, chain.name);
    if let Some(base) = chain.base {
        // NF_INET_PRE_ROUTING, NF_INET_LOCAL_OUT, NF_INET_POST_ROUTING
        let hook: u32 = match base.hook {
            Hook::Prerouting => 0,
            Hook::Output => 3,
            Hook::Postrouting => 4,
        };
        netlink::put_nested(out, 4, |out| {
            netlink::put(out, 1, &hook.to_be_bytes());
            netlink::put(out, 2, &base.priority.to_be_bytes());
        });
        netlink::put(out, 5, &u32::from(!base.drop).to_be_bytes());
        netlink::put_text(out, 7, base.kind);
    }
}

#[cfg(test)]
mod tests {
    use super::{expr::*, *};

    #[test]
    fn a_batch_is_bracketed_and_every_step_can_be_found_by_its_sequence_number() {
        let base = Base { kind: "filter", hook: Hook::Output, priority: -150, drop: true };
        let rule = Rule::new("meta mark 1 accept", [meta(Meta::Mark), equal(&1_u32.to_ne_bytes()), accept()]);
        let chain = Chain { name: "c", base: Some(base), rules: vec![rule] };
        let mut batch = Batch::begin();
        batch.replace(&Table { family: Family::Ip6, name: "t", chains: vec![chain] });
        batch.edge(BATCH_END);
        let messages: Vec<_> = netlink::messages(&batch.bytes).collect();
        let kinds: Vec<_> = messages.iter().map(|message| message.kind).collect();
        assert_eq!(kinds, [0x10, 0xa00, 0xa02, 0xa00, 0xa03, 0xa06, 0x11]);
        assert!(messages.iter().zip(0..).all(|(message, sequence)| message.sequence == sequence));
        let (text, asked) = batch.step_of(5);
        assert_eq!(text, "`add rule ip6 t c meta mark 1 accept`");
        assert!(matches!(asked, Some(Asked::Rule(Family::Ip6, exprs)) if exprs.len() == 3));
        assert!(batch.step_of(99).0.is_empty());
    }

    #[test]
    fn a_base_chain_carries_hook_priority_policy_and_type() {
        let base = Base { kind: "nat", hook: Hook::Postrouting, priority: -100, drop: false };
        let mut out = Vec::new();
        put_chain(&mut out, "t", &Chain { name: "c", base: Some(base), rules: Vec::new() });
        let attributes: Vec<_> = netlink::attributes(&out).collect();
        assert_eq!(attributes[0], (1, &b"t\0"[..]));
        assert_eq!(attributes[1], (3, &b"c\0"[..]));
        let hook: Vec<_> = netlink::attributes(attributes[2].1).collect();
        assert_eq!(hook, [(1, &[0, 0, 0, 4][..]), (2, &(-100_i32).to_be_bytes()[..])]);
        assert_eq!(attributes[3], (5, &[0, 0, 0, 1][..]));
        assert_eq!(attributes[4], (7, &b"nat\0"[..]));
    }
}
