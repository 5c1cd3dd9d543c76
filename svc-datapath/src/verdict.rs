//! What becomes of a connection that is not forwarded, and who hears of it: counters, drop reasons, events, refusals.

use svc_common::{DropReason, Event, Flow, FlowKey, Port, event_kind, event_path};

use crate::address::Address;
use crate::flow::NOWHERE;
use crate::parse::Headers;
use crate::refuse::{Refuse, refuse};
use crate::tables::{Action, Counted, Packet, Tables};

/// A new connection that cannot be made.
#[inline(always)]
pub fn refuse_connection<A: Address, T: Tables>(
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
pub fn reject<A: Refuse, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &Headers<A>,
    index: u32,
    reason: DropReason,
) -> Action {
    if index != Flow::<A>::NO_SERVICE {
        tables.count(index, Counted::Rejected);
    }
    answer(packet, tables, headers, index, reason)
}

/// Turns the packet into its own refusal. It need not have been a new connection.
#[inline(always)]
pub fn answer<A: Refuse, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &Headers<A>,
    index: u32,
    reason: DropReason,
) -> Action {
    tables.count_drop(reason);
    if tables.events_wanted(tables.now()) {
        announce(tables, &headers.key, None, index, outcome(event_kind::REFUSED, reason));
    }
    match refuse(packet, headers) {
        Ok(()) => Action::TurnBack,
        Err(_) => give_up(tables, headers, index, DropReason::RewriteFailed),
    }
}

/// Drops a packet for a reason.
#[inline(always)]
pub fn give_up<A: Address, T: Tables>(tables: &T, headers: &Headers<A>, index: u32, reason: DropReason) -> Action {
    tables.count_drop(reason);
    if tables.events_wanted(tables.now()) {
        announce(tables, &headers.key, None, index, outcome(event_kind::DROPPED, reason));
    }
    Action::Drop(reason)
}

/// Tells listeners of a new connection that is forwarded.
#[inline(always)]
pub fn announce_translated<A: Address, T: Tables>(tables: &T, key: &FlowKey<A>, flow: &Flow<A>, now: u32) {
    if tables.events_wanted(now) {
        announce(tables, key, Some(flow), flow.service, event_kind::TRANSLATED as u16);
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
