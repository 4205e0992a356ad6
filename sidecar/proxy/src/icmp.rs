//! ICMP errors of UDP and ping sockets, from the socket's error queue (`IP_RECVERR` in ip(7)).
//!
//! A socket that is not connected learns of an unreachable port in no other way, and only the queue tells which peer
//! it was.

use std::io;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};

use nix::libc::{EMSGSIZE, SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6, sock_extended_err, sockaddr_in6};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use tpdocker_protocol::errno::Errno;

/// Asks for the queue, in both families if the socket has both.
pub(crate) fn enable(socket: &impl AsFd, v6: bool) -> io::Result<()> {
    setsockopt(socket, sockopt::Ipv4RecvErr, &true)?;
    if v6 {
        setsockopt(socket, sockopt::Ipv6RecvErr, &true)?;
    }
    Ok(())
}

/// Takes one error off the queue: where the datagram was going, and why it did not get there. Its beginning is put into
/// `datagram`. `Ok(None)` is an entry that is not the network's answer. `WouldBlock` when the queue is empty.
pub(crate) fn take(socket: &impl AsRawFd, datagram: &mut [u8]) -> io::Result<Option<(SocketAddr, Errno)>> {
    let mut parts = [io::IoSliceMut::new(datagram)];
    let mut control = nix::cmsg_space!(sock_extended_err, sockaddr_in6);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let remote = message.address.as_ref().and_then(|address| {
        let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4(SocketAddrV4::from(*v4)));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::V6(SocketAddrV6::from(*v6))))
    });
    let error = message.cmsgs()?.find_map(|entry| match entry {
        ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _) => Some(error),
        _ => None,
    });
    let (Some(remote), Some(error)) = (remote, error) else { return Ok(None) };
    // A datagram that was too large for the path is not lost to the app: the kernel sends the next one in fragments.
    let from_network = [SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6].contains(&error.ee_origin);
    if !from_network || error.ee_errno == EMSGSIZE.unsigned_abs() {
        return Ok(None);
    }
    Ok(u16::try_from(error.ee_errno).ok().map(|errno| (remote, Errno(errno))))
}
