//! Values the agent sets for all programs: one array entry of facts about the node, and the address filter.
//! Neighbours: `svc-datapath::filter` computes the filter slot of an address.

use crate::{AddrV4, AddrV6, abi};

/// The only entry of the CONFIG array (memory-mapped). Fields are independent; each is written with one store.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Config {
    /// `svc_common::ABI_VERSION` of the agent that wrote the maps.
    pub abi_version: u32,
    /// Bits of [`feature`].
    pub features: u32,
    /// Events are written until this time: seconds of CLOCK_MONOTONIC. A listener renews it, so that a killed one
    /// costs nothing after a few seconds.
    pub events_until: u32,
    /// Address of the node that a hairpin or masqueraded client is seen as; zero if the node has none.
    pub node_v4: AddrV4,
    pub node_v6: AddrV6,
    /// Index of the interface that has `node_v4`, if packets can be delivered to the node by way of it; else zero.
    pub node_v4_interface: u32,
    /// The size of a mapped element is a power of two.
    pub reserved: [u32; 7],
}
abi!(Config, 64);

/// Bits of [`Config::features`].
pub mod feature {
    /// Socket hooks translate for every socket below the cgroup root.
    pub const SOCKET_LB_ALL: u32 = 1 << 0;
    /// Socket hooks translate only for sockets of the node's own network namespace.
    pub const SOCKET_LB_HOST: u32 = 1 << 1;
}

/// The filter has one byte of [`address_class`] bits per slot; eight slots make one map element (a u64).
pub const ADDRESS_FILTER_SLOTS: u32 = 1 << 20;
pub const ADDRESS_FILTER_WORDS: u32 = ADDRESS_FILTER_SLOTS / 8;

/// What an address in the filter may be. A set bit that should be clear only costs a lookup; a clear bit that
/// should be set would lose translations, so bits are set before the object they announce becomes visible.
pub mod address_class {
    /// Some frontend has this address.
    pub const FRONTEND: u8 = 1 << 0;
    /// Some backend has this address, or had it while flows may still use it.
    pub const BACKEND: u8 = 1 << 1;
    /// The address replaces clients' addresses (hairpin, masquerade).
    pub const NODE: u8 = 1 << 2;
}

/// Key of CLUSTER_RANGES, a longest-prefix-match trie (`struct bpf_lpm_trie_key`); the value is a u32 that says nothing.
/// IPv4 ranges are IPv4-mapped: `::ffff:a.b.c.d`, prefix length + 96.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RangeKey {
    /// Bits, host byte order.
    pub prefix_length: u32,
    pub address: AddrV6,
}
abi!(RangeKey, 20);

/// Bits of the values of INTERFACES, by interface index.
pub mod interface_flag {
    /// One end of a pair whose other end is in a pod's network namespace: bpf_redirect_peer goes there.
    pub const PEER: u32 = 1 << 0;
}

/// Value of UPLINKS, by interface index: interfaces with an XDP program of ours.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Uplink {
    /// Its Ethernet address, in memory order: frames for others are none of our business.
    pub address: [u16; 3],
    /// Bits of [`uplink_flag`].
    pub flags: u16,
}
abi!(Uplink, 8);

/// Bits of [`Uplink::flags`].
pub mod uplink_flag {
    /// Its program runs in generic mode, from where every uplink can be reached.
    pub const GENERIC: u16 = 1 << 0;
    /// Its driver sends frames that come from the program of another interface.
    pub const SENDS: u16 = 1 << 1;
}
