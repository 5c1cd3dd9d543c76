//! [`Maps`] that refuse writes when told to, over any other implementation: what is published must stay right when
//! any single write fails. Reads always succeed as far as the inner maps do.

use std::io;
use std::net::IpAddr;

use svc_common::{BackendEntry, BackendRef, Config, Publication, ServiceEntry, ServiceName, map};

use super::maps::{BatchError, Capacities, ConfigField, Frontend, Maps, MapsError};

/// How a write fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    Full,
    NotPermitted,
}

/// Decides the fate of each write from its number (from 0) and the map.
type Judge = Box<dyn FnMut(u64, &'static str) -> Option<Fault>>;

pub struct FaultyMaps<M> {
    inner: M,
    judge: Judge,
    writes: u64,
}

impl<M: Maps> FaultyMaps<M> {
    pub fn new(inner: M, judge: impl FnMut(u64, &'static str) -> Option<Fault> + 'static) -> Self {
        Self { inner, judge: Box::new(judge), writes: 0 }
    }

    pub fn inner_mut(&mut self) -> &mut M {
        &mut self.inner
    }

    /// Writes asked for so far, failed ones included.
    pub fn writes(&self) -> u64 {
        self.writes
    }

    fn attempt(&mut self, map: &'static str) -> Result<&mut M, MapsError> {
        let number = self.writes;
        self.writes += 1;
        match (self.judge)(number, map) {
            None => Ok(&mut self.inner),
            Some(Fault::Full) => Err(MapsError::Full { map }),
            Some(Fault::NotPermitted) => Err(MapsError::Refused {
                map,
                action: "write",
                source: io::Error::from(io::ErrorKind::PermissionDenied),
            }),
        }
    }
}

impl<M: Maps> Maps for FaultyMaps<M> {
    fn capacities(&self) -> Capacities {
        self.inner.capacities()
    }

    fn read_config(&self) -> Result<Config, MapsError> {
        self.inner.read_config()
    }

    fn read_service(&self, index: u32) -> Result<ServiceEntry, MapsError> {
        self.inner.read_service(index)
    }

    fn read_slot(&self, index: u32) -> Result<BackendRef, MapsError> {
        self.inner.read_slot(index)
    }

    fn read_backend(&self, index: u32) -> Result<BackendEntry, MapsError> {
        self.inner.read_backend(index)
    }

    fn read_services(&self, visit: &mut dyn FnMut(u32, &ServiceEntry)) -> Result<(), MapsError> {
        self.inner.read_services(visit)
    }

    fn read_slots(&self, visit: &mut dyn FnMut(u32, BackendRef)) -> Result<(), MapsError> {
        self.inner.read_slots(visit)
    }

    fn read_backends(&self, visit: &mut dyn FnMut(u32, &BackendEntry)) -> Result<(), MapsError> {
        self.inner.read_backends(visit)
    }

    fn read_frontends(&self) -> Result<Vec<(Frontend, u32)>, MapsError> {
        self.inner.read_frontends()
    }

    fn read_names(&self) -> Result<Vec<(u32, ServiceName)>, MapsError> {
        self.inner.read_names()
    }

    fn read_address_class(&self, address: IpAddr) -> Result<u8, MapsError> {
        self.inner.read_address_class(address)
    }

    fn write_service(&mut self, index: u32, entry: &ServiceEntry) -> Result<(), MapsError> {
        self.attempt(map::SERVICES)?.write_service(index, entry)
    }

    fn write_service_flags(&mut self, index: u32, flags: u32) -> Result<(), MapsError> {
        self.attempt(map::SERVICES)?.write_service_flags(index, flags)
    }

    fn write_affinity_timeout(&mut self, index: u32, seconds: u32) -> Result<(), MapsError> {
        self.attempt(map::SERVICES)?.write_affinity_timeout(index, seconds)
    }

    fn write_publication(&mut self, index: u32, publication: Publication) -> Result<(), MapsError> {
        self.attempt(map::SERVICES)?.write_publication(index, publication)
    }

    fn write_slots(&mut self, first: u32, backends: &[BackendRef]) -> Result<(), MapsError> {
        self.attempt(map::SLOTS)?.write_slots(first, backends)
    }

    fn write_backend(&mut self, index: u32, entry: &BackendEntry) -> Result<(), MapsError> {
        self.attempt(map::BACKENDS)?.write_backend(index, entry)
    }

    fn write_backend_flags(&mut self, index: u32, flags: u16) -> Result<(), MapsError> {
        self.attempt(map::BACKENDS)?.write_backend_flags(index, flags)
    }

    fn write_generation(&mut self, index: u32, generation: u32) -> Result<(), MapsError> {
        self.attempt(map::BACKENDS)?.write_generation(index, generation)
    }

    fn add_address_class(&mut self, address: IpAddr, class: u8) -> Result<(), MapsError> {
        self.attempt(map::ADDRESS_FILTER)?.add_address_class(address, class)
    }

    fn write_config(&mut self, field: ConfigField) -> Result<(), MapsError> {
        self.attempt(map::CONFIG)?.write_config(field)
    }

    fn insert_frontends(&mut self, frontends: &[(Frontend, u32)]) -> Result<(), BatchError> {
        for (done, frontend) in frontends.iter().enumerate() {
            let inner = self.attempt(map::FRONTENDS_V4).map_err(|error| BatchError { done, error })?;
            inner.insert_frontends(std::slice::from_ref(frontend)).map_err(|error| BatchError { done, ..error })?;
        }
        Ok(())
    }

    fn delete_frontend(&mut self, frontend: Frontend) -> Result<(), MapsError> {
        self.attempt(map::FRONTENDS_V4)?.delete_frontend(frontend)
    }

    fn insert_names(&mut self, names: &[(u32, ServiceName)]) -> Result<(), BatchError> {
        for (done, name) in names.iter().enumerate() {
            let inner = self.attempt(map::SERVICE_NAMES).map_err(|error| BatchError { done, error })?;
            inner.insert_names(std::slice::from_ref(name)).map_err(|error| BatchError { done, ..error })?;
        }
        Ok(())
    }

    fn delete_name(&mut self, index: u32) -> Result<(), MapsError> {
        self.attempt(map::SERVICE_NAMES)?.delete_name(index)
    }

    fn delete_counters(&mut self, index: u32) -> Result<(), MapsError> {
        self.attempt(map::SERVICE_COUNTERS)?.delete_counters(index)
    }
}
