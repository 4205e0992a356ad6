//! The kernel's packet queue (`nfnetlink_queue`, `linux/netfilter/nfnetlink_queue.h`).
//!
//! A packet that a rule queues waits in the kernel until it gets a verdict; we are shown a copy. The socket is read
//! without blocking by whoever wants the next packet, so the kernel's queue is the only buffer there is, and a verdict
//! is one `sendto` that any thread may make.

use std::{collections::VecDeque, io, sync::Arc};

use bytes::Bytes;
use nix::{errno::Errno as OsErrno, sys::socket::SockProtocol};
use tokio::io::unix::AsyncFd;

use super::{
    counters::Counters,
    netlink::{self, ACK, REQUEST, Socket},
    reactor,
};

/// `NFNL_SUBSYS_QUEUE`
const SUBSYSTEM: u16 = 3;
const PACKET: u16 = 0;
const VERDICT: u16 = 1;
const CONFIG: u16 = 2;
const VERDICT_BATCH: u16 = 3;

const CONFIG_COMMAND: u16 = 1;
const CONFIG_PARAMS: u16 = 2;
const CONFIG_MAX_LENGTH: u16 = 3;
const COMMAND_BIND: u8 = 1;
/// `NFQNL_CFG_CMD_PF_BIND`, which has long had no effect.
const COMMAND_NOTHING: u8 = 3;
const COPY_PACKET: u8 = 2;

const ATTR_PACKET_HEADER: u16 = 1;
const ATTR_VERDICT_HEADER: u16 = 2;
const ATTR_MARK: u16 = 3;
const ATTR_OUT_INTERFACE: u16 = 6;
const ATTR_PAYLOAD: u16 = 10;

/// `LOOPBACK_IFINDEX`: of `lo`, in every namespace.
pub(crate) const LOOPBACK: u32 = 1;

const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;

/// Packets that wait in the kernel; past it new ones are dropped. The kernel's own default is 1024, which a load
/// generator's burst of connections fills while one dial is slow.
const QUEUE_LENGTH: u32 = 16_384;
/// A copy of a packet (at most 64 KiB) and the attributes around it.
const BUFFER: usize = 80 << 10;

/// How a queue is set up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueSpec {
    pub(crate) number: u16,
    /// How many bytes of each packet are copied.
    pub(crate) copy_range: u32,
    /// For copies that nobody has read yet.
    pub(crate) receive_buffer: usize,
}

/// A copy of a packet that waits for its verdict.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) id: u32,
    /// Index of the interface it would leave through.
    pub(crate) out_interface: u32,
    /// From the IP header on, possibly cut.
    pub(crate) bytes: Bytes,
}

impl Packet {
    /// It goes to an address of the namespace.
    pub(crate) fn stays_inside(&self) -> bool {
        self.out_interface == LOOPBACK
    }
}

/// The reading end.
#[derive(Debug)]
pub(crate) struct Queue {
    socket: AsyncFd<Arc<Socket>>,
    verdicts: Verdicts,
    buffer: Vec<u8>,
    ready: VecDeque<Packet>,
    counters: Arc<Counters>,
}

/// The deciding end.
#[derive(Debug, Clone)]
pub(crate) struct Verdicts {
    socket: Arc<Socket>,
    number: u16,
}

impl Queue {
    /// Takes the queue of the calling thread's network namespace; EBUSY if another process has it.
    pub(crate) fn bind(spec: QueueSpec, counters: Arc<Counters>) -> io::Result<Self> {
        let socket = Arc::new(Socket::open(SockProtocol::NetlinkNetFilter)?);
        socket.set_receive_buffer(spec.receive_buffer)?;
        socket.send(&config(spec))?;
        let verdicts = Verdicts { socket: Arc::clone(&socket), number: spec.number };
        let socket = reactor::readable(socket)?;
        let mut queue = Self { socket, verdicts, buffer: vec![0; BUFFER], ready: VecDeque::new(), counters };
        // Rules of an earlier process may queue packets already; they can come before the acknowledgement.
        loop {
            let datagram = queue.socket.get_ref().recv(&mut queue.buffer)?;
            let answer = netlink::messages(datagram).find(|message| message.kind == netlink::ERROR);
            queue.ready.extend(packets(datagram));
            match answer.map(|answer| answer.error()) {
                // The kernel's word for a queue that belongs to another socket, too.
                Some(Some(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(if takes_orders(queue.socket.get_ref())? { OsErrno::EBUSY.into() } else { error });
                }
                Some(Some(error)) => return Err(error),
                Some(None) => return Ok(queue),
                None => {}
            }
        }
    }

    pub(crate) fn verdicts(&self) -> Verdicts {
        self.verdicts.clone()
    }

    /// At least one packet, and up to about `limit` that are there already, in the kernel's order. Cancel-safe.
    pub(crate) async fn recv(&mut self, limit: usize) -> io::Result<Vec<Packet>> {
        while self.ready.is_empty() {
            let mut guard = self.socket.readable().await?;
            while self.ready.len() < limit {
                match guard.try_io(|socket| Ok(packets(socket.get_ref().recv(&mut self.buffer)?))) {
                    Ok(Ok(packets)) => self.ready.extend(packets),
                    // The kernel dropped packets since the socket's buffer was full: the app repeats its SYN, and
                    // datagrams get lost on every network.
                    Ok(Err(error)) if error.raw_os_error() == Some(OsErrno::ENOBUFS as i32) => {
                        if Counters::add(&self.counters.overflows) == 0 {
                            tracing::warn!("packets come faster than they are read; some were dropped");
                        }
                    }
                    Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                    Ok(Err(error)) => return Err(error),
                    Err(_would_block) => break,
                }
            }
        }
        Ok(self.ready.drain(..).collect())
    }
}

impl Verdicts {
    /// Lets a packet go on at the next base chain, with this mark.
    pub(crate) fn accept(&self, id: u32, mark: u32) -> io::Result<()> {
        self.send(VERDICT, NF_ACCEPT, id, Some(mark))
    }

    /// Lets a packet go on as it is.
    pub(crate) fn pass(&self, id: u32) -> io::Result<()> {
        self.send(VERDICT, NF_ACCEPT, id, None)
    }

    pub(crate) fn drop(&self, id: u32) -> io::Result<()> {
        self.send(VERDICT, NF_DROP, id, None)
    }

    /// Drops a packet and all that came before it, but those that have their verdict.
    pub(crate) fn drop_up_to(&self, id: u32) -> io::Result<()> {
        self.send(VERDICT_BATCH, NF_DROP, id, None)
    }

    fn send(&self, kind: u16, verdict: u32, id: u32, mark: Option<u32>) -> io::Result<()> {
        let mut out = Vec::with_capacity(64);
        netlink::put_message(&mut out, SUBSYSTEM << 8 | kind, REQUEST, 0, |out| {
            netlink::put_nfgenmsg(out, 0, self.number);
            netlink::put(out, ATTR_VERDICT_HEADER, [verdict.to_be_bytes(), id.to_be_bytes()].as_flattened());
            if let Some(mark) = mark {
                netlink::put(out, ATTR_MARK, &mark.to_be_bytes());
            }
        });
        self.socket.send(&out)
    }
}

/// Whether the kernel takes orders from this process, of whichever queue: it judges the right before the order.
fn takes_orders(socket: &Socket) -> io::Result<bool> {
    let mut order = Vec::new();
    netlink::put_message(&mut order, SUBSYSTEM << 8 | CONFIG, REQUEST | ACK, 0, |out| {
        netlink::put_nfgenmsg(out, 0, 0);
        netlink::put(out, CONFIG_COMMAND, &[COMMAND_NOTHING, 0, 0, 0]);
    });
    socket.send(&order)?;
    let mut buffer = [0; 1024];
    let answer = netlink::messages(socket.recv(&mut buffer)?).find_map(|message| message.error());
    Ok(answer.is_none_or(|error| error.kind() != io::ErrorKind::PermissionDenied))
}

/// One message that binds and sets everything, so that no packet comes in between under other settings.
fn config(spec: QueueSpec) -> Vec<u8> {
    let mut out = Vec::new();
    netlink::put_message(&mut out, SUBSYSTEM << 8 | CONFIG, REQUEST | ACK, 0, |out| {
        netlink::put_nfgenmsg(out, 0, spec.number);
        netlink::put(out, CONFIG_COMMAND, &[COMMAND_BIND, 0, 0, 0]);
        let [a, b, c, d] = spec.copy_range.to_be_bytes();
        netlink::put(out, CONFIG_PARAMS, &[a, b, c, d, COPY_PACKET]);
        netlink::put(out, CONFIG_MAX_LENGTH, &QUEUE_LENGTH.to_be_bytes());
    });
    out
}

/// The packets in a datagram of the kernel.
pub(crate) fn packets(datagram: &[u8]) -> Vec<Packet> {
    netlink::messages(datagram)
        .filter(|message| message.kind == SUBSYSTEM << 8 | PACKET)
        .filter_map(|message| packet(message.body))
        .collect()
}

fn packet(body: &[u8]) -> Option<Packet> {
    let (mut id, mut out_interface, mut bytes) = (None, 0, Bytes::new());
    // After `struct nfgenmsg`.
    for (kind, value) in netlink::attributes(body.get(4..)?) {
        let number = || value.first_chunk().copied().map(u32::from_be_bytes);
        match kind {
            ATTR_PACKET_HEADER => id = number(),
            ATTR_OUT_INTERFACE => out_interface = number()?,
            ATTR_PAYLOAD => bytes = Bytes::copy_from_slice(value),
            _ => {}
        }
    }
    Some(Packet { id: id?, out_interface, bytes })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_packet_is_read_with_its_number_and_copy() {
        let mut out = Vec::new();
        netlink::put_message(&mut out, SUBSYSTEM << 8 | PACKET, 0, 0, |out| {
            netlink::put_nfgenmsg(out, 2, 0);
            netlink::put(out, ATTR_PACKET_HEADER, &[0, 0, 1, 2, 8, 0, 3]);
            netlink::put(out, ATTR_OUT_INTERFACE, &[0, 0, 0, 7]);
            netlink::put(out, ATTR_PAYLOAD, b"Epacket");
        });
        let packets = packets(&out);
        assert_eq!((packets.len(), packets[0].id, packets[0].out_interface), (1, 0x102, 7));
        assert_eq!(packets[0].bytes, "Epacket");
    }

    proptest! {
        #[test]
        fn garbage_from_the_socket_is_no_packet_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            packets(&bytes);
            packet(&bytes);
        }
    }
}
