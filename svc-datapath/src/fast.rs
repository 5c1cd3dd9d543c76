//! The short way of packets whose connection is known: one look into the flow table, and on. Whatever else there is to
//! do (first packets, fragments, extension headers, ICMP, packets that turn back) is left to `tc`, which can do all of it.
//! A small program of its own in the kernel; it must decide nothing that `tc` would decide otherwise.

use svc_common::{AddrV4, AddrV6, DropReason, Flow, Protocol, address_class, flow_op, flow_stage};

use crate::address::Address;
use crate::flow;
use crate::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Fragment, Headers, ParseNetwork, opens, parse_transport};
use crate::rewrite::{RewriteNetwork, translate};
use crate::tables::{Action, FamilyTables, Packet, Side, Tables};
use crate::tc::{count_packet, ethertype, translatable};

/// A packet that enters the node's stack; `None`: for [`crate::tc::ingress`], and unchanged.
#[inline(always)]
pub fn ingress<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Option<Action> {
    match ethertype(packet) {
        Some(ETHERTYPE_IPV4) => ingress_family::<AddrV4, _, _>(packet, tables),
        Some(ETHERTYPE_IPV6) => ingress_family::<AddrV6, _, _>(packet, tables),
        _ => Some(Action::Pass),
    }
}

/// A packet that leaves the node's stack; `None`: for [`crate::tc::egress`], and unchanged.
#[inline(always)]
pub fn egress<P: Packet, T: Tables>(packet: &mut P, tables: &T, side: Side) -> Option<Action> {
    match ethertype(packet) {
        Some(ETHERTYPE_IPV4) => egress_family::<AddrV4, _, _>(packet, tables, side),
        Some(ETHERTYPE_IPV6) => egress_family::<AddrV6, _, _>(packet, tables, side),
        _ => Some(Action::Pass),
    }
}

trait Known: ParseNetwork + RewriteNetwork {}
impl<A: ParseNetwork + RewriteNetwork> Known for A {}

#[inline(always)]
fn ingress_family<A: Known, P: Packet, T: Tables + FamilyTables<A>>(packet: &mut P, tables: &T) -> Option<Action> {
    let Some(mut headers) = A::parse_network(packet, flow_stage::INGRESS) else { return Some(Action::Pass) };
    if tables.address_class(headers.key.destination) == 0 {
        return Some(Action::Pass);
    }
    read_plain(packet, &mut headers)?;
    let Some(flow) = tables.flow(&headers.key) else {
        // Its connection is another dataplane's, or none.
        let mid_stream = headers.key.protocol == Protocol::TCP && !opens(headers.tcp_flags);
        return mid_stream.then_some(Action::Pass);
    };
    let now = tables.now();
    if !flow::continues(tables, &headers.key, &flow, headers.tcp_flags, now) {
        return None;
    }
    forward(packet, tables, &headers, &flow, now)
}

#[inline(always)]
fn egress_family<A: Known, P: Packet, T: Tables + FamilyTables<A>>(
    packet: &mut P,
    tables: &T,
    side: Side,
) -> Option<Action> {
    let Some(mut headers) = A::parse_network(packet, flow_stage::EGRESS) else { return Some(Action::Pass) };
    if !translatable(headers.key.protocol) {
        return None;
    }
    let destination_class = tables.address_class(headers.key.destination);
    let class = tables.address_class(headers.key.source) | destination_class;
    if side == Side::Uplink && destination_class & address_class::FRONTEND != 0 {
        return None;
    }
    if class & address_class::BACKEND == 0 {
        return Some(Action::Pass);
    }
    read_plain(packet, &mut headers)?;
    match tables.flow(&headers.key) {
        Some(flow) => forward(packet, tables, &headers, &flow, tables.now()),
        None => Some(Action::Pass),
    }
}

/// Ports and flags of a whole packet without options or extension headers, which is then known to be `Headers` with
/// constant offsets.
#[inline(always)]
fn read_plain<A: Address, P: Packet>(packet: &P, headers: &mut Headers<A>) -> Option<()> {
    let plain = headers.transport_offset == A::TRANSPORT_OFFSET
        && headers.fragment == Fragment::Whole
        && headers.end <= packet.length()
        && translatable(headers.key.protocol);
    if !plain {
        return None;
    }
    headers.transport_offset = A::TRANSPORT_OFFSET;
    headers.fragment = Fragment::Whole;
    parse_transport(packet, headers)
}

#[inline(always)]
fn forward<A: Known, P: Packet, T: Tables + FamilyTables<A>>(
    packet: &mut P,
    tables: &T,
    headers: &Headers<A>,
    flow: &Flow<A>,
    now: u32,
) -> Option<Action> {
    if flow.ops & (flow_op::TURN_BACK | flow_op::REROUTE) != 0 {
        return None;
    }
    if let Some(state) = flow::news(flow, headers.tcp_flags, now) {
        tables.mark_flow(&headers.key, state, now);
        tables.mark_flow(&flow::peer_key(&headers.key, flow), state, now);
    }
    count_packet(packet, tables, headers, flow);
    if translate(packet, headers, flow).is_err() {
        tables.count_drop(DropReason::RewriteFailed);
        return Some(Action::Drop(DropReason::RewriteFailed));
    }
    Some(Action::Pass)
}
