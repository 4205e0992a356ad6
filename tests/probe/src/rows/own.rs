//! The app's own servers: what they answer is who they are and whom they see.

use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::context::Context;
use crate::{ports, said};

/// How often a server looks whether it is to end.
const TURN: Duration = Duration::from_millis(10);

/// A server that answers every caller with a line `NONCE CALLER`, and is closed when dropped.
pub struct Own {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

// === impl Own ===

impl Own {
    pub fn tcp(context: &Context, address: SocketAddr) -> io::Result<Self> {
        let listener = said::listener(address)?;
        listener.set_nonblocking(true)?;
        let nonce = context.nonce.clone();
        Ok(Self::start(move || {
            let (mut stream, from) = listener.accept()?;
            stream.set_nonblocking(false)?;
            writeln!(stream, "{nonce} {from}")
        }))
    }

    pub fn udp(context: &Context, address: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(address)?;
        socket.set_read_timeout(Some(TURN))?;
        let nonce = context.nonce.clone();
        Ok(Self::start(move || {
            let (_, from) = socket.recv_from(&mut [0; 2048])?;
            socket.send_to(format!("{nonce} {from}").as_bytes(), from).map(drop)
        }))
    }

    fn start(serve_one: impl Fn() -> io::Result<()> + Send + 'static) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ends);
        let thread = thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                match serve_one() {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(TURN),
                    // A caller that has gone away; the row of who called says what came of it.
                    Err(error) => eprintln!("probe: a caller: {error}"),
                }
            }
        });
        Self { ends, thread: Some(thread) }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("probe: a server of the probe panicked");
        }
    }
}

/// The servers on the declared ports; one that cannot be opened has a row that says why.
pub fn declared(context: &Context) -> Vec<Own> {
    let any: IpAddr = said::any(context.peer());
    let tcp =
        ports::OWN_DECLARED.map(|port| (format!("incoming/tcp/{port}/opened"), Own::tcp(context, (any, port).into())));
    let port = ports::OWN_UDP_DECLARED;
    let udp = [(format!("incoming/udp/{port}/opened"), Own::udp(context, (any, port).into()))];
    let mut open = Vec::new();
    for (name, outcome) in tcp.into_iter().chain(udp) {
        context.says(&name, &said::of(outcome.as_ref().map(|_| "yes".to_owned()).map_err(clone_of)));
        open.extend(outcome);
    }
    open
}

fn clone_of(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}
