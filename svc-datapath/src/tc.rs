//! The per-packet path, complete; `fast` is its shortcut. Destinations are rewritten where a packet enters the node's
//! stack, sources where it leaves, both at the client's own interface: between the two the host sees client and backend.
//! Neighbours: `begin` for first packets, `parse`, `flow`, `rewrite`; the caller carries out the returned [`Action`].

use svc_common::{AddrV4, AddrV6, DropReason, Flow, Protocol, address_class, flow_op, flow_stage};

use crate::address::Address;
use crate::begin::{Begun, begin, begin_from_node, is_service_address, masquerade, needs_masquerade};
use crate::direct::leads_straight;
use crate::echo::{self, Echo};
use crate::flow;
use crate::fragment::read_ports;
use crate::gone::{is_to_be_reset, reset_client};
use crate::icmp::translate_error;
use crate::parse::{ETHERNET_LENGTH, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Fragment, Headers, ParseNetwork};
use crate::rewrite::{swap_ethernet, translate};
use crate::tables::{Action, Counted, FamilyTables, Packet, Scratch, Side, Tables};
use crate::verdict::give_up;

/// A packet that enters the node's stack.
#[inline(always)]
pub fn ingress<P: Packet, T: Tables>(packet: &mut P, tables: &T, side: Side, scratch: &mut Scratch) -> Action {
    let action = match ethertype(packet) {
        Some(ETHERTYPE_IPV4) => ingress_family::<AddrV4, _, _>(packet, tables, side, scratch),
        Some(ETHERTYPE_IPV6) => ingress_family::<AddrV6, _, _>(packet, tables, side, scratch),
        _ => Action::Pass,
    };
    // Service addresses are expected where the node sends what is for them.
    if action == Action::Reroute && side == Side::Uplink { Action::Pass } else { action }
}

/// A packet that leaves the node's stack.
#[inline(always)]
pub fn egress<P: Packet, T: Tables>(packet: &mut P, tables: &T, side: Side, scratch: &mut Scratch) -> Action {
    match ethertype(packet) {
        Some(ETHERTYPE_IPV4) => egress_family::<AddrV4, _, _>(packet, tables, side, scratch),
        Some(ETHERTYPE_IPV6) => egress_family::<AddrV6, _, _>(packet, tables, side, scratch),
        _ => Action::Pass,
    }
}

#[inline(always)]
pub(crate) fn ethertype<P: Packet>(packet: &P) -> Option<u16> {
    packet.load(12).map(u16::from_be_bytes)
}

trait Translated: ParseNetwork + Echo {}
impl<A: ParseNetwork + Echo> Translated for A {}

/// Out of line, one function for each family: their variables would not fit on one kernel stack side by side.
#[inline(never)]
fn ingress_family<A: Translated, P: Packet, T: Tables + FamilyTables<A>>(
    packet: &mut P,
    tables: &T,
    side: Side,
    scratch: &mut Scratch,
) -> Action {
    let Some(mut headers) = A::parse_network(packet, flow_stage::INGRESS) else { return Action::Pass };
    let class = tables.address_class(headers.key.destination);
    if class == 0 {
        return Action::Pass;
    }
    let to_frontend = class & address_class::FRONTEND != 0;
    if !translatable(headers.key.protocol) {
        return control(packet, tables, &mut headers, to_frontend);
    }
    if read_ports(packet, tables, &mut headers).is_none() {
        let cut_off = headers.end > packet.length() || headers.fragment != Fragment::Later;
        let reason = if cut_off { DropReason::Malformed } else { DropReason::FragmentUnknown };
        return drop_unreadable(tables, &headers.key.destination, to_frontend, reason);
    }
    let now = tables.now();
    let entry = A::entry(scratch);
    let mut begun = false;
    match tables.flow(&headers.key) {
        Some(known) if flow::continues(tables, &headers.key, &known, headers.tcp_flags, now) => entry.flow = known,
        // Only the first fragment can begin anything.
        _ if headers.fragment == Fragment::Later => {
            return drop_unreadable(tables, &headers.key.destination, to_frontend, DropReason::FragmentUnknown);
        }
        _ => match begin(packet, tables, side, class, &headers, entry, now) {
            Begun::Done(action) => return action,
            Begun::Flow
                if side == Side::Pod
                    && tables.forwards_directly()
                    && leads_straight(entry.flow.ops, entry.flow.peer_stage)
                    && headers.fragment == Fragment::Whole =>
            {
                return Action::Again;
            }
            Begun::Flow => begun = true,
        },
    }
    let action = forward(packet, tables, &headers, &entry.flow, now);
    let to_service = begun && entry.flow.ops & flow_op::DIRECT == 0;
    if to_service && action == Action::Pass && needs_masquerade(tables, side, &headers.key) {
        return masquerade(tables, &mut headers, entry, now);
    }
    action
}

#[inline(always)]
fn egress_family<A: Translated, P: Packet, T: Tables + FamilyTables<A>>(
    packet: &mut P,
    tables: &T,
    side: Side,
    scratch: &mut Scratch,
) -> Action {
    let Some(mut headers) = A::parse_network(packet, flow_stage::EGRESS) else { return Action::Pass };
    let destination_class = tables.address_class(headers.key.destination);
    // What leaves by an uplink for a service address may come from the node itself: it passed no interface yet.
    let from_node = side == Side::Uplink && destination_class & address_class::FRONTEND != 0;
    if !translatable(headers.key.protocol) {
        let own = from_node && headers.key.source == tables.node_address();
        return control(packet, tables, &mut headers, own);
    }
    let class = tables.address_class(headers.key.source) | destination_class;
    if class & address_class::BACKEND == 0 && !from_node {
        return Action::Pass;
    }
    if read_ports(packet, tables, &mut headers).is_none() {
        return Action::Pass;
    }
    let now = tables.now();
    if from_node
        && headers.fragment != Fragment::Later
        && let Begun::Done(action) = begin_from_node(packet, tables, &headers, A::entry(scratch), now)
    {
        return action;
    }
    match tables.flow(&headers.key) {
        Some(flow) => forward(packet, tables, &headers, &flow, now),
        None => Action::Pass,
    }
}

#[inline(always)]
pub(crate) fn translatable(protocol: Protocol) -> bool {
    protocol == Protocol::TCP || protocol == Protocol::UDP || protocol == Protocol::SCTP
}

/// Of other protocols only ICMP concerns us: errors, which may come from any router, and pings to service addresses.
#[inline(always)]
fn control<A: Translated, P: Packet, T: Tables + FamilyTables<A>>(
    packet: &mut P,
    tables: &T,
    headers: &mut Headers<A>,
    to_frontend: bool,
) -> Action {
    if headers.key.protocol != A::PROTOCOL {
        return Action::Pass;
    }
    if to_frontend && let Some(action) = echo::answer(packet, tables, headers) {
        return action;
    }
    match headers.fragment {
        Fragment::Whole => translate_error(packet, tables, headers),
        _ => Action::Pass,
    }
}

/// A packet of an existing flow.
#[inline(always)]
fn forward<A: Translated, P: Packet, T: Tables + FamilyTables<A>>(
    packet: &mut P,
    tables: &T,
    headers: &Headers<A>,
    flow: &Flow<A>,
    now: u32,
) -> Action {
    if is_to_be_reset(tables, flow)
        && let Some(action) = reset_client(packet, tables, headers, flow, now)
    {
        return action;
    }
    flow::note_packet(tables, &headers.key, flow, headers.tcp_flags, now);
    count_packet(packet, tables, headers, flow);
    if translate(packet, headers, flow).is_err() {
        return give_up(tables, headers, flow.service, DropReason::RewriteFailed);
    }
    if flow.ops & flow_op::REROUTE != 0 {
        return Action::Reroute;
    }
    if flow.ops & flow_op::TURN_BACK == 0 {
        return Action::Pass;
    }
    match swap_ethernet(packet) {
        Ok(()) => Action::TurnBack,
        Err(_) => give_up(tables, headers, flow.service, DropReason::RewriteFailed),
    }
}

/// Counts a packet for the service its flow belongs to.
#[inline(always)]
pub(crate) fn count_packet<A: Address, P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    headers: &Headers<A>,
    flow: &Flow<A>,
) {
    if flow.service == Flow::<A>::NO_SERVICE {
        return;
    }
    // By its own account, without padding; BIG TCP gives none.
    let end = if headers.end > ETHERNET_LENGTH as u32 { headers.end } else { packet.length() };
    let bytes = end.saturating_sub(ETHERNET_LENGTH as u32);
    let counted =
        if flow.ops & flow_op::TO_BACKEND != 0 { Counted::ToBackend(bytes) } else { Counted::ToClient(bytes) };
    tables.count(flow.service, counted);
}

/// A packet without readable ports: lost if it is really for a service (the filter only says it may be).
#[inline(always)]
fn drop_unreadable<A: Address, T: Tables + FamilyTables<A>>(
    tables: &T,
    destination: &A,
    to_frontend: bool,
    reason: DropReason,
) -> Action {
    if to_frontend && is_service_address(tables, destination) {
        tables.count_drop(reason);
        return Action::Drop(reason);
    }
    Action::Pass
}
