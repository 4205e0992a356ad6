//! What a gate passes on: connections of HTTP/1.1, whose requests are read one by one so that they can be told apart, and
//! whose answers are not looked at.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex};

/// Whether a request changes something: its method and its path.
type Changes = fn(&str, &str) -> bool;

/// What the connections of a gate have in common.
pub struct State {
    changes: Changes,
    pub now: Mutex<Now>,
    pub changed: Condvar,
}

/// What it lets through at the moment.
#[derive(Default)]
pub struct Now {
    pub way: Way,
    /// Changes asked for so far.
    pub asked: Vec<String>,
    /// Which of them is to be held, counted from 1.
    pub hold: Option<usize>,
    /// It was carried out, and its answer is here.
    pub held: bool,
    /// How to end each connection.
    pub connections: Vec<Box<dyn Fn() + Send>>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Everything.
    #[default]
    Open,
    /// Nothing comes through, as with a server that hangs or a network that drops packets.
    Silent,
    /// Connections end at once, as with a server that is not there.
    Cut,
}

impl State {
    /// Open; the `hold`-th request that is one of the `changes` is held.
    pub fn new(changes: Changes, hold: Option<usize>) -> Arc<Self> {
        let now = Mutex::new(Now { hold, ..Now::default() });
        Arc::new(Self { changes, now, changed: Condvar::new() })
    }

    /// Counts a request; whether its answer has to wait.
    fn count(&self, method: &str, path: &str) -> bool {
        if !(self.changes)(method, path) {
            return false;
        }
        let mut now = self.now.lock().unwrap();
        now.asked.push(format!("{method} {path}"));
        now.hold == Some(now.asked.len())
    }

    /// The answer is here, and stays here.
    fn hold(&self) {
        let mut now = self.now.lock().unwrap();
        now.held = true;
        drop(self.changed.wait_while(now, |now| now.hold.is_some() && now.way != Way::Cut).unwrap());
    }

    /// Waits while nothing comes through.
    fn pass(&self) -> io::Result<()> {
        let now = self.changed.wait_while(self.now.lock().unwrap(), |now| now.way == Way::Silent).unwrap();
        if now.way == Way::Cut { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

/// A connection's two directions.
pub trait Wire: Read + Write + Send + Sized + 'static {
    fn again(&self) -> Self;
    fn close(&self, how: Shutdown);
}

impl Wire for TcpStream {
    fn again(&self) -> Self {
        self.try_clone().unwrap()
    }
    fn close(&self, how: Shutdown) {
        // The other end may have closed it.
        drop(self.shutdown(how));
    }
}

impl Wire for UnixStream {
    fn again(&self) -> Self {
        self.try_clone().unwrap()
    }
    fn close(&self, how: Shutdown) {
        drop(self.shutdown(how));
    }
}

/// Every connection gets one to the other side, for as long as the process of the tests lives.
pub fn serve<W: Wire>(
    state: &Arc<State>,
    accept: impl Fn() -> io::Result<W> + Send + 'static,
    connect: impl Fn() -> io::Result<W> + Send + 'static,
) {
    let state = Arc::clone(state);
    std::thread::spawn(move || {
        while let Ok(client) = accept() {
            // Who is refused here finds its connection closed.
            if state.pass().is_ok()
                && let Ok(server) = connect()
            {
                let state = Arc::clone(&state);
                std::thread::spawn(move || relay(&state, client, server));
            }
        }
    });
}

/// One connection, until an end closes it. The requests are read one by one; what comes back is not looked at.
fn relay<W: Wire>(state: &Arc<State>, client: W, mut server: W) {
    let ends = (client.again(), server.again());
    let end = move || {
        ends.0.close(Shutdown::Both);
        ends.1.close(Shutdown::Both);
    };
    state.now.lock().unwrap().connections.push(Box::new(end));
    let waits = Arc::new(Mutex::new(false));
    let (mut back, from) = (client.again(), server.again());
    let (shared, waiting) = (Arc::clone(state), Arc::clone(&waits));
    std::thread::spawn(move || {
        let answered = pump(from, &mut back, || {
            if std::mem::take(&mut *waiting.lock().unwrap()) {
                shared.hold();
            }
            shared.pass()
        });
        back.close(if answered.is_ok() { Shutdown::Write } else { Shutdown::Both });
    });
    let mut reader = BufReader::new(client);
    while let Ok(true) = request(state, &waits, &mut reader, &mut server) {}
    server.close(Shutdown::Write);
}

/// Passes one request on; `false` at the end of the connection.
fn request<W: Wire>(state: &State, waits: &Mutex<bool>, reader: &mut BufReader<W>, to: &mut W) -> io::Result<bool> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if reader.read_until(b'\n', &mut head)? == 0 {
            return Ok(false);
        }
    }
    state.pass()?;
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut words = text.split(' ');
    if state.count(words.next().unwrap_or_default(), words.next().unwrap_or_default()) {
        *waits.lock().unwrap() = true;
    }
    to.write_all(&head)?;
    let header = |name: &str| {
        let mut headers = text.lines().filter_map(|line| line.split_once(": "));
        headers.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    };
    if header("upgrade").is_some() {
        pump(reader, to, || state.pass())?;
        return Ok(false);
    }
    if header("transfer-encoding").is_some() {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            to.write_all(line.as_bytes())?;
            let length = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            io::copy(&mut reader.take(length + 2), to)?;
            if length == 0 {
                return Ok(true);
            }
        }
    }
    let length = header("content-length").map_or(Ok(0), str::parse).map_err(io::Error::other)?;
    io::copy(&mut reader.take(length), to)?;
    Ok(true)
}

/// Copies until the end, each piece as soon as it may pass.
fn pump(mut from: impl Read, to: &mut impl Write, pass: impl Fn() -> io::Result<()>) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        pass()?;
        to.write_all(&buffer[..length])?;
    }
}
