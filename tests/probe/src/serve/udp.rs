//! UDP servers: a thread a port.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;

use crate::ports;

/// The largest datagram there is.
const LARGEST: usize = 65_535;

type Role = fn(&UdpSocket, &[u8], SocketAddr) -> io::Result<()>;

const ROLES: [(u16, Role); 4] = [
    (ports::UDP_ECHO, |socket, data, from| socket.send_to(data, from).map(drop)),
    (ports::UDP_THREE, |socket, _, from| {
        ["one", "two", "three"].iter().try_for_each(|word| socket.send_to(word.as_bytes(), from).map(drop))
    }),
    (ports::UDP_ELSEWHERE, |socket, data, from| {
        UdpSocket::bind((socket.local_addr()?.ip(), 0))?.send_to(data, from).map(drop)
    }),
    (ports::UDP_WHO, |socket, _, from| socket.send_to(from.to_string().as_bytes(), from).map(drop)),
];

pub fn run(address: IpAddr) -> io::Result<()> {
    for (port, role) in ROLES {
        let socket = UdpSocket::bind((address, port))?;
        thread::spawn(move || {
            let mut data = vec![0; LARGEST];
            loop {
                let answered =
                    socket.recv_from(&mut data).and_then(|(length, from)| role(&socket, &data[..length], from));
                if let Err(error) = answered {
                    eprintln!("port {port}/udp: {error}");
                }
            }
        });
    }
    Ok(())
}
