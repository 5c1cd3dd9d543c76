//! The contract between the kernel programs and the agent: every map key and value, map names, drop reasons.
//! No logic, no allocation, no std. A change of any layout here needs a new [`ABI_VERSION`] and golden file.
//! Neighbours: `svc-datapath` reads and writes these values, `svc-agent` fills and shows them.
#![no_std]

mod address;
mod config;
mod counters;
mod event;
mod flow;
mod fragment;
mod reason;
mod service;
mod socket;

pub use address::{AddrV4, AddrV6, Family, Port, Protocol};
pub use config::{
    ADDRESS_FILTER_SLOTS, ADDRESS_FILTER_WORDS, Config, RangeKey, Uplink, address_class, feature, interface_flag,
    uplink_flag,
};
pub use counters::ServiceCounters;
pub use event::{Event, event_kind, event_path};
pub use flow::{
    Flow, FlowEntry, FlowEntryV4, FlowEntryV6, FlowKey, FlowKeyV4, FlowKeyV6, FlowV4, FlowV6, Hop, flow_op, flow_stage,
    flow_state, hop_kind,
};
pub use fragment::{FragmentKey, FragmentPorts, HeldFragment, HeldKey};
pub use reason::DropReason;
pub use service::{
    AffinityKey, AffinityValue, BackendEntry, BackendRef, FrontendKey, FrontendKeyV4, FrontendKeyV6, Publication,
    ServiceEntry, ServiceName, Verdict, address_marker, backend_flag, service_flag,
};
pub use socket::{SocketKey, SocketValue, socket_fact};

/// Names the directory of pins below the bpffs root; maps of another version are never adopted.
pub const ABI_VERSION: u32 = 2;

/// Entries of maps unless the agent asks for others.
pub mod capacity {
    /// 44,000 Services in two families, one port each, and half as many again. Arrays take all their memory at once: with
    /// those of slots and backends 56 MiB.
    pub const SERVICES: u32 = 131_072;
    /// Each address has an entry beside those of its ports.
    pub const FRONTENDS: u32 = 2 * SERVICES;
    /// 250,000 endpoints in two families, and as many again that wait for reuse or belong to second ports.
    pub const BACKENDS: u32 = 1_048_576;
    /// One for each backend, room for new lists beside the old ones, weights and a few hundred Maglev tables.
    pub const SLOTS: u32 = 2 * BACKENDS;
    /// Of each family, two for each connection. The agent asks for a size that suits the node's memory.
    pub const FLOWS: u32 = 262_144;
    pub const AFFINITY: u32 = 65_536;
    pub const SOCKETS: u32 = 65_536;
    pub const FRAGMENTS: u32 = 16_384;
    pub const UPLINKS: u32 = 1_024;
    /// Of two KiB each.
    pub const HELD_FRAGMENTS: u32 = 1_024;
}

/// Map names, as in the object file, in the pin directory and in `bpftool map`.
pub mod map {
    pub const CONFIG: &str = "CONFIG";
    pub const ADDRESS_FILTER: &str = "ADDRESS_FILTER";
    pub const CLUSTER_RANGES: &str = "CLUSTER_RANGES";
    pub const FRONTENDS_V4: &str = "FRONTENDS_V4";
    pub const FRONTENDS_V6: &str = "FRONTENDS_V6";
    pub const SERVICES: &str = "SERVICES";
    pub const SERVICE_NAMES: &str = "SERVICE_NAMES";
    pub const SLOTS: &str = "SLOTS";
    pub const BACKENDS: &str = "BACKENDS";
    pub const FLOWS_V4: &str = "FLOWS_V4";
    pub const FLOWS_V6: &str = "FLOWS_V6";
    pub const FRAGMENTS: &str = "FRAGMENTS";
    pub const HELD_FRAGMENTS: &str = "HELD_FRAGMENTS";
    pub const FRAGMENT_SCRATCH: &str = "FRAGMENT_SCRATCH";
    pub const AFFINITY: &str = "AFFINITY";
    pub const SOCKETS: &str = "SOCKETS";
    pub const SERVICE_COUNTERS: &str = "SERVICE_COUNTERS";
    pub const SERVICE_COUNTERS_FIRST: &str = "SERVICE_COUNTERS_FIRST";
    pub const DROP_COUNTERS: &str = "DROP_COUNTERS";
    pub const EVENTS: &str = "EVENTS";
    pub const PROGRAMS: &str = "PROGRAMS";
    pub const INTERFACES: &str = "INTERFACES";
    pub const SCRATCH: &str = "SCRATCH";
    pub const UPLINKS: &str = "UPLINKS";
    pub const EXPRESS_COUNTER: &str = "EXPRESS_COUNTER";
}

/// Program names, as in the object file and (as links) in the pin directory.
pub mod program {
    pub const POD_INGRESS: &str = "pod_ingress";
    pub const POD_EGRESS: &str = "pod_egress";
    pub const UPLINK_INGRESS: &str = "uplink_ingress";
    pub const UPLINK_EGRESS: &str = "uplink_egress";
    pub const POD_INGRESS_SLOW: &str = "pod_ingress_slow";
    pub const POD_EGRESS_SLOW: &str = "pod_egress_slow";
    pub const UPLINK_INGRESS_SLOW: &str = "uplink_ingress_slow";
    pub const UPLINK_EGRESS_SLOW: &str = "uplink_egress_slow";
    pub const POD_INGRESS_FRAGMENT: &str = "pod_ingress_fragment";
    pub const POD_EGRESS_FRAGMENT: &str = "pod_egress_fragment";
    pub const UPLINK_INGRESS_FRAGMENT: &str = "uplink_ingress_fragment";
    pub const UPLINK_EGRESS_FRAGMENT: &str = "uplink_egress_fragment";
    pub const UPLINK_XDP: &str = "uplink_xdp";
    pub const BIND4: &str = "bind4";
    pub const BIND6: &str = "bind6";
    pub const CONNECT4: &str = "connect4";
    pub const CONNECT6: &str = "connect6";
    pub const GETPEERNAME4: &str = "getpeername4";
    pub const GETPEERNAME6: &str = "getpeername6";
}

/// Index in PROGRAMS of what a program continues with by tail call.
pub mod tail_call {
    use crate::program;

    pub const POD_INGRESS_SLOW: u32 = 0;
    pub const POD_EGRESS_SLOW: u32 = 1;
    pub const UPLINK_INGRESS_SLOW: u32 = 2;
    pub const UPLINK_EGRESS_SLOW: u32 = 3;
    /// Back to the fast program, once a flow is entered.
    pub const POD_INGRESS: u32 = 4;
    pub const POD_INGRESS_FRAGMENT: u32 = 5;
    pub const POD_EGRESS_FRAGMENT: u32 = 6;
    pub const UPLINK_INGRESS_FRAGMENT: u32 = 7;
    pub const UPLINK_EGRESS_FRAGMENT: u32 = 8;
    /// Capacity of PROGRAMS.
    pub const MAX: u32 = 16;

    /// Which program belongs where.
    pub const TARGETS: [(u32, &str); 9] = [
        (POD_INGRESS_SLOW, program::POD_INGRESS_SLOW),
        (POD_EGRESS_SLOW, program::POD_EGRESS_SLOW),
        (UPLINK_INGRESS_SLOW, program::UPLINK_INGRESS_SLOW),
        (UPLINK_EGRESS_SLOW, program::UPLINK_EGRESS_SLOW),
        (POD_INGRESS, program::POD_INGRESS),
        (POD_INGRESS_FRAGMENT, program::POD_INGRESS_FRAGMENT),
        (POD_EGRESS_FRAGMENT, program::POD_EGRESS_FRAGMENT),
        (UPLINK_INGRESS_FRAGMENT, program::UPLINK_INGRESS_FRAGMENT),
        (UPLINK_EGRESS_FRAGMENT, program::UPLINK_EGRESS_FRAGMENT),
    ];
}

/// Declares a value both sides may exchange as plain bytes, and checks its size at compile time.
macro_rules! abi {
    ($type:ty, $size:expr) => {
        const _: () = assert!(core::mem::size_of::<$type>() == $size);
        // SAFETY: repr(C) of integers only, all bit patterns valid, no implicit padding (size asserted above).
        #[cfg(feature = "user")]
        unsafe impl bytemuck::Zeroable for $type {}
        // SAFETY: as above.
        #[cfg(feature = "user")]
        unsafe impl bytemuck::Pod for $type {}
        // SAFETY: as above.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $type {}
    };
}
pub(crate) use abi;
