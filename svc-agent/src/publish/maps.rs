//! The seam to the kernel: primitive, typed operations on the maps, each of them one step a reader may see or not see.
//! No decisions and no order between steps here; [`super::Publisher`] makes both. `datapath::maps::KernelMaps` implements
//! this on the kernel's maps, [`super::memory::MemoryMaps`] in plain memory.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use svc_common::{
    AddrV4, AddrV6, BackendEntry, BackendRef, Config, Family, Port, Protocol, Publication, ServiceEntry, ServiceName,
};

use crate::model::{IpFamily, Transport};

/// Access to a map failed.
#[derive(Debug, thiserror::Error)]
pub enum MapsError {
    #[error("map {map} is full")]
    Full { map: &'static str },
    #[error("map {map} has no entry {index}: it has {capacity}")]
    OutOfRange { map: &'static str, index: u32, capacity: u32 },
    #[error("the kernel refused to {action} map {map}: {source}")]
    Refused { map: &'static str, action: &'static str, source: io::Error },
}

impl MapsError {
    pub fn map(&self) -> &'static str {
        match self {
            Self::Full { map } | Self::OutOfRange { map, .. } | Self::Refused { map, .. } => map,
        }
    }
}

/// A batch of inserts stopped early: the first `done` entries are in the map.
#[derive(Debug)]
pub struct BatchError {
    pub done: usize,
    pub error: MapsError,
}

/// Number of entries each map can hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capacities {
    pub services: u32,
    pub slots: u32,
    pub backends: u32,
    pub frontends_v4: u32,
    pub frontends_v6: u32,
}

/// What a client addresses, as the kernel sees it: the key of FRONTENDS_V4 or FRONTENDS_V6.
/// In its order all frontends of one address stand together, behind their marker.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Frontend {
    pub family: Family,
    pub address: AddrV6,
    pub port: Port,
    pub protocol: Protocol,
}

impl Frontend {
    pub fn new(address: SocketAddr, transport: Transport) -> Self {
        Self {
            address: address_of(address.ip()),
            port: Port::from_host(address.port()),
            protocol: protocol_of(transport),
            family: family_of(address.ip()),
        }
    }

    pub fn of_entry(entry: &ServiceEntry) -> Self {
        Self { address: entry.address, port: entry.port, protocol: entry.protocol, family: entry.family }
    }

    /// The key that says that the address is one of a service, whatever the port.
    pub fn marker(&self) -> Self {
        Self { port: Port(0), protocol: Protocol(0), ..*self }
    }

    pub fn is_marker(&self) -> bool {
        *self == self.marker()
    }

    pub fn socket_address(&self) -> SocketAddr {
        SocketAddr::new(ip_of(self.address, self.family), self.port.to_host())
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.socket_address(), transport_of(self.protocol))
    }
}

/// One fact of [`svc_common::Config`]; each is written on its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigField {
    AbiVersion(u32),
    /// Bits of [`svc_common::feature`].
    Features(u32),
    /// Seconds of CLOCK_MONOTONIC.
    EventsUntil(u32),
    NodeV4(AddrV4),
    NodeV6(AddrV6),
    /// Index of the interface by way of which packets to `NodeV4` are delivered; zero: none.
    NodeV4Interface(u32),
}

/// Primitive operations on the maps. A failed write of a single word or a hash entry has changed nothing; one of a
/// whole element or of slots may have written a part, which is why nobody may be able to see those yet.
pub trait Maps {
    fn capacities(&self) -> Capacities;

    fn read_config(&self) -> Result<Config, MapsError>;
    fn read_service(&self, index: u32) -> Result<ServiceEntry, MapsError>;
    fn read_slot(&self, index: u32) -> Result<BackendRef, MapsError>;
    fn read_backend(&self, index: u32) -> Result<BackendEntry, MapsError>;
    /// Visit every element in the order of indexes, also those never written (all zero).
    fn read_services(&self, visit: &mut dyn FnMut(u32, &ServiceEntry)) -> Result<(), MapsError>;
    fn read_slots(&self, visit: &mut dyn FnMut(u32, BackendRef)) -> Result<(), MapsError>;
    fn read_backends(&self, visit: &mut dyn FnMut(u32, &BackendEntry)) -> Result<(), MapsError>;
    /// Markers included.
    fn read_frontends(&self) -> Result<Vec<(Frontend, u32)>, MapsError>;
    fn read_names(&self) -> Result<Vec<(u32, ServiceName)>, MapsError>;
    /// Bits of [`svc_common::address_class`], also those of other addresses with the same place in the filter.
    fn read_address_class(&self, address: IpAddr) -> Result<u8, MapsError>;

    /// Everything in the entry but its publication word.
    fn write_service(&mut self, index: u32, entry: &ServiceEntry) -> Result<(), MapsError>;
    /// Bits of [`svc_common::service_flag`].
    fn write_service_flags(&mut self, index: u32, flags: u32) -> Result<(), MapsError>;
    fn write_affinity_timeout(&mut self, index: u32, seconds: u32) -> Result<(), MapsError>;
    /// One 64-bit release store.
    fn write_publication(&mut self, index: u32, publication: Publication) -> Result<(), MapsError>;
    fn write_slots(&mut self, first: u32, backends: &[BackendRef]) -> Result<(), MapsError>;
    /// Everything in the entry but its generation.
    fn write_backend(&mut self, index: u32, entry: &BackendEntry) -> Result<(), MapsError>;
    /// Bits of [`svc_common::backend_flag`].
    fn write_backend_flags(&mut self, index: u32, flags: u16) -> Result<(), MapsError>;
    /// One release store.
    fn write_generation(&mut self, index: u32, generation: u32) -> Result<(), MapsError>;
    /// Adds bits of [`svc_common::address_class`]; bits already set are left alone.
    fn add_address_class(&mut self, address: IpAddr, class: u8) -> Result<(), MapsError>;
    fn write_config(&mut self, field: ConfigField) -> Result<(), MapsError>;

    /// An existing frontend is moved to the new index in one step.
    fn insert_frontends(&mut self, frontends: &[(Frontend, u32)]) -> Result<(), BatchError>;
    fn delete_frontend(&mut self, frontend: Frontend) -> Result<(), MapsError>;
    fn insert_names(&mut self, names: &[(u32, ServiceName)]) -> Result<(), BatchError>;
    /// A name that does not exist counts as deleted.
    fn delete_name(&mut self, index: u32) -> Result<(), MapsError>;
    fn delete_counters(&mut self, index: u32) -> Result<(), MapsError>;
}

pub fn address_of(address: IpAddr) -> AddrV6 {
    match address {
        IpAddr::V4(v4) => AddrV4::from_octets(v4.octets()).into(),
        IpAddr::V6(v6) => AddrV6::from_octets(v6.octets()),
    }
}

/// The address in its own family, from the form that holds either.
pub fn ip_of(address: AddrV6, family: Family) -> IpAddr {
    if family == Family::V6 { IpAddr::from(address.octets()) } else { IpAddr::from(AddrV4(address.0[0]).octets()) }
}

pub fn family_of(address: IpAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

pub fn ip_family_of(family: Family) -> IpFamily {
    if family == Family::V6 { IpFamily::V6 } else { IpFamily::V4 }
}

pub const fn protocol_of(transport: Transport) -> Protocol {
    match transport {
        Transport::Tcp => Protocol::TCP,
        Transport::Udp => Protocol::UDP,
        Transport::Sctp => Protocol::SCTP,
    }
}

/// As in `10.96.0.10:53/udp`.
pub const fn transport_of(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::TCP => "tcp",
        Protocol::UDP => "udp",
        Protocol::SCTP => "sctp",
        _ => "unknown",
    }
}
