//! A static program without a libc of its own distribution: asks thing1 and thing2 over HTTP and the database whose
//! name is its argument for TLS (PostgreSQL's SSLRequest, protocol 3.0, section 55.7), and prints what they said.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

fn connect(host: &str, port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}

fn status(host: &str, port: u16) -> std::io::Result<String> {
    let mut stream = connect(host, port)?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split(' ').nth(1).unwrap_or("without a status").to_owned())
}

fn main() -> std::io::Result<()> {
    let rds = std::env::args().nth(1).expect("the name of the database");
    println!("thing1 HTTP {}", status("thing1", 80)?);
    println!("thing2 HTTP {}", status("thing2.staging.svc.cluster.local", 9090)?);
    let mut database = connect(&rds, 5432)?;
    database.write_all(&[0, 0, 0, 8, 4, 210, 22, 47])?;
    let mut answer = [0];
    database.read_exact(&mut answer)?;
    println!("rds answers TLS with {}", char::from(answer[0]));
    Ok(())
}
