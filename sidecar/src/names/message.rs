//! As much of the DNS message (RFC 1035 section 4) as it takes to answer a plain question: one question in, its answer
//! out. What is not a plain question is none of ours, and is not judged.

use std::net::IpAddr;

use super::wire::{
    AUTHORITATIVE, CHECKING_DISABLED, HEADER, OPCODE, RECURSION_AVAILABLE, RECURSION_DESIRED, RESPONSE, TRUNCATED,
    TYPE_OPT, u16_at,
};

/// Of a datagram's answer, unless the question says more by EDNS (RFC 1035 section 2.3.4).
pub(super) const DATAGRAM: usize = 512;
/// What we say that we take by EDNS; it means nothing here, and this passes every network (RFC 9715).
const EDNS_SIZE: u16 = 1232;
/// Seconds for which an answer may be kept: a container that is made anew may have another address.
const TTL: u32 = 5;
/// RFC 1035 section 3.1.
const MAX_NAME: usize = 255;
const MAX_LABEL: u8 = 63;

const CLASS_IN: u16 = 1;
const TYPE_ANY: u16 = 255;
/// A pointer to the question's name (RFC 1035 section 4.1.4).
const THE_NAME: u16 = 0xc00c;

/// What the message travels in, which limits its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    /// UDP: longer answers are cut, and the resolver asks again over TCP.
    Datagram,
    /// TCP: 64 KiB.
    Stream,
}

/// Types of records that are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Kind {
    A = 1,
    Ptr = 12,
    Aaaa = 28,
}

impl Kind {
    pub(super) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::A } else { Self::Aaaa }
    }
}

/// The data of one record.
#[derive(Debug, Clone, Copy)]
pub(super) enum Answer<'a> {
    Address(IpAddr),
    Name(&'a str),
}

/// A standard query with one question.
#[derive(Debug)]
pub(super) struct Question<'a> {
    /// Lower-case, without its last dot.
    pub(super) name: String,
    id: u16,
    flags: u16,
    kind: u16,
    /// Name, type and class, as they came: the letters' case has to come back (draft-vixie-dnsext-dns0x20).
    section: &'a [u8],
    /// The length of answers that the asker takes, if it speaks EDNS (RFC 6891).
    edns: Option<u16>,
}

impl<'a> Question<'a> {
    /// `None` if the message is anything else.
    pub(super) fn parse(message: &'a [u8]) -> Option<Self> {
        let mut header = [0; 6];
        for (index, field) in header.iter_mut().enumerate() {
            *field = u16_at(message, index * 2)?;
        }
        let [id, flags, questions, answers, authorities, additionals] = header;
        if flags & (RESPONSE | OPCODE) != 0 || [questions, answers, authorities] != [1, 0, 0] {
            return None;
        }
        let (name, end) = name_at(message, HEADER)?;
        let (kind, class) = (u16_at(message, end)?, u16_at(message, end + 2)?);
        let section = message.get(HEADER..end + 4)?;
        let edns = if additionals > 0 { edns_at(message, end + 4) } else { None };
        (class == CLASS_IN).then_some(Self { name, id, flags, kind, section, edns })
    }

    pub(super) fn asks_for(&self, kind: Kind) -> bool {
        self.kind == kind as u16 || self.kind == TYPE_ANY
    }

    /// The answer. An empty one says that the name has no such data.
    pub(super) fn answer(&self, answers: &[Answer<'_>], transport: Transport) -> Vec<u8> {
        let limit = match transport {
            Transport::Datagram => self.edns.map_or(DATAGRAM, |size| usize::from(size).max(DATAGRAM)),
            Transport::Stream => usize::from(u16::MAX),
        };
        let mut flags = RESPONSE | AUTHORITATIVE | RECURSION_AVAILABLE;
        flags |= self.flags & (RECURSION_DESIRED | CHECKING_DISABLED);
        let opt = self.edns.map(|_| opt()).unwrap_or_default();
        let room = limit.saturating_sub(HEADER + self.section.len() + opt.len());
        let (mut records, mut count) = (Vec::new(), 0_u16);
        for answer in answers {
            let record = record(answer);
            if records.len() + record.len() > room {
                flags |= TRUNCATED;
                break;
            }
            records.extend(record);
            count += 1;
        }
        let mut message = Vec::with_capacity(limit.min(DATAGRAM));
        for field in [self.id, flags, 1, count, 0, u16::from(self.edns.is_some())] {
            message.extend(field.to_be_bytes());
        }
        message.extend(self.section);
        message.extend(records);
        message.extend(opt);
        message
    }
}

fn record(answer: &Answer<'_>) -> Vec<u8> {
    let (kind, data) = match answer {
        Answer::Address(IpAddr::V4(address)) => (Kind::A, address.octets().to_vec()),
        Answer::Address(IpAddr::V6(address)) => (Kind::Aaaa, address.octets().to_vec()),
        Answer::Name(name) => (Kind::Ptr, wire_name(name)),
    };
    let mut record = Vec::new();
    for field in [THE_NAME, kind as u16, CLASS_IN] {
        record.extend(field.to_be_bytes());
    }
    record.extend(TTL.to_be_bytes());
    // A name has at most 255 bytes.
    record.extend(u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
    record.extend(data);
    record
}

/// Labels that cannot be written are cut; the engine has no such names.
pub(super) fn wire_name(name: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let label = &label.as_bytes()[..label.len().min(usize::from(MAX_LABEL))];
        if wire.len() + label.len() + 2 > MAX_NAME {
            break;
        }
        wire.push(u8::try_from(label.len()).unwrap_or(MAX_LABEL));
        wire.extend(label);
    }
    wire.push(0);
    wire
}

/// An OPT record that says no more than that EDNS is understood (RFC 6891 section 6.1.2).
fn opt() -> Vec<u8> {
    let mut record = vec![0];
    record.extend(TYPE_OPT.to_be_bytes());
    record.extend(EDNS_SIZE.to_be_bytes());
    record.extend([0; 6]);
    record
}

/// The payload size of an OPT record at `at`.
fn edns_at(message: &[u8], at: usize) -> Option<u16> {
    let root = *message.get(at)? == 0;
    (root && u16_at(message, at + 1)? == TYPE_OPT).then(|| u16_at(message, at + 3))?
}

/// A name without pointers, which a question has no use for, and where it ends. A label that has a dot or bytes beyond
/// ASCII in it is nothing that a container is called.
fn name_at(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    loop {
        let length = *message.get(at)?;
        at += 1;
        if length == 0 {
            return Some((name, at));
        }
        let label = message.get(at..at + usize::from(length)).filter(|_| length <= MAX_LABEL)?;
        let label = std::str::from_utf8(label).ok().filter(|label| label.is_ascii() && !label.contains('.'))?;
        if !name.is_empty() {
            name.push('.');
        }
        name.extend(label.chars().map(|letter| letter.to_ascii_lowercase()));
        if name.len() > MAX_NAME {
            return None;
        }
        at += usize::from(length);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    /// A query as resolvers send it, without EDNS.
    pub(in crate::names) fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(wire_name(name));
        message.extend(kind.to_be_bytes());
        message.extend(CLASS_IN.to_be_bytes());
        message
    }

    /// The data of the answers in a message of ours.
    pub(in crate::names) fn answers(message: &[u8]) -> Vec<String> {
        let (_, end) = name_at(message, HEADER).unwrap();
        let mut at = end + 4;
        (0..u16_at(message, 6).unwrap())
            .map(|_| {
                let (kind, length) = (u16_at(message, at + 2).unwrap(), u16_at(message, at + 10).unwrap());
                let data = &message[at + 12..at + 12 + usize::from(length)];
                at += 12 + data.len();
                match kind {
                    1 => Ipv4Addr::from(*data.first_chunk::<4>().unwrap()).to_string(),
                    28 => Ipv6Addr::from(*data.first_chunk::<16>().unwrap()).to_string(),
                    _ => name_at(data, 0).unwrap().0,
                }
            })
            .collect()
    }

    fn with_edns(mut message: Vec<u8>, size: u16) -> Vec<u8> {
        message[11] = 1;
        message.extend([0, 0, 41]);
        message.extend(size.to_be_bytes());
        message.extend([0; 6]);
        message
    }

    #[test]
    fn the_answer_repeats_id_question_and_wish_for_recursion() {
        let mut asked = query("Db.Example", 1);
        asked[3] = 0x10;
        let answer =
            Question::parse(&asked).unwrap().answer(&[Answer::Address([1, 2, 3, 4].into())], Transport::Datagram);
        assert_eq!(answer[..4], [0x12, 0x34, 0x85, 0x90]);
        assert_eq!(answer[HEADER..asked.len()], asked[HEADER..]);
        assert_eq!(answers(&answer), ["1.2.3.4"]);
    }

    #[test]
    fn an_asker_that_speaks_edns_is_answered_with_edns() {
        let asked = with_edns(query("db", 1), 4096);
        let answer = Question::parse(&asked).unwrap().answer(&[], Transport::Datagram);
        assert_eq!(u16_at(&answer, 10), Some(1));
        assert_eq!(edns_at(&answer, answer.len() - 11), Some(EDNS_SIZE));
    }

    #[test]
    fn what_does_not_fit_is_cut_and_said_so() {
        let many = [Answer::Address([1, 2, 3, 4].into()); 100];
        let plain = query("db", 1);
        let edns = with_edns(query("db", 1), 1232);
        for (asked, transport, limit, cut) in [
            (&plain, Transport::Datagram, 512, true),
            (&edns, Transport::Datagram, 1232, true),
            (&plain, Transport::Stream, 65_535, false),
        ] {
            let answer = Question::parse(asked).unwrap().answer(&many, transport);
            assert!(answer.len() <= limit && answer.len() + 16 > limit.min(100 * 16), "{}", answer.len());
            assert_eq!(u16_at(&answer, 2).unwrap() & TRUNCATED != 0, cut);
        }
    }

    #[test]
    fn what_is_no_plain_question_is_not_ours() {
        for (at, value) in [(2, 0x81), (2, 0x29), (5, 0), (5, 2), (7, 1), (12, 0xc0), (12, 40), (13, b'.'), (13, 200)] {
            let mut message = query("db", 1);
            message[at] = value;
            assert!(Question::parse(&message).is_none(), "{value} at {at}");
        }
    }

    proptest! {
        #[test]
        fn a_cut_question_is_none_and_garbage_is_read_without_panic(cut in 0_usize..20, garbage in prop::collection::vec(any::<u8>(), 0..600)) {
            let whole = query("db", 1);
            prop_assert!(Question::parse(&whole[..cut.min(whole.len() - 1)]).is_none());
            if let Some(question) = Question::parse(&garbage) {
                prop_assert!(question.answer(&[], Transport::Datagram).len() <= DATAGRAM + 11);
            }
        }

        #[test]
        fn a_question_with_any_payload_behind_a_good_header_is_read_without_panic(rest in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut message = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
            message.extend(rest);
            if let Some(question) = Question::parse(&message) {
                prop_assert!(question.name.len() <= MAX_NAME);
            }
        }
    }
}
