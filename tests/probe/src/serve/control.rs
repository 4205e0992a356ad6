//! The server that does what it is told, so that the probe can be called.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::Memory;
use crate::ask::{Request, Told};
use crate::said;

/// How long a called address may be silent: shorter than who asked for it waits.
const CALL: Duration = Duration::from_secs(5);
/// How long somebody may take to close a connection that is asked about.
const RECALL: Duration = Duration::from_secs(10);

pub fn serve(mut stream: TcpStream, memory: &Memory) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new(stream.try_clone()?).read_line(&mut line)?;
    let told = match serde_json::from_str(&line)? {
        Request::Connect { to, say } => tell(connect(to, &say)),
        Request::Datagram { to, say } => tell(datagram(to, &say)),
        Request::OpenLater { port, millis } => {
            let address = SocketAddr::from((stream.local_addr()?.ip(), port));
            thread::spawn(move || open_later(address, Duration::from_millis(millis)));
            Told { heard: "it will".to_owned(), from: None }
        }
        Request::Recall { line } => Told { heard: recall(memory, &line), from: None },
    };
    writeln!(stream, "{}", serde_json::to_string(&told)?)
}

fn tell(outcome: io::Result<Told>) -> Told {
    outcome.unwrap_or_else(|error| Told { heard: said::error(&error), from: None })
}

fn connect(to: SocketAddr, say: &str) -> io::Result<Told> {
    let mut stream = TcpStream::connect_timeout(&to, CALL)?;
    stream.set_read_timeout(Some(CALL))?;
    let from = Some(stream.local_addr()?);
    writeln!(stream, "{say}")?;
    let mut heard = String::new();
    let read = BufReader::new(stream).read_line(&mut heard);
    Ok(Told { heard: said::of(read.map(|_| heard.trim_end().to_owned())), from })
}

fn datagram(to: SocketAddr, say: &str) -> io::Result<Told> {
    let socket = said::datagrams(said::any(to.ip()), 0)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(CALL))?;
    let from = Some(socket.local_addr()?);
    socket.send(say.as_bytes())?;
    let mut data = [0; 2048];
    let heard = socket.recv(&mut data).map(|length| String::from_utf8_lossy(&data[..length]).into_owned());
    Ok(Told { heard: said::of(heard), from })
}

fn open_later(address: SocketAddr, after: Duration) {
    thread::sleep(after);
    let accepted = said::listener(address)
        .and_then(|listener| listener.accept().and_then(|(mut stream, _)| writeln!(stream, "open")));
    if let Err(error) = accepted {
        eprintln!("{address}: {error}");
    }
}

fn recall(memory: &Memory, line: &str) -> String {
    let began = Instant::now();
    loop {
        match memory.recall(line) {
            Some(text) => return text,
            None if began.elapsed() > RECALL => return "nothing is remembered".to_owned(),
            None => thread::sleep(Duration::from_millis(20)),
        }
    }
}
