//! Choosing a backend for a new flow: affinity first, then a slot, at random or by the client's hash. The same for
//! packets and sockets.

use svc_common::{
    AddrV6, AffinityKey, AffinityValue, BackendEntry, BackendRef, DropReason, Flow, FlowKey, FrontendKey, Port,
    Protocol, ServiceEntry, Verdict, backend_flag, flow_op, service_flag,
};

use crate::address::Address;
use crate::tables::{FamilyTables, Tables};

/// A slot whose backend just ended is tried again; the publication that replaces it is already on its way.
const ATTEMPTS: usize = 4;

/// What a service says to a new flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Selected {
    /// The destination is no frontend (or no longer the one that was looked up).
    NotAService,
    /// The flow leads to an endpoint now.
    Backend,
    /// The service has no endpoint.
    Reject,
    Drop(DropReason),
}

/// The service behind a frontend, checked against the key that led to it.
#[inline(always)]
pub fn find_service<A: Address, T: Tables + FamilyTables<A>>(
    tables: &T,
    frontend: &FrontendKey<A>,
) -> Option<(u32, ServiceEntry)> {
    let index = tables.frontend(frontend)?;
    let service = tables.service(index)?;
    let same = service.address == frontend.address.wide()
        && service.port == frontend.port
        && service.protocol == frontend.protocol
        && service.family == A::FAMILY;
    same.then_some((index, service))
}

/// Chooses a backend for the connection that begins with a packet of this key, and leads `flow` there.
///
/// Out of line, with arguments in the caller's memory: in the kernel a function of its own, shared by the programs,
/// whose stack of 512 bytes is for the whole call chain.
#[inline(never)]
pub fn select<A: Address, T: Tables + FamilyTables<A>>(
    tables: &T,
    key: &FlowKey<A>,
    flow: &mut Flow<A>,
    now: u32,
) -> Selected {
    let frontend =
        FrontendKey { address: key.destination, port: key.destination_port, protocol: key.protocol, zero: 0 };
    let Some((index, service)) = find_service(tables, &frontend) else { return Selected::NotAService };
    let verdict = service.publication.verdict();
    if verdict != Verdict::NONE {
        flow.service = index;
    }
    match verdict {
        Verdict::FORWARD => {
            if service.flags & service_flag::RESET_WHEN_GONE != 0 && key.protocol == Protocol::TCP {
                flow.ops |= flow_op::RESET_WHEN_GONE;
            }
        }
        Verdict::REJECT => return Selected::Reject,
        Verdict::DROP => return Selected::Drop(DropReason::NoLocalEndpoint),
        _ => return Selected::NotAService,
    }
    let affinity = AffinityKey { client: key.source.wide(), affinity_id: service.affinity_id, zero: 0 };
    if service.affinity_timeout != 0
        && let Some(remembered) = tables.affinity(&affinity)
        && now.wrapping_sub(remembered.last_seen) <= service.affinity_timeout
        && let Some(entry) = live_backend(tables, remembered.backend)
        && entry.flags & backend_flag::ELIGIBLE != 0
    {
        remember(tables, &affinity, remembered.backend, now);
        return lead(flow, remembered.backend, &entry);
    }
    let mut publication = service.publication;
    let mut number = first_number(tables, key, &service);
    for _ in 0..ATTEMPTS {
        // Scales a 32-bit number to the slot count without a division.
        let offset = (number as u64 * publication.slot_count() as u64) >> 32;
        if let Some(backend) = tables.slot(publication.first_slot().wrapping_add(offset as u32))
            && let Some(entry) = live_backend(tables, backend)
            && entry.service == index
        {
            if service.affinity_timeout != 0 {
                remember(tables, &affinity, backend, now);
            }
            return lead(flow, backend, &entry);
        }
        match tables.service(index) {
            // The same list again: its hashed slot would be the same, too.
            Some(again) if again.publication == publication => number = tables.random(),
            Some(again) if again.publication.verdict() == Verdict::FORWARD => publication = again.publication,
            _ => break,
        }
    }
    Selected::Drop(DropReason::BackendChanged)
}

/// What the slot of a new flow is chosen by. A socket that is about to connect has no source port yet (zero): unless the
/// client's address decides alone, a random number is what its hash would be.
#[inline(always)]
fn first_number<A: Address, T: Tables>(tables: &T, key: &FlowKey<A>, service: &ServiceEntry) -> u32 {
    let affinity = service.affinity_timeout != 0;
    if service.flags & service_flag::HASH == 0 || (!affinity && key.source_port == Port(0)) {
        return tables.random();
    }
    let port = if affinity { Port(0) } else { key.source_port };
    hash_client(key.source.wide(), port, key.protocol)
}

/// The same on every node and after every restart: a client keeps its backend wherever its packets enter.
#[inline(always)]
fn hash_client(address: AddrV6, port: Port, protocol: Protocol) -> u32 {
    let [a, b, c, d] = address.0;
    let first = (a as u64) << 32 | b as u64;
    let second = (c as u64) << 32 | d as u64;
    let third = (port.0 as u64) << 8 | protocol.0 as u64;
    (mix(mix(mix(first) ^ second) ^ third) >> 32) as u32
}

/// The finalizer of SplitMix64: every bit of the input changes half of the bits of the result.
#[inline(always)]
const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// The backend a reference names, unless it ended.
#[inline(always)]
pub fn live_backend<T: Tables>(tables: &T, backend: BackendRef) -> Option<BackendEntry> {
    let entry = tables.backend(backend.index())?;
    (entry.generation == backend.generation()).then_some(entry)
}

#[inline(always)]
fn lead<A: Address>(flow: &mut Flow<A>, backend: BackendRef, entry: &BackendEntry) -> Selected {
    flow.backend = backend;
    flow.destination = A::from_wide(entry.address);
    flow.destination_port = entry.port;
    Selected::Backend
}

#[inline(always)]
fn remember<T: Tables>(tables: &T, key: &AffinityKey, backend: BackendRef, now: u32) {
    tables.set_affinity(key, &AffinityValue { backend, last_seen: now, zero: 0 });
}
