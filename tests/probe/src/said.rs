//! How things end, in words: the names of errors, and of what a stream held.

use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use nix::errno::Errno;

/// How long anything may take that is not about time.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The name of an error.
pub fn error(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EAGAIN) => "silence".to_owned(),
        Some(errno) => format!("{errno:?}"),
        None if error.kind() == ErrorKind::TimedOut => "silence".to_owned(),
        None => error.to_string(),
    }
}

/// What a call gave, or the name of its error.
pub fn of(outcome: io::Result<String>) -> String {
    outcome.unwrap_or_else(|it| error(&it))
}

/// Reads to the end, and says how much it was and how it ended.
pub fn rest(stream: &mut impl Read) -> (usize, String) {
    let (mut count, mut buffer) = (0, vec![0; 64 << 10]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (count, "the end".to_owned()),
            Ok(read) => count += read,
            Err(failed) if failed.kind() == ErrorKind::Interrupted => {}
            Err(failed) => return (count, error(&failed)),
        }
    }
}

/// A connection that does not wait for ever.
pub fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Closes a connection with a reset.
pub fn reset(stream: TcpStream) -> io::Result<()> {
    let socket = socket2::Socket::from(stream);
    socket.set_linger(Some(Duration::ZERO))
}

/// A UDP socket on any port, which does not wait for ever.
pub fn datagrams(bind: IpAddr, port: u16) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((bind, port))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// "Any address" of the family of another.
pub fn any(of: IpAddr) -> IpAddr {
    if of.is_ipv4() { IpAddr::from([0, 0, 0, 0]) } else { IpAddr::from([0; 16]) }
}

/// A listener that can be closed and opened again at once.
pub fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    const BACKLOG: i32 = 1024;
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
