//! A real server on loopback, asked over UDP and TCP.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_server::Server;
use hickory_server::proto::rr::rdata::{A, CNAME};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::*;

const MANY: usize = 100; // addresses of `many`: more than a UDP reply holds

#[tokio::test]
async fn a_name_is_answered_with_authority_and_in_the_case_it_was_asked() {
    let server = start().await;
    let reply = udp(server, "One.cluster.local.", RecordType::A, None).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
    assert!(reply.answers[0].name.eq_case(&name("One.cluster.local.")));
}

#[tokio::test]
async fn a_no_comes_with_the_start_of_authority() {
    let server = start().await;
    let reply = udp(server, "none.cluster.local.", RecordType::A, None).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
    let reply = udp(server, "one.cluster.local.", RecordType::AAAA, None).await;
    assert_eq!((reply.metadata.response_code, reply.answers.len()), (ResponseCode::NoError, 0));
    assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
}

#[tokio::test]
async fn a_long_answer_is_cut_over_udp_and_whole_over_tcp() {
    let server = start().await;
    let plain = udp(server, "many.cluster.local.", RecordType::A, None).await;
    assert!(plain.metadata.truncation && plain.answers.len() < MANY);
    let larger = udp(server, "many.cluster.local.", RecordType::A, Some(4096)).await;
    assert!(larger.metadata.truncation && larger.answers.len() > plain.answers.len());
    assert_eq!(larger.edns.as_ref().map(Edns::max_payload), Some(UDP_PAYLOAD));
    let whole = tcp(server, "many.cluster.local.", RecordType::A).await;
    assert!(!whole.metadata.truncation && whole.answers.len() == MANY);
}

#[tokio::test]
async fn an_alias_is_followed_and_a_loop_of_them_is_a_failure() {
    let server = start().await;
    let reply = udp(server, "alias.cluster.local.", RecordType::A, None).await;
    let kinds: Vec<_> = reply.answers.iter().map(Record::record_type).collect();
    assert_eq!(kinds, [RecordType::CNAME, RecordType::A]);
    let reply = udp(server, "loop.cluster.local.", RecordType::A, None).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn without_anybody_to_ask_a_foreign_name_is_a_failure_at_once() {
    let server = start().await;
    let reply = udp(server, "example.com.", RecordType::A, None).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert!(!reply.metadata.authoritative);
}

async fn start() -> SocketAddr {
    let mut zone = Zone::new(&name("cluster.local."));
    let one = RData::A(A::new(10, 0, 0, 1));
    zone.add(&name("one.cluster.local."), one);
    zone.add(&name("alias.cluster.local."), RData::CNAME(CNAME(name("one.cluster.local."))));
    zone.add(&name("loop.cluster.local."), RData::CNAME(CNAME(name("loop.cluster.local."))));
    for last in 0..u8::try_from(MANY).unwrap() {
        zone.add(&name("many.cluster.local."), RData::A(A::new(10, 1, 0, last)));
    }
    let (_, zone) = watch::channel(Arc::new(zone));
    let mut server = Server::new(Handler { zone, upstreams: Upstreams::parse(""), turn: 0.into() });
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    server.register_socket(socket);
    server.register_listener(TcpListener::bind(address).await.unwrap(), Duration::from_secs(5), 8);
    tokio::spawn(async move { server.block_until_done().await });
    address
}

async fn udp(server: SocketAddr, name: &str, kind: RecordType, payload: Option<u16>) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&question(name, kind, payload), server).await.unwrap();
    let mut reply = vec![0; 65535];
    let length = socket.recv(&mut reply).await.unwrap();
    Message::from_vec(&reply[..length]).unwrap()
}

async fn tcp(server: SocketAddr, name: &str, kind: RecordType) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let question = question(name, kind, None);
    stream.write_u16(question.len().try_into().unwrap()).await.unwrap();
    stream.write_all(&question).await.unwrap();
    let mut reply = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut reply).await.unwrap();
    Message::from_vec(&reply).unwrap()
}

fn question(text: &str, kind: RecordType, payload: Option<u16>) -> Vec<u8> {
    let mut query = Message::query();
    query.add_query(Query::query(name(text), kind));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        query.set_edns(edns);
    }
    query.to_vec().unwrap()
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}
