//! Records of the EVENTS ring buffer: one for each new flow, refusal or drop, only while somebody listens.

use crate::{AddrV6, Family, Port, Protocol, abi};

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Event {
    /// Nanoseconds of CLOCK_MONOTONIC.
    pub time: u64,
    /// Zero for a socket hook: the kernel has not chosen the local address yet. `process` and `command` tell who it is.
    pub client: AddrV6,
    pub frontend: AddrV6,
    /// All zero when no backend was chosen.
    pub backend: AddrV6,
    pub client_port: Port,
    pub frontend_port: Port,
    pub backend_port: Port,
    pub protocol: Protocol,
    pub family: Family,
    /// Index in SERVICES; u32::MAX if none.
    pub service: u32,
    /// One of [`event_kind`].
    pub kind: u8,
    /// One of [`event_path`].
    pub path: u8,
    /// `DropReason` as u8 when kind is REFUSED or DROPPED.
    pub reason: u8,
    pub zero: u8,
    /// Process id in the initial PID namespace; zero for packets.
    pub process: u32,
    pub reserved: u32,
    /// Command name of the process (TASK_COMM_LEN, NUL padded).
    pub command: [u8; 16],
}
abi!(Event, 96);

pub mod event_kind {
    pub const TRANSLATED: u8 = 1;
    pub const REFUSED: u8 = 2;
    pub const DROPPED: u8 = 3;
}

pub mod event_path {
    pub const SOCKET: u8 = 1;
    pub const TC: u8 = 2;
    pub const XDP: u8 = 3;
}
