//! Finds the way for a packet whose destination changed after the node had routed it. One that turns out to be for the
//! node itself gets the local route, by which loopback delivers it: the stack validates the source of everything else that
//! comes in, and refuses the node's own IPv4 addresses. IPv6 finds that route by way of loopback; IPv4 only by way of the
//! interface that has the address, so the packet leaves by that, and is led from its egress to loopback.

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_SUCCESS, TC_ACT_SHOT,
    bpf_fib_lookup as FibLookup,
};
use aya_ebpf::helpers::generated::{bpf_fib_lookup, bpf_redirect, bpf_redirect_neigh};
use aya_ebpf::programs::TcContext;
use svc_common::{AddrV4, AddrV6};
use svc_datapath::{ETHERNET_LENGTH, ETHERTYPE_IPV4, Packet as _};

use crate::packet::{TcPacket, interface};
use crate::tables::KernelTables;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// In every network namespace.
const LOOPBACK: u32 = 1;

/// Sends the packet out of the interface that the routing table names for it; the kernel resolves the neighbour. Without a
/// way it is left as it is, for the caller to drop.
#[inline(never)]
pub fn reroute(context: &TcContext, packet: &TcPacket<'_>) -> i32 {
    // SAFETY: plain numbers, for which zero is valid.
    let mut lookup: FibLookup = unsafe { core::mem::zeroed() };
    lookup.ifindex = interface(context);
    let ethertype = u16::from_be_bytes(packet.load(12).unwrap_or([0; 2]));
    // The interface by way of which a packet for the node itself is delivered.
    let local;
    if ethertype == ETHERTYPE_IPV4 {
        let [s0, s1, s2, s3, d0, d1, d2, d3]: [u8; 8] = packet.load(ETHERNET_LENGTH + 12).unwrap_or([0; 8]);
        let destination = AddrV4::from_octets([d0, d1, d2, d3]);
        let (node, interface) = KernelTables.node_v4();
        local = if destination == node { interface } else { 0 };
        lookup.family = AF_INET;
        lookup.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes([s0, s1, s2, s3]);
        lookup.__bindgen_anon_4.ipv4_dst = destination.0;
    } else {
        let source: [u8; 16] = packet.load(ETHERNET_LENGTH + 8).unwrap_or([0; 16]);
        let destination: [u8; 16] = packet.load(ETHERNET_LENGTH + 24).unwrap_or([0; 16]);
        local = LOOPBACK;
        lookup.family = AF_INET6;
        lookup.__bindgen_anon_3.ipv6_src = AddrV6::from_octets(source).0;
        lookup.__bindgen_anon_4.ipv6_dst = AddrV6::from_octets(destination).0;
    }
    // SAFETY: the context is the one the kernel passed, the lookup lies on the stack with the size given.
    let found = unsafe { bpf_fib_lookup(context.skb.skb.cast(), &raw mut lookup, size_of::<FibLookup>() as i32, 0) };
    let way_out = if found == BPF_FIB_LKUP_RET_SUCCESS as i64 || found == BPF_FIB_LKUP_RET_NO_NEIGH as i64 {
        lookup.ifindex
    } else if found == BPF_FIB_LKUP_RET_NOT_FWDED as i64 {
        local
    } else {
        0
    };
    if way_out != 0 {
        // SAFETY: a helper that takes plain numbers; without parameters it looks up route and neighbour itself.
        return unsafe { bpf_redirect_neigh(way_out, core::ptr::null_mut(), 0, 0) as i32 };
    }
    TC_ACT_SHOT
}

/// Whether `reroute` gave the packet a local route: its frame is addressed as loopback's neighbours are, to zero.
#[inline(always)]
pub fn is_local(packet: &TcPacket<'_>) -> bool {
    packet.load(0).is_some_and(|destination: [u8; 6]| destination == [0; 6])
}

/// Hands a packet that has a local route to loopback, which keeps the route.
#[inline(always)]
pub fn deliver() -> i32 {
    // SAFETY: a helper that takes plain numbers.
    unsafe { bpf_redirect(LOOPBACK, 0) as i32 }
}
