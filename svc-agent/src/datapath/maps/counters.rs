//! The counters of services: two maps, summed over CPUs. The services with the lowest indexes have theirs in an array, which
//! costs a packet nothing to find; the others in a hash, whose memory follows use.

use std::os::fd::OwnedFd;

use aya::maps::{Map, MapData, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use svc_common::{ServiceCounters, map};

use super::batch;
use super::open::{OpenError, Opener};
use super::table::{PerCpuTable, maps_error, read_batches};
use crate::publish::MapsError;

const FIRST: &str = map::SERVICE_COUNTERS_FIRST;

pub(super) struct Counters {
    first: PerCpuArray<MapData, ServiceCounters>,
    first_fd: OwnedFd,
    rest: PerCpuTable<u32, ServiceCounters>,
}

impl Counters {
    pub fn open<F>(source: &mut Opener<F>) -> Result<Self, OpenError>
    where
        F: FnMut(&'static str) -> Result<MapData, OpenError>,
    {
        let first = source.data(FIRST)?;
        let first_fd = batch::clone_fd(&first).map_err(|source| OpenError::Refused { map: FIRST, source })?;
        let rest = source.data(map::SERVICE_COUNTERS)?;
        Ok(Self {
            first: Map::PerCpuArray(first).try_into().map_err(OpenError::refused(FIRST))?,
            first_fd,
            rest: PerCpuTable::new(map::SERVICE_COUNTERS, rest).map_err(OpenError::refused(map::SERVICE_COUNTERS))?,
        })
    }

    /// Services with counters outside the array, and how many can have them.
    pub fn rest(&self) -> Result<(u64, u32), MapsError> {
        Ok((self.rest.estimate()?, self.rest.capacity()))
    }

    /// The next service with this index begins at zero.
    pub fn remove(&mut self, index: u32) -> Result<(), MapsError> {
        if index >= self.first.len() {
            return self.rest.remove(&index);
        }
        let zeros = PerCpuValues::try_from(vec![ServiceCounters::default(); cpus()?])
            .map_err(|source| MapsError::Refused { map: FIRST, action: "write to", source })?;
        self.first.set(index, zeros, 0).map_err(|error| maps_error(FIRST, "write to", error))
    }

    /// Sums over all CPUs, by service index, of services that counted anything.
    pub fn sums(&self) -> Result<Vec<(u32, ServiceCounters)>, MapsError> {
        let mut sums = self.rest.entries(sum)?;
        let mut add = |index: u32, values: &[ServiceCounters]| {
            let total = sum(values);
            if total != ServiceCounters::default() {
                sums.push((index, total));
            }
        };
        match read_batches(&self.first_fd, cpus()?, |index: &u32, values| add(*index, values)) {
            Err(error) if batch::is_unsupported(&error) => {
                for index in 0..self.first.len() {
                    let values = self.first.get(&index, 0).map_err(|error| maps_error(FIRST, "read", error))?;
                    add(index, &values);
                }
                Ok(sums)
            }
            Err(source) => Err(MapsError::Refused { map: FIRST, action: "read", source }),
            Ok(()) => Ok(sums),
        }
    }
}

fn cpus() -> Result<usize, MapsError> {
    nr_cpus().map_err(|(_, source)| MapsError::Refused { map: FIRST, action: "read", source })
}

fn sum(cpus: &[ServiceCounters]) -> ServiceCounters {
    cpus.iter().fold(ServiceCounters::default(), |sum, cpu| ServiceCounters {
        connections_tc: sum.connections_tc + cpu.connections_tc,
        connections_socket: sum.connections_socket + cpu.connections_socket,
        packets_to_backend: sum.packets_to_backend + cpu.packets_to_backend,
        bytes_to_backend: sum.bytes_to_backend + cpu.bytes_to_backend,
        packets_to_client: sum.packets_to_client + cpu.packets_to_client,
        bytes_to_client: sum.bytes_to_client + cpu.bytes_to_client,
        rejected: sum.rejected + cpu.rejected,
    })
}
