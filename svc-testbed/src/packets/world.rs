//! What the maps hold before a case and what the agent, or time, does to them between its packets. Plain data, so
//! that every runner can apply it. Neighbours: [`super::tables`] and [`super::kernel`] apply changes.

use std::net::{IpAddr, SocketAddr};

use svc_common::{
    AddrV4, AddrV6, BackendEntry, BackendRef, Config, Family, FlowKey, FrontendKey, Hop, Port, Protocol, Publication,
    ServiceEntry, Verdict, address_class, address_marker, backend_flag, service_flag,
};

use super::frame::at;

pub const NODE_V4: &str = "10.0.0.1";
pub const NODE_V6: &str = "fd00::1";
/// Pod ranges of the cluster.
const RANGES: [(&str, u8); 2] = [("10.244.0.0", 16), ("fd00:10:244::", 56)];

/// One write to the maps, or the passing of time.
#[derive(Clone, PartialEq, Debug)]
pub enum Change {
    Frontend {
        address: SocketAddr,
        protocol: Protocol,
        service: Option<u32>,
    },
    Service {
        index: u32,
        entry: ServiceEntry,
    },
    Slot {
        index: u32,
        backend: BackendRef,
    },
    Backend {
        index: u32,
        entry: BackendEntry,
    },
    Config(Config),
    /// Adds bits of [`address_class`].
    Class {
        address: IpAddr,
        bits: u8,
    },
    /// A range of pod addresses.
    Range {
        address: IpAddr,
        prefix: u8,
    },
    /// A flow the LRU map threw out.
    ForgetFlow {
        stage: u8,
        protocol: Protocol,
        source: SocketAddr,
        destination: SocketAddr,
    },
    /// Seconds pass.
    Advance(u32),
    /// The flow tables take no more than so many entries.
    FlowCapacity(usize),
    /// The routing table's answer for a destination; with one, packets are forwarded directly.
    Hop {
        destination: IpAddr,
        hop: Hop,
    },
}

pub fn wide(address: IpAddr) -> AddrV6 {
    match address {
        IpAddr::V4(v4) => AddrV4::from_octets(v4.octets()).into(),
        IpAddr::V6(v6) => AddrV6::from_octets(v6.octets()),
    }
}

pub fn family(address: IpAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

/// An address in the layout of one family's maps.
pub trait Narrow: Copy + Eq + std::hash::Hash {
    /// `None` for an address of the other family.
    fn narrow(address: IpAddr) -> Option<Self>;
    fn widen(self) -> IpAddr;
}

impl Narrow for AddrV4 {
    fn narrow(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(v4) => Some(Self::from_octets(v4.octets())),
            IpAddr::V6(_) => None,
        }
    }

    fn widen(self) -> IpAddr {
        IpAddr::from(self.octets())
    }
}

impl Narrow for AddrV6 {
    fn narrow(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V6(v6) => Some(Self::from_octets(v6.octets())),
            IpAddr::V4(_) => None,
        }
    }

    fn widen(self) -> IpAddr {
        IpAddr::from(self.octets())
    }
}

pub fn frontend_key<A: Narrow>(address: SocketAddr, protocol: Protocol) -> Option<FrontendKey<A>> {
    let port = Port::from_host(address.port());
    Some(FrontendKey { address: A::narrow(address.ip())?, port, protocol, zero: 0 })
}

pub fn flow_key<A: Narrow>(
    stage: u8,
    protocol: Protocol,
    source: SocketAddr,
    destination: SocketAddr,
) -> Option<FlowKey<A>> {
    Some(FlowKey {
        source: A::narrow(source.ip())?,
        destination: A::narrow(destination.ip())?,
        source_port: Port::from_host(source.port()),
        destination_port: Port::from_host(destination.port()),
        protocol,
        stage,
        zero: 0,
    })
}

/// Builds what the agent would have written. Indexes of services and backends count from 1 in the order of the calls.
#[derive(Clone, Debug)]
pub struct World {
    changes: Vec<Change>,
    services: Vec<ServiceEntry>,
    backends: Vec<BackendEntry>,
    config: Config,
    next_slot: u32,
}

impl World {
    /// A node with addresses of both families; socket hooks off, nobody listens to events.
    pub fn new() -> Self {
        let octets = |text: &str| wide(at(text).ip());
        let config = Config {
            abi_version: svc_common::ABI_VERSION,
            features: 0,
            events_until: 0,
            node_v4: AddrV4(octets(NODE_V4).0[0]),
            node_v6: octets(NODE_V6),
            ..Config::default()
        };
        let mut world = Self { changes: Vec::new(), services: Vec::new(), backends: Vec::new(), config, next_slot: 8 };
        world.changes.push(Change::Config(config));
        for node in [NODE_V4, NODE_V6] {
            world.changes.push(Change::Class { address: at(node).ip(), bits: address_class::NODE });
        }
        for (range, prefix) in RANGES {
            world.changes.push(Change::Range { address: at(range).ip(), prefix });
        }
        world
    }

    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    fn write(&mut self, changes: Vec<Change>) -> Vec<Change> {
        self.changes.extend(changes.iter().cloned());
        changes
    }

    fn configure(mut self, set: impl FnOnce(&mut Config)) -> Self {
        set(&mut self.config);
        self.changes.push(Change::Config(self.config));
        self
    }

    /// Somebody listens to events.
    pub fn listening(self) -> Self {
        self.configure(|config| config.events_until = u32::MAX)
    }

    pub fn without_node_addresses(self) -> Self {
        self.configure(|config| {
            config.node_v4 = AddrV4::default();
            config.node_v6 = AddrV6::default();
        })
    }

    fn add_frontend(&mut self, protocol: Protocol, frontend: SocketAddr, entry: ServiceEntry) {
        self.services.push(entry);
        let index = self.services.len() as u32;
        let any_port = SocketAddr::new(frontend.ip(), 0);
        self.changes.extend([
            Change::Class { address: frontend.ip(), bits: address_class::FRONTEND },
            Change::Service { index, entry },
            Change::Frontend { address: any_port, protocol: Protocol(0), service: Some(self.marker(frontend.ip())) },
            Change::Frontend { address: frontend, protocol, service: Some(index) },
        ]);
    }

    /// What the marker of an address says.
    fn marker(&self, address: IpAddr) -> u32 {
        let services = self.services.iter().filter(|entry| narrow_to(entry.family, entry.address) == address);
        let verdicts: Vec<Verdict> = services.map(|entry| entry.publication.verdict()).collect();
        match () {
            () if verdicts.contains(&Verdict::FORWARD) => address_marker::ANSWERS,
            () if verdicts.contains(&Verdict::DROP) => address_marker::DROPS,
            () => address_marker::REFUSES,
        }
    }

    fn add_service(mut self, protocol: Protocol, frontend: &str, publication: Publication) -> Self {
        let frontend = at(frontend);
        let entry = ServiceEntry {
            publication,
            address: wide(frontend.ip()),
            port: Port::from_host(frontend.port()),
            protocol,
            family: family(frontend.ip()),
            affinity_id: 100 + self.services.len() as u32,
            ..ServiceEntry::default()
        };
        self.add_frontend(protocol, frontend, entry);
        self
    }

    /// A service whose endpoints are `backends`, one slot each.
    pub fn forward(mut self, protocol: Protocol, frontend: &str, backends: &[&str]) -> Self {
        let service = self.services.len() as u32 + 1;
        let first = self.backends.len() as u32 + 1;
        for backend in backends {
            let address = at(backend);
            let entry = BackendEntry {
                address: wide(address.ip()),
                port: Port::from_host(address.port()),
                flags: backend_flag::ELIGIBLE | backend_flag::LOCAL,
                generation: 1,
                service,
                zero: 0,
            };
            self.backends.push(entry);
            let index = self.backends.len() as u32;
            self.changes.push(Change::Class { address: address.ip(), bits: address_class::BACKEND });
            self.changes.push(Change::Backend { index, entry });
        }
        let slots: Vec<BackendRef> = (first..first + backends.len() as u32).map(|i| BackendRef::new(i, 1)).collect();
        let publication = self.fill_slots(&slots);
        self.add_service(protocol, frontend, publication)
    }

    /// A service without any endpoint.
    pub fn reject(self, protocol: Protocol, frontend: &str) -> Self {
        self.add_service(protocol, frontend, Publication::new(Verdict::REJECT, 0, 0))
    }

    /// A service whose endpoints are all on other nodes, with the Local policy.
    pub fn local_drop(self, protocol: Protocol, frontend: &str) -> Self {
        self.add_service(protocol, frontend, Publication::new(Verdict::DROP, 0, 0))
    }

    /// One more frontend of the last service: an entry of its own with backends of its own, but the same affinity.
    pub fn also_at(self, frontend: &str, backends: &[&str]) -> Self {
        let last = *self.services.last().expect("case: also_at before a service");
        self.forward(last.protocol, frontend, backends).with_last(|entry| {
            entry.affinity_id = last.affinity_id;
            entry.affinity_timeout = last.affinity_timeout;
            entry.flags = last.flags;
        })
    }

    fn with_last(mut self, set: impl FnOnce(&mut ServiceEntry)) -> Self {
        let index = self.services.len() as u32;
        let entry = self.services.last_mut().expect("case: no service to change");
        set(entry);
        let entry = *entry;
        self.changes.push(Change::Service { index, entry });
        self
    }

    /// ClientIP affinity of the last service, in seconds.
    pub fn affinity(self, timeout: u32) -> Self {
        self.with_last(|entry| entry.affinity_timeout = timeout)
    }

    /// Some endpoint of the last service is on this node.
    pub fn with_local(self) -> Self {
        self.with_last(|entry| entry.publication = entry.publication.with_local(true))
    }

    /// The last service chooses its slot by the client's hash.
    pub fn hashed(self) -> Self {
        self.with_last(|entry| entry.flags |= service_flag::HASH)
    }

    /// Connections of the last service are reset when their endpoint is gone.
    pub fn reset_when_gone(self) -> Self {
        self.with_last(|entry| entry.flags |= service_flag::RESET_WHEN_GONE)
    }

    fn fill_slots(&mut self, slots: &[BackendRef]) -> Publication {
        let first = self.next_slot;
        self.next_slot += slots.len() as u32;
        for (index, backend) in (first..).zip(slots) {
            self.changes.push(Change::Slot { index, backend: *backend });
        }
        Publication::new(Verdict::FORWARD, first, slots.len() as u32)
    }

    /// The service gets other slots, in a fresh range.
    pub fn publish(&mut self, service: u32, backends: &[u32]) -> Vec<Change> {
        let from = self.changes.len();
        let slots: Vec<BackendRef> = backends
            .iter()
            .map(|index| BackendRef::new(*index, self.backends[*index as usize - 1].generation))
            .collect();
        let publication = match slots.as_slice() {
            [] => Publication::new(Verdict::REJECT, 0, 0),
            slots => self.fill_slots(slots),
        };
        let entry = &mut self.services[service as usize - 1];
        entry.publication = publication;
        let entry = *entry;
        self.changes.push(Change::Service { index: service, entry });
        let address = narrow_to(entry.family, entry.address);
        let marker = Some(self.marker(address));
        let address = SocketAddr::new(address, 0);
        self.changes.push(Change::Frontend { address, protocol: Protocol(0), service: marker });
        self.changes[from..].to_vec()
    }

    /// The service is gone: nothing leads to its entry, and the entry says so.
    pub fn delete_service(&mut self, service: u32) -> Vec<Change> {
        let entry = &mut self.services[service as usize - 1];
        entry.publication = Publication::default();
        let (entry, address) = (*entry, narrow_to(entry.family, entry.address));
        let address = SocketAddr::new(address, entry.port.to_host());
        self.write(vec![
            Change::Frontend { address, protocol: entry.protocol, service: None },
            Change::Frontend { address: SocketAddr::new(address.ip(), 0), protocol: Protocol(0), service: None },
            Change::Service { index: service, entry },
        ])
    }

    /// The service's entry is cleared, while the hash element still leads to it.
    pub fn withdraw_service(&mut self, service: u32) -> Vec<Change> {
        let entry = &mut self.services[service as usize - 1];
        entry.publication = Publication::default();
        let entry = *entry;
        self.write(vec![Change::Service { index: service, entry }])
    }

    /// The service's entry is used for another frontend, while the hash element still leads to it.
    pub fn recycle_service(&mut self, service: u32, frontend: &str) -> Vec<Change> {
        let frontend = at(frontend);
        let entry = &mut self.services[service as usize - 1];
        entry.address = wide(frontend.ip());
        entry.port = Port::from_host(frontend.port());
        let entry = *entry;
        self.write(vec![Change::Service { index: service, entry }])
    }

    fn change_backend(&mut self, backend: u32, set: impl FnOnce(&mut BackendEntry)) -> Vec<Change> {
        let entry = &mut self.backends[backend as usize - 1];
        set(entry);
        let entry = *entry;
        self.write(vec![Change::Backend { index: backend, entry }])
    }

    /// The endpoint is gone: references to it are void.
    pub fn end_backend(&mut self, backend: u32) -> Vec<Change> {
        self.change_backend(backend, |entry| entry.generation += 1)
    }

    /// The index of an endpoint that ended is used for another endpoint of another service.
    pub fn reuse_backend(&mut self, backend: u32, address: &str, service: u32) -> Vec<Change> {
        let address = at(address);
        self.change_backend(backend, |entry| {
            entry.generation += 1;
            entry.address = wide(address.ip());
            entry.port = Port::from_host(address.port());
            entry.service = service;
        })
    }

    /// The endpoint still serves its flows, but gets no new ones.
    pub fn drain_backend(&mut self, backend: u32) -> Vec<Change> {
        self.change_backend(backend, |entry| entry.flags &= !backend_flag::ELIGIBLE)
    }

    /// A slot that names nothing, as a stale read could find it.
    pub fn empty_slot(&mut self, index: u32) -> Vec<Change> {
        self.write(vec![Change::Slot { index, backend: BackendRef::NONE }])
    }

    /// First slot of a service's range.
    pub fn first_slot(&self, service: u32) -> u32 {
        self.services[service as usize - 1].publication.first_slot()
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

/// An address that lies in a place for either family.
pub fn narrow_to(family: Family, address: AddrV6) -> IpAddr {
    if family == Family::V4 { AddrV4(address.0[0]).widen() } else { address.widen() }
}
