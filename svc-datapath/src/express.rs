//! Past the node altogether: packets of known connections that come in by an uplink and leave by one, both rewrites at
//! once, before the stack (XDP). A shortcut for connections that TC made and has seen answered; whatever else there is to
//! do is left to TC, and the packet as it came. It must decide nothing that TC and the stack would decide otherwise.
//! Neighbours: `fast`, whose parts it uses; the caller carries out [`Express`].

use svc_common::{
    AddrV4, AddrV6, DropReason, Flow, FlowKey, Protocol, Uplink, address_class, flow_op, flow_stage, flow_state,
    uplink_flag,
};

use crate::address::Address;
use crate::checksum;
use crate::fast::{Known, note, read_plain};
use crate::flow;
use crate::gone::is_to_be_reset;
use crate::parse::{ETHERNET_LENGTH, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Headers, checksum_offset, tcp_flag};
use crate::rewrite::translate;
use crate::tables::{FamilyTables, Packet, RewriteError, Tables};
use crate::tc::{count_packet, ethertype};

/// Of so many seconds a connection spends one on the way through the stack, which sees that its neighbours are still there.
const THROUGH_THE_STACK_EVERY: u32 = 32;

/// A packet on an uplink, before the node's stack has it: what is on the wire, and nothing besides.
pub trait Arrival: Packet {
    /// Index of the interface it came by.
    fn interface(&self) -> u32;

    /// Where the routing table sends it; `None` unless it is to be forwarded, in one piece, to a neighbour that is known.
    fn way<A: Address>(&self, journey: &Journey<A>) -> Option<Way>;
}

/// What the routing table is asked about.
pub struct Journey<A> {
    pub source: A,
    pub destination: A,
    /// Ports in network byte order.
    pub source_port: u16,
    pub destination_port: u16,
    pub protocol: u8,
    /// From the network header on.
    pub length: u16,
}

/// The next hop of one packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way {
    pub interface: u32,
    pub destination: [u8; 6],
    pub source: [u8; 6],
}

/// What the agent says of uplinks.
pub trait Uplinks {
    fn uplink(&self, interface: u32) -> Option<Uplink>;
    /// One packet went past the stack.
    fn count_express(&self);
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Express {
    /// For the stack and TC, and unchanged.
    Pass,
    /// Out of the interface that it came by.
    Back,
    Out(u32),
    /// Gone; it has been counted.
    Drop(DropReason),
}

/// A packet that came by an uplink.
#[inline(always)]
pub fn ingress<P: Arrival, T: Tables + Uplinks>(packet: &mut P, tables: &T) -> Express {
    let taken = match ethertype(packet) {
        Some(ETHERTYPE_IPV4) => ingress_family::<AddrV4, _, _>(packet, tables),
        Some(ETHERTYPE_IPV6) => ingress_family::<AddrV6, _, _>(packet, tables),
        _ => None,
    };
    taken.unwrap_or(Express::Pass)
}

#[inline(always)]
fn ingress_family<A: Known, P: Arrival, T: Tables + Uplinks + FamilyTables<A>>(
    packet: &mut P,
    tables: &T,
) -> Option<Express> {
    let mut headers = A::parse_network(packet, flow_stage::INGRESS)?;
    if tables.address_class(headers.key.destination) == 0 {
        return None;
    }
    read_plain(packet, &mut headers)?;
    if !is_ordinary(packet, &headers) {
        return None;
    }
    let (inward_place, inward) = established(tables, &headers.key)?;
    let now = flow::time_of(tables, &inward);
    if refreshes(&headers.key, now)
        || is_to_be_reset(tables, &inward)
        || !flow::continues(tables, &headers.key, &inward, headers.tcp_flags, now)
    {
        return None;
    }
    // As the packet would be between the two hooks.
    let mut between = headers;
    between.key.source = inward.source;
    between.key.destination = inward.destination;
    between.key.source_port = inward.source_port;
    between.key.destination_port = inward.destination_port;
    between.key.stage = flow_stage::EGRESS;
    if !is_looked_up(tables, &between.key) {
        return None;
    }
    let (outward_place, outward) = established(tables, &between.key)?;
    let way = way_out(packet, tables, &between)?;

    note(tables, &headers, (inward_place, &inward), now);
    count_packet(packet, tables, &headers, &inward);
    note(tables, &between, (outward_place, &outward), now);
    count_packet(packet, tables, &between, &outward);
    // One rewrite does for both: what lies between them is seen by nobody.
    let changed = translate(packet, &headers, &outward)
        .and_then(|()| A::count_down(packet))
        .and_then(|()| address_frame(packet, &way));
    if changed.is_err() {
        tables.count_drop(DropReason::RewriteFailed);
        return Some(Express::Drop(DropReason::RewriteFailed));
    }
    tables.count_express();
    Some(if way.interface == packet.interface() { Express::Back } else { Express::Out(way.interface) })
}

/// Neither the beginning nor the end of a connection, which the stack's own connection tracking is to see; whole, with
/// hops left, and its checksum complete.
#[inline(always)]
fn is_ordinary<A: Known, P: Packet>(packet: &P, headers: &Headers<A>) -> bool {
    let transport_header = if headers.key.protocol == Protocol::TCP { 20 } else { 8 };
    headers.tcp_flags & (tcp_flag::SYN | tcp_flag::FIN | tcp_flag::RST) == 0
        && headers.end >= headers.transport_offset as u32 + transport_header
        && A::hops_left(packet) > 1
        && !is_unfinished(packet, headers)
}

/// Whether hardware is still to complete the checksum (CHECKSUM_PARTIAL): then the field has the pseudo header's sum. A
/// program before the stack is not told; one complete checksum in 65,536 looks the same.
#[inline(always)]
fn is_unfinished<A: Address, P: Packet>(packet: &P, headers: &Headers<A>) -> bool {
    let key = &headers.key;
    let Some(field) = packet.load(checksum_offset(key.protocol, headers.transport_offset)) else { return true };
    let length = (headers.end as u16).wrapping_sub(headers.transport_offset as u16);
    let rest = length.to_be() as u32 + (key.protocol.0 as u16).to_be() as u32;
    let pseudo_header = checksum::add(checksum::add(key.source.sum(), key.destination.sum()), rest);
    u16::from_ne_bytes(field) == !checksum::finish(pseudo_header)
}

/// Staggered by the connection's own ports, so that not all of them do so in the same second.
#[inline(always)]
fn refreshes<A>(key: &FlowKey<A>, now: u32) -> bool {
    let own = key.source_port.0.wrapping_add(key.destination_port.0) as u32;
    now.wrapping_add(own).is_multiple_of(THROUGH_THE_STACK_EVERY)
}

/// A flow that does nothing but translate, and whose connection was answered by way of the stack: so TC's flows are what
/// its packets meet there, and nobody else translates them.
#[inline(always)]
fn established<A: Address, T: FamilyTables<A>>(tables: &T, key: &FlowKey<A>) -> Option<(T::Place, Flow<A>)> {
    const ODD: u8 = flow_op::DIRECT | flow_op::TURN_BACK | flow_op::REROUTE;
    let place = tables.find_flow(key)?;
    let flow = tables.flow_at(place);
    let plain = flow.ops & (flow_op::ADDRESSES | ODD) == flow_op::ADDRESSES;
    (plain && flow.state & flow_state::REPLIED != 0).then_some((place, flow))
}

/// Whether TC would ask for the flow of a packet that leaves by an uplink, and for nothing else.
#[inline(always)]
fn is_looked_up<A: Address, T: FamilyTables<A>>(tables: &T, key: &FlowKey<A>) -> bool {
    let class = tables.address_class(key.destination);
    class & address_class::FRONTEND == 0 && (class | tables.address_class(key.source)) & address_class::BACKEND != 0
}

/// The way of a packet that is addressed to this node's uplink, if it leads to an uplink that can be reached from there.
#[inline(always)]
fn way_out<A: Address, P: Arrival, T: Uplinks>(packet: &P, tables: &T, between: &Headers<A>) -> Option<Way> {
    let here = tables.uplink(packet.interface())?;
    let [a, b, c, d, e, f]: [u8; 6] = packet.load(0)?;
    if here.address != [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]), u16::from_ne_bytes([e, f])] {
        return None;
    }
    let key = &between.key;
    let way = packet.way(&Journey {
        source: key.source,
        destination: key.destination,
        source_port: key.source_port.0,
        destination_port: key.destination_port.0,
        protocol: key.protocol.0,
        length: (between.end as u16).wrapping_sub(ETHERNET_LENGTH as u16),
    })?;
    if way.interface != packet.interface() {
        let there = tables.uplink(way.interface)?;
        if here.flags & uplink_flag::GENERIC == 0 && there.flags & uplink_flag::SENDS == 0 {
            return None;
        }
    }
    Some(way)
}

#[inline(always)]
fn address_frame<P: Packet>(packet: &mut P, way: &Way) -> Result<(), RewriteError> {
    packet.store(0, &way.destination)?;
    packet.store(6, &way.source)
}
