//! Past the node's stack: whether a packet of a known flow may go straight to its next hop, and what a router does to
//! it on the way. Everything doubtful is left to the stack, packet by packet. Neighbour: `fast` calls it.

use svc_common::{AddrV4, AddrV6, Hop, Protocol, flow_op, flow_stage, hop_kind};

use crate::address::Address;
use crate::checksum;
use crate::parse::{ETHERNET_LENGTH, Headers};
use crate::tables::{FamilyTables, Packet, RewriteError};

/// Families whose packets can be counted down.
pub trait HopLimit: Address {
    /// How many routers the packet may still pass.
    fn hops_left<P: Packet>(packet: &P) -> u8;

    /// One less, and the sums over it.
    fn count_down<P: Packet>(packet: &mut P) -> Result<(), RewriteError>;
}

impl HopLimit for AddrV4 {
    #[inline(always)]
    fn hops_left<P: Packet>(packet: &P) -> u8 {
        let [left, _] = packet.load(ETHERNET_LENGTH + 8).unwrap_or([0; 2]);
        left
    }

    #[inline(always)]
    fn count_down<P: Packet>(packet: &mut P) -> Result<(), RewriteError> {
        let [left, protocol, c0, c1]: [u8; 4] = packet.load(ETHERNET_LENGTH + 8).ok_or(RewriteError)?;
        let (old, new) = ([left, protocol], [left.wrapping_sub(1), protocol]);
        let difference = checksum::difference(u16::from_ne_bytes(new) as u32, u16::from_ne_bytes(old) as u32);
        let [c0, c1] = checksum::apply(u16::from_ne_bytes([c0, c1]), difference).to_ne_bytes();
        let [left, protocol] = new;
        packet.store(ETHERNET_LENGTH + 8, &[left, protocol, c0, c1])
    }
}

impl HopLimit for AddrV6 {
    #[inline(always)]
    fn hops_left<P: Packet>(packet: &P) -> u8 {
        let [_, left] = packet.load(ETHERNET_LENGTH + 6).unwrap_or([0; 2]);
        left
    }

    #[inline(always)]
    fn count_down<P: Packet>(packet: &mut P) -> Result<(), RewriteError> {
        let [next, left]: [u8; 2] = packet.load(ETHERNET_LENGTH + 6).ok_or(RewriteError)?;
        let (old, new) = ([next, left], [next, left.wrapping_sub(1)]);
        // No checksum of IPv6 covers it, a network card's sum over the packet does.
        packet.change_sum(checksum::difference(u16::from_ne_bytes(new) as u32, u16::from_ne_bytes(old) as u32));
        packet.store(ETHERNET_LENGTH + 6, &new)
    }
}

/// Whether nothing but the rewrite at this hook happens to packets on their way to the backend: clients outside are
/// masqueraded where they leave, pods that reach themselves turn back.
#[inline(always)]
pub fn leads_straight(ops: u8, peer_stage: u8) -> bool {
    ops & (flow_op::TO_BACKEND | flow_op::TURN_BACK | flow_op::REROUTE) == flow_op::TO_BACKEND
        && peer_stage == flow_stage::EGRESS
}

/// As [`leads_straight`], for replies that would meet their flow only where they leave the stack.
#[inline(always)]
pub fn returns_straight(ops: u8, peer_stage: u8) -> bool {
    ops & (flow_op::TO_BACKEND | flow_op::TURN_BACK | flow_op::REROUTE) == 0 && peer_stage == flow_stage::INGRESS
}

/// The next hop of a packet that was or will be sent between these addresses; `None`: through the stack.
/// With `ask` the routing table is asked again, else what it said within this second counts.
#[inline(always)]
pub fn next_hop<A: HopLimit, P: Packet, T: FamilyTables<A>>(
    packet: &P,
    tables: &T,
    place: T::Place,
    headers: &Headers<A>,
    (source, destination): (A, A),
    ask: bool,
) -> Option<Hop> {
    let mut hop = tables.hop_at(place);
    if ask || hop.kind == hop_kind::UNKNOWN {
        hop = packet.route(source, destination);
        tables.set_hop_at(place, &hop);
    }
    let possible = hop.kind > hop_kind::STACK && A::hops_left(packet) > 1 && fits(packet, headers, hop.mtu);
    possible.then_some(hop)
}

/// Whether the packet, or each segment of an aggregate, is within the path's MTU.
#[inline(always)]
fn fits<A: Address, P: Packet>(packet: &P, headers: &Headers<A>, mtu: u16) -> bool {
    if packet.length() <= mtu as u32 + ETHERNET_LENGTH as u32 {
        return true;
    }
    let segment = packet.segment_size();
    if segment == 0 {
        return false;
    }
    let transport_header = if headers.key.protocol == Protocol::TCP {
        let [offset, _] = packet.load(headers.transport_offset + 12).unwrap_or([0xf0, 0]);
        (offset >> 4) as u32 * 4
    } else {
        8
    };
    headers.transport_offset as u32 + transport_header + segment <= mtu as u32 + ETHERNET_LENGTH as u32
}
