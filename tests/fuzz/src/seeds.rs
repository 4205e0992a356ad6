//! Inputs that are valid: what is worth trying is near them.

use std::net::SocketAddr;

use bytes::BytesMut;
use ed25519_dalek::SigningKey;
use tpdocker_protocol::addr::{AppAddr, ClusterAddr, Target};
use tpdocker_protocol::admission::{Challenge, Role};
use tpdocker_protocol::contract::PROTOCOL_VERSION;
use tpdocker_protocol::control::{
    self, EnvVar, PodView, ProxyReply, ProxyRequest, ProxyStatus, SidecarConfig, SidecarReply, SidecarRequest,
    SidecarStatus,
};
use tpdocker_protocol::errno::Errno;
use tpdocker_protocol::frame::{Datagram, Frame, Side, StreamId};

fn v4() -> SocketAddr {
    ([10, 96, 0, 10], 80).into()
}

fn v6() -> SocketAddr {
    ([0xfd00, 0, 0, 0, 0, 0, 0, 7], 443).into()
}

/// Each kind of frame, and a conversation of each side.
pub fn frames() -> Vec<Vec<u8>> {
    let hello = |side| Frame::Hello { version: PROTOCOL_VERSION, side };
    let open = |id, target| Frame::Open { stream: StreamId(id), target };
    let data =
        |id, length: usize| Frame::Data { stream: StreamId(id), payload: vec![id.to_le_bytes()[0]; length].into() };
    let datagram =
        |addr| Frame::Datagram(Datagram { app: AppAddr(v4()), remote: ClusterAddr(addr), payload: "x".into() });
    let sidecar = [
        hello(Side::Sidecar),
        open(1, Target::Dial(ClusterAddr(v4()))),
        open(3, Target::Dial(ClusterAddr(v6()))),
        datagram(v6()),
        Frame::Listen(Vec::new()),
        Frame::Reset { stream: StreamId(3), errno: Errno::ECONNRESET },
        Frame::Ping(7),
    ];
    let proxy = [
        hello(Side::Proxy),
        open(2, Target::Deliver { port: 8080, peer: ClusterAddr(v6()) }),
        Frame::Opened { stream: StreamId(1) },
        Frame::Refused { stream: StreamId(3), errno: Errno::ECONNREFUSED },
        data(1, 40),
        Frame::Credit { stream: StreamId(1), bytes: 100 },
        Frame::Fin { stream: StreamId(1) },
        Frame::DatagramFailed { app: AppAddr(v4()), remote: ClusterAddr(v6()), errno: Errno::EHOSTUNREACH },
        Frame::Listening { bound: Vec::new(), failed: Vec::new() },
        Frame::Pong(7),
        Frame::Close { reason: "enough".into() },
    ];
    let wire = |frames: &[Frame]| {
        let mut wire = BytesMut::new();
        for frame in frames {
            frame.encode(&mut wire);
        }
        wire.to_vec()
    };
    let alone = sidecar.iter().chain(&proxy).map(|frame| wire(std::slice::from_ref(frame)));
    // By hand, as the module of the frames describes them: LISTEN, and LISTENING with a port that failed.
    let ports = [
        raw(11, &[6, 0, 80, 17, 0, 53]),
        raw(12, &[0, 0, 0, 1, 6, 0, 80, 17, 0, 53, 0, 5, b't', b'a', b'k', b'e', b'n']),
    ];
    alone.chain(ports).chain([wire(&sidecar), wire(&proxy)]).collect()
}

/// A frame of the session.
fn raw(code: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("short");
    [&[code, 0, 0, length, 0, 0, 0, 0], payload].concat()
}

/// One message of each kind.
pub fn control() -> Vec<Vec<u8>> {
    let pod = PodView {
        hostname: "servicename-0".into(),
        env: vec![EnvVar { name: "A".into(), value: "b\nc".into() }],
        resolv_conf: "nameserver 10.96.0.10\n".into(),
        pod_ips: vec![v4().ip(), v6().ip()],
        ..PodView::default()
    };
    let config = SidecarConfig { bypass: vec!["172.20.0.0/16".into()], ..SidecarConfig::default() };
    let cannot = SidecarReply::CannotCapture { message: "no".into(), cure: Some("yes".into()) };
    let messages = [
        control::encode(&ProxyRequest::Describe),
        control::encode(&ProxyRequest::Watch),
        control::encode(&ProxyRequest::There),
        control::encode(&ProxyReply::Pod(pod)),
        control::encode(&ProxyReply::Status(ProxyStatus::default())),
        control::encode(&ProxyReply::Error { message: "no".into() }),
        control::encode(&SidecarRequest::Configure(config)),
        control::encode(&SidecarReply::Configured),
        control::encode(&SidecarReply::Status(SidecarStatus::default())),
        control::encode(&cannot),
    ];
    messages.into_iter().map(|message| message.expect("small and made of text")).collect()
}

/// A challenge, and answers to the challenge of nines by the key of sevens.
pub fn admission() -> Vec<Vec<u8>> {
    let (challenge, key) = (Challenge::new([9; 32]), SigningKey::from_bytes(&[7; 32]));
    let answer = |role| challenge.answer(&key, role, "session").encode().to_vec();
    vec![challenge.encode().to_vec(), answer(Role::Control), answer(Role::Tunnel)]
}

/// A netlink message (netlink(7)); the kernel speaks in the host's byte order.
fn message(kind: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + body.len()).expect("short").to_ne_bytes();
    let mut message = [&length[..], &kind.to_ne_bytes(), &[0; 10], body].concat();
    message.resize(message.len().next_multiple_of(4), 0);
    message
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("short").to_ne_bytes();
    let mut attribute = [&length[..], &kind.to_ne_bytes(), value].concat();
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// Acknowledgements, an error, and two messages in one datagram.
pub fn netlink() -> Vec<Vec<u8>> {
    let answer = |errno: i32| message(2, &[&errno.to_ne_bytes()[..], &[0; 16]].concat());
    vec![answer(0), answer(-2), [answer(0), message(3, &[])].concat(), message(9, &attribute(1, b"lo\0"))]
}

/// Packets as `nfnetlink_queue` hands them over.
pub fn nfqueue() -> Vec<Vec<u8>> {
    let queued = |packet: &[u8]| {
        let header = attribute(1, &[0, 0, 0, 9, 8, 0, 3]);
        let body = [&[2, 0, 0, 0][..], &header, &attribute(6, &[0, 0, 0, 2]), &attribute(10, packet)].concat();
        message(3 << 8, &body)
    };
    let mut all: Vec<Vec<u8>> = packet().iter().map(|packet| queued(packet)).collect();
    all.push(all.concat());
    all
}

/// TCP, UDP and ICMP over both families, with options and an extension header.
pub fn packet() -> Vec<Vec<u8>> {
    let v4 = |header: u8, protocol: u8, rest: &[u8]| {
        let length = u16::try_from(20 + rest.len()).expect("short").to_be_bytes();
        let fixed = [header, 0, length[0], length[1], 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 2, 10, 96, 0, 10];
        [&fixed[..], rest].concat()
    };
    let v6 = |next: u8, rest: &[u8]| {
        let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
        let address = |last: u8| [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
        [&[0x60, 0, 0, 0, length[0], length[1], next, 64][..], &address(2), &address(10), rest].concat()
    };
    let syn = [3, 232, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 255, 255, 0, 0, 0, 0];
    let datagram = [0x30, 0x39, 0, 53, 0, 11, 0, 0, b'a', b's', b'k'];
    let (echo4, echo6) = ([8, 0, 0, 0, 0, 7, 0, 1, b'p'], [128, 0, 0, 0, 0, 7, 0, 1, b'p']);
    let options = [&[17, 0, 1, 4, 0, 0, 0, 0][..], &datagram].concat();
    vec![
        v4(0x45, 6, &syn),
        v4(0x45, 17, &datagram),
        v4(0x46, 17, &[&[1, 1, 1, 1][..], &datagram].concat()),
        v4(0x45, 1, &echo4),
        v6(6, &syn),
        v6(17, &datagram),
        v6(60, &options),
        v6(58, &echo6),
    ]
}

/// `struct inet_diag_msg` of a listener of each family, and the end of a dump.
pub fn diagnostics() -> Vec<Vec<u8>> {
    let listener = |family: u8| {
        let mut body = [0; 72];
        body[..8].copy_from_slice(&[family, 10, 0, 0, 0x1f, 0x90, 0, 0]);
        message(20, &[&body[..], &attribute(11, &[1])].concat())
    };
    vec![listener(2), listener(10), [listener(2), message(3, &[0; 4])].concat(), message(2, &[0; 20])]
}

/// A query with its length in front, then the answer: addresses behind an alias, no such name, and with EDNS and a cookie.
pub fn names() -> Vec<Vec<u8>> {
    let question = [&[2][..], b"DB", &[7], b"staging", &[0, 0, 1, 0, 1]].concat();
    let header = |flags: [u8; 2], counts: [u8; 3]| {
        [&[0, 9][..], &flags, &[0, 1, 0, counts[0], 0, counts[1], 0, counts[2]]].concat()
    };
    let alias = [0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 30, 0, 4, 1, b'x', 0xc0, 15];
    let address = [0xc0, 40, 0, 1, 0, 1, 0, 0, 14, 16, 0, 4, 10, 1, 2, 3];
    let soa = [&[0xc0, 15, 0, 6, 0, 1, 0, 0, 14, 16, 0, 22, 0, 0][..], &[0; 20]].concat();
    let opt = [0, 0, 41, 4, 208, 0, 0, 128, 0, 0, 6, 0, 10, 0, 2, 7, 7];
    let pair = |query: Vec<u8>, answer: Vec<u8>| {
        let length = u16::try_from(query.len()).expect("short").to_be_bytes();
        [&length[..], &query, &answer].concat()
    };
    let plain = [&header([1, 0], [0; 3])[..], &question].concat();
    let edns = [&header([1, 0], [0, 0, 1])[..], &question, &opt].concat();
    let found = [&header([0x85, 0xa0], [2, 0, 0])[..], &question, &alias, &address].concat();
    let missing = [&header([0x85, 0x83], [0, 1, 0])[..], &question, &soa].concat();
    let with_opt = [&header([0x85, 0xa0], [2, 0, 1])[..], &question, &alias, &address, &opt].concat();
    vec![pair(plain.clone(), found), pair(plain, missing), pair(edns, with_opt)]
}
