//! The per-connection path: socket hooks translate the address of a TCP connection once, and show the socket the address
//! it asked for. Datagrams, and what the hooks cannot do exactly as the packet path does, are left to it.

use svc_common::{
    DropReason, Event, Flow, FlowKey, FrontendKey, Port, Protocol, Publication, ServiceEntry, SocketKey, SocketValue,
    Verdict, address_class, backend_flag, event_kind, event_path, feature, flow_stage, service_flag, socket_fact,
};

use crate::address::Address;
use crate::flow::{self, NOWHERE};
use crate::select::{Selected, find_service, live_backend, select};
use crate::tables::{Counted, FamilyTables, Tables};

/// A pod that is one of more endpoints than these, and listens on its own address only, comes to itself less often than to
/// the others.
const SLOTS_ASKED: u32 = 16;

/// The socket at hand. What is asked of it may cost a call, and most sockets have nothing to do with a Service.
pub trait Socket {
    fn protocol(&self) -> Protocol;
    /// Of bpf_get_socket_cookie.
    fn cookie(&self) -> u64;
    /// Whether it lives in the node's own network namespace.
    fn is_host(&self) -> bool;
    /// Zero while it has none.
    fn local_port(&self) -> Port;
}

/// What becomes of an address a program passed to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resolution<A> {
    Unchanged,
    Replace(A, Port),
    /// Nobody is there: ECONNREFUSED.
    Refuse,
}

/// bind() to a port that the program chose.
#[inline(always)]
pub fn bind<T: Tables>(tables: &T, socket: &impl Socket) {
    if socket.protocol() == Protocol::TCP {
        tables.set_socket(&key(socket, socket_fact::BOUND), &SocketValue::default());
    }
}

/// connect(). `listens` says whether a socket of the caller's own network namespace accepts connections to an address.
#[inline(always)]
pub fn connect<A: Address, T: Tables + FamilyTables<A>>(
    tables: &T,
    socket: &impl Socket,
    address: A,
    port: Port,
    listens: impl Fn(A, Port) -> bool,
) -> Resolution<A> {
    let protocol = socket.protocol();
    // The kernel keeps a connected UDP socket where connect() put it, whatever becomes of that endpoint.
    if protocol != Protocol::TCP || tables.address_class(address) & address_class::FRONTEND == 0 {
        return Resolution::Unchanged;
    }
    let host = socket.is_host();
    // The packet path can give the connection another source port when the program's own is taken by one straight to
    // the same backend. A port that bind() took from the kernel's range is no such choice.
    if !host && socket.local_port() != Port(0) && tables.socket(&key(socket, socket_fact::BOUND)).is_some() {
        return Resolution::Unchanged;
    }
    let frontend = FrontendKey { address, port, protocol, zero: 0 };
    match lookup(tables, host, &frontend) {
        Some(service) => choose(tables, socket, host, &frontend, &service, listens),
        None => Resolution::Unchanged,
    }
}

/// The address to show for a peer: getpeername(), and accept(), whose clients are endpoints more seldom.
#[inline(always)]
pub fn peer<A: Address, T: Tables + FamilyTables<A>>(
    tables: &T,
    socket: &impl Socket,
    address: A,
    port: Port,
) -> Option<(A, Port)> {
    if socket.protocol() != Protocol::TCP || tables.address_class(address) & address_class::BACKEND == 0 {
        return None;
    }
    let known = tables.socket(&key(socket, socket_fact::TRANSLATED))?;
    (known.backend == address.wide() && known.backend_port == port)
        .then_some((A::from_wide(known.frontend), known.frontend_port))
}

/// The service a frontend belongs to, if the hooks translate for this socket and service.
#[inline(always)]
fn lookup<A: Address, T: Tables + FamilyTables<A>>(
    tables: &T,
    host: bool,
    frontend: &FrontendKey<A>,
) -> Option<ServiceEntry> {
    let features = tables.features();
    let wanted = if host { feature::SOCKET_LB_ALL | feature::SOCKET_LB_HOST } else { feature::SOCKET_LB_ALL };
    if features & wanted == 0 {
        return None;
    }
    let (_, service) = find_service(tables, frontend)?;
    (!leave_to_packets(host, &service)).then_some(service)
}

/// The packet path serves these better: it sees the pod's own address (affinity) and each packet of a connection (which it
/// may have to reset), and a drop there looks like a drop.
/// The node's own sockets have no packet path of their own.
#[inline(always)]
fn leave_to_packets(host: bool, service: &ServiceEntry) -> bool {
    let packets_only = service.affinity_timeout != 0 || service.flags & service_flag::RESET_WHEN_GONE != 0;
    service.publication.verdict() == Verdict::DROP || (!host && packets_only)
}

#[inline(always)]
fn choose<A: Address, T: Tables + FamilyTables<A>>(
    tables: &T,
    socket: &impl Socket,
    host: bool,
    frontend: &FrontendKey<A>,
    service: &ServiceEntry,
    listens: impl Fn(A, Port) -> bool,
) -> Resolution<A> {
    let now = tables.now();
    // A flow that is never entered anywhere: the same choice as for a packet. Only a host socket gets here with
    // affinity, and there the node itself is the client.
    let begin = FlowKey {
        source: tables.node_address(),
        destination: frontend.address,
        // Not known before the kernel has routed the connection; a hashed service is told so (see `select`).
        source_port: Port(0),
        destination_port: frontend.port,
        protocol: frontend.protocol,
        stage: flow_stage::INGRESS,
        zero: 0,
    };
    let mut flow = flow::unchanged(&begin, now);
    match select(tables, &begin, &mut flow, now) {
        Selected::Backend
            if !host
                && service.publication.has_local()
                && may_reach_itself(tables, service.publication, &flow, listens) =>
        {
            Resolution::Unchanged
        }
        Selected::Backend => {
            let value = SocketValue {
                backend: flow.destination.wide(),
                frontend: frontend.address.wide(),
                backend_port: flow.destination_port,
                frontend_port: frontend.port,
            };
            tables.set_socket(&key(socket, socket_fact::TRANSLATED), &value);
            tables.count(flow.service, Counted::ConnectionSocket);
            if tables.events_wanted(now) {
                announce(tables, socket.local_port(), frontend, &flow, event_kind::TRANSLATED as u32);
            }
            Resolution::Replace(flow.destination, flow.destination_port)
        }
        Selected::Reject => {
            tables.count(flow.service, Counted::Rejected);
            tables.count_drop(DropReason::NoEndpoint);
            if tables.events_wanted(now) {
                announce(tables, socket.local_port(), frontend, &flow, event_kind::REFUSED as u32);
            }
            Resolution::Refuse
        }
        // Whatever is wrong here, the packet path sees it again, and drops and counts it.
        Selected::Drop(_) | Selected::NotAService => Resolution::Unchanged,
    }
}

/// A pod that reaches itself must be shown the node's address, which takes packets. Its own address is not known here, but
/// what it listens on is. Whichever endpoint was chosen: a pod that is one of them leaves the whole choice to the packet
/// path, or it would come to itself too seldom.
#[inline(always)]
fn may_reach_itself<A: Address, T: Tables>(
    tables: &T,
    publication: Publication,
    chosen: &Flow<A>,
    listens: impl Fn(A, Port) -> bool,
) -> bool {
    for offset in 0..SLOTS_ASKED {
        if offset >= publication.slot_count() {
            break;
        }
        if let Some(backend) = tables.slot(publication.first_slot().wrapping_add(offset))
            && let Some(entry) = live_backend(tables, backend)
            && entry.flags & backend_flag::LOCAL != 0
            && listens(A::from_wide(entry.address), entry.port)
        {
            return true;
        }
    }
    let on_node = live_backend(tables, chosen.backend).is_some_and(|entry| entry.flags & backend_flag::LOCAL != 0);
    let asked = on_node && publication.slot_count() <= SLOTS_ASKED;
    !asked && listens(chosen.destination, chosen.destination_port)
}

#[inline(always)]
fn key(socket: &impl Socket, fact: u32) -> SocketKey {
    SocketKey { cookie: socket.cookie(), fact, zero: 0 }
}

/// Tells listeners what became of a connection.
#[inline(never)]
fn announce<A: Address, T: Tables>(
    tables: &T,
    client_port: Port,
    frontend: &FrontendKey<A>,
    flow: &Flow<A>,
    kind: u32,
) {
    let refused = kind == event_kind::REFUSED as u32;
    tables.emit(&Event {
        time: 0,
        // Not known before the kernel has routed the connection.
        client: NOWHERE,
        frontend: frontend.address.wide(),
        backend: if refused { NOWHERE } else { flow.destination.wide() },
        client_port,
        frontend_port: frontend.port,
        backend_port: if refused { Port(0) } else { flow.destination_port },
        protocol: frontend.protocol,
        family: A::FAMILY,
        service: flow.service,
        kind: kind as u8,
        path: event_path::SOCKET,
        reason: DropReason::NoEndpoint as u8,
        zero: 0,
        process: 0,
        reserved: 0,
        command: [0; 16],
    });
}
