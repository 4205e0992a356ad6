use proptest::prelude::*;

use super::*;
use crate::names::message::tests::query;

pub(in crate::names) const NO_ERROR: u8 = 0;
pub(in crate::names) const NO_SUCH_NAME: u8 = 3;

/// The query with an OPT record behind it that has these flags and options.
pub(in crate::names) fn with_edns(mut message: Vec<u8>, size: u16, flags: u16, options: &[u8]) -> Vec<u8> {
    let additional = u16_at(&message, 10).unwrap() + 1;
    message[10..12].copy_from_slice(&additional.to_be_bytes());
    message.extend([0, 0, 41]);
    for field in [size, 0, flags, u16::try_from(options.len()).unwrap()] {
        message.extend(field.to_be_bytes());
    }
    message.extend(options);
    message
}

/// An authoritative answer with addresses, each with its time to live, or else the zone's SOA with that of `negative`.
pub(in crate::names) fn answer(query: &[u8], code: u8, addresses: &[(u32, [u8; 4])]) -> Vec<u8> {
    let end = question_end(query).unwrap();
    let mut message = query[..end].to_vec();
    message[2] = 0x85;
    message[3] = 0xa0 | code;
    message[7] = u8::try_from(addresses.len()).unwrap();
    message[9] = u8::from(addresses.is_empty());
    message[11] = 0;
    for (ttl, address) in addresses {
        message.extend([0xc0, 12, 0, 1, 0, 1]);
        message.extend(ttl.to_be_bytes());
        message.extend([0, 4]);
        message.extend(address);
    }
    if addresses.is_empty() {
        message.extend([0xc0, 12, 0, 6, 0, 1, 0, 0, 0x0e, 0x10, 0, 22, 0, 0]);
        message.extend([0; 20]);
    }
    message
}

/// The time to live of each record, and the data.
pub(in crate::names) fn records(message: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let count: u16 = Header::of(message).unwrap().records.iter().sum();
    let mut at = question_end(message).unwrap();
    let mut read = || {
        let record = record_at(message, at).unwrap();
        at = record.end;
        (u32_at(message, record.ttl).unwrap(), message[record.data..record.end].to_vec())
    };
    let records = (0..count).map(|_| read()).collect();
    assert_eq!(at, message.len());
    records
}

fn given(answer: &[u8], query: &[u8]) -> Option<Vec<u8>> {
    Answer::parse(answer).unwrap().reply?.again(&Query::parse(query).unwrap())
}

#[test]
fn an_answer_is_given_again_with_the_askers_id_and_letters_and_claims_nothing() {
    let heard = answer(&query("thing1.staging", 1), NO_ERROR, &[(3600, [10, 1, 2, 3]), (0, [10, 1, 2, 4])]);
    let mut asked = query("tHiNg1.Staging", 1);
    asked[..2].copy_from_slice(&[9, 9]);
    let given = given(&heard, &asked).unwrap();
    assert_eq!(given[..4], [9, 9, 0x81, 0x80], "neither authoritative nor authentic");
    assert_eq!(given[HEADER..asked.len()], asked[HEADER..]);
    assert_eq!(records(&given), [(30, vec![10, 1, 2, 3]), (1, vec![10, 1, 2, 4])]);
    for (heard, stale) in [(5, 5), (30, 30), (31, 30), (0x7fff_ffff, 30), (0x8000_0000, 1)] {
        let heard = answer(&asked, NO_ERROR, &[(heard, [1; 4])]);
        assert_eq!(records(&self::given(&heard, &asked).unwrap())[0].0, stale);
    }
}

#[test]
fn topics_differ_by_type_even_where_types_look_like_letters() {
    let topic = |name: &str, kind: u16| Query::parse(&query(name, kind)).unwrap().topic;
    assert_eq!(topic("DB", 1), topic("db", 1));
    assert_ne!(topic("db", 1), topic("db", 28));
    // HTTPS is 65, "A"; 97 is "a".
    assert_ne!(topic("db", 65), topic("db", 97));
}

#[test]
fn the_manner_is_the_flags_and_edns() {
    let plain = query("db", 1);
    let manner = |message: &[u8]| Query::parse(message).unwrap().manner;
    let flagged = |high: u8, low: u8| {
        let mut message = plain.clone();
        (message[2], message[3]) = (high, low);
        message
    };
    let edns = with_edns(plain.clone(), 1232, 0, &[]);
    let others =
        [flagged(0, 0), flagged(1, 0x10), flagged(1, 0x20), edns.clone(), with_edns(plain.clone(), 1232, 0x8000, &[])];
    for (index, other) in others.iter().enumerate() {
        assert_ne!(manner(other), manner(&plain), "{index}");
    }
    assert_eq!(
        manner(&with_edns(plain, 4096, 0, &[0, 10, 0, 2, 1, 2])),
        manner(&edns),
        "size and cookie do not matter"
    );
}

#[test]
fn what_is_no_plain_query_is_not_followed() {
    let plain = query("db", 1);
    let opt = |options: &[u8]| with_edns(plain.clone(), 1232, 0, options);
    let mut version = opt(&[]);
    let at = version.len() - 5;
    version[at] = 1;
    // A subnet changes the answer; a cut option is none; two OPT records are none; nothing follows the last record.
    let twice = with_edns(opt(&[]), 1232, 0, &[]);
    let long = [&plain[..], &[0]].concat();
    for (index, bad) in [version, opt(&[0, 8, 0, 0]), opt(&[0, 10, 0, 9]), opt(&[0]), twice, long].iter().enumerate() {
        assert!(Query::parse(bad).is_none(), "{index}");
    }
    for (at, value) in [(2, 0x81), (2, 0x29), (2, 0x03), (5, 0), (5, 2), (7, 1), (9, 1), (11, 1), (12, 0xc0), (12, 40)]
    {
        let mut bad = plain.clone();
        bad[at] = value;
        assert!(Query::parse(&bad).is_none(), "{value} at {at}");
    }
}

#[test]
fn edns_is_answered_without_the_options_of_others_and_with_the_confession() {
    let asked = with_edns(query("db", 1), 1232, 0x8000, &[]);
    for (code, addresses, confession) in [(NO_ERROR, &[(60, [1; 4])][..], 3), (NO_SUCH_NAME, &[], 19)] {
        let heard = with_edns(answer(&asked, code, addresses), 4096, 0x8000, &[0, 10, 0, 2, 7, 7]);
        let given = given(&heard, &asked).unwrap();
        let records = records(&given);
        assert_eq!(records.len(), 2);
        // Not capped: it is no time to live.
        assert_eq!(records[1], (0x8000, vec![0, 15, 0, 2, 0, confession]));
    }
    // A server that does not speak it.
    let given = given(&answer(&asked, NO_ERROR, &[(60, [1; 4])]), &asked).unwrap();
    assert_eq!(records(&given).len(), 1);
}

#[test]
fn who_has_no_room_gets_nothing() {
    let many: Vec<_> = (0..40).map(|n| (60, [10, 0, 0, n])).collect();
    let asked = |size: u16| with_edns(query("db", 1), size, 0, &[]);
    let heard = with_edns(answer(&asked(1232), NO_ERROR, &many), 1232, 0, &[]);
    assert!(given(&heard, &asked(1232)).is_some());
    assert!(given(&heard, &asked(512)).is_none());
}

#[test]
fn only_whole_answers_of_success_or_no_such_name_are_kept() {
    let asked = query("db", 1);
    let good = answer(&asked, NO_ERROR, &[(60, [1; 4])]);
    assert!(Answer::parse(&good).unwrap().reply.is_some());
    assert!(Answer::parse(&answer(&asked, NO_ERROR, &[])).unwrap().reply.is_some(), "no data");
    let code = |code| answer(&asked, code, &[]);
    let mut cut = good.clone();
    cut[2] |= 2;
    let mut bad_version = with_edns(good.clone(), 1232, 0, &[]);
    let at = bad_version.len() - 6;
    bad_version[at] = 1;
    let long = [&good[..], &[0]].concat();
    let short = good[..good.len() - 1].to_vec();
    let mut first = with_edns(asked.clone(), 1232, 0, &[]);
    (first[2], first[7], first[11]) = (0x85, 1, 0);
    for (index, bad) in [code(1), code(2), code(5), cut, bad_version, long, short, first].iter().enumerate() {
        let parsed = Answer::parse(bad).unwrap();
        assert!(parsed.topic.is_some() && parsed.reply.is_none(), "{index}");
    }
    let many: Vec<_> = (0..250).map(|n| (60, [n; 4])).collect();
    assert!(Answer::parse(&answer(&asked, NO_ERROR, &many)).unwrap().reply.is_some());
    let padded = with_edns(answer(&asked, NO_ERROR, &many), 1232, 0, &[0; 100]);
    assert!(Answer::parse(&padded).unwrap().reply.is_none(), "too long");
    assert!(Answer::parse(&asked).is_none(), "a query");
    assert!(Answer::parse(&[0, 7, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap().topic.is_none(), "the shortest error");
}

proptest! {
    #[test]
    fn garbage_behind_good_headers_is_read_without_panic(
        rest in prop::collection::vec(any::<u8>(), 0..400),
        counts in prop::array::uniform4(0_u8..3),
    ) {
        let header = |flags: u8| [0, 1, flags, 0, 0, counts[0], 0, counts[1], 0, counts[2], 0, counts[3]];
        let _read = Query::parse(&[&header(1)[..], &rest].concat());
        let answer = [&header(0x81)[..], &[2, b'd', b'b', 0, 0, 1, 0, 1], &rest].concat();
        if let Some(reply) = Answer::parse(&answer).and_then(|answer| answer.reply) {
            let _given = reply.again(&Query::parse(&query("DB", 1)).unwrap());
        }
    }

    #[test]
    fn a_good_answer_with_some_bytes_changed_is_read_without_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        length in any::<prop::sample::Index>(),
    ) {
        let asked = with_edns(query("db", 1), 1232, 0, &[]);
        let mut input = vec![0, u8::try_from(asked.len()).unwrap()];
        input.extend(&asked);
        input.extend(with_edns(answer(&asked, NO_ERROR, &[(60, [1; 4]), (60, [2; 4])]), 1232, 0, &[]));
        crate::names::foreign::names(&input);
        for (at, value) in changes {
            let at = at.index(input.len());
            input[at] = value;
        }
        input.truncate(length.index(input.len() * 4));
        crate::names::foreign::names(&input);
    }
}
