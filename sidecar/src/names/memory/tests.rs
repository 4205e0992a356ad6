use super::*;
use crate::names::exchange::tests::{NO_ERROR, NO_SUCH_NAME, answer, records, with_edns};
use crate::names::message::tests::query;
use crate::names::store::MAX_AGE;
use crate::names::waiting::MAX_WAITING;

const A: u16 = 1;
const THE_TUNNEL: Generation = Generation(1);
const A_NEWER_TUNNEL: Generation = Generation(2);
/// Shorter than any time that matters here.
const TICK: Duration = Duration::from_millis(10);

/// An app, a nameserver and a tunnel between them.
struct World {
    memory: Memory,
    start: Instant,
    now: Instant,
    pulse: Option<Pulse>,
    /// The other end answers pings.
    alive: bool,
    probes: usize,
}

impl World {
    fn new() -> Self {
        let start = Instant::now();
        let pulse = Some(Pulse { tunnel: THE_TUNNEL, heard: start });
        Self { memory: Memory::default(), start, now: start, pulse, alive: true, probes: 0 }
    }

    fn ask(&mut self, port: u16, message: &[u8]) {
        let sent = self.pulse.map(|pulse| pulse.tunnel);
        self.memory.handle_query(app(port), nameserver(), message, sent, self.now);
    }

    fn hear(&mut self, port: u16, message: &[u8]) -> bool {
        if let Some(pulse) = &mut self.pulse {
            pulse.heard = self.now;
        }
        self.memory.handle_answer(app(port), nameserver(), message, self.now)
    }

    /// Asks and hears at once.
    fn learn(&mut self, query: &[u8], answer: &[u8]) {
        self.ask(1, query);
        assert!(self.hear(1, answer));
    }

    /// Lets time pass, and returns what the app hears, and when: milliseconds since the start.
    fn pass(&mut self, time: Duration) -> Vec<(u128, u16, Vec<u8>)> {
        let end = self.now + time;
        let mut heard = Vec::new();
        while self.now < end {
            self.now += TICK;
            if self.memory.poll_timeout().is_some_and(|due| due <= self.now) {
                self.memory.handle_timeout(self.pulse, self.now);
                assert!(self.memory.poll_timeout().is_none_or(|due| due > self.now), "all that is due is done");
            }
            while let Some(transmit) = self.memory.poll_transmit() {
                match transmit {
                    Transmit::Probe => {
                        self.probes += 1;
                        if let Some(pulse) = self.pulse.as_mut().filter(|_| self.alive) {
                            pulse.heard = self.now + TICK / 2;
                        }
                    }
                    Transmit::Answer { app, nameserver: from, message } => {
                        assert_eq!(from, nameserver());
                        heard.push(((self.now - self.start).as_millis(), app.0.port(), message));
                    }
                }
            }
        }
        heard
    }

    /// The ports that hear something within the time in which a resolver waits.
    fn served(&mut self) -> Vec<u16> {
        self.pass(PATIENCE).into_iter().map(|(_, port, _)| port).collect()
    }
}

fn app(port: u16) -> AppAddr {
    AppAddr(([10, 244, 0, 7], port).into())
}

fn nameserver() -> ClusterAddr {
    ClusterAddr(([10, 96, 0, 10], 53).into())
}

fn numbered(id: u8, mut message: Vec<u8>) -> Vec<u8> {
    message[..2].copy_from_slice(&[0, id]);
    message
}

fn yes(query: &[u8]) -> Vec<u8> {
    answer(query, NO_ERROR, &[(3600, [10, 1, 2, 3])])
}

/// A world that knows `db` and whose tunnel is in a black hole from here on.
fn in_the_dark() -> World {
    let mut world = World::new();
    world.learn(&query("db", A), &yes(&query("db", A)));
    world.alive = false;
    world
}

#[test]
fn a_name_heard_once_is_answered_after_1800_ms_of_silence_and_once() {
    let mut world = in_the_dark();
    let asked = numbered(9, query("dB", A));
    world.ask(5000, &asked);
    let heard = world.pass(PATIENCE);
    assert_eq!(heard.iter().map(|(at, port, _)| (*at, *port)).collect::<Vec<_>>(), [(1800, 5000)]);
    let message = &heard[0].2;
    assert_eq!((&message[..2], &message[12..asked.len()]), (&[0, 9][..], &asked[12..]));
    assert_eq!(records(message), [(30, vec![10, 1, 2, 3])]);
    assert_eq!(world.probes, 1);
}

#[test]
fn what_was_never_heard_stays_unanswered() {
    let mut world = in_the_dark();
    for (port, message) in [
        (1, query("db2", A)),
        (2, query("db", 28)),
        (3, with_edns(query("db", A), 1232, 0, &[])),
        (4, b"not a query at all".to_vec()),
    ] {
        world.ask(port, &message);
    }
    let elsewhere = ClusterAddr(([10, 96, 0, 11], 53).into());
    world.memory.handle_query(app(5), elsewhere, &query("db", A), Some(THE_TUNNEL), world.now);
    assert!(world.served().is_empty());
    assert_eq!(world.probes, 0, "nothing to say, nothing to ask");
}

#[test]
fn a_live_tunnel_is_waited_for_as_long_as_it_takes() {
    let mut world = in_the_dark();
    world.alive = true;
    world.ask(1, &query("db", A));
    assert_eq!(world.pass(Duration::from_millis(4500)), []);
    assert_eq!(world.probes, 4, "asked each time that there would be a reason to answer");
    assert!(world.hear(1, &yes(&query("db", A))), "the truth");
    assert!(world.served().is_empty());
}

#[test]
fn a_quick_answer_costs_nothing() {
    let mut world = in_the_dark();
    world.ask(1, &query("db", A));
    world.pass(Duration::from_millis(500));
    assert!(world.hear(1, &yes(&query("db", A))));
    assert_eq!(world.memory.poll_timeout(), None);
    assert_eq!((world.served(), world.probes), (vec![], 0));
}

#[test]
fn a_tunnel_that_falls_silent_while_the_answer_is_awaited_is_noticed() {
    let mut world = in_the_dark();
    world.alive = true;
    world.ask(1, &query("db", A));
    assert_eq!(world.pass(Duration::from_millis(1700)), []);
    world.alive = false;
    // The ping of 0.6 s was answered, that of 1.8 s is not.
    assert_eq!(world.pass(PATIENCE).iter().map(|(at, ..)| *at).collect::<Vec<_>>(), [3000]);
}

#[test]
fn a_query_that_is_lost_for_certain_is_answered_though_the_tunnel_lives() {
    let mut world = in_the_dark();
    world.alive = true;
    world.pulse = None;
    world.ask(1, &query("db", A));
    world.pulse = Some(Pulse { tunnel: THE_TUNNEL, heard: world.now });
    world.ask(2, &query("db", A));
    world.ask(3, &query("db", A));
    world.pass(Duration::from_secs(1));
    world.pulse = Some(Pulse { tunnel: A_NEWER_TUNNEL, heard: world.now });
    // This one asks again, and has an answer on the way.
    world.ask(3, &query("db", A));
    assert_eq!(world.served(), [1, 2]);
}

#[test]
fn without_a_tunnel_the_memory_answers() {
    let mut world = in_the_dark();
    world.pulse = None;
    world.ask(1, &query("db", A));
    assert_eq!(world.served(), [1]);
}

#[test]
fn no_such_name_and_no_data_are_remembered_and_errors_are_not() {
    let mut world = World::new();
    for (name, code) in [("gone", NO_SUCH_NAME), ("empty", NO_ERROR), ("broken", 2), ("refused", 5)] {
        world.learn(&query(name, A), &answer(&query(name, A), code, &[]));
    }
    world.alive = false;
    for (port, name) in [(1, "gone"), (2, "empty"), (3, "broken"), (4, "refused")] {
        world.ask(port, &query(name, A));
    }
    let heard = world.pass(PATIENCE);
    assert_eq!(heard.iter().map(|(_, port, message)| (*port, message[3] & 15)).collect::<Vec<_>>(), [(1, 3), (2, 0)]);
    assert_eq!(records(&heard[0].2)[0].0, 30, "the zone's SOA, by which it is kept, is capped, too");
}

#[test]
fn an_error_neither_spoils_nor_uses_what_is_known() {
    let mut world = in_the_dark();
    world.ask(1, &query("db", A));
    assert!(world.hear(1, &answer(&query("db", A), 2, &[])), "it is the truth");
    world.ask(2, &query("db", A));
    let nothing_but_a_code = [&query("db", A)[..2], &[0x81, 1, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
    assert!(world.hear(2, &nothing_but_a_code));
    world.ask(3, &query("db", A));
    world.memory.handle_failure(app(3), nameserver());
    world.ask(4, &query("db", A));
    assert_eq!(world.served(), [4]);
}

#[test]
fn the_truth_after_a_stale_answer_is_remembered_and_goes_no_further() {
    let mut world = in_the_dark();
    let asked = query("db", A);
    world.ask(1, &asked);
    assert_eq!(world.served(), [1]);
    assert!(!world.hear(1, &answer(&asked, NO_ERROR, &[(60, [9; 4])])));
    assert!(world.hear(1, &yes(&asked)), "once: what nobody asked for is none of ours");
    world.ask(2, &asked);
    assert_eq!(records(&world.pass(PATIENCE)[0].2), [(30, vec![9; 4])]);
}

#[test]
fn a_later_question_of_the_same_socket_and_number_gets_its_own_answer() {
    let mut world = in_the_dark();
    let (first, second) = (query("db", A), query("other", A));
    world.ask(1, &first);
    assert_eq!(world.served(), [1]);
    world.ask(1, &second);
    assert!(world.hear(1, &yes(&first)), "of another topic, as resolvers see as well");
    assert!(world.hear(1, &yes(&second)));

    world.ask(1, &first);
    assert_eq!(world.served(), [1]);
    world.ask(1, &first);
    assert!(world.hear(1, &yes(&first)), "asked anew, so the truth is welcome");
}

#[test]
fn who_asks_each_second_does_not_wait_for_longer() {
    let mut world = in_the_dark();
    world.ask(1, &query("db", A));
    assert_eq!(world.pass(Duration::from_secs(1)), []);
    world.ask(1, &query("db", A));
    assert_eq!(world.pass(Duration::from_secs(1)).len(), 1);
}

#[test]
fn who_has_given_up_is_left_alone() {
    let mut world = in_the_dark();
    world.ask(1, &query("db", A));
    // Stopped for a while, and the timers fire late.
    world.now += PATIENCE;
    assert_eq!((world.served(), world.probes), (vec![], 0));
    world.alive = true;
    world.ask(2, &query("db", A));
    assert_eq!(world.pass(PATIENCE), []);
    world.alive = false;
    assert!(world.served().is_empty());
}

#[test]
fn late_answers_are_remembered_and_in_the_end_nothing_waits() {
    let mut world = World::new();
    world.alive = false;
    world.ask(1, &query("db", A));
    assert_eq!(world.pass(Duration::from_secs(20)), []);
    assert!(world.hear(1, &yes(&query("db", A))));
    world.ask(2, &query("db", A));
    assert_eq!(world.served(), [2]);
    world.ask(3, &query("never", A));
    assert_eq!(world.pass(PATIENCE + FORGET_AFTER * 2), []);
    assert_eq!(world.memory.poll_timeout(), None);
}

#[test]
fn yesterdays_answer_is_not_given() {
    let mut world = in_the_dark();
    world.now += MAX_AGE + TICK;
    world.ask(1, &query("db", A));
    assert!(world.served().is_empty());
}

#[test]
fn a_flood_of_queries_is_carried_and_not_followed() {
    let mut world = in_the_dark();
    let more = u16::try_from(MAX_WAITING).unwrap() + 100;
    for port in 0..more {
        world.ask(port, &query("db", A));
    }
    assert_eq!(world.served().len(), MAX_WAITING);
    assert_eq!(world.probes, 1, "one ping is for all");
}
