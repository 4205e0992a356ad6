//! The outline of a DNS message (RFC 1035 section 4): where its parts begin and end. What is in a record is not looked
//! at, and no pointer is followed; one that would let a reader go round in circles makes the message none.

/// Bytes before the question.
pub(super) const HEADER: usize = 12;
/// RFC 1035 section 3.1, with the lengths and the root.
const MAX_NAME: usize = 255;
const MAX_LABEL: u8 = 63;
/// The two bits of a pointer (RFC 1035 section 4.1.4).
const POINTER: u8 = 0xc0;

pub(super) const TYPE_OPT: u16 = 41;

pub(super) const RESPONSE: u16 = 0x8000;
pub(super) const OPCODE: u16 = 0x7800;
pub(super) const AUTHORITATIVE: u16 = 0x0400;
pub(super) const TRUNCATED: u16 = 0x0200;
pub(super) const RECURSION_DESIRED: u16 = 0x0100;
pub(super) const RECURSION_AVAILABLE: u16 = 0x0080;
/// RFC 4035 section 3.2.3; in a query, that the asker knows the bit (RFC 6840 section 5.7).
pub(super) const AUTHENTIC: u16 = 0x0020;
/// RFC 4035 section 3.2.2.
pub(super) const CHECKING_DISABLED: u16 = 0x0010;

/// What every message begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) id: u16,
    pub(super) flags: u16,
    pub(super) questions: u16,
    /// Records: answers, authorities, and what is additional.
    pub(super) records: [u16; 3],
}

/// A record, by its places in the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) start: usize,
    pub(super) kind: u16,
    /// Of the time to live, which follows type and class.
    pub(super) ttl: usize,
    /// Of the data.
    pub(super) data: usize,
    pub(super) end: usize,
}

impl Header {
    pub(super) fn of(message: &[u8]) -> Option<Self> {
        let mut fields = [0; 6];
        for (index, field) in fields.iter_mut().enumerate() {
            *field = u16_at(message, index * 2)?;
        }
        let [id, flags, questions, records @ ..] = fields;
        Some(Self { id, flags, questions, records })
    }
}

/// Where the one question ends: its name, which has nothing to point to, then type and class.
pub(super) fn question_end(message: &[u8]) -> Option<usize> {
    let end = name_end(message, HEADER)? + 4;
    (end <= message.len()).then_some(end)
}

pub(super) fn record_at(message: &[u8], start: usize) -> Option<Record> {
    let name = name_end(message, start)?;
    let (kind, ttl, data) = (u16_at(message, name)?, name + 4, name + 10);
    let end = data + usize::from(u16_at(message, name + 8)?);
    (end <= message.len()).then_some(Record { start, kind, ttl, data, end })
}

/// Where a name ends. A pointer has to go back to before the name, so that any chain of them has an end.
fn name_end(message: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    while at < start + MAX_NAME {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=MAX_LABEL => at += 1 + usize::from(length),
            POINTER.. => {
                let target = usize::from(u16_at(message, at)? & 0x3fff);
                return (HEADER..start).contains(&target).then_some(at + 2);
            }
            _ => return None,
        }
    }
    None
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(wire: &[u8]) -> Option<usize> {
        // A question for the root goes before, so that there is something to point to.
        let message = [&[0; HEADER][..], &[0, 0, 1, 0, 1], wire].concat();
        name_end(&message, HEADER + 5).map(|end| end - HEADER - 5)
    }

    #[test]
    fn a_name_ends_at_its_root_or_at_a_pointer_to_what_was_before() {
        assert_eq!(name(b"\0rest"), Some(1));
        assert_eq!(name(b"\x02db\x01x\0rest"), Some(6));
        assert_eq!(name(b"\x02db\xc0\x0crest"), Some(5));
    }

    #[test]
    fn pointers_ahead_in_circles_and_into_the_header_are_no_names() {
        // To itself, to the label before it, to what follows, into the header.
        for bad in [&b"\xc0\x11"[..], b"\x01x\xc0\x11", b"\x01x\xc0\x30\0", b"\xc0\x0b", b"\xc0"] {
            assert_eq!(name(bad), None, "{bad:?}");
        }
        assert_eq!(name_end(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xc0, 12], HEADER), None, "a question has nowhere");
    }

    #[test]
    fn names_are_as_long_as_they_may_be() {
        let longest = [&[63; 64][..], &[63; 64], &[63; 64], &[61; 62], &[0]].concat();
        assert_eq!((longest.len(), name(&longest)), (255, Some(255)));
        let longer = [&[63; 64][..], &[63; 64], &[63; 64], &[62; 63], &[0]].concat();
        assert_eq!(name(&longer), None);
        for bad in [&b"\x40x"[..], b"\x80x", b"\x05cut", b""] {
            assert_eq!(name(bad), None, "{bad:?}");
        }
    }
}
