//! The per-connection path: socket hooks translate an address once, and show the socket the address it asked for.
//! What the hooks cannot do exactly as the packet path does is left to it (see [`leave_to_packets`]).

use svc_common::{
    AddrV6, DropReason, Event, Flow, FlowKey, FrontendKey, Port, Protocol, ServiceEntry, SocketKey, SocketValue,
    Verdict, event_kind, event_path, feature, flow_stage, service_flag, socket_direction,
};

use crate::address::Address;
use crate::flow::{self, NOWHERE};
use crate::select::{Selected, find_service, live_backend, select};
use crate::tables::{Counted, FamilyTables, Tables};

/// The socket at hand.
#[derive(Clone, Copy, Debug)]
pub struct Socket {
    /// Of bpf_get_socket_cookie.
    pub cookie: u64,
    pub protocol: Protocol,
    /// It lives in the node's own network namespace.
    pub host: bool,
    /// Zero while it has none.
    pub local_port: Port,
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
pub fn bind<T: Tables>(tables: &T, socket: &Socket) {
    tables.set_socket(&bound_key(socket), &SocketValue::default());
}

/// connect(): TCP, and UDP sockets that become connected.
#[inline(always)]
pub fn connect<A: Address, T: Tables + FamilyTables<A>>(
    tables: &T,
    socket: &Socket,
    address: A,
    port: Port,
) -> Resolution<A> {
    let frontend = FrontendKey { address, port, protocol: socket.protocol, zero: 0 };
    // The packet path can give the connection another source port when the program's own is taken by one straight to
    // the same backend. A port that bind() took from the kernel's range is no such choice.
    if !socket.host && socket.local_port != Port(0) && tables.socket(&bound_key(socket)).is_some() {
        return Resolution::Unchanged;
    }
    match lookup(tables, socket, &frontend) {
        Some(_) => choose(tables, socket, &frontend),
        None => Resolution::Unchanged,
    }
}

/// sendto()/sendmsg() on an unconnected UDP socket: its datagrams stay with one backend while that serves.
#[inline(always)]
pub fn sendmsg<A: Address, T: Tables + FamilyTables<A>>(
    tables: &T,
    socket: &Socket,
    address: A,
    port: Port,
) -> Resolution<A> {
    let frontend = FrontendKey { address, port, protocol: socket.protocol, zero: 0 };
    let Some(index) = lookup(tables, socket, &frontend) else { return Resolution::Unchanged };
    let key = key(socket, address.wide(), port, socket_direction::TO_BACKEND);
    if let Some(known) = tables.socket(&key)
        && known.service == index
        && live_backend(tables, known.backend).is_some()
    {
        return Resolution::Replace(A::from_wide(known.address), known.port);
    }
    choose(tables, socket, &frontend)
}

/// The address to show for a peer: recvmsg() and getpeername().
#[inline(always)]
pub fn peer<A: Address, T: Tables>(tables: &T, socket: &Socket, address: A, port: Port) -> Option<(A, Port)> {
    let key = key(socket, address.wide(), port, socket_direction::TO_FRONTEND);
    let original = tables.socket(&key)?;
    Some((A::from_wide(original.address), original.port))
}

/// Index of the service a frontend belongs to, if the hooks translate for this socket and service.
#[inline(always)]
fn lookup<A: Address, T: Tables + FamilyTables<A>>(
    tables: &T,
    socket: &Socket,
    frontend: &FrontendKey<A>,
) -> Option<u32> {
    let features = tables.features();
    let wanted = if socket.host { feature::SOCKET_LB_ALL | feature::SOCKET_LB_HOST } else { feature::SOCKET_LB_ALL };
    if features & wanted == 0 {
        return None;
    }
    let (index, service) = find_service(tables, frontend)?;
    (!leave_to_packets(socket, &service)).then_some(index)
}

/// The packet path serves these better: it sees the pod's own address (affinity) and each packet of a connection (which it
/// may have to reset), and a drop there looks like a drop.
/// The node's own sockets have no packet path of their own.
#[inline(always)]
fn leave_to_packets(socket: &Socket, service: &ServiceEntry) -> bool {
    let packets_only = service.affinity_timeout != 0 || service.flags & service_flag::RESET_WHEN_GONE != 0;
    service.publication.verdict() == Verdict::DROP || (!socket.host && packets_only)
}

#[inline(always)]
fn choose<A: Address, T: Tables + FamilyTables<A>>(
    tables: &T,
    socket: &Socket,
    frontend: &FrontendKey<A>,
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
        protocol: socket.protocol,
        stage: flow_stage::INGRESS,
        zero: 0,
    };
    let mut flow = flow::unchanged(&begin, now);
    match select(tables, &begin, &mut flow, now) {
        Selected::Backend => {
            let mut value = SocketValue {
                backend: flow.backend,
                address: flow.destination.wide(),
                port: flow.destination_port,
                zero: 0,
                service: flow.service,
            };
            if socket.protocol == Protocol::UDP {
                let to_backend = key(socket, frontend.address.wide(), frontend.port, socket_direction::TO_BACKEND);
                tables.set_socket(&to_backend, &value);
            }
            let to_frontend = key(socket, value.address, value.port, socket_direction::TO_FRONTEND);
            value.address = frontend.address.wide();
            value.port = frontend.port;
            tables.set_socket(&to_frontend, &value);
            tables.count(flow.service, Counted::ConnectionSocket);
            if tables.events_wanted(now) {
                announce(tables, socket, frontend, &flow, event_kind::TRANSLATED as u32);
            }
            Resolution::Replace(flow.destination, flow.destination_port)
        }
        Selected::Reject => {
            tables.count(flow.service, Counted::Rejected);
            tables.count_drop(DropReason::NoEndpoint);
            if tables.events_wanted(now) {
                announce(tables, socket, frontend, &flow, event_kind::REFUSED as u32);
            }
            Resolution::Refuse
        }
        // Whatever is wrong here, the packet path sees it again, and drops and counts it.
        Selected::Drop(_) | Selected::NotAService => Resolution::Unchanged,
    }
}

#[inline(always)]
fn bound_key(socket: &Socket) -> SocketKey {
    key(socket, NOWHERE, Port(0), socket_direction::BOUND)
}

#[inline(always)]
fn key(socket: &Socket, address: AddrV6, port: Port, direction: u8) -> SocketKey {
    SocketKey { cookie: socket.cookie, address, port, protocol: socket.protocol, direction, zero: 0 }
}

/// Tells listeners what became of a connection.
#[inline(never)]
fn announce<A: Address, T: Tables>(tables: &T, socket: &Socket, frontend: &FrontendKey<A>, flow: &Flow<A>, kind: u32) {
    let refused = kind == event_kind::REFUSED as u32;
    tables.emit(&Event {
        time: 0,
        // Not known before the kernel has routed the connection.
        client: NOWHERE,
        frontend: frontend.address.wide(),
        backend: if refused { NOWHERE } else { flow.destination.wide() },
        client_port: socket.local_port,
        frontend_port: frontend.port,
        backend_port: if refused { Port(0) } else { flow.destination_port },
        protocol: socket.protocol,
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
