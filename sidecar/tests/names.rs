//! Names while the tunnel carries nothing: what the pod's nameserver has said is said again, and nothing else; and while
//! it carries anything, the nameserver alone speaks. The app and the nameserver are this test's own sockets.

mod plane;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use plane::{CLUSTER_IP, Cluster, Sidecar, eventually};
use tokio::sync::watch;

/// RFC 8767's client response timer, and the time in which what is due then is there.
const STALE_AFTER: Duration = Duration::from_millis(1800);
const SLACK: Duration = Duration::from_millis(900);
/// What glibc waits for an answer.
const RESOLVER_TIMEOUT: Duration = Duration::from_secs(5);
const TTL: u8 = 200;

/// A sidecar and a cluster with a nameserver, and the switch of the way between them.
fn lab() -> (Sidecar, Cluster, UdpSocket, watch::Sender<bool>) {
    let (sidecar, cluster) = (Sidecar::start(), Cluster::start());
    sidecar.configure();
    let switch_tx = cluster.pump_with_switch(&sidecar.socket());
    eventually("the sidecar is attached", || sidecar.is_healthy().then_some(()));
    let nameserver = cluster.namespace.run(|| UdpSocket::bind((CLUSTER_IP, 53))).unwrap();
    nameserver.set_read_timeout(Some(RESOLVER_TIMEOUT)).unwrap();
    (sidecar, cluster, nameserver, switch_tx)
}

/// A socket of the app's, as a resolver has it.
fn resolver(sidecar: &Sidecar) -> UdpSocket {
    let socket = sidecar.namespace.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).unwrap();
    socket.set_read_timeout(Some(RESOLVER_TIMEOUT)).unwrap();
    sidecar.namespace.run(|| socket.connect((CLUSTER_IP, 53))).unwrap();
    socket
}

/// A question for the address of a name of one label.
fn question(id: u8, name: &str) -> Vec<u8> {
    let length = u8::try_from(name.len()).unwrap();
    [&[0, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, length][..], name.as_bytes(), &[0, 0, 1, 0, 1]].concat()
}

/// The nameserver's answer: one address.
fn answer(question: &[u8], last: u8) -> Vec<u8> {
    let mut answer = [question, &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, TTL, 0, 4, 10, 0, 0, last]].concat();
    (answer[2], answer[3], answer[7]) = (0x85, 0x80, 1);
    answer
}

/// The app asks, the nameserver answers after some time, and the app hears it.
fn resolve(app: &UdpSocket, nameserver: &UdpSocket, id: u8, name: &str, last: u8, after: Duration) {
    app.send(&question(id, name)).unwrap();
    let (asked, peer) = receive(nameserver);
    assert_eq!(asked, question(id, name), "as it was sent");
    std::thread::sleep(after);
    nameserver.send_to(&answer(&asked, last), peer).unwrap();
    assert_eq!(receive(app).0, answer(&question(id, name), last), "the truth as it is, and it alone");
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, std::net::SocketAddr) {
    let mut buffer = [0; 512];
    let (length, peer) = socket.recv_from(&mut buffer).unwrap();
    (buffer[..length].to_vec(), peer)
}

fn hears_nothing(socket: &UdpSocket, time: Duration) {
    socket.set_read_timeout(Some(time)).unwrap();
    assert_eq!(socket.recv(&mut [0; 512]).unwrap_err().kind(), ErrorKind::WouldBlock);
}

/// The app asks with these letters, and hears a stale answer in time.
fn hears_from_memory(app: &UdpSocket, id: u8, name: &str, last: u8) {
    let started = Instant::now();
    app.send(&question(id, name)).unwrap();
    let heard = receive(app).0;
    let took = started.elapsed();
    assert!(took >= STALE_AFTER && took < STALE_AFTER + SLACK, "{took:?}");
    let mut expected = answer(&question(id, name), last);
    // Of a cache: not authoritative, and worth half a minute.
    expected[2] = 0x81;
    let ttl = expected.len() - 7;
    expected[ttl] = 30;
    assert_eq!(heard, expected);
}

#[test]
fn a_name_heard_once_is_answered_while_the_tunnel_is_stalled_and_one_never_heard_is_not() {
    let (sidecar, _cluster, nameserver, switch_tx) = lab();
    resolve(&resolver(&sidecar), &nameserver, 1, "thing1", 7, Duration::ZERO);

    switch_tx.send_replace(false);
    let (known, unknown) = (resolver(&sidecar), resolver(&sidecar));
    unknown.send(&question(2, "thing2")).unwrap();
    hears_from_memory(&known, 3, "tHiNg1", 7);
    hears_nothing(&unknown, Duration::from_secs(3));

    // Both questions arrive, late. The answer to what was answered ends in the memory, and the other one with its asker.
    switch_tx.send_replace(true);
    for _ in 0..2 {
        let (asked, peer) = receive(&nameserver);
        nameserver.send_to(&answer(&asked, 8), peer).unwrap();
    }
    unknown.set_read_timeout(Some(RESOLVER_TIMEOUT)).unwrap();
    assert_eq!(receive(&unknown).0, answer(&question(2, "thing2"), 8));
    hears_nothing(&known, Duration::from_millis(300));

    // The same socket and number anew: nothing is left of the last time.
    known.set_read_timeout(Some(RESOLVER_TIMEOUT)).unwrap();
    resolve(&known, &nameserver, 3, "tHiNg1", 9, Duration::ZERO);
    switch_tx.send_replace(false);
    hears_from_memory(&known, 4, "thing1", 9);
}

#[test]
fn the_slow_answer_of_a_live_tunnel_is_not_forestalled() {
    let (sidecar, _cluster, nameserver, _switch_tx) = lab();
    let app = resolver(&sidecar);
    resolve(&app, &nameserver, 1, "thing1", 7, Duration::ZERO);
    // Nothing else is in the tunnel, and for this time nothing comes out of it but what was asked for.
    resolve(&app, &nameserver, 2, "thing1", 8, STALE_AFTER * 2);
    hears_nothing(&app, Duration::from_millis(300));
}

#[test]
fn without_any_tunnel_a_name_heard_once_is_answered() {
    let (sidecar, cluster, nameserver, _switch_tx) = lab();
    let app = resolver(&sidecar);
    resolve(&app, &nameserver, 1, "thing1", 7, Duration::ZERO);
    drop(cluster);
    eventually("the tunnel is gone", || (!sidecar.is_healthy()).then_some(()));
    hears_from_memory(&app, 2, "thing1", 7);
    app.send(&question(3, "thing2")).unwrap();
    hears_nothing(&app, STALE_AFTER + SLACK);
}
