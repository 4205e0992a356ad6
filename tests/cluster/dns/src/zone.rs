//! Names and what is known of them: a table, and the three ways in which it can say no.

use std::collections::{HashMap, HashSet};

use hickory_server::proto::rr::rdata::{NS, SOA};
use hickory_server::proto::rr::{LowerName, Name, RData, Record, RecordType};

/// Seconds for which an answer may be kept. Endpoints come and go, so: not long.
pub const TTL: u32 = 5;

/// All records at one moment. It has authority over one domain, and also knows single names outside of it.
pub struct Zone {
    domain: Name,
    records: HashMap<LowerName, Vec<RData>>,
    /// Every name that exists, also those that only have names below them (RFC 8020).
    names: HashSet<LowerName>,
}

/// What a zone says to one question.
#[derive(Debug, PartialEq)]
pub enum Answer {
    /// Records of the type asked for, or the CNAME that stands in their place.
    Records(Vec<Record>),
    /// The name exists, but has no record of this type.
    NoData,
    /// The name does not exist, and this zone is the one to know.
    NoSuchName,
    /// Somebody else is to be asked.
    NotMine,
}

// === impl Zone ===

impl Zone {
    pub fn new(domain: &Name) -> Self {
        let mut zone = Self { domain: domain.clone(), records: HashMap::new(), names: HashSet::new() };
        let server = zone.below("ns.dns");
        zone.add(domain, zone.soa());
        zone.add(domain, RData::NS(NS(server)));
        zone
    }

    /// The name of `labels`, given as text without the domain.
    pub fn below(&self, labels: &str) -> Name {
        let relative = Name::from_ascii(labels).unwrap_or_else(|_| Name::new());
        relative.append_domain(&self.domain).unwrap_or_else(|_| self.domain.clone())
    }

    pub fn add(&mut self, name: &Name, data: RData) {
        let records = self.records.entry(name.into()).or_default();
        if !records.contains(&data) {
            records.push(data);
        }
        let mut ancestor = name.clone();
        while !ancestor.is_root() && self.names.insert((&ancestor).into()) {
            ancestor = ancestor.base_name();
        }
    }

    pub fn lookup(&self, name: &Name, kind: RecordType) -> Answer {
        let mine = self.domain.zone_of(name);
        let Some(known) = self.records.get(&name.into()) else {
            return match (mine, self.names.contains(&name.into())) {
                (true, true) => Answer::NoData,
                (true, false) => Answer::NoSuchName,
                (false, _) => Answer::NotMine,
            };
        };
        let matches = |data: &&RData| {
            let has = data.record_type();
            has == kind || kind == RecordType::ANY || has == RecordType::CNAME
        };
        // The owner is the name as it was asked: some clients mix upper and lower case and compare.
        let records: Vec<_> = known.iter().filter(matches).map(|data| record(name, data.clone())).collect();
        if records.is_empty() { Answer::NoData } else { Answer::Records(records) }
    }

    /// The record that goes with a "no", and says for how long.
    pub fn authority(&self) -> Record {
        record(&self.domain, self.soa())
    }

    fn soa(&self) -> RData {
        let (server, admin) = (self.below("ns.dns"), self.below("hostmaster"));
        RData::SOA(SOA::new(server, admin, 1, 7200, 1800, 86400, TTL))
    }
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}
