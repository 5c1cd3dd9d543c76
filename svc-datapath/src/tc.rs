//! The per-packet path. Destinations are rewritten where a packet enters the node's stack, sources where it leaves, both
//! at the client's own interface: between the two the host sees client and backend, in both directions.
//! Neighbours: `parse`, `flow`, `select`, `rewrite`, `refuse`; the caller carries out the returned [`Action`].

use svc_common::{
    AddrV4, AddrV6, DropReason, Event, Flow, FlowKey, FrontendKey, Port, Protocol, address_class, event_kind,
    event_path, flow_op, flow_stage, flow_state,
};

use crate::address::Address;
use crate::flow::{self, NOWHERE, PairError, SourcePort};
use crate::icmp::{Icmp, translate_error};
use crate::parse::{ETHERNET_LENGTH, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Headers, ParseNetwork, opens, parse_transport};
use crate::refuse::{Refuse, refuse};
use crate::rewrite::{swap_ethernet, translate};
use crate::select::{Selected, select};
use crate::tables::{Action, Counted, FamilyTables, Packet, Side, Tables};

/// A packet that enters the node's stack.
#[inline(always)]
pub fn ingress<P: Packet, T: Tables>(packet: &mut P, tables: &T, side: Side) -> Action {
    match ethertype(packet) {
        Some(ETHERTYPE_IPV4) => ingress_family::<AddrV4, _, _>(packet, tables, side),
        Some(ETHERTYPE_IPV6) => ingress_family::<AddrV6, _, _>(packet, tables, side),
        _ => Action::Pass,
    }
}

/// A packet that leaves the node's stack.
#[inline(always)]
pub fn egress<P: Packet, T: Tables>(packet: &mut P, tables: &T, side: Side) -> Action {
    match ethertype(packet) {
        Some(ETHERTYPE_IPV4) => egress_family::<AddrV4, _, _>(packet, tables, side),
        Some(ETHERTYPE_IPV6) => egress_family::<AddrV6, _, _>(packet, tables, side),
        _ => Action::Pass,
    }
}

#[inline(always)]
fn ethertype<P: Packet>(packet: &P) -> Option<u16> {
    packet.load(12).map(u16::from_be_bytes)
}

trait Translated: ParseNetwork + Refuse + Icmp {}
impl<A: ParseNetwork + Refuse + Icmp> Translated for A {}

/// Out of line, one function for each family: their variables would not fit on one kernel stack side by side.
#[inline(never)]
fn ingress_family<A: Translated, P: Packet, T: Tables + FamilyTables<A>>(
    packet: &mut P,
    tables: &T,
    side: Side,
) -> Action {
    let Some(mut headers) = A::parse_network(packet, flow_stage::INGRESS) else { return Action::Pass };
    let class = tables.address_class(headers.key.destination);
    if class == 0 {
        return Action::Pass;
    }
    if !translatable(headers.key.protocol) {
        return errors_only(packet, tables, &headers);
    }
    let to_frontend = class & address_class::FRONTEND != 0;
    if headers.fragment {
        return drop_unreadable(tables, &headers.key.destination, to_frontend, DropReason::FragmentUnknown);
    }
    if parse_transport(packet, &mut headers).is_none() {
        return drop_unreadable(tables, &headers.key.destination, to_frontend, DropReason::Malformed);
    }
    let now = tables.now();
    let mut flow = flow::unchanged(&headers.key, now);
    let mut begun = false;
    match tables.flow(&headers.key) {
        Some(known) if flow::continues(tables, &headers.key, &known, headers.tcp_flags, now) => flow = known,
        _ => match begin(packet, tables, side, class, &headers, &mut flow, now) {
            Begun::Done(action) => return action,
            Begun::Flow => begun = true,
        },
    }
    let action = forward(packet, tables, &headers, &flow, now);
    if begun && action == Action::Pass && needs_masquerade(tables, side, &headers.key) {
        return masquerade(tables, &mut headers, &mut flow, now);
    }
    action
}

#[inline(always)]
fn egress_family<A: Translated, P: Packet, T: Tables + FamilyTables<A>>(
    packet: &mut P,
    tables: &T,
    side: Side,
) -> Action {
    let Some(mut headers) = A::parse_network(packet, flow_stage::EGRESS) else { return Action::Pass };
    if !translatable(headers.key.protocol) {
        return errors_only(packet, tables, &headers);
    }
    let destination_class = tables.address_class(headers.key.destination);
    let class = tables.address_class(headers.key.source) | destination_class;
    // What leaves by an uplink for a service address may come from the node itself: it passed no interface yet.
    let from_node = side == Side::Uplink && destination_class & address_class::FRONTEND != 0;
    if headers.fragment || (class & address_class::BACKEND == 0 && !from_node) {
        return Action::Pass;
    }
    if parse_transport(packet, &mut headers).is_none() {
        return Action::Pass;
    }
    let now = tables.now();
    if from_node && let Begun::Done(action) = connect_node(packet, tables, &headers, now) {
        return action;
    }
    match tables.flow(&headers.key) {
        Some(flow) => forward(packet, tables, &headers, &flow, now),
        None => Action::Pass,
    }
}

/// Makes the flows for a connection that the node itself begins, with socket hooks off. Out of line, as
/// [`flow::insert_pair`] is.
#[inline(never)]
fn connect_node<A: Translated, P: Packet, T: Tables + FamilyTables<A>>(
    packet: &mut P,
    tables: &T,
    headers: &Headers<A>,
    now: u32,
) -> Begun {
    if let Some(known) = tables.flow(&headers.key)
        && flow::continues(tables, &headers.key, &known, headers.tcp_flags, now)
    {
        return Begun::Flow;
    }
    let node: A = tables.node_address();
    if unknown_connection(headers) || headers.key.source != node {
        return Begun::Done(Action::Pass);
    }
    let mut flow = flow::unchanged(&headers.key, now);
    match select(tables, &headers.key, &mut flow, now) {
        Selected::Backend => {}
        Selected::Reject => {
            return Begun::Done(reject(packet, tables, headers, flow.service, DropReason::NoEndpoint));
        }
        Selected::Drop(reason) => return Begun::Done(refuse_connection(tables, headers, flow.service, reason)),
        Selected::NotAService if is_service_address(tables, &headers.key.destination) => {
            return Begun::Done(reject(packet, tables, headers, flow.service, DropReason::NoSuchPort));
        }
        Selected::NotAService => return Begun::Done(Action::Pass),
    }
    flow.ops |= flow_op::ADDRESSES | flow_op::REROUTE;
    flow.peer_stage = flow_stage::INGRESS;
    if let Err(error) = flow::insert_pair(tables, &headers.key, &mut flow, SourcePort::Keep, now) {
        return Begun::Done(refuse_connection(tables, headers, flow.service, pair_reason(error)));
    }
    tables.count(flow.service, Counted::ConnectionTc);
    if tables.events_wanted(now) {
        announce(tables, &headers.key, Some(&flow), flow.service, event_kind::TRANSLATED as u16);
    }
    Begun::Flow
}

#[inline(always)]
fn translatable(protocol: Protocol) -> bool {
    protocol == Protocol::TCP || protocol == Protocol::UDP
}

/// Of other protocols only ICMP errors concern us, which may come from any router.
#[inline(always)]
fn errors_only<A: Translated, P: Packet, T: FamilyTables<A>>(
    packet: &mut P,
    tables: &T,
    headers: &Headers<A>,
) -> Action {
    if headers.key.protocol == A::PROTOCOL && !headers.fragment {
        translate_error(packet, tables, headers)
    } else {
        Action::Pass
    }
}

/// TCP in mid-stream without a flow: its connection was made before this dataplane, by another one, whose connection
/// tracking still knows it. The stack gets it unchanged.
#[inline(always)]
fn unknown_connection<A>(headers: &Headers<A>) -> bool {
    headers.key.protocol == Protocol::TCP && !opens(headers.tcp_flags)
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
    flow::note_packet(tables, &headers.key, flow, headers.tcp_flags, now);
    if flow.service != Flow::<A>::NO_SERVICE {
        // By its own account, without padding; BIG TCP gives none.
        let end = if headers.end > ETHERNET_LENGTH as u32 { headers.end } else { packet.length() };
        let bytes = end.saturating_sub(ETHERNET_LENGTH as u32);
        let counted =
            if flow.ops & flow_op::TO_BACKEND != 0 { Counted::ToBackend(bytes) } else { Counted::ToClient(bytes) };
        tables.count(flow.service, counted);
    }
    if translate(packet, &headers.key, flow, headers.transport_offset).is_err() {
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

/// What the first packet of a connection led to.
enum Begun {
    /// A pair of flows, the packet's own being in the caller's hands.
    Flow,
    /// Nothing that lasts.
    Done(Action),
}

/// The first packet of a connection.
#[inline(always)]
fn begin<A: Translated, P: Packet, T: Tables + FamilyTables<A>>(
    packet: &mut P,
    tables: &T,
    side: Side,
    class: u8,
    headers: &Headers<A>,
    flow: &mut Flow<A>,
    now: u32,
) -> Begun {
    if unknown_connection(headers) {
        return Begun::Done(Action::Pass);
    }
    if class & address_class::FRONTEND != 0 {
        match select(tables, &headers.key, flow, now) {
            Selected::Backend => return connect(tables, side, headers, flow, now),
            Selected::Reject => {
                return Begun::Done(reject(packet, tables, headers, flow.service, DropReason::NoEndpoint));
            }
            Selected::Drop(reason) => return Begun::Done(refuse_connection(tables, headers, flow.service, reason)),
            Selected::NotAService if is_service_address(tables, &headers.key.destination) => {
                return Begun::Done(reject(packet, tables, headers, flow.service, DropReason::NoSuchPort));
            }
            Selected::NotAService => {}
        }
    }
    if side == Side::Pod && class & address_class::BACKEND != 0 {
        // A pod talks straight to some backend's address. Its tuple is written down, so that a Service connection
        // from the same port to the same backend gets another port; if that one came first, this one gets another.
        flow.ops |= flow_op::DIRECT;
        // If that fails: not our connection, better untracked than not at all.
        return match flow::insert_pair(tables, &headers.key, flow, SourcePort::Keep, now) {
            Ok(()) => Begun::Flow,
            Err(_) => Begun::Done(Action::Pass),
        };
    }
    Begun::Done(Action::Pass)
}

/// Makes the pair of flows for a connection whose backend was chosen.
#[inline(always)]
fn connect<A: Translated, T: Tables + FamilyTables<A>>(
    tables: &T,
    side: Side,
    headers: &Headers<A>,
    flow: &mut Flow<A>,
    now: u32,
) -> Begun {
    let key = &headers.key;
    let mut ports = SourcePort::Keep;
    flow.ops |= flow_op::ADDRESSES;
    let hairpin = flow.destination == key.source;
    let node: A = tables.node_address();
    if (hairpin || needs_masquerade(tables, side, key)) && node.is_unspecified() {
        return Begun::Done(refuse_connection(tables, headers, flow.service, DropReason::NoNodeAddress));
    }
    if hairpin {
        // A pod does not answer itself through the node: it is shown the node's address, and both directions turn
        // back at its own interface.
        flow.source = node;
        flow.ops |= flow_op::TURN_BACK;
        flow.peer_stage = flow_stage::INGRESS;
        ports = SourcePort::AboveLocalRange;
    }
    if let Err(error) = flow::insert_pair(tables, key, flow, ports, now) {
        return Begun::Done(refuse_connection(tables, headers, flow.service, pair_reason(error)));
    }
    tables.count(flow.service, Counted::ConnectionTc);
    if tables.events_wanted(now) {
        announce(tables, key, Some(flow), flow.service, event_kind::TRANSLATED as u16);
    }
    Begun::Flow
}

/// A client outside the cluster is shown to the backend as the node, so that the replies come back here: a second pair
/// of flows, for the packet as it now is, that applies where it leaves the stack. Reuses the memory of the first pair.
#[inline(always)]
fn masquerade<A: Translated, T: Tables + FamilyTables<A>>(
    tables: &T,
    headers: &mut Headers<A>,
    flow: &mut Flow<A>,
    now: u32,
) -> Action {
    headers.key.destination = flow.destination;
    headers.key.source_port = flow.source_port;
    headers.key.destination_port = flow.destination_port;
    headers.key.stage = flow_stage::EGRESS;
    // Packets are counted once, by the first pair.
    let service = core::mem::replace(&mut flow.service, Flow::<A>::NO_SERVICE);
    flow.source = tables.node_address();
    flow.peer_stage = flow_stage::INGRESS;
    match flow::insert_pair(tables, &headers.key, flow, SourcePort::AboveLocalRange, now) {
        Ok(()) => Action::Pass,
        Err(error) => {
            // Without the second pair the first must not be used: the next packet begins anew.
            let replies = FlowKey {
                source: headers.key.destination,
                destination: headers.key.source,
                source_port: headers.key.destination_port,
                destination_port: headers.key.source_port,
                ..headers.key
            };
            flow::mark_pair(tables, &replies, flow_state::CLOSED, now);
            refuse_connection(tables, headers, service, pair_reason(error))
        }
    }
}

/// Whether a connection must be shown to the backend as the node's.
#[inline(always)]
fn needs_masquerade<A: Address, T: FamilyTables<A>>(tables: &T, side: Side, key: &FlowKey<A>) -> bool {
    side == Side::Uplink && !tables.in_cluster(key.source)
}

/// A new connection that cannot be made.
#[inline(always)]
fn refuse_connection<A: Translated, T: Tables>(
    tables: &T,
    headers: &Headers<A>,
    service: u32,
    reason: DropReason,
) -> Action {
    tables.count(service, Counted::Rejected);
    give_up(tables, headers, service, reason)
}

/// Answers in the backend's place: nobody is there.
#[inline(always)]
fn reject<A: Translated, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &Headers<A>,
    index: u32,
    reason: DropReason,
) -> Action {
    if index != Flow::<A>::NO_SERVICE {
        tables.count(index, Counted::Rejected);
    }
    tables.count_drop(reason);
    if tables.events_wanted(tables.now()) {
        announce(tables, &headers.key, None, index, outcome(event_kind::REFUSED, reason));
    }
    match refuse(packet, headers) {
        Ok(()) => Action::TurnBack,
        Err(_) => give_up(tables, headers, index, DropReason::RewriteFailed),
    }
}

#[inline(always)]
fn give_up<A: Translated, T: Tables>(tables: &T, headers: &Headers<A>, index: u32, reason: DropReason) -> Action {
    tables.count_drop(reason);
    if tables.events_wanted(tables.now()) {
        announce(tables, &headers.key, None, index, outcome(event_kind::DROPPED, reason));
    }
    Action::Drop(reason)
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

/// Whether any service has this address.
#[inline(never)]
fn is_service_address<A: Address, T: FamilyTables<A>>(tables: &T, address: &A) -> bool {
    tables.frontend(&FrontendKey { address: *address, port: Port(0), protocol: Protocol(0), zero: 0 }).is_some()
}

#[inline(always)]
fn pair_reason(error: PairError) -> DropReason {
    match error {
        PairError::PortsExhausted => DropReason::SourcePortsExhausted,
        PairError::TableFull => DropReason::FlowTableFull,
    }
}

/// Kind and reason of an event in one number: a kernel function takes five arguments at most.
#[inline(always)]
fn outcome(kind: u8, reason: DropReason) -> u16 {
    kind as u16 | (reason as u16) << 8
}

/// Tells listeners what became of a new connection. Out of line, as [`flow::insert_pair`] is.
#[inline(never)]
fn announce<A: Address, T: Tables>(tables: &T, key: &FlowKey<A>, flow: Option<&Flow<A>>, service: u32, outcome: u16) {
    let (backend, backend_port) = match flow {
        Some(flow) => (flow.destination.wide(), flow.destination_port),
        None => (NOWHERE, Port(0)),
    };
    tables.emit(&Event {
        time: 0,
        client: key.source.wide(),
        frontend: key.destination.wide(),
        backend,
        client_port: key.source_port,
        frontend_port: key.destination_port,
        backend_port,
        protocol: key.protocol,
        family: A::FAMILY,
        service,
        kind: outcome as u8,
        path: event_path::TC,
        reason: (outcome >> 8) as u8,
        zero: 0,
        process: 0,
        reserved: 0,
        command: [0; 16],
    });
}
