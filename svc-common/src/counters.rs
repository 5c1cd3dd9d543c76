//! Per-CPU counters. SERVICE_COUNTERS_FIRST is an array for the lowest service indexes, SERVICE_COUNTERS a hash for the
//! rest: memory follows the services that are used on this node, not the ceiling. DROP_COUNTERS is a per-CPU array of u64
//! by `DropReason`.

use core::ops::AddAssign;

use crate::abi;

/// Value of SERVICE_COUNTERS_FIRST and SERVICE_COUNTERS. Packets and bytes are those TC translated; a socket hook sees
/// connections only.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ServiceCounters {
    /// New flows translated by TC.
    pub connections_tc: u64,
    /// connect() calls translated by the socket hooks.
    pub connections_socket: u64,
    /// Packets client → backend, and their bytes (IP header and payload).
    pub packets_to_backend: u64,
    pub bytes_to_backend: u64,
    /// Packets backend → client, and their bytes.
    pub packets_to_client: u64,
    pub bytes_to_client: u64,
    /// New connections that were refused or dropped.
    pub rejected: u64,
}
abi!(ServiceCounters, 56);

/// Of CPUs, or of the frontends of one Service port.
impl AddAssign for ServiceCounters {
    fn add_assign(&mut self, other: Self) {
        self.connections_tc += other.connections_tc;
        self.connections_socket += other.connections_socket;
        self.packets_to_backend += other.packets_to_backend;
        self.bytes_to_backend += other.bytes_to_backend;
        self.packets_to_client += other.packets_to_client;
        self.bytes_to_client += other.bytes_to_client;
        self.rejected += other.rejected;
    }
}
