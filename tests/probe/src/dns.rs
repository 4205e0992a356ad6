//! Questions to a name server, as bytes (RFC 1035, RFC 6891), so that rows can show the whole answer and not what a
//! resolver library made of it.

use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Types of records that rows ask for, with their numbers.
pub const TYPES: [(&str, u16); 9] =
    [("A", 1), ("NS", 2), ("CNAME", 5), ("SOA", 6), ("PTR", 12), ("TXT", 16), ("AAAA", 28), ("SRV", 33), ("OPT", 41)];
const OPT: u16 = 41;
const HEADER: usize = 12;
/// A longer chain of pointers in a name is a loop.
const POINTERS: usize = 32;
/// Longer data is said by its length.
const SHOWN: usize = 80;

/// A question, with EDNS if a size is given.
pub fn question(id: u16, name: &str, kind: &str, edns: Option<u16>) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    let additional = u8::from(edns.is_some());
    // Recursion desired; one question.
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, additional]);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        message.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(number(kind).to_be_bytes());
    message.extend(1u16.to_be_bytes());
    if let Some(size) = edns {
        message.push(0);
        message.extend(OPT.to_be_bytes());
        message.extend(size.to_be_bytes());
        message.extend([0; 6]);
    }
    message
}

/// The id of a message.
pub fn id(message: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes([*message.first()?, *message.get(1)?]))
}

/// Whether an answer was cut.
pub fn truncated(message: &[u8]) -> bool {
    message.get(2).is_some_and(|flags| flags & 0b10 != 0)
}

/// An answer in words: code, flags, and the records in order of the alphabet.
pub fn describe(message: &[u8]) -> io::Result<String> {
    let malformed = || io::Error::other("a malformed answer");
    let mut reader = Reader { message, at: HEADER };
    let flags = message.get(2..4).ok_or_else(malformed)?;
    let code = match flags[1] & 0x0F {
        0 => "NOERROR".to_owned(),
        2 => "SERVFAIL".to_owned(),
        3 => "NXDOMAIN".to_owned(),
        other => format!("code {other}"),
    };
    let mut text = code;
    for (bit, name) in [(0b100, " aa"), (0b10, " tc")] {
        if flags[0] & bit != 0 {
            text.push_str(name);
        }
    }
    let counts: Option<Vec<u16>> = (4..HEADER).step_by(2).map(|at| reader.u16_at(at)).collect();
    let counts = counts.ok_or_else(malformed)?;
    for _ in 0..counts[0] {
        reader.name().ok_or_else(malformed)?;
        reader.at += 4;
    }
    for (section, count) in ["", " authority:", " additional:"].into_iter().zip(&counts[1..]) {
        let mut records: Vec<String> = Vec::new();
        for _ in 0..*count {
            let (kind, record) = reader.record().ok_or_else(malformed)?;
            // EDNS's own record is about the message.
            records.extend((kind != OPT).then_some(record));
        }
        records.sort();
        if !records.is_empty() {
            write!(text, ";{section} {}", records.join(", ")).map_err(io::Error::other)?;
        }
    }
    Ok(text)
}

fn number(kind: &str) -> u16 {
    TYPES.iter().find(|(name, _)| *name == kind).map_or(0, |(_, number)| *number)
}

struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

// === impl Reader ===

impl Reader<'_> {
    fn u16_at(&self, at: usize) -> Option<u16> {
        Some(u16::from_be_bytes(self.message.get(at..at + 2)?.try_into().ok()?))
    }

    fn u16(&mut self) -> Option<u16> {
        self.at += 2;
        self.u16_at(self.at - 2)
    }

    fn name(&mut self) -> Option<String> {
        let (mut text, mut at, mut end) = (String::new(), self.at, None);
        for _ in 0..POINTERS {
            let length = usize::from(*self.message.get(at)?);
            match length {
                0 => {
                    self.at = end.unwrap_or(at + 1);
                    return Some(if text.is_empty() { ".".to_owned() } else { text });
                }
                1..=63 => {
                    text.push_str(&String::from_utf8_lossy(self.message.get(at + 1..=at + length)?));
                    text.push('.');
                    at += 1 + length;
                }
                _ => {
                    end.get_or_insert(at + 2);
                    at = usize::from(self.u16_at(at)? & 0x3FFF);
                }
            }
        }
        None
    }

    /// One record's type, and the record in words, without its time to live.
    fn record(&mut self) -> Option<(u16, String)> {
        let owner = self.name()?;
        let kind = self.u16()?;
        self.at += 6;
        let length = usize::from(self.u16()?);
        let (begin, end) = (self.at, self.at + length);
        let data = self.message.get(begin..end)?;
        let said = match kind {
            1 => Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).to_string(),
            28 => Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).to_string(),
            2 | 5 | 12 => self.name()?,
            6 => format!("{} {}", self.name()?, self.name()?),
            33 => format!("{} {} {} {}", self.u16()?, self.u16()?, self.u16()?, self.name()?),
            _ if length > SHOWN => format!("{length} bytes, {}", crate::rows::digest(data)),
            _ => format!("\"{}\"", data.escape_ascii()),
        };
        self.at = end;
        let name =
            TYPES.iter().find(|(_, number)| *number == kind).map_or_else(|| kind.to_string(), |it| it.0.to_owned());
        Some((kind, format!("{owner} {name} {said}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a.b.` CNAME `c.b.`, which is at 10.0.0.1, with a pointer in each name.
    fn answer() -> Vec<u8> {
        let mut message = question(7, "a.b", "A", None);
        message[2] |= 0x80 | 0b100;
        message[7] = 2;
        message.extend([0xC0, 12, 0, 5, 0, 1, 0, 0, 0, 5, 0, 4, 1, b'c', 0xC0, 14]);
        message.extend([0xC0, 33, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 0, 0, 1]);
        message
    }

    #[test]
    fn an_answer_is_described_with_its_names_whole() {
        assert_eq!(describe(&answer()).unwrap(), "NOERROR aa; a.b. CNAME c.b., c.b. A 10.0.0.1");
    }

    #[test]
    fn what_is_cut_anywhere_is_malformed_and_no_panic() {
        let whole = answer();
        for length in 0..whole.len() {
            assert!(describe(&whole[..length]).is_err(), "{length}");
        }
        let mut looped = whole;
        let last = looped.len() - 16;
        looped[last + 1] = u8::try_from(last).unwrap();
        assert!(describe(&looped).is_err());
    }
}
