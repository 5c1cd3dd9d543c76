//! Which ports a fragmented datagram has: only its first fragment says so.

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
