//! TCP servers: a function a behaviour.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};

use super::{Memory, control};
use crate::{bulk, ports, said};

type Role = fn(TcpStream, &Memory) -> io::Result<()>;

/// Which port behaves how.
pub const ROLES: [(u16, Role); 10] = [
    (ports::CONTROL, control::serve),
    (ports::ECHO, echo),
    (ports::CLOSES, |_, _| Ok(())),
    (ports::RESETS, resets),
    (ports::ANSWERS_AT_THE_END, answers_at_the_end),
    (ports::ENDS_FIRST, ends_first),
    (ports::GREETS, greets),
    (ports::WHO, who),
    (ports::BULK, source_and_sink),
    (ports::REMEMBERS, remembers),
];

fn echo(mut stream: TcpStream, _: &Memory) -> io::Result<()> {
    stream.set_nodelay(true)?;
    io::copy(&mut stream.try_clone()?, &mut stream).map(drop)
}

fn resets(mut stream: TcpStream, _: &Memory) -> io::Result<()> {
    stream.write_all(&[b'x'; ports::BEFORE_RESET])?;
    stream.read_exact(&mut [0])?;
    said::reset(stream)
}

fn answers_at_the_end(mut stream: TcpStream, _: &Memory) -> io::Result<()> {
    let (count, end) = said::rest(&mut stream);
    writeln!(stream, "{count} bytes, then {end}")?;
    stream.write_all(&vec![b'y'; ports::LONG_ANSWER])
}

fn ends_first(mut stream: TcpStream, memory: &Memory) -> io::Result<()> {
    stream.write_all(ports::GREETING.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    remember(&mut stream, memory)
}

fn remembers(mut stream: TcpStream, memory: &Memory) -> io::Result<()> {
    remember(&mut stream, memory)
}

fn remember(stream: &mut TcpStream, memory: &Memory) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let (count, end) = said::rest(&mut reader);
    memory.keep(line.trim_end().to_owned(), format!("{count} bytes, then {end}"));
    Ok(())
}

fn greets(mut stream: TcpStream, memory: &Memory) -> io::Result<()> {
    stream.write_all(ports::GREETING.as_bytes())?;
    echo(stream, memory)
}

fn who(mut stream: TcpStream, _: &Memory) -> io::Result<()> {
    let from = stream.peer_addr()?;
    writeln!(stream, "{from}")
}

/// A line `get BYTES SEED` or `put BYTES`; to the latter the answer is the checksum.
fn source_and_sink(stream: TcpStream, _: &Memory) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(bulk::BLOCK, stream.try_clone()?);
    let (mut line, mut writer) = (String::new(), stream);
    reader.read_line(&mut line)?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |word: &str| word.parse::<u64>().map_err(io::Error::other);
    match words.as_slice() {
        ["get", bytes, seed] => bulk::send(&mut writer, number(bytes)?, number(seed)?),
        ["put", bytes] => writeln!(writer, "{}", bulk::receive(&mut reader, number(bytes)?)?),
        _ => Err(io::Error::other(format!("not a request: {line:?}"))),
    }
}
