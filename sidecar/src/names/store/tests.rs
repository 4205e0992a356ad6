use super::*;
use crate::names::exchange::tests::{NO_ERROR, answer};
use crate::names::exchange::{Answer, Query};
use crate::names::message::tests::query;

fn entry(name: &str, addresses: u8) -> (Key, Reply) {
    let message = query(name, 1);
    let Query { topic, manner, .. } = Query::parse(&message).unwrap();
    let addresses: Vec<_> = (0..addresses).map(|n| (60, [10, 0, 0, n])).collect();
    let reply = Answer::parse(&answer(&message, NO_ERROR, &addresses)).unwrap().reply.unwrap();
    (Key { nameserver: ClusterAddr(([10, 96, 0, 10], 53).into()), topic, manner }, reply)
}

#[test]
fn there_are_never_more_answers_than_allowed_and_the_one_used_least_lately_goes() {
    let (mut store, now) = (Store::default(), Instant::now());
    for number in 0..MAX_ENTRIES {
        let (key, reply) = entry(&format!("name-{number}"), 1);
        store.insert(key, reply, now);
    }
    assert_eq!(store.size().0, MAX_ENTRIES);
    assert!(store.get(&entry("name-0", 1).0, now).is_some(), "used");
    let (key, reply) = entry("one-more", 1);
    store.insert(key.clone(), reply, now);
    assert_eq!(store.size().0, MAX_ENTRIES);
    assert!(store.get(&key, now).is_some());
    assert!(store.get(&entry("name-0", 1).0, now).is_some());
    assert!(store.get(&entry("name-1", 1).0, now).is_none());
}

#[test]
fn they_never_weigh_more_than_allowed() {
    let (mut store, now) = (Store::default(), Instant::now());
    for number in 0..MAX_ENTRIES {
        let (key, reply) = entry(&format!("name-{number}"), 200);
        let newest = key.clone();
        store.insert(key, reply, now);
        assert!(store.size().1 <= MAX_BYTES && store.get(&newest, now).is_some());
    }
    assert!(store.size().0 < MAX_ENTRIES / 2);
}

#[test]
fn what_is_heard_again_takes_the_place_of_what_was_known() {
    let (mut store, now) = (Store::default(), Instant::now());
    let (key, old) = entry("db", 3);
    let (_, new) = entry("db", 1);
    store.insert(key.clone(), new.clone(), now);
    let size = store.size();
    store.insert(key.clone(), old, now);
    store.insert(key.clone(), new.clone(), now);
    assert_eq!(store.size(), size);
    assert_eq!(store.get(&key, now), Some(&new));
}

#[test]
fn after_a_day_an_answer_is_worth_nothing() {
    let (mut store, now) = (Store::default(), Instant::now());
    let (key, reply) = entry("db", 1);
    store.insert(key.clone(), reply, now);
    assert!(store.get(&key, now + MAX_AGE).is_some());
    assert!(store.get(&key, now + MAX_AGE + Duration::from_secs(1)).is_none());
    assert_eq!(store.size(), (0, 0));
}
