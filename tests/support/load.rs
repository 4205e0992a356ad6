//! Both ends of the benchmark, as one static program without dependencies.
//!
//! `load serve PORT` answers, on each connection, requests of one letter and a big-endian `u64`:
//! `D n` sends n bytes, `U n` takes n bytes and then answers one, `E` answers one byte (its number is ignored).
//!
//! `load measure HOST:PORT` prints one JSON object: `down` and `up` in MB/s (10^6 bytes) of one stream, `new` and `keep`
//! as [median, 99th percentile] in milliseconds of a small exchange over a new and over a kept connection, and `rate`,
//! new connections a second from 16 threads.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

const CHUNK: usize = 256 * 1024;
/// Bytes of one bulk transfer: some seconds on the slowest arm.
const BULK: u64 = 256 << 20;
const NEW: usize = 300;
const KEPT: usize = 2000;
const THREADS: usize = 16;
const RATE_FOR: Duration = Duration::from_secs(3);

fn serve(port: u16) -> io::Result<()> {
    for stream in TcpListener::bind(("::", port))?.incoming() {
        let stream = stream?;
        std::thread::spawn(move || {
            if let Err(error) = answer(stream) {
                eprintln!("{error}");
            }
        });
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut chunk = vec![0x5a; CHUNK];
    let mut request = [0; 9];
    while stream.read_exact(&mut request).is_ok() {
        let mut left = u64::from_be_bytes(request[1..].try_into().expect("eight bytes"));
        match request[0] {
            b'D' => {
                while left > 0 {
                    let part = left.min(CHUNK as u64) as usize;
                    stream.write_all(&chunk[..part])?;
                    left -= part as u64;
                }
            }
            b'U' => {
                while left > 0 {
                    let part = left.min(CHUNK as u64) as usize;
                    left -= stream.read(&mut chunk[..part])? as u64;
                }
                stream.write_all(b"!")?;
            }
            _ => stream.write_all(b"!")?,
        }
    }
    Ok(())
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(stream)
}

fn ask(stream: &mut TcpStream, what: u8, number: u64) -> io::Result<()> {
    let mut request = [what; 9];
    request[1..].copy_from_slice(&number.to_be_bytes());
    stream.write_all(&request)
}

fn exchange(stream: &mut TcpStream) -> io::Result<()> {
    ask(stream, b'E', 0)?;
    stream.read_exact(&mut [0])
}

fn rate_of(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / 1e6 / took.as_secs_f64()
}

fn down(address: &str) -> io::Result<f64> {
    let mut stream = connect(address)?;
    exchange(&mut stream)?;
    let mut chunk = vec![0; CHUNK];
    let began = Instant::now();
    ask(&mut stream, b'D', BULK)?;
    let mut left = BULK;
    while left > 0 {
        match stream.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => left -= read as u64,
        }
    }
    Ok(rate_of(BULK, began.elapsed()))
}

fn up(address: &str) -> io::Result<f64> {
    let mut stream = connect(address)?;
    exchange(&mut stream)?;
    let chunk = vec![0x5a; CHUNK];
    let began = Instant::now();
    ask(&mut stream, b'U', BULK)?;
    for _ in 0..BULK / CHUNK as u64 {
        stream.write_all(&chunk)?;
    }
    stream.read_exact(&mut [0])?;
    Ok(rate_of(BULK, began.elapsed()))
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1e3;
    format!("[{:.3}, {:.3}]", at(50), at(99))
}

fn timed(count: usize, mut one: impl FnMut() -> io::Result<()>) -> io::Result<String> {
    let times = (0..count).map(|_| {
        let began = Instant::now();
        one().map(|()| began.elapsed())
    });
    Ok(percentiles(times.collect::<io::Result<_>>()?))
}

fn rate(address: &str) -> io::Result<f64> {
    let began = Instant::now();
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let address = address.to_owned();
            std::thread::spawn(move || -> io::Result<usize> {
                let mut done = 0;
                while began.elapsed() < RATE_FOR {
                    exchange(&mut connect(&address)?)?;
                    done += 1;
                }
                Ok(done)
            })
        })
        .collect();
    let mut done = 0;
    for thread in threads {
        done += thread.join().map_err(|_| io::Error::other("a thread panicked"))??;
    }
    Ok(done as f64 / began.elapsed().as_secs_f64())
}

fn measure(address: &str) -> io::Result<()> {
    let down = down(address)?;
    let up = up(address)?;
    let new = timed(NEW, || exchange(&mut connect(address)?))?;
    let mut kept = connect(address)?;
    let keep = timed(KEPT, || exchange(&mut kept))?;
    let rate = rate(address)?;
    println!(r#"{{"down": {down:.1}, "up": {up:.1}, "new": {new}, "keep": {keep}, "rate": {rate:.0}}}"#);
    Ok(())
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", port] => serve(port.parse().map_err(io::Error::other)?),
        ["measure", address] => measure(address),
        _ => Err(io::Error::other("usage: load serve PORT | load measure HOST:PORT")),
    }
}
