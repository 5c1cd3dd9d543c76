//! Sockets with the options the probes ask for, and what the kernel knows about them afterwards.

use std::{
    collections::HashSet,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    sync::{Mutex, PoisonError},
};

use rustix::net::{
    AddressFamily, SocketFlags, SocketType, ipproto,
    sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery},
};
use tokio::net::{TcpSocket, UdpSocket};

pub(super) fn any(like: SocketAddr, port: u16) -> SocketAddr {
    match like {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, port).into(),
    }
}

pub(super) fn tcp(to: SocketAddr, source_port: Option<u16>) -> io::Result<TcpSocket> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    if let Some(port) = source_port {
        socket.set_reuseaddr(true)?;
        socket.bind(any(to, port))?;
    }
    Ok(socket)
}

/// Source ports of earlier UDP sockets: a flow of one of them must not be taken for a new one's.
static USED_PORTS: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
const PORT_TRIES: usize = 1000;

pub(super) fn udp(to: SocketAddr, source_port: Option<u16>) -> io::Result<UdpSocket> {
    if let Some(port) = source_port {
        return bind_udp(to, port, true);
    }
    let mut used = USED_PORTS.lock().unwrap_or_else(PoisonError::into_inner);
    let used = used.get_or_insert_default();
    // Ports that were taken are held while we look, or the kernel might offer one of them again and again.
    let mut taken = Vec::new();
    while taken.len() < PORT_TRIES {
        let socket = bind_udp(to, 0, false)?;
        if used.insert(socket.local_addr()?.port()) {
            return Ok(socket);
        }
        taken.push(socket);
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "every UDP port was used before; start a new client"))
}

fn bind_udp(to: SocketAddr, port: u16, reuse: bool) -> io::Result<UdpSocket> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, reuse)?;
    rustix::net::bind(&socket, &any(to, port))?;
    UdpSocket::from_std(socket.into())
}

/// A socket for ICMP echo, which needs no raw access.
pub(super) fn echo(to: SocketAddr) -> io::Result<UdpSocket> {
    let (family, protocol) =
        if to.is_ipv4() { (AddressFamily::INET, ipproto::ICMP) } else { (AddressFamily::INET6, ipproto::ICMPV6) };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, Some(protocol))?;
    UdpSocket::from_std(socket.into())
}

/// Forbids fragmentation: too large datagrams fail, as with path MTU discovery by the program itself. Or allows it to everybody
/// on the path: with the kernel's default the first datagram that is too large for the path would be lost.
pub(super) fn set_fragmentation(socket: &impl AsFd, to: SocketAddr, forbidden: bool) -> io::Result<()> {
    match (to, forbidden) {
        (SocketAddr::V4(_), true) => sockopt::set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DO)?,
        (SocketAddr::V4(_), false) => sockopt::set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DONT)?,
        (SocketAddr::V6(_), true) => sockopt::set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::DO)?,
        (SocketAddr::V6(_), false) => {}
    }
    Ok(())
}

/// Path MTU of a connected socket.
pub(super) fn path_mtu(socket: &impl AsFd, to: SocketAddr) -> Option<u32> {
    if to.is_ipv4() { sockopt::ip_mtu(socket).ok() } else { sockopt::ipv6_mtu(socket).ok() }
}

/// Segments a TCP connection has sent more than once.
pub(super) fn retransmits(socket: &impl AsRawFd) -> u32 {
    // SAFETY: all zeroes is a valid value of this plain C structure.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `info`, which is that long.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &mut length)
    };
    if result == 0 { info.tcpi_total_retrans } else { 0 }
}
