//! Ways through the node: what its routing table says (bpf_fib_lookup), and leaving by them. Which packets may take them
//! is decided in `svc-datapath`.

use core::ffi::c_void;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_SUCCESS, TC_ACT_SHOT,
    bpf_fib_lookup as FibLookup, bpf_redir_neigh,
};
use aya_ebpf::helpers::generated::{
    bpf_fib_lookup, bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_change_type,
};
use aya_ebpf::programs::TcContext;
use svc_common::{AddrV4, AddrV6, Hop, hop_kind, interface_flag};
use svc_datapath::{Address as _, ETHERNET_LENGTH, ETHERTYPE_IPV4, Packet as _};

use crate::maps;
use crate::packet::{TcPacket, interface};
use crate::tables::KernelTables;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// In every network namespace.
const LOOPBACK: u32 = 1;

/// Between whom a way is asked for.
pub struct Ends {
    pub source: AddrV6,
    pub destination: AddrV6,
    /// The addresses are IPv4.
    pub v4: bool,
}

/// The next hop for packets that come in here. Out of line: it has a large structure on its stack, and is called once a
/// second.
#[inline(never)]
pub fn find_hop(context: &TcContext, ends: &Ends, hop: &mut Hop) {
    let mut lookup = question(interface(context), ends);
    // Asks for the path's MTU, which is then in the same place; it stays as it is on kernels that do not answer.
    const UNANSWERED: u16 = 1;
    lookup.__bindgen_anon_1.tot_len = UNANSWERED;
    hop.kind = hop_kind::STACK;
    // SAFETY: the context is the one the kernel passed.
    if unsafe { ask(context.as_ptr(), &mut lookup) } != BPF_FIB_LKUP_RET_SUCCESS as i64
        || lookup.ifindex == interface(context)
    {
        return;
    }
    // SAFETY: all members of these unions are plain numbers.
    unsafe {
        hop.mtu = lookup.__bindgen_anon_1.mtu_result;
        if hop.mtu == UNANSWERED {
            return;
        }
        hop.interface = lookup.ifindex;
        hop.kind = if leads_into_pod(lookup.ifindex) {
            hop_kind::PEER
        } else if lookup.family == AF_INET {
            hop.neighbour = AddrV4(lookup.__bindgen_anon_4.ipv4_dst).wide();
            hop_kind::NEIGHBOUR_V4
        } else {
            hop.neighbour = AddrV6(lookup.__bindgen_anon_4.ipv6_dst);
            hop_kind::NEIGHBOUR_V6
        };
    }
}

#[inline(always)]
fn leads_into_pod(interface: u32) -> bool {
    match maps::INTERFACES.get_ptr(interface) {
        // SAFETY: a valid map element.
        Some(flags) => unsafe { *flags & interface_flag::PEER != 0 },
        None => false,
    }
}

/// Sends a packet to its next hop.
#[inline(always)]
pub fn forward(context: &TcContext, hop: &Hop) -> i32 {
    if hop.kind == hop_kind::PEER {
        receive_here(context);
        // SAFETY: a helper that takes plain numbers.
        return unsafe { bpf_redirect_peer(hop.interface, 0) as i32 };
    }
    // SAFETY: plain numbers, for which zero is valid.
    let mut neighbour: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    if hop.kind == hop_kind::NEIGHBOUR_V4 {
        neighbour.nh_family = AF_INET as u32;
        neighbour.__bindgen_anon_1.ipv4_nh = AddrV4::from_wide(hop.neighbour).0;
    } else {
        neighbour.nh_family = AF_INET6 as u32;
        neighbour.__bindgen_anon_1.ipv6_nh = hop.neighbour.0;
    }
    // SAFETY: the parameters lie on the stack with the size given.
    unsafe { bpf_redirect_neigh(hop.interface, &raw mut neighbour, size_of::<bpf_redir_neigh>() as i32, 0) as i32 }
}

/// Sends a packet whose destination changed after the node had routed it out of the interface that the routing table names
/// for it now; the kernel resolves the neighbour. Without a way it is left as it is, for the caller to drop.
///
/// One that is for the node itself gets the local route, by which loopback delivers it: the stack validates the source of
/// everything else that comes in, and refuses the node's own IPv4 addresses. IPv6 finds that route by way of loopback; IPv4
/// only by way of the interface that has the address, so the packet leaves by that, and is led from its egress to loopback.
#[inline(never)]
pub fn reroute(context: &TcContext, packet: &TcPacket<'_>) -> i32 {
    let ethertype = u16::from_be_bytes(packet.load(12).unwrap_or([0; 2]));
    let ends = if ethertype == ETHERTYPE_IPV4 {
        let [s0, s1, s2, s3, d0, d1, d2, d3]: [u8; 8] = packet.load(ETHERNET_LENGTH + 12).unwrap_or([0; 8]);
        let source = AddrV4::from_octets([s0, s1, s2, s3]).wide();
        Ends { source, destination: AddrV4::from_octets([d0, d1, d2, d3]).wide(), v4: true }
    } else {
        let source = AddrV6::from_octets(packet.load(ETHERNET_LENGTH + 8).unwrap_or([0; 16]));
        let destination = AddrV6::from_octets(packet.load(ETHERNET_LENGTH + 24).unwrap_or([0; 16]));
        Ends { source, destination, v4: false }
    };
    let mut lookup = question(interface(context), &ends);
    // SAFETY: the context is the one the kernel passed.
    let found = unsafe { ask(context.as_ptr(), &mut lookup) };
    let way_out = if found == BPF_FIB_LKUP_RET_SUCCESS as i64 || found == BPF_FIB_LKUP_RET_NO_NEIGH as i64 {
        lookup.ifindex
    } else if found == BPF_FIB_LKUP_RET_NOT_FWDED as i64 {
        let (node, interface) = KernelTables.node_v4();
        match ends.v4 {
            true if ends.destination == node.wide() => interface,
            true => 0,
            false => LOOPBACK,
        }
    } else {
        0
    };
    if way_out != 0 {
        receive_here(context);
        // SAFETY: a helper that takes plain numbers; without parameters it looks up route and neighbour itself.
        return unsafe { bpf_redirect_neigh(way_out, core::ptr::null_mut(), 0, 0) as i32 };
    }
    TC_ACT_SHOT
}

/// A bridge's port takes frames to the bridge's address, which the kernel marks as somebody else's. The bridge would put that right;
/// past it, whoever receives the packet drops it.
#[inline(always)]
fn receive_here(context: &TcContext) {
    const PACKET_HOST: u32 = 0;
    // SAFETY: the kernel passed a valid context.
    unsafe {
        if (*context.skb.skb).pkt_type != PACKET_HOST {
            bpf_skb_change_type(context.skb.skb, PACKET_HOST);
        }
    }
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

/// For a packet that came by this interface.
#[inline(always)]
pub fn question(interface: u32, ends: &Ends) -> FibLookup {
    // SAFETY: plain numbers, for which zero is valid.
    let mut lookup: FibLookup = unsafe { core::mem::zeroed() };
    lookup.ifindex = interface;
    if ends.v4 {
        lookup.family = AF_INET;
        lookup.__bindgen_anon_3.ipv4_src = AddrV4::from_wide(ends.source).0;
        lookup.__bindgen_anon_4.ipv4_dst = AddrV4::from_wide(ends.destination).0;
    } else {
        lookup.family = AF_INET6;
        lookup.__bindgen_anon_3.ipv6_src = ends.source.0;
        lookup.__bindgen_anon_4.ipv6_dst = ends.destination.0;
    }
    lookup
}

/// # Safety
/// The context must be the one the kernel passed to a TC or XDP program.
#[inline(always)]
pub unsafe fn ask(context: *mut c_void, lookup: &mut FibLookup) -> i64 {
    // SAFETY: the lookup has the size given; the context is the caller's promise.
    unsafe { bpf_fib_lookup(context, lookup, size_of::<FibLookup>() as i32, 0) }
}
