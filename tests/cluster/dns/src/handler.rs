//! One question, one reply: from the zone, along CNAMEs, and from upstream for all the rest.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{
    Edns, Header, HeaderCounts, Message, MessageType, Metadata, OpCode, Query, ResponseCode,
};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::sync::watch;

use crate::forward::Upstreams;
use crate::zone::{Answer, Zone};

/// A longer chain of CNAMEs than this is a loop.
const CHAIN: usize = 8;
/// The largest UDP reply that passes every usual path unfragmented, whatever a client offers to take.
const UDP_PAYLOAD: u16 = 1232;
/// What a UDP reply may have to a client that offers nothing (RFC 1035).
const UDP_PAYLOAD_WITHOUT_EDNS: u16 = 512;
/// The size of an EDNS record without options.
const EDNS_SIZE: u16 = 11;

pub struct Handler {
    pub zone: watch::Receiver<Arc<Zone>>,
    pub upstreams: Upstreams,
    /// Turns the order of addresses from reply to reply, since most clients take the first.
    pub turn: AtomicUsize,
}

/// A reply but for its id, question and EDNS.
#[derive(Default)]
struct Reply {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
}

// === impl Handler ===

impl Handler {
    async fn reply(&self, name: &Name, kind: RecordType) -> Reply {
        let zone = Arc::clone(&self.zone.borrow());
        let mut reply = Reply { authoritative: true, ..Reply::default() };
        let mut name = name.clone();
        for _ in 0..CHAIN {
            match zone.lookup(&name, kind) {
                Answer::Records(mut records) => {
                    let turn = self.turn.fetch_add(1, Ordering::Relaxed) % records.len();
                    records.rotate_left(turn);
                    let alias = alias(&records, kind);
                    reply.additionals.extend(glue(&zone, &records));
                    reply.answers.append(&mut records);
                    match alias {
                        Some(target) => name = target,
                        None => return reply,
                    }
                }
                Answer::NoData => {
                    reply.authorities.push(zone.authority());
                    return reply;
                }
                Answer::NoSuchName => {
                    reply.code = ResponseCode::NXDomain;
                    reply.authorities.push(zone.authority());
                    return reply;
                }
                Answer::NotMine => return self.forwarded(reply, name, kind).await,
            }
        }
        Reply { code: ResponseCode::ServFail, ..Reply::default() }
    }

    async fn forwarded(&self, mut reply: Reply, name: Name, kind: RecordType) -> Reply {
        let mut query = Message::query();
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(name, kind));
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_PAYLOAD);
        query.set_edns(edns);
        reply.authoritative = !reply.answers.is_empty();
        match self.upstreams.ask(&query).await {
            Some(far) => {
                reply.code = far.metadata.response_code;
                reply.answers.extend(far.answers);
                reply.authorities.extend(far.authorities);
                reply.additionals.extend(far.additionals);
            }
            None => reply.code = ResponseCode::ServFail,
        }
        reply
    }
}

// === impl Reply ===

impl Reply {
    /// Leaves out what there is no room for, and says whether the client should come again over TCP:
    /// not for additional records, which are a courtesy.
    fn fit(&mut self, query: &Query, room: usize) -> bool {
        let mut truncated = false;
        while self.size(query) > room {
            if self.additionals.pop().is_some() {
                continue;
            }
            truncated = true;
            if self.authorities.pop().or_else(|| self.answers.pop()).is_none() {
                break;
            }
        }
        truncated
    }

    fn size(&self, query: &Query) -> usize {
        let mut message = Message::response(0, OpCode::Query);
        message.add_query(query.clone());
        message.insert_answers(self.answers.clone());
        message.insert_authorities(self.authorities.clone());
        message.insert_additionals(self.additionals.clone());
        // The server repeats the question as it came and does not point to it, so its name comes twice.
        message.to_vec().map_or(0, |bytes| bytes.len()) + query.name().len()
    }
}

/// Where a chain goes on, unless the CNAME itself was asked for.
fn alias(records: &[Record], kind: RecordType) -> Option<Name> {
    let asked = matches!(kind, RecordType::CNAME | RecordType::ANY);
    records.iter().filter(|_| !asked).find_map(|record| match &record.data {
        RData::CNAME(target) => Some(target.0.clone()),
        _ => None,
    })
}

/// The addresses of what SRV records point to, to spare the client a question.
fn glue(zone: &Zone, records: &[Record]) -> Vec<Record> {
    let targets = records.iter().filter_map(|record| match &record.data {
        RData::SRV(srv) => Some(&srv.target),
        _ => None,
    });
    let mut glue = Vec::new();
    for (target, kind) in targets.flat_map(|target| [(target, RecordType::A), (target, RecordType::AAAA)]) {
        if let Answer::Records(records) = zone.lookup(target, kind) {
            glue.extend(records.into_iter().filter(|record| record.record_type() == kind));
        }
    }
    glue
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut out: R) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.recursion_available = true;
        let mut reply = match request.request_info() {
            _ if request.metadata.op_code != OpCode::Query => Reply { code: ResponseCode::NotImp, ..Reply::default() },
            Ok(info) if request.metadata.message_type == MessageType::Query => {
                self.reply(info.query.original().name(), info.query.query_type()).await
            }
            _ => Reply { code: ResponseCode::FormErr, ..Reply::default() },
        };
        metadata.response_code = reply.code;
        metadata.authoritative = reply.authoritative;

        let edns = request.edns.as_ref().map(|theirs| {
            let mut edns = Edns::new();
            edns.set_max_payload(theirs.max_payload().clamp(UDP_PAYLOAD_WITHOUT_EDNS, UDP_PAYLOAD));
            edns
        });
        if request.protocol() == Protocol::Udp
            && let Ok(info) = request.request_info()
        {
            let room = edns.as_ref().map_or(UDP_PAYLOAD_WITHOUT_EDNS, |edns| edns.max_payload() - EDNS_SIZE);
            metadata.truncation = reply.fit(info.query.original(), room.into());
        }
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let response = builder.build(metadata, &reply.answers, &reply.authorities, [], &reply.additionals);
        match out.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                eprintln!("reply not sent: {error}");
                ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
            }
        }
    }
}

#[cfg(test)]
mod tests;
