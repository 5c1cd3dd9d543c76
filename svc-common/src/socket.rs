//! What the socket hooks remember of a TCP socket: that its program chose the port, and the address it asked for.

use crate::{AddrV6, Port, abi};

/// Key of SOCKETS (LRU).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct SocketKey {
    /// Socket cookie (bpf_get_socket_cookie).
    pub cookie: u64,
    /// One of [`socket_fact`].
    pub fact: u32,
    pub zero: u32,
}
abi!(SocketKey, 16);

/// What an entry of SOCKETS says.
pub mod socket_fact {
    /// connect() was translated: the value says from what to what.
    pub const TRANSLATED: u32 = 0;
    /// The program bound the socket to a port of its own choice; the value is zero.
    pub const BOUND: u32 = 1;
}

/// Value of SOCKETS.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SocketValue {
    /// What the socket is connected to. A socket may connect more than once: the entry holds while this is its peer.
    pub backend: AddrV6,
    /// What its program asked for.
    pub frontend: AddrV6,
    pub backend_port: Port,
    pub frontend_port: Port,
}
abi!(SocketValue, 36);
