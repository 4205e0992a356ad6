//! A query and its answer, read as far as it takes to match one with the other and to give the answer again.
//!
//! Given again, an answer is what a cache would say of it (RFC 8767 section 4): the asker's id and letters, no claim to be
//! authoritative or proven, a time to live of at most 30 seconds, and the confession to be stale where EDNS has a place
//! for it (RFC 8914). Options of EDNS are between the two that exchanged them, so none of them is kept.

use super::message::DATAGRAM;
use super::wire::{
    AUTHENTIC, AUTHORITATIVE, CHECKING_DISABLED, HEADER, Header, OPCODE, RECURSION_DESIRED, RESPONSE, Record,
    TRUNCATED, TYPE_OPT, question_end, record_at, u16_at, u32_at,
};

/// Longest answer that is kept: what the common resolvers take in one datagram, at most.
pub(super) const MAX_REPLY: usize = 4096;
/// Seconds for which an asker may keep a stale answer (RFC 8767 section 5).
const MAX_TTL: u32 = 30;

const RCODE: u16 = 0x000f;
const NAME_ERROR: u16 = 3;

/// An OPT record without options: root, type, size, extended code, version, flags, length (RFC 6891 section 6.1.2).
const OPT: usize = 11;
/// Options that change nothing about the answer's records: cookies (RFC 7873) and padding (RFC 7830).
const OPTION_COOKIE: u16 = 10;
const OPTION_PADDING: u16 = 12;
/// RFC 8914.
const OPTION_ERROR: u16 = 15;
const STALE_ANSWER: u16 = 3;
const STALE_NAME_ERROR: u16 = 19;

/// What is asked: name, type and class, with the name's letters in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Topic(Box<[u8]>);

/// How it is asked, as far as the answer depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Manner {
    flags: u16,
    /// The flags of EDNS, if it is spoken.
    edns: Option<u16>,
}

/// A standard query with one question.
#[derive(Debug, Clone)]
pub(super) struct Query {
    pub(super) id: u16,
    pub(super) topic: Topic,
    pub(super) manner: Manner,
    /// The question as it came: the letters' case has to come back (draft-vixie-dnsext-dns0x20).
    section: Box<[u8]>,
    /// The length of answers that the asker takes.
    room: usize,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) id: u16,
    /// `None`: an error that does not repeat the question.
    pub(super) topic: Option<Topic>,
    /// `None`: nothing that may be given again.
    pub(super) reply: Option<Reply>,
}

/// An answer that may be given again: data, no such data, or no such name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    /// The message without its OPT record.
    message: Box<[u8]>,
    ttls: Box<[usize]>,
    opt: Option<[u8; OPT]>,
}

// === impl Topic ===

impl Topic {
    /// Type and class, the last four bytes, are no letters.
    fn of(section: &[u8]) -> Self {
        let mut topic: Box<[u8]> = section.into();
        let name = topic.len().saturating_sub(4);
        // The lengths of labels are less than any letter.
        topic[..name].make_ascii_lowercase();
        Self(topic)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

// === impl Query ===

impl Query {
    /// `None` if the message is anything else, or asks by EDNS for more than is understood here.
    pub(super) fn parse(message: &[u8]) -> Option<Self> {
        let Header { id, flags, questions, records } = Header::of(message)?;
        if flags & (RESPONSE | OPCODE | TRUNCATED) != 0 || questions != 1 {
            return None;
        }
        let end = question_end(message)?;
        let opt = match records {
            [0, 0, 0] if end == message.len() => None,
            [0, 0, 1] => Some(plain_opt(message, end)?),
            _ => return None,
        };
        let section: Box<[u8]> = message[HEADER..end].into();
        Some(Self {
            id,
            topic: Topic::of(&section),
            manner: Manner {
                flags: flags & (RECURSION_DESIRED | AUTHENTIC | CHECKING_DISABLED),
                edns: opt.map(|(_, flags)| flags),
            },
            section,
            room: opt.map_or(DATAGRAM, |(size, _)| usize::from(size).max(DATAGRAM)),
        })
    }
}

/// Payload size and flags of the OPT record that ends the message, if it is of version 0 and has harmless options.
fn plain_opt(message: &[u8], start: usize) -> Option<(u16, u16)> {
    let opt = opt_at(message, start).filter(|opt| opt.end == message.len())?;
    let mut option = opt.data;
    while option < opt.end {
        if ![OPTION_COOKIE, OPTION_PADDING].contains(&u16_at(message, option)?) {
            return None;
        }
        option += 4 + usize::from(u16_at(message, option + 2)?);
    }
    let version = message[opt.ttl + 1];
    (option == opt.end && version == 0).then(|| Some((u16_at(message, opt.ttl - 2)?, u16_at(message, opt.ttl + 2)?)))?
}

fn opt_at(message: &[u8], start: usize) -> Option<Record> {
    let root = *message.get(start)? == 0;
    record_at(message, start).filter(|record| root && record.kind == TYPE_OPT)
}

// === impl Answer ===

impl Answer {
    /// `None` if the message is no answer, or has several questions.
    pub(super) fn parse(message: &[u8]) -> Option<Self> {
        let header = Header::of(message)?;
        if header.flags & (RESPONSE | OPCODE) != RESPONSE {
            return None;
        }
        let id = header.id;
        match header.questions {
            0 => Some(Self { id, topic: None, reply: None }),
            1 => {
                let end = question_end(message)?;
                let topic = Some(Topic::of(&message[HEADER..end]));
                Some(Self { id, topic, reply: Reply::read(message, header, end) })
            }
            _ => None,
        }
    }
}

// === impl Reply ===

impl Reply {
    fn read(message: &[u8], header: Header, question_end: usize) -> Option<Self> {
        let whole = header.flags & TRUNCATED == 0 && [0, NAME_ERROR].contains(&(header.flags & RCODE));
        if !whole || message.len() > MAX_REPLY {
            return None;
        }
        let count = header.records.into_iter().map(usize::from).sum();
        let (mut ttls, mut opt, mut at) = (Vec::new(), None, question_end);
        for number in 1..=count {
            let record = record_at(message, at)?;
            if record.kind != TYPE_OPT {
                ttls.push(record.ttl);
            } else if number == count && header.records[2] > 0 {
                // Anywhere else it could not be taken out without moving what others point to.
                opt = Some(record);
            } else {
                return None;
            }
            at = record.end;
        }
        if at != message.len() {
            return None;
        }
        let mut kept: Box<[u8]> = message.into();
        let fixed = match opt {
            None => None,
            Some(opt) => {
                let fixed = opt_at(message, opt.start)?;
                // More of the code: what looks like success may be BADVERS (RFC 6891 section 6.1.3).
                if message[fixed.ttl] != 0 {
                    return None;
                }
                kept = message[..opt.start].into();
                kept[10..HEADER].copy_from_slice(&(header.records[2] - 1).to_be_bytes());
                message.get(opt.start..)?.first_chunk().copied()
            }
        };
        Some(Self { message: kept, ttls: ttls.into(), opt: fixed })
    }

    /// Bytes of memory, about.
    pub(super) fn len(&self) -> usize {
        self.message.len() + size_of_val(&*self.ttls)
    }

    /// The answer to a query on the same topic, asked in the same manner. `None` if the asker has no room for it.
    pub(super) fn again(&self, query: &Query) -> Option<Vec<u8>> {
        let mut message = self.message.to_vec();
        let flags = u16_at(&message, 2)?;
        message[..2].copy_from_slice(&query.id.to_be_bytes());
        message[2..4].copy_from_slice(&(flags & !(AUTHORITATIVE | AUTHENTIC)).to_be_bytes());
        message.get_mut(HEADER..HEADER + query.section.len())?.copy_from_slice(&query.section);
        for at in &self.ttls {
            let ttl = u32_at(&message, *at)?;
            // A time that looks negative means none (RFC 2181 section 8).
            let ttl = if i32::try_from(ttl).is_ok() { ttl.clamp(1, MAX_TTL) } else { 1 };
            message[*at..*at + 4].copy_from_slice(&ttl.to_be_bytes());
        }
        if let Some(opt) = self.opt.filter(|_| query.manner.edns.is_some()) {
            let additional = u16_at(&message, 10)?.checked_add(1)?;
            message[10..HEADER].copy_from_slice(&additional.to_be_bytes());
            message.extend(&opt[..OPT - 2]);
            let error = if flags & RCODE == NAME_ERROR { STALE_NAME_ERROR } else { STALE_ANSWER };
            for field in [6, OPTION_ERROR, 2, error] {
                message.extend(field.to_be_bytes());
            }
        }
        (message.len() <= query.room).then_some(message)
    }
}

#[cfg(test)]
pub(super) mod tests;
