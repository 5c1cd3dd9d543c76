//! Finds the way for a packet whose destination changed after the node had routed it.

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, TC_ACT_SHOT, bpf_fib_lookup as FibLookup,
};
use aya_ebpf::helpers::generated::{bpf_fib_lookup, bpf_redirect_neigh};
use aya_ebpf::programs::TcContext;
use svc_common::DropReason;
use svc_datapath::{ETHERNET_LENGTH, ETHERTYPE_IPV4, Packet as _, Tables as _};

use crate::packet::{TcPacket, interface};
use crate::tables::KernelTables;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Sends the packet out of the interface that the routing table names for it; the kernel resolves the neighbour.
#[inline(never)]
pub fn reroute(context: &TcContext, packet: &TcPacket<'_>) -> i32 {
    // SAFETY: plain numbers, for which zero is valid.
    let mut lookup: FibLookup = unsafe { core::mem::zeroed() };
    lookup.ifindex = interface(context);
    let ethertype = u16::from_be_bytes(packet.load(12).unwrap_or([0; 2]));
    if ethertype == ETHERTYPE_IPV4 {
        let [s0, s1, s2, s3, d0, d1, d2, d3]: [u8; 8] = packet.load(ETHERNET_LENGTH + 12).unwrap_or([0; 8]);
        lookup.family = AF_INET;
        lookup.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes([s0, s1, s2, s3]);
        lookup.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes([d0, d1, d2, d3]);
    } else {
        let source: [u8; 16] = packet.load(ETHERNET_LENGTH + 8).unwrap_or([0; 16]);
        let destination: [u8; 16] = packet.load(ETHERNET_LENGTH + 24).unwrap_or([0; 16]);
        lookup.family = AF_INET6;
        lookup.__bindgen_anon_3.ipv6_src = words(source);
        lookup.__bindgen_anon_4.ipv6_dst = words(destination);
    }
    // SAFETY: the context is the one the kernel passed, the lookup lies on the stack with the size given.
    let found = unsafe { bpf_fib_lookup(context.skb.skb.cast(), &raw mut lookup, size_of::<FibLookup>() as i32, 0) };
    if found == BPF_FIB_LKUP_RET_SUCCESS as i64 || found == BPF_FIB_LKUP_RET_NO_NEIGH as i64 {
        // SAFETY: a helper that takes plain numbers; without parameters it looks up the neighbour itself.
        return unsafe { bpf_redirect_neigh(lookup.ifindex, core::ptr::null_mut(), 0, 0) as i32 };
    }
    KernelTables.count_drop(DropReason::NoRoute);
    TC_ACT_SHOT
}

#[inline(always)]
fn words(octets: [u8; 16]) -> [u32; 4] {
    svc_common::AddrV6::from_octets(octets).0
}
