//! Flow rules: when an existing flow still counts, and how the pair of flows of a new connection is made.

use core::ops::RangeInclusive;

use svc_common::{AddrV6, BackendRef, Flow, FlowEntry, FlowKey, Hop, Port, Protocol, flow_op, flow_stage, flow_state};

use crate::address::Address;
use crate::parse::{opens, tcp_flag};
use crate::select::live_backend;
use crate::tables::{FamilyTables, InsertError, Tables};

/// Seconds without a packet after which a UDP flow is forgotten: nf_conntrack_udp_timeout_stream.
pub const UDP_IDLE_SECONDS: u32 = 180;

/// Source ports tried before a new connection is given up.
const PORT_ATTEMPTS: usize = 8;

/// Where sockets get their ports from (net.ipv4.ip_local_port_range): connections that we see nothing of use these, and
/// those that we choose a port for do not.
const LOCAL_RANGE: RangeInclusive<u16> = 32_768..=60_999;

/// As many tries are for ports above it. The others, for when those run out, are for ports below, where servers listen.
const ATTEMPTS_ABOVE_LOCAL_RANGE: usize = 5;

/// The source port by which the backend is to know a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum SourcePort {
    /// The client's own, another one only if it is taken.
    Keep,
    /// Another one: not every connection that the client's own may belong to is in the table.
    Replace,
}

/// A new connection could not be entered into the flow table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PairError {
    PortsExhausted,
    TableFull,
}

/// The key of the packets of the other direction: this one's tuple after translation, reversed.
#[inline(always)]
pub fn peer_key<A: Copy>(key: &FlowKey<A>, flow: &Flow<A>) -> FlowKey<A> {
    FlowKey {
        source: flow.destination,
        destination: flow.source,
        source_port: flow.destination_port,
        destination_port: flow.source_port,
        protocol: key.protocol,
        stage: flow.peer_stage,
        zero: 0,
    }
}

/// The key, at the same stage, of packets the other way.
#[inline(always)]
pub fn reversed<A: Copy>(key: &FlowKey<A>) -> FlowKey<A> {
    FlowKey {
        source: key.destination,
        destination: key.source,
        source_port: key.destination_port,
        destination_port: key.source_port,
        ..*key
    }
}

/// Whether a packet that matches `flow` belongs to it, or begins a new connection instead.
#[inline(always)]
pub fn continues<A: Address, T: Tables>(tables: &T, key: &FlowKey<A>, flow: &Flow<A>, tcp_flags: u8, now: u32) -> bool {
    let to_backend = flow.ops & flow_op::TO_BACKEND != 0;
    if key.protocol != Protocol::UDP {
        // Only a SYN (or INIT) can begin anew: after the old connection ended, or while nobody has answered and the chosen
        // endpoint is gone. A retransmitted SYN stays with its backend.
        if !to_backend || !opens(tcp_flags) {
            return true;
        }
        let answered = flow.state & flow_state::REPLIED != 0;
        return !has_ended(flow.state) && (answered || !ended_backend(tables, flow.backend));
    }
    if flow.state & flow_state::CLOSED != 0 {
        return false;
    }
    // A UDP client moves when its endpoint stopped serving; late replies of the old one may still pass.
    let idle = now.wrapping_sub(flow.last_seen) > UDP_IDLE_SECONDS;
    !to_backend || (!idle && !ended_backend(tables, flow.backend))
}

/// Whether a connection in this state is over: reset, or ended from both sides.
#[inline(always)]
pub const fn has_ended(state: u8) -> bool {
    const BOTH_FIN: u8 = flow_state::FIN_CLIENT | flow_state::FIN_BACKEND;
    state & flow_state::CLOSED != 0 || state & BOTH_FIN == BOTH_FIN
}

#[inline(always)]
pub fn ended_backend<T: Tables>(tables: &T, backend: BackendRef) -> bool {
    backend != BackendRef::NONE && live_backend(tables, backend).is_none()
}

/// The time for a packet of `flow`: the one written there, until the tick is over. A flow that rested for a multiple of 256 ticks
/// looks fresh for one more; what that delays by a second is idleness and the search for its next hop.
#[inline(always)]
pub fn time_of<A, T: Tables>(tables: &T, flow: &Flow<A>) -> u32 {
    if flow.tick == tables.tick() { flow.last_seen } else { tables.now() }
}

/// What a packet of an established flow changes, seldom anything: bits of [`flow_state`] to add, and the time.
#[inline(always)]
pub fn news<A>(flow: &Flow<A>, tcp_flags: u8, now: u32) -> Option<u8> {
    let to_backend = flow.ops & flow_op::TO_BACKEND != 0;
    let mut state = 0;
    if !to_backend {
        state |= flow_state::REPLIED;
    }
    if tcp_flags & tcp_flag::RST != 0 {
        state |= flow_state::CLOSED;
    } else if tcp_flags & tcp_flag::FIN != 0 {
        state |= if to_backend { flow_state::FIN_CLIENT } else { flow_state::FIN_BACKEND };
    }
    (flow.state | state != flow.state || flow.last_seen != now).then_some(state)
}

/// Writes down what a packet changes, in both flows: a stream that only flows one way is alive in the other direction, too.
#[inline(always)]
pub fn note_packet<A: Address, T: FamilyTables<A>>(
    tables: &T,
    key: &FlowKey<A>,
    flow: &Flow<A>,
    tcp_flags: u8,
    now: u32,
) {
    if let Some(state) = news(flow, tcp_flags, now) {
        mark_pair(tables, key, state, now);
    }
}

/// Both flows of a connection learn of a packet. Out of line: once a second, and when the state changes.
#[inline(never)]
pub fn mark_pair<A: Address, T: FamilyTables<A>>(tables: &T, key: &FlowKey<A>, state: u8, now: u32) {
    if let Some(flow) = tables.flow(key) {
        tables.mark_flow(key, state, now);
        tables.mark_flow(&peer_key(key, &flow), state, now);
    }
}

/// Enters both flows of a new connection: `key` ⇒ `entry`, and the replies back to `key`.
/// The reply's tuple must not be in use; if it is, the connection gets another source port.
///
/// Out of line, with its arguments by reference: in the kernel this is a function of its own, shared by the programs,
/// whose stack of 512 bytes is for the whole call chain.
#[inline(never)]
pub fn insert_pair<A: Address, T: Tables + FamilyTables<A>>(
    tables: &T,
    key: &FlowKey<A>,
    entry: &mut FlowEntry<A>,
    ports: SourcePort,
    now: u32,
) -> Result<(), PairError> {
    if ports == SourcePort::Replace && key.protocol != Protocol::SCTP {
        entry.flow.source_port = port_above_local_range(tables.random());
    }
    // There is room for one flow: it lends its memory to the reply, and its own tuple is kept, reversed, in the
    // reply's key.
    entry.hop = Hop::default();
    let flow = &mut entry.flow;
    let mut reply_key = peer_key(key, flow);
    let (ops, peer_stage) = (flow.ops, flow.peer_stage);
    set_tuple(flow, key.destination, key.source, key.destination_port, key.source_port);
    flow.ops = ops & !(flow_op::TO_BACKEND | flow_op::RESET_WHEN_GONE);
    flow.peer_stage = key.stage;
    let entered = insert_reply(tables, key, &mut reply_key, entry, now);
    let flow = &mut entry.flow;
    set_tuple(flow, reply_key.destination, reply_key.source, reply_key.destination_port, reply_key.source_port);
    flow.ops = ops;
    flow.peer_stage = peer_stage;
    entered?;
    tables.insert_flow(key, entry, true).map_err(|_| PairError::TableFull)
}

#[inline(always)]
fn set_tuple<A: Address>(flow: &mut Flow<A>, source: A, destination: A, source_port: Port, destination_port: Port) {
    flow.source = source;
    flow.destination = destination;
    flow.source_port = source_port;
    flow.destination_port = destination_port;
}

/// Enters the reply under the first source port that is free, which is then in `reply_key`.
#[inline(always)]
fn insert_reply<A: Address, T: Tables + FamilyTables<A>>(
    tables: &T,
    key: &FlowKey<A>,
    reply_key: &mut FlowKey<A>,
    reply: &FlowEntry<A>,
    now: u32,
) -> Result<(), PairError> {
    for attempt in 1..=PORT_ATTEMPTS {
        let entered = match tables.insert_flow(reply_key, reply, false) {
            Err(InsertError::Exists) => match tables.flow(reply_key) {
                Some(existing) if !in_use(key, reply_key, &existing, now) => tables.insert_flow(reply_key, reply, true),
                _ => Err(InsertError::Exists),
            },
            other => other,
        };
        match entered {
            Ok(()) => return Ok(()),
            Err(InsertError::Full) => return Err(PairError::TableFull),
            Err(InsertError::Exists) if key.protocol == Protocol::SCTP => return Err(PairError::PortsExhausted),
            Err(InsertError::Exists) => {
                let random = tables.random();
                reply_key.destination_port = match attempt <= ATTEMPTS_ABOVE_LOCAL_RANGE {
                    true => port_above_local_range(random),
                    false => port_below_local_range(random),
                };
            }
        }
    }
    Err(PairError::PortsExhausted)
}

/// Whether an existing reply flow belongs to a connection other than `key`'s that may still be alive.
#[inline(always)]
fn in_use<A: Address>(key: &FlowKey<A>, reply_key: &FlowKey<A>, existing: &Flow<A>, now: u32) -> bool {
    let owner = peer_key(reply_key, existing);
    let own = owner == *key;
    let ended = has_ended(existing.state)
        || (key.protocol != Protocol::TCP && now.wrapping_sub(existing.last_seen) > UDP_IDLE_SECONDS);
    !own && !ended
}

/// Whether a port may be one that we chose.
#[inline(always)]
pub fn is_chosen(port: Port) -> bool {
    !LOCAL_RANGE.contains(&port.to_host())
}

#[inline(always)]
fn port_below_local_range(random: u32) -> Port {
    const UNPRIVILEGED: u16 = 1_024;
    port_between(UNPRIVILEGED, *LOCAL_RANGE.start() - 1, random)
}

#[inline(always)]
fn port_above_local_range(random: u32) -> Port {
    port_between(*LOCAL_RANGE.end() + 1, u16::MAX, random)
}

#[inline(always)]
fn port_between(first: u16, last: u16, random: u32) -> Port {
    let ports = (last - first) as u32 + 1;
    Port::from_host(first + (((random & 0xffff) * ports) >> 16) as u16)
}

/// The flow of a packet that is not translated: what a new connection starts from, and what says "this tuple belongs
/// to a connection that is not to a Service".
#[inline(always)]
pub fn unchanged<A: Address>(key: &FlowKey<A>, now: u32) -> Flow<A> {
    Flow {
        backend: BackendRef::NONE,
        source: key.source,
        destination: key.destination,
        source_port: key.source_port,
        destination_port: key.destination_port,
        service: Flow::<A>::NO_SERVICE,
        last_seen: now,
        state: 0,
        ops: flow_op::TO_BACKEND,
        peer_stage: flow_stage::EGRESS,
        tick: 0,
    }
}

/// No address: for events about packets that reached no backend.
pub const NOWHERE: AddrV6 = AddrV6([0; 4]);
