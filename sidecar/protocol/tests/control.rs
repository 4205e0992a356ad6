//! The control messages' framing: what is written is read, however it is cut, and what is not a message is refused.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use proptest::prelude::*;
use tpdocker_protocol::control::{
    ControlError, EnvVar, MAX_MESSAGE, PodView, ProxyReply, ProxyRequest, SidecarReply, SidecarRequest, decode, encode,
};
use tpdocker_protocol::letter::{Letter, LetterRequest, Method, Token};

fn reply() -> impl Strategy<Value = ProxyReply> {
    let variable = ("[A-Z_]{1,8}", any::<String>()).prop_map(|(name, value)| EnvVar { name, value });
    let pod = (any::<String>(), prop::collection::vec(variable, 0..5), any::<String>());
    prop_oneof![
        pod.prop_map(|(hostname, env, hosts)| ProxyReply::Pod(PodView { hostname, env, hosts, ..PodView::default() })),
        any::<String>().prop_map(|message| ProxyReply::Error { message }),
    ]
}

proptest! {
    #[test]
    fn messages_are_read_as_they_were_written_however_they_are_cut(
        replies in prop::collection::vec(reply(), 1..6),
        cuts in prop::collection::vec(1..50_usize, 1..10),
    ) {
        let mut wire: Vec<u8> = Vec::new();
        for reply in &replies {
            wire.extend(encode(reply).unwrap());
        }
        let (mut buffer, mut seen, mut rest) = (BytesMut::new(), Vec::new(), &wire[..]);
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            buffer.extend_from_slice(piece);
            rest = after;
            while let Some(reply) = decode::<ProxyReply>(&mut buffer).unwrap() {
                seen.push(reply);
            }
        }
        prop_assert!(buffer.is_empty());
        prop_assert_eq!(seen, replies);
    }

    #[test]
    fn garbage_is_refused_or_waited_for_but_never_a_panic(garbage in prop::collection::vec(any::<u8>(), 0..200), short: bool) {
        let mut bytes = BytesMut::new();
        if short {
            // A length that fits, so that the rest is read as a message.
            bytes.put_u32(u32::try_from(garbage.len()).unwrap());
        }
        bytes.extend_from_slice(&garbage);
        let _whatever = decode::<ProxyRequest>(&mut bytes.clone());
        let _whatever = decode::<ProxyReply>(&mut bytes.clone());
        let _whatever = decode::<SidecarRequest>(&mut bytes.clone());
        let _whatever = decode::<SidecarReply>(&mut bytes);
    }
}

#[test]
fn a_length_over_the_limit_is_refused_before_the_message_comes() {
    let mut bytes = BytesMut::from(&u32::try_from(MAX_MESSAGE + 1).unwrap().to_be_bytes()[..]);
    assert!(matches!(decode::<ProxyReply>(&mut bytes), Err(ControlError::TooLarge(_))));
    let mut bytes = BytesMut::from(&u32::try_from(MAX_MESSAGE).unwrap().to_be_bytes()[..]);
    assert!(matches!(decode::<ProxyReply>(&mut bytes), Ok(None)));
    let reply = ProxyReply::Error { message: "x".repeat(MAX_MESSAGE) };
    assert!(matches!(encode(&reply), Err(ControlError::TooLarge(_))));
}

fn letter() -> impl Strategy<Value = Letter> {
    let method = prop_oneof![Just(Method::Get), Just(Method::Patch), Just(Method::Delete)];
    let request = (method, any::<String>(), any::<Option<String>>(), any::<String>(), any::<Vec<u16>>())
        .prop_map(|(method, path, content_type, body, done)| LetterRequest { method, path, content_type, body, done });
    let place = (any::<String>(), any::<u16>(), any::<String>(), any::<String>());
    let times = (any::<u32>(), any::<u32>());
    let serving = prop::collection::vec(any::<String>(), 0..3);
    (place, times, prop::collection::vec(request, 0..4), serving).prop_map(
        |((host, port, ca, token), (grace, valid), requests, serving)| Letter {
            host,
            port,
            ca,
            token: Token(token),
            grace: Duration::from_millis(grace.into()),
            valid: Duration::from_millis(valid.into()),
            requests,
            serving,
        },
    )
}

proptest! {
    #[test]
    fn a_letter_arrives_as_it_was_written_and_is_checked_without_a_panic(letter in letter()) {
        let request = ProxyRequest::Keep(Box::new(letter.clone()));
        let mut wire = BytesMut::from(&encode(&request).unwrap()[..]);
        prop_assert_eq!(decode::<ProxyRequest>(&mut wire).unwrap(), Some(request));
        let _whatever = letter.check();
    }
}
