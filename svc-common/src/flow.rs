//! Flows: what happens to the packets of one connection at one hook, for one direction.
//! A translated connection is a pair of flows: each one's tuple after translation, reversed, is the other's key.
//! Beside each flow lies the way its packets take past the node's stack, if they may.

use crate::{AddrV4, AddrV6, BackendRef, Port, Protocol, abi};

/// Key of FLOWS_V4 / FLOWS_V6: the packet as it arrives at a hook.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FlowKey<A> {
    pub source: A,
    pub destination: A,
    pub source_port: Port,
    pub destination_port: Port,
    pub protocol: Protocol,
    /// One of [`flow_stage`].
    pub stage: u8,
    pub zero: u16,
}
pub type FlowKeyV4 = FlowKey<AddrV4>;
pub type FlowKeyV6 = FlowKey<AddrV6>;
abi!(FlowKeyV4, 16);
abi!(FlowKeyV6, 40);

/// Where a flow applies. Destinations change when a packet enters the node's stack, sources when it leaves.
pub mod flow_stage {
    pub const INGRESS: u8 = 0;
    pub const EGRESS: u8 = 1;
}

/// Value of FLOWS_V4 / FLOWS_V6.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlowEntry<A> {
    pub flow: Flow<A>,
    pub hop: Hop,
}
pub type FlowEntryV4 = FlowEntry<AddrV4>;
pub type FlowEntryV6 = FlowEntry<AddrV6>;
abi!(FlowEntryV4, 56);
abi!(FlowEntryV6, 80);

/// Where packets of a flow go after translation, asked of the routing table once a second (`--forwarding=direct`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hop {
    /// The neighbour, for [`hop_kind::NEIGHBOUR_V4`] (in the first word) and [`hop_kind::NEIGHBOUR_V6`].
    pub neighbour: AddrV6,
    /// Index of the interface the packets leave by.
    pub interface: u32,
    /// Of the path: bytes from the network header on.
    pub mtu: u16,
    /// One of [`hop_kind`].
    pub kind: u8,
    pub zero: u8,
}
abi!(Hop, 24);

/// Values of [`Hop::kind`].
pub mod hop_kind {
    /// Nobody has asked yet.
    pub const UNKNOWN: u8 = 0;
    /// Through the stack: the routing table wants it so, or the neighbour is not known yet.
    pub const STACK: u8 = 1;
    /// Into the pod at the other end of the interface (bpf_redirect_peer).
    pub const PEER: u8 = 2;
    /// To a neighbour on the interface's network (bpf_redirect_neigh).
    pub const NEIGHBOUR_V4: u8 = 3;
    pub const NEIGHBOUR_V6: u8 = 4;
}

/// What happens to a flow's packets.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flow<A> {
    /// The endpoint this flow was translated to; a UDP flow is moved when the reference is no longer valid.
    pub backend: BackendRef,
    /// The tuple after translation. It is all an established TCP flow needs: it outlives its backend.
    pub source: A,
    pub destination: A,
    pub source_port: Port,
    pub destination_port: Port,
    /// Index in SERVICES, for counters. [`Flow::NO_SERVICE`] in flows that only mark a tuple as taken.
    pub service: u32,
    /// Seconds of CLOCK_MONOTONIC, written at most once a second.
    pub last_seen: u32,
    /// Bits of [`flow_state`].
    pub state: u8,
    /// Bits of [`flow_op`].
    pub ops: u8,
    /// Stage of the other flow of the pair.
    pub peer_stage: u8,
    /// The node's clock tick `last_seen` was written in, about a second long, modulo 256. While it lasts no packet asks for the time.
    pub tick: u8,
}
pub type FlowV4 = Flow<AddrV4>;
pub type FlowV6 = Flow<AddrV6>;
abi!(FlowV4, 32);
abi!(FlowV6, 56);

impl<A> Flow<A> {
    pub const NO_SERVICE: u32 = u32::MAX;
}

/// Bits of [`Flow::state`].
pub mod flow_state {
    /// A packet of the other direction was seen.
    pub const REPLIED: u8 = 1 << 0;
    /// FIN seen in the direction client → backend.
    pub const FIN_CLIENT: u8 = 1 << 1;
    /// FIN seen in the direction backend → client.
    pub const FIN_BACKEND: u8 = 1 << 2;
    /// RST seen, or the flow ended otherwise.
    pub const CLOSED: u8 = 1 << 3;
}

/// Bits of [`Flow::ops`].
pub mod flow_op {
    /// This flow is the direction client → backend (else backend → client).
    pub const TO_BACKEND: u8 = 1 << 0;
    /// Pass unchanged: the flow only says that this tuple is in use by a connection that is not to a Service.
    pub const DIRECT: u8 = 1 << 1;
    /// Send the packet back out of the interface it came from (a pod that reaches itself).
    pub const TURN_BACK: u8 = 1 << 2;
    /// The node's own connections. To the backend: the packet was routed to the service address already and needs another
    /// way out. Back from a pod: the service address is no source that the kernel would expect there.
    pub const REROUTE: u8 = 1 << 4;
    /// Addresses change at this hook (else only ports do).
    pub const ADDRESSES: u8 = 1 << 3;
    /// Once the backend reference has ended, the client's packets are answered with a reset (TCP).
    pub const RESET_WHEN_GONE: u8 = 1 << 5;
}
