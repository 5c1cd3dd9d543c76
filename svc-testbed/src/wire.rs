//! Makes veth interfaces behave as the wire between two network cards does, for labs in which XDP looks at the packets:
//! veth hands over packets as sockets left them, and takes from an XDP program only if there is one at the other end, too.
//! Must not know which interfaces a lab has.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use anyhow::{Context, Result};
use rustix::net::{AddressFamily, SocketType, netdevice::name_to_index, socket};

use crate::packets::testrun;

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_STXCSUM: u32 = 0x17;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Packets leave this interface of the caller's network namespace with complete checksums, and in segments.
pub fn complete_checksums(interface: &str) -> Result<()> {
    let mut value = Value { command: ETHTOOL_STXCSUM, data: 0 };
    // SAFETY: integers, bytes and pointers; all zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.iter_mut().zip(interface.bytes());
    room.for_each(|(to, from)| *to = from as libc::c_char);
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    // SAFETY: request and value outlive the call and are what this command takes.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).with_context(|| format!("cannot let {interface} complete checksums")),
    }
}

/// This interface of the caller's network namespace takes what an XDP program at its other end sends, as long as the value
/// lives.
pub fn take_frames(interface: &str) -> Result<OwnedFd> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    let index = name_to_index(&socket, interface).with_context(|| format!("no interface {interface}"))?;
    testrun::pass_all(index).with_context(|| format!("cannot put an XDP program on {interface}"))
}
