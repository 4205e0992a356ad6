//! TCP from the app: much, often, and long.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::context::Context;
use crate::{bulk, ports, said};

/// Connections that come and go.
const SHORT: usize = 1000;
/// So many of them at once.
const WORKERS: usize = 16;
/// Where the bytes of a stream begin.
const SEED: u64 = 0x5EED;

pub fn run(context: &Context) {
    short(context);
    let (bytes, to) = (context.targets.bulk_bytes, SocketAddr::from((context.peer(), ports::BULK)));
    context.row("tcp/bulk/down", || {
        let mut stream = said::connect(to)?;
        writeln!(stream, "get {bytes} {SEED}")?;
        let sum = bulk::receive(&mut stream, bytes)?;
        let (more, end) = said::rest(&mut stream);
        Ok(format!("{}, {more} bytes more, then {end}", verdict(bytes, sum)))
    });
    context.row("tcp/bulk/up", || {
        let mut stream = said::connect(to)?;
        writeln!(stream, "put {bytes}")?;
        bulk::send(&mut stream, bytes, SEED)?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(verdict(bytes, line.trim_end().parse().map_err(io::Error::other)?))
    });
}

fn verdict(bytes: u64, sum: u64) -> String {
    let right = if sum == bulk::sum_of(bytes, SEED) { "right" } else { "WRONG" };
    format!("{bytes} bytes, checksum {right}")
}

fn short(context: &Context) {
    context.row("tcp/short-connections", || {
        let (to, next) = (SocketAddr::from((context.targets.peer_service, ports::ECHO)), AtomicUsize::new(0));
        let work = || -> io::Result<usize> {
            let mut answered = 0;
            while next.fetch_add(1, Ordering::Relaxed) < SHORT {
                let mut stream = said::connect(to)?;
                stream.write_all(b"hello")?;
                stream.read_exact(&mut [0; 5])?;
                answered += 1;
            }
            Ok(answered)
        };
        let counts: io::Result<Vec<usize>> = thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
            let joined =
                workers.into_iter().map(|worker| worker.join().map_err(|_| io::Error::other("a worker panicked"))?);
            joined.collect()
        });
        Ok(format!("{} of {SHORT} answered", counts?.iter().sum::<usize>()))
    });
}

/// A connection on which nobody says anything for a long time, and which then still works.
pub fn idle(context: &Context) {
    context.row("tcp/idle", || {
        let seconds = context.targets.idle_seconds;
        let mut stream = said::connect((context.peer(), ports::ECHO).into())?;
        thread::sleep(Duration::from_secs(seconds));
        stream.write_all(b"hello")?;
        let mut back = [0; 5];
        stream.read_exact(&mut back)?;
        Ok(format!("{:?} came back after {seconds} s", String::from_utf8_lossy(&back)))
    });
}
