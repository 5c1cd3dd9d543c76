//! What the socket hooks remember of a socket, so that it keeps seeing the address it asked for.

use crate::{AddrV6, BackendRef, Port, Protocol, abi};

/// Key of SOCKETS (LRU).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct SocketKey {
    /// Socket cookie (bpf_get_socket_cookie).
    pub cookie: u64,
    /// TO_BACKEND: the frontend. TO_FRONTEND: the backend.
    pub address: AddrV6,
    pub port: Port,
    pub protocol: Protocol,
    /// One of [`socket_direction`].
    pub direction: u8,
    pub zero: u32,
}
abi!(SocketKey, 32);

/// Which way an entry of SOCKETS is read.
pub mod socket_direction {
    /// frontend → backend: datagrams of one unconnected socket stay with one backend.
    pub const TO_BACKEND: u8 = 0;
    /// backend → frontend: for recvmsg and getpeername.
    pub const TO_FRONTEND: u8 = 1;
    /// The program bound the socket to a port of its own choice; address and port of the key are zero.
    pub const BOUND: u8 = 2;
}

/// Value of SOCKETS.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SocketValue {
    pub backend: BackendRef,
    pub address: AddrV6,
    pub port: Port,
    pub zero: u16,
    /// Index in SERVICES.
    pub service: u32,
}
abi!(SocketValue, 32);
