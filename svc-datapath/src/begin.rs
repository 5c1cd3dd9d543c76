//! The first packet of a connection: whom it is for, which endpoint it gets, and the flows that all later packets follow.
//! Neighbours: `select` chooses, `flow` enters the pair, `verdict` says no.

use svc_common::{
    DropReason, Flow, FlowEntry, FlowKey, FrontendKey, Protocol, address_class, flow_op, flow_stage, flow_state,
};

use crate::address::Address;
use crate::flow::{self, PairError, SourcePort};
use crate::parse::{Headers, opens};
use crate::refuse::Refuse;
use crate::select::{Selected, select};
use crate::tables::{Action, Counted, FamilyTables, Packet, Side, Tables};
use crate::verdict::{announce_translated, refuse_connection, reject};

/// What the first packet of a connection led to.
pub enum Begun {
    /// A pair of flows.
    Flow,
    /// Nothing that lasts.
    Done(Action),
}

/// Whom a first packet is for.
enum Destination {
    /// The flow leads to an endpoint of a service, but is not entered yet.
    Backend,
    /// A service that takes nobody.
    Refused(Action),
    NoService,
}

/// The first packet that a client sends through one of our interfaces; its own flow is left in `entry`.
#[inline(always)]
pub fn begin<A: Refuse, P: Packet, T: Tables + FamilyTables<A>>(
    packet: &mut P,
    tables: &T,
    side: Side,
    class: u8,
    headers: &Headers<A>,
    entry: &mut FlowEntry<A>,
    now: u32,
) -> Begun {
    if unknown_connection(headers) {
        return Begun::Done(Action::Pass);
    }
    entry.flow = flow::unchanged(&headers.key, now);
    if class & address_class::FRONTEND != 0 {
        match find_destination(packet, tables, headers, &mut entry.flow, now) {
            Destination::Backend => return connect(tables, side, headers, entry, now),
            Destination::Refused(action) => return Begun::Done(action),
            Destination::NoService => {}
        }
    }
    if class & address_class::BACKEND != 0
        && let Some(ports) = tracks(tables, side, &headers.key)
    {
        entry.flow.ops |= flow_op::DIRECT;
        // If that fails: not our connection, better untracked than not at all.
        return match flow::insert_pair(tables, &headers.key, entry, ports, now) {
            Ok(()) => Begun::Flow,
            Err(_) => Begun::Done(Action::Pass),
        };
    }
    Begun::Done(Action::Pass)
}

/// Somebody talks straight to some backend's address: whether that is written down, and by which port the backend sees it.
///
/// A pod's tuple is, so that a Service connection from the same port to the same backend gets another one; if that came
/// first, this one does. Of clients elsewhere there are too many: their Service connections never keep a port that they may use
/// here, and only who meets a tuple made that way gets another.
#[inline(always)]
fn tracks<A: Address, T: FamilyTables<A>>(tables: &T, side: Side, key: &FlowKey<A>) -> Option<SourcePort> {
    match side {
        Side::Pod => Some(SourcePort::Keep),
        Side::Uplink => is_taken(tables, key).then_some(SourcePort::Replace),
    }
}

/// Whether replies to an untranslated packet of this tuple would be taken for those of another connection.
#[inline(always)]
pub fn is_taken<A: Address, T: FamilyTables<A>>(tables: &T, key: &FlowKey<A>) -> bool {
    let replies = FlowKey { stage: flow_stage::EGRESS, ..flow::reversed(key) };
    tables.flow(&replies).is_some_and(|flow| flow.ops & flow_op::TO_BACKEND == 0)
}

/// Makes the flows for a connection that the node itself begins, with socket hooks off. Out of line, as
/// [`flow::insert_pair`] is.
#[inline(never)]
pub fn begin_from_node<A: Refuse, P: Packet, T: Tables + FamilyTables<A>>(
    packet: &mut P,
    tables: &T,
    headers: &Headers<A>,
    entry: &mut FlowEntry<A>,
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
    entry.flow = flow::unchanged(&headers.key, now);
    match find_destination(packet, tables, headers, &mut entry.flow, now) {
        Destination::Backend => {}
        Destination::Refused(action) => return Begun::Done(action),
        Destination::NoService => return Begun::Done(Action::Pass),
    }
    entry.flow.ops |= flow_op::ADDRESSES | flow_op::REROUTE;
    entry.flow.peer_stage = flow_stage::INGRESS;
    // Its own connections straight to the backend are not in the table.
    enter(tables, headers, entry, SourcePort::Replace, now)
}

/// TCP (or SCTP) in mid-stream without a flow: its connection was made before this dataplane, by another one, whose connection
/// tracking still knows it. The stack gets it unchanged.
#[inline(always)]
fn unknown_connection<A>(headers: &Headers<A>) -> bool {
    headers.key.protocol != Protocol::UDP && !opens(headers.tcp_flags)
}

#[inline(always)]
fn find_destination<A: Refuse, P: Packet, T: Tables + FamilyTables<A>>(
    packet: &mut P,
    tables: &T,
    headers: &Headers<A>,
    flow: &mut Flow<A>,
    now: u32,
) -> Destination {
    let key = &headers.key;
    let reason = match select(tables, key, flow, now) {
        Selected::Backend if key.protocol != Protocol::SCTP || flow.destination_port == key.destination_port => {
            return Destination::Backend;
        }
        Selected::Backend => DropReason::SctpPort,
        Selected::Reject => DropReason::NoEndpoint,
        Selected::Drop(reason) => {
            return Destination::Refused(refuse_connection(tables, headers, flow.service, reason));
        }
        Selected::NotAService if is_service_address(tables, &key.destination) => DropReason::NoSuchPort,
        Selected::NotAService => return Destination::NoService,
    };
    Destination::Refused(reject(packet, tables, headers, flow.service, reason))
}

/// Makes the pair of flows for a client whose backend was chosen.
#[inline(always)]
fn connect<A: Address, T: Tables + FamilyTables<A>>(
    tables: &T,
    side: Side,
    headers: &Headers<A>,
    entry: &mut FlowEntry<A>,
    now: u32,
) -> Begun {
    let key = &headers.key;
    let mut ports = SourcePort::Keep;
    entry.flow.ops |= flow_op::ADDRESSES;
    let hairpin = entry.flow.destination == key.source;
    let node: A = tables.node_address();
    if hairpin || needs_masquerade(tables, side, key) {
        if node.is_unspecified() {
            return Begun::Done(refuse_connection(tables, headers, entry.flow.service, DropReason::NoNodeAddress));
        }
        ports = SourcePort::Replace;
    }
    if hairpin {
        // A pod does not answer itself through the node: it is shown the node's address, and both directions turn
        // back at its own interface.
        entry.flow.source = node;
        entry.flow.ops |= flow_op::TURN_BACK;
        entry.flow.peer_stage = flow_stage::INGRESS;
    }
    enter(tables, headers, entry, ports, now)
}

/// Enters the flows of a new connection to a service, counts and announces it.
#[inline(always)]
fn enter<A: Address, T: Tables + FamilyTables<A>>(
    tables: &T,
    headers: &Headers<A>,
    entry: &mut FlowEntry<A>,
    ports: SourcePort,
    now: u32,
) -> Begun {
    if let Err(error) = flow::insert_pair(tables, &headers.key, entry, ports, now) {
        return Begun::Done(refuse_connection(tables, headers, entry.flow.service, pair_reason(error)));
    }
    tables.count(entry.flow.service, Counted::ConnectionTc);
    announce_translated(tables, &headers.key, &entry.flow, now);
    Begun::Flow
}

/// A client outside the cluster is shown to the backend as the node, so that the replies come back here: a second pair
/// of flows, for the packet as it now is, that applies where it leaves the stack. Reuses the memory of the first pair.
#[inline(always)]
pub fn masquerade<A: Address, T: Tables + FamilyTables<A>>(
    tables: &T,
    headers: &mut Headers<A>,
    entry: &mut FlowEntry<A>,
    now: u32,
) -> Action {
    headers.key.destination = entry.flow.destination;
    headers.key.source_port = entry.flow.source_port;
    headers.key.destination_port = entry.flow.destination_port;
    headers.key.stage = flow_stage::EGRESS;
    // Packets are counted once, by the first pair.
    let service = core::mem::replace(&mut entry.flow.service, Flow::<A>::NO_SERVICE);
    entry.flow.source = tables.node_address();
    // Whoever resets the client does so in the first pair.
    entry.flow.ops &= !flow_op::RESET_WHEN_GONE;
    entry.flow.peer_stage = flow_stage::INGRESS;
    match flow::insert_pair(tables, &headers.key, entry, SourcePort::Keep, now) {
        Ok(()) => Action::Pass,
        Err(error) => {
            // Without the second pair the first must not be used: the next packet begins anew. Spelled out, because by way of
            // `flow::reversed` the verifier has a third more to do.
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
pub fn needs_masquerade<A: Address, T: FamilyTables<A>>(tables: &T, side: Side, key: &FlowKey<A>) -> bool {
    side == Side::Uplink && !tables.in_cluster(key.source)
}

/// Whether any service has this address.
#[inline(never)]
pub fn is_service_address<A: Address, T: FamilyTables<A>>(tables: &T, address: &A) -> bool {
    tables.frontend(&FrontendKey::marker(*address)).is_some()
}

#[inline(always)]
fn pair_reason(error: PairError) -> DropReason {
    match error {
        PairError::PortsExhausted => DropReason::SourcePortsExhausted,
        PairError::TableFull => DropReason::FlowTableFull,
    }
}
