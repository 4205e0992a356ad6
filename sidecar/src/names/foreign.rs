//! The fuzz target of what is parsed here: a query of the app and an answer of a nameserver, both as they like.

use super::exchange::{Answer, Query};
use super::message::{DATAGRAM, Question, Transport};
use super::wire::{RESPONSE, u16_at};

/// Bytes of the query's length, which is the first thing in the input; the answer is what follows the query.
const LENGTH: usize = 2;

/// An answer that may be given again fits the asker, and when it is heard again is given as the same.
pub(crate) fn names(bytes: &[u8]) {
    let Some(length) = u16_at(bytes, 0) else { return };
    let (query, answer) = bytes[LENGTH..].split_at(usize::from(length).min(bytes.len() - LENGTH));
    if let Some(question) = Question::parse(query) {
        // What has no room for its records has room for its question, whose name has at most 255 bytes.
        assert!(question.answer(&[], Transport::Datagram).len() <= DATAGRAM);
    }
    let (Some(query), Some(answer)) = (Query::parse(query), Answer::parse(answer)) else { return };
    let Some(reply) = answer.reply.filter(|_| answer.topic.as_ref() == Some(&query.topic)) else { return };
    let Some(given) = reply.again(&query) else { return };
    assert!(u16_at(&given, 0) == Some(query.id) && u16_at(&given, 2).is_some_and(|flags| flags & RESPONSE != 0));
    let heard = Answer::parse(&given).expect("an answer");
    assert_eq!((heard.id, heard.topic), (query.id, Some(query.topic.clone())));
    assert_eq!(heard.reply.expect("to be given again").again(&query), Some(given));
}
