//! What the app sends: held SYNs, datagrams and echo requests.
//!
//! What goes to an address of the namespace that is the pod's, too, its loopback first of all, is only taken when no
//! socket of the namespace would get it ([`super::served`]): the app's own listeners win, and the other containers of the
//! pod answer for the rest.

use std::{
    collections::{HashSet, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tpdocker_protocol::{
    addr::{AppAddr, ClusterAddr, Transport},
    errno::Errno,
};

use super::{
    counters::Counters,
    packet::{self, Body},
    queue::{Packet, Queue, QueueSpec, Verdicts},
    rules::{
        MARK_ACCEPTED, MARK_HOST_UNREACHABLE, MARK_NET_UNREACHABLE, MARK_PROHIBITED, MARK_REFUSED, QUEUE_TCP, QUEUE_UDP,
    },
    served::Served,
};

/// SYNs held at once; beyond it new ones are dropped and the app's TCP repeats them after a second. Half of the
/// kernel's queue, so that repeated SYNs of held ones never fill it.
pub const MAX_HELD_SYNS: usize = 8192;
/// Both IP headers with their usual options and the first half of TCP's fit; a short copy is the difference between
/// 15,000 and 21,000 connections a second.
const SYN_COPY_RANGE: u32 = 128;
/// The most that the queue's attribute can carry; the four longest possible datagrams do not fit and are dropped.
const UDP_COPY_RANGE: u32 = 0xffff;
/// About 4000 SYNs at 1 KiB of kernel memory each.
const SYN_BUFFER: usize = 4 << 20;
/// Some hundred of the longest datagrams, or some thousand usual ones.
const UDP_BUFFER: usize = 16 << 20;
/// Packets taken from a queue at once, so that neither queue starves the other.
const BATCH: usize = 64;

/// Something that the app wants to send to the cluster.
#[derive(Debug)]
pub enum Captured {
    /// The app is in `connect()`.
    Tcp(HeldSyn),
    /// One datagram, already gone from the kernel.
    Udp {
        /// The app's socket.
        app: AppAddr,
        /// Where to.
        remote: ClusterAddr,
        /// At most 65,503 bytes.
        payload: Bytes,
    },
    /// One ICMP echo request, already gone from the kernel.
    Echo {
        /// Who asks; its port is the echo's identifier.
        app: AppAddr,
        /// Who is asked; port 0.
        remote: ClusterAddr,
        /// Tells the requests of one identifier apart.
        sequence: u16,
        /// At most 65,503 bytes.
        payload: Bytes,
    },
}

/// The stream of [`Captured`]. What is not taken waits in the kernel.
#[derive(Debug)]
pub struct CapturedPackets {
    syns: Queue,
    datagrams: Queue,
    desk: Arc<Desk>,
    /// `None`: the kernel cannot tell, so what stays in the namespace is not taken.
    served: Option<Served>,
    ready: VecDeque<Captured>,
}

/// A SYN that waits in the kernel for [`accept`](Self::accept) or [`refuse`](Self::refuse); the app's `connect()` goes
/// on after that. Dropped without an answer it is refused with EHOSTUNREACH: whoever was to decide is gone.
///
/// One to an address of the namespace is refused by letting it go where it goes anyway: nobody listens there, so the
/// kernel refuses it; and if somebody has begun to meanwhile, that is the better answer.
#[derive(Debug)]
pub struct HeldSyn {
    /// The app's socket.
    pub app: AppAddr,
    /// Where it connects to.
    pub remote: ClusterAddr,
    key: Key,
    /// Its id in the queue, until it has its verdict.
    id: Option<u32>,
    /// It goes to an address of the namespace.
    inside: bool,
    desk: Arc<Desk>,
}

/// Four-tuple and sequence number: a repeated SYN has the same, a new connection from the same port another one.
type Key = (SocketAddr, SocketAddr, u32);

/// What becomes of a held SYN.
#[derive(Debug, Clone, Copy)]
enum Verdict {
    /// It goes on with this mark.
    Mark(u32),
    /// It goes on as it is.
    Pass,
    /// It was never there.
    Drop,
}

/// Where held SYNs are known and decided.
#[derive(Debug)]
struct Desk {
    verdicts: Verdicts,
    held: Mutex<HashSet<Key>>,
    counters: Arc<Counters>,
}

// === impl CapturedPackets ===

impl CapturedPackets {
    pub(super) fn bind(counters: Arc<Counters>, served: Option<Served>) -> io::Result<Self> {
        let syns = QueueSpec { number: QUEUE_TCP, copy_range: SYN_COPY_RANGE, receive_buffer: SYN_BUFFER };
        let datagrams = QueueSpec { number: QUEUE_UDP, copy_range: UDP_COPY_RANGE, receive_buffer: UDP_BUFFER };
        let syns = Queue::bind(syns, Arc::clone(&counters))?;
        let datagrams = Queue::bind(datagrams, Arc::clone(&counters))?;
        let desk = Arc::new(Desk { verdicts: syns.verdicts(), held: Mutex::default(), counters });
        Ok(Self { syns, datagrams, desk, served, ready: VecDeque::new() })
    }

    /// The next one, in the kernel's order per protocol. Cancel-safe. An error means that the kernel's queue is gone.
    pub async fn next(&mut self) -> io::Result<Captured> {
        loop {
            if let Some(captured) = self.ready.pop_front() {
                return Ok(captured);
            }
            tokio::select! {
                packets = self.syns.recv(BATCH) => {
                    for packet in packets? {
                        if is_served(self.served.as_ref(), Transport::Tcp, &packet) {
                            self.desk.verdicts.pass(packet.id)?;
                        } else {
                            self.ready.extend(self.desk.hold(&packet)?.map(Captured::Tcp));
                        }
                    }
                }
                packets = self.datagrams.recv(BATCH) => {
                    let packets = packets?;
                    for packet in &packets {
                        if is_served(self.served.as_ref(), Transport::Udp, packet) {
                            self.datagrams.verdicts().pass(packet.id)?;
                        } else {
                            self.ready.extend(self.desk.datagram(packet));
                        }
                    }
                    if let Some(last) = packets.last() {
                        self.datagrams.verdicts().drop_up_to(last.id)?;
                    }
                }
            }
        }
    }
}

// === impl HeldSyn ===

impl HeldSyn {
    /// Lets it through to [`super::Redirected`], where a connection with the same `app` and `remote` shows up within
    /// microseconds: register what waits for it *before* the call. It never shows up if the app has given up in the
    /// meantime, so what waits must not wait for ever.
    pub fn accept(mut self) {
        self.decide(Verdict::Mark(MARK_ACCEPTED));
    }

    /// Lets `connect()` fail. ECONNREFUSED is said by a RST, the others by ICMP, which knows EHOSTUNREACH, ENETUNREACH
    /// and "administratively prohibited" (EACCES in IPv6, EHOSTUNREACH in IPv4: Linux reads it so). ETIMEDOUT is
    /// silence: the app's own timer ends it, or its next SYN comes as a new [`HeldSyn`]. Anything else is
    /// EHOSTUNREACH. An ICMP error that comes within microseconds of the SYN, while `connect()` still holds its socket,
    /// is heard only after the SYN's repetition, a second later; a RST always is.
    pub fn refuse(mut self, errno: Errno) {
        self.decide(match errno {
            Errno::ETIMEDOUT => Verdict::Drop,
            _ if self.inside => Verdict::Pass,
            Errno::ECONNREFUSED | Errno::ECONNRESET => Verdict::Mark(MARK_REFUSED),
            Errno::ENETUNREACH => Verdict::Mark(MARK_NET_UNREACHABLE),
            Errno::EPERM | Errno::EACCES => Verdict::Mark(MARK_PROHIBITED),
            _ => Verdict::Mark(MARK_HOST_UNREACHABLE),
        });
    }

    /// Sends the verdict, once. The key is forgotten after it: a SYN repeated in between is still known.
    fn decide(&mut self, verdict: Verdict) {
        let Some(id) = self.id.take() else { return };
        let sent = match verdict {
            Verdict::Mark(mark) => self.desk.verdicts.accept(id, mark),
            Verdict::Pass => self.desk.verdicts.pass(id),
            Verdict::Drop => self.desk.verdicts.drop(id),
        };
        if let Err(error) = sent {
            Counters::add(&self.desk.counters.lost_verdicts);
            tracing::warn!(%error, app = %self.app.0, remote = %self.remote.0, "the kernel did not take a verdict");
        }
        self.desk.lock().remove(&self.key);
    }
}

impl Drop for HeldSyn {
    fn drop(&mut self) {
        self.decide(if self.inside { Verdict::Pass } else { Verdict::Mark(MARK_HOST_UNREACHABLE) });
    }
}

// === impl Desk ===

impl Desk {
    fn lock(&self) -> MutexGuard<'_, HashSet<Key>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` if it has been dropped.
    fn hold(self: &Arc<Self>, packet: &Packet) -> io::Result<Option<HeldSyn>> {
        let counter = match packet::parse(&packet.bytes) {
            Ok(packet::Parsed { from, to, body: Body::Tcp { sequence } }) => {
                let mut held = self.lock();
                let key = (from, to, sequence);
                if held.contains(&key) {
                    &self.counters.repeated_syns
                } else if held.len() >= MAX_HELD_SYNS {
                    &self.counters.excess_syns
                } else {
                    held.insert(key);
                    let (app, remote, id) = (AppAddr(from), ClusterAddr(to), Some(packet.id));
                    let inside = packet.stays_inside();
                    return Ok(Some(HeldSyn { app, remote, key, id, inside, desk: Arc::clone(self) }));
                }
            }
            _ => &self.counters.unreadable,
        };
        Counters::add(counter);
        self.verdicts.drop(packet.id)?;
        Ok(None)
    }

    fn datagram(&self, packet: &Packet) -> Option<Captured> {
        let Ok(packet::Parsed { mut from, to, body }) = packet::parse(&packet.bytes) else {
            Counters::add(&self.counters.unreadable);
            return None;
        };
        if is_multicast(to.ip()) {
            Counters::add(&self.counters.multicast);
            return None;
        }
        // A link-local address means something on its own link only.
        if let SocketAddr::V6(from) = &mut from
            && from.ip().is_unicast_link_local()
        {
            from.set_scope_id(packet.out_interface);
        }
        let (app, remote) = (AppAddr(from), ClusterAddr(to));
        match body {
            Body::Udp { payload } => Some(Captured::Udp { app, remote, payload: packet.bytes.slice_ref(payload) }),
            Body::Echo { sequence, payload } => {
                Some(Captured::Echo { app, remote, sequence, payload: packet.bytes.slice_ref(payload) })
            }
            Body::Tcp { .. } => {
                Counters::add(&self.counters.unreadable);
                None
            }
        }
    }
}

/// Whether a socket of the namespace gets the packet. What cannot be found out is left to the kernel.
fn is_served(served: Option<&Served>, transport: Transport, packet: &Packet) -> bool {
    if !packet.stays_inside() {
        return false;
    }
    let (Some(served), Ok(parsed)) = (served, packet::parse(&packet.bytes)) else { return true };
    served.look_up(transport, parsed.from, parsed.to).unwrap_or_else(|error| {
        tracing::warn!(%error, to = %parsed.to, "cannot find out whether the namespace has a socket");
        true
    })
}

fn is_multicast(address: IpAddr) -> bool {
    address.is_multicast() || address == IpAddr::from([255; 4])
}
