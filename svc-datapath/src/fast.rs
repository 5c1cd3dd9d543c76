//! The short way of packets whose connection is known: one look into the flow table, and on. Whatever else there is to
//! do (first packets, fragments, extension headers, ICMP, packets that turn back) is left to `tc`, which can do all of it.
//! A small program of its own in the kernel; it must decide nothing that `tc` would decide otherwise.

use svc_common::{AddrV4, AddrV6, DropReason, Flow, Hop, Protocol, address_class, flow_op, flow_stage};

use crate::address::Address;
use crate::begin::is_taken;
use crate::direct::{HopLimit, leads_straight, next_hop, returns_straight};
use crate::flow;
use crate::gone::is_to_be_reset;
use crate::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Fragment, Headers, ParseNetwork, opens, parse_transport};
use crate::rewrite::{RewriteNetwork, translate};
use crate::tables::{Action, FamilyTables, Packet, Side, Tables};
use crate::tc::{count_packet, ethertype, translatable};

/// What becomes of a packet that enters the node's stack.
pub enum Fast {
    Done(Action),
    /// Straight to the next hop, past the stack.
    Forward(Hop),
    /// For the complete path, and unchanged.
    Slow,
}

const PASS: Fast = Fast::Done(Action::Pass);

/// A packet that enters the node's stack; [`Fast::Slow`] means [`crate::tc::ingress`].
#[inline(always)]
pub fn ingress<P: Packet, T: Tables>(packet: &mut P, tables: &T, side: Side) -> Fast {
    match ethertype(packet) {
        Some(ETHERTYPE_IPV4) => ingress_family::<AddrV4, _, _>(packet, tables, side),
        Some(ETHERTYPE_IPV6) => ingress_family::<AddrV6, _, _>(packet, tables, side),
        _ => PASS,
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

/// An entry of the flow table, and what it says.
pub(crate) type Found<'a, A, T> = (<T as FamilyTables<A>>::Place, &'a Flow<A>);

pub(crate) trait Known: ParseNetwork + RewriteNetwork + HopLimit {}
impl<A: ParseNetwork + RewriteNetwork + HopLimit> Known for A {}

#[inline(always)]
fn ingress_family<A: Known, P: Packet, T: Tables + FamilyTables<A>>(packet: &mut P, tables: &T, side: Side) -> Fast {
    let Some(mut headers) = A::parse_network(packet, flow_stage::INGRESS) else { return PASS };
    let class = tables.address_class(headers.key.destination);
    let concerned = class != 0;
    let may_reply =
        tables.forwards_directly() && tables.address_class(headers.key.source) & address_class::BACKEND != 0;
    if !concerned && !may_reply {
        return PASS;
    }
    if read_plain(packet, &mut headers).is_none() {
        return Fast::Slow;
    }
    if concerned && let Some(place) = tables.find_flow(&headers.key) {
        let flow = tables.flow_at(place);
        let now = flow::time_of(tables, &flow);
        if flow.ops & (flow_op::TURN_BACK | flow_op::REROUTE) != 0
            || is_to_be_reset(tables, &flow)
            || !flow::continues(tables, &headers.key, &flow, headers.tcp_flags, now)
        {
            return Fast::Slow;
        }
        let straight = side == Side::Pod && tables.forwards_directly() && leads_straight(flow.ops, flow.peer_stage);
        let hop = match straight {
            true => {
                let ends = (flow.source, flow.destination);
                next_hop(packet, tables, place, &headers, ends, flow.last_seen != now)
            }
            false => None,
        };
        return leave(packet, tables, &headers, (place, &flow), hop, now);
    }
    if may_reply {
        // A reply that would meet its flow where it leaves the stack may not come that far.
        headers.key.stage = flow_stage::EGRESS;
        if let Some(place) = tables.find_flow(&headers.key) {
            let flow = tables.flow_at(place);
            if !returns_straight(flow.ops, flow.peer_stage) {
                return PASS;
            }
            let now = flow::time_of(tables, &flow);
            let ends = (headers.key.source, headers.key.destination);
            return match next_hop(packet, tables, place, &headers, ends, flow.last_seen != now) {
                Some(hop) => leave(packet, tables, &headers, (place, &flow), Some(hop), now),
                None => PASS,
            };
        }
    }
    // TCP in mid-stream: its connection is another dataplane's, or none.
    let mid_stream = headers.key.protocol == Protocol::TCP && !opens(headers.tcp_flags);
    if mid_stream || !concerned {
        return PASS;
    }
    // What other machines send straight to backends here, all day long.
    if side == Side::Uplink && class & address_class::FRONTEND == 0 && !is_taken(tables, &headers.key) {
        return PASS;
    }
    Fast::Slow
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
    if side == Side::Uplink && destination_class & address_class::FRONTEND != 0 {
        return None;
    }
    let source_class = tables.address_class(headers.key.source);
    if (source_class | destination_class) & address_class::BACKEND == 0 {
        return Some(Action::Pass);
    }
    read_plain(packet, &mut headers)?;
    // On its way to a backend only a masqueraded packet is translated here, and its port is one that we chose.
    if source_class & address_class::BACKEND == 0 && !flow::is_chosen(headers.key.source_port) {
        return Some(Action::Pass);
    }
    let Some(place) = tables.find_flow(&headers.key) else { return Some(Action::Pass) };
    let flow = tables.flow_at(place);
    if flow.ops & (flow_op::TURN_BACK | flow_op::REROUTE) != 0 {
        return None;
    }
    Some(forward(packet, tables, &headers, (place, &flow), false, flow::time_of(tables, &flow)))
}

/// Ports and flags of a whole packet without options or extension headers, whose offsets are then known to be constant.
#[inline(always)]
pub(crate) fn read_plain<A: Address, P: Packet>(packet: &P, headers: &mut Headers<A>) -> Option<()> {
    let plain = headers.transport_offset == A::TRANSPORT_OFFSET
        && headers.fragment == Fragment::Whole
        && headers.end <= packet.length()
        && matches!(headers.key.protocol, Protocol::TCP | Protocol::UDP);
    if !plain {
        return None;
    }
    headers.transport_offset = A::TRANSPORT_OFFSET;
    headers.fragment = Fragment::Whole;
    parse_transport(packet, headers)
}

/// Forwards a packet to its next hop, or through the stack.
#[inline(always)]
fn leave<A: Known, P: Packet, T: Tables + FamilyTables<A>>(
    packet: &mut P,
    tables: &T,
    headers: &Headers<A>,
    found: Found<'_, A, T>,
    hop: Option<Hop>,
    now: u32,
) -> Fast {
    match (forward(packet, tables, headers, found, hop.is_some(), now), hop) {
        (Action::Pass, Some(hop)) => Fast::Forward(hop),
        (action, _) => Fast::Done(action),
    }
}

/// A packet of an existing flow; `past_stack`: nobody else will count its hops down.
#[inline(always)]
fn forward<A: Known, P: Packet, T: Tables + FamilyTables<A>>(
    packet: &mut P,
    tables: &T,
    headers: &Headers<A>,
    (place, flow): Found<'_, A, T>,
    past_stack: bool,
    now: u32,
) -> Action {
    note(tables, headers, (place, flow), now);
    count_packet(packet, tables, headers, flow);
    let mut changed = translate(packet, headers, flow);
    if past_stack {
        changed = changed.and_then(|()| A::count_down(packet));
    }
    match changed {
        Ok(()) => Action::Pass,
        Err(_) => {
            tables.count_drop(DropReason::RewriteFailed);
            Action::Drop(DropReason::RewriteFailed)
        }
    }
}

/// Both flows of the pair learn of the packet. Not by `flow::mark_pair`, which asks for the flow again and is a function
/// of its own.
#[inline(always)]
pub(crate) fn note<A: Address, T: FamilyTables<A>>(
    tables: &T,
    headers: &Headers<A>,
    (place, flow): Found<'_, A, T>,
    now: u32,
) {
    if let Some(state) = flow::news(flow, headers.tcp_flags, now) {
        tables.mark_flow_at(place, state, now);
        tables.mark_flow(&flow::peer_key(&headers.key, flow), state, now);
    }
}
