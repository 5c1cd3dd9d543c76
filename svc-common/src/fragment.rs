//! Which ports a fragmented datagram has: only its first fragment says so. Those that come before it are held.

use crate::{AddrV6, Port, Protocol, abi};

/// Key of FRAGMENTS (LRU): the fragments of one datagram as they arrive at a hook (RFC 791 §3.2, RFC 8200 §4.5).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FragmentKey {
    pub source: AddrV6,
    pub destination: AddrV6,
    /// Identification, in network byte order; sixteen bits in IPv4.
    pub id: u32,
    pub protocol: Protocol,
    /// One of [`crate::flow_stage`].
    pub stage: u8,
    pub zero: u16,
}
abi!(FragmentKey, 40);

/// Value of FRAGMENTS.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FragmentPorts {
    pub source_port: Port,
    pub destination_port: Port,
}
abi!(FragmentPorts, 4);

/// Key of HELD_FRAGMENTS (LRU): one of the fragments of a datagram that came before its first one.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct HeldKey {
    pub datagram: FragmentKey,
    /// Those of one datagram are numbered from zero.
    pub number: u32,
}
abi!(HeldKey, 44);

/// Value of HELD_FRAGMENTS.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeldFragment {
    /// Seconds of CLOCK_MONOTONIC.
    pub since: u32,
    /// Bytes of the packet; what follows them says nothing.
    pub length: u32,
    /// From the network header on.
    pub packet: [u8; Self::CAPACITY],
}
abi!(HeldFragment, 2080);

impl HeldFragment {
    /// A kernel program can only prove the length of what it copies by a mask, so this is two to the eleventh and more
    /// than an IPv4 header.
    pub const CAPACITY: usize = 2072;
}
