//! Questions that are not ours go to the resolvers of the machine, unread and unchanged.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_server::proto::op::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// How long one resolver may take: shorter than a client's own 5 s, so that it hears "no" from us first.
const PATIENCE: Duration = Duration::from_secs(2);
const DNS_PORT: u16 = 53;

pub struct Upstreams(Vec<SocketAddr>);

impl Upstreams {
    /// The `nameserver` lines of a resolv.conf.
    pub fn parse(resolv_conf: &str) -> Self {
        let address = |line: &str| line.strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok();
        Self(resolv_conf.lines().filter_map(address).map(|ip| (ip, DNS_PORT).into()).collect())
    }

    /// The first reply, whatever it says, or nothing when nobody replied.
    pub async fn ask(&self, query: &Message) -> Option<Message> {
        let bytes = query.to_vec().ok()?;
        for upstream in &self.0 {
            if let Ok(Ok(reply)) = timeout(PATIENCE, exchange(*upstream, &bytes)).await
                && let Ok(reply) = Message::from_vec(&reply)
                && reply.metadata.id == query.metadata.id
            {
                return Some(reply);
            }
        }
        None
    }
}

async fn exchange(upstream: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = if upstream.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0; 16], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    socket.send(query).await?;
    let mut reply = vec![0; usize::from(u16::MAX)];
    let length = socket.recv(&mut reply).await?;
    reply.truncate(length);
    let truncated = reply.get(2).is_some_and(|flags| flags & 0b10 != 0);
    if truncated { exchange_tcp(upstream, query).await } else { Ok(reply) }
}

async fn exchange_tcp(upstream: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).await?;
    stream.write_u16(u16::try_from(query.len()).map_err(io::Error::other)?).await?;
    stream.write_all(query).await?;
    let mut reply = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut reply).await?;
    Ok(reply)
}
