//! [`Maps`] on the kernel's maps: arrays through memory, hashes through bpf(2).
//! Must not decide what to write, nor in which order beyond one operation.

use std::io;
use std::net::IpAddr;
use std::path::Path;

use aya::maps::MapData;
use svc_common::{
    AddrV4, AddrV6, BackendEntry, BackendRef, Config, Family, FrontendKey, FrontendKeyV4, FrontendKeyV6, Publication,
    ServiceEntry, ServiceName, map,
};

use super::counters::Counters;
use super::open::{OpenError, Opener, from_directory};
use super::table::Table;
use crate::datapath::mmap::{Access, ArrayMapping};
use crate::publish::maps::{BatchError, Capacities, ConfigField, Frontend, Maps, MapsError};
use crate::publish::words::{self, backend_word, config_word, service_word};

/// All maps that the agent writes.
pub struct KernelMaps {
    config: ArrayMapping,
    filter: ArrayMapping,
    services: ArrayMapping,
    slots: ArrayMapping,
    backends: ArrayMapping,
    frontends_v4: Table<FrontendKeyV4, u32>,
    frontends_v6: Table<FrontendKeyV6, u32>,
    names: Table<u32, ServiceName>,
    counters: Counters,
}

impl KernelMaps {
    /// Opens the maps pinned in `directory`, which is `<bpf-root>/svc-agent/v<ABI_VERSION>/maps`.
    pub fn open_pinned(directory: &Path, access: Access) -> Result<Self, OpenError> {
        Self::open(access, from_directory(directory))
    }

    /// Opens maps by name from wherever the caller has them.
    pub fn open(
        access: Access,
        source: impl FnMut(&'static str) -> Result<MapData, OpenError>,
    ) -> Result<Self, OpenError> {
        let mut source = Opener(source);
        let refused = OpenError::refused;
        Ok(Self {
            config: source.mapping(map::CONFIG, access)?,
            filter: source.mapping(map::ADDRESS_FILTER, access)?,
            services: source.mapping(map::SERVICES, access)?,
            slots: source.mapping(map::SLOTS, access)?,
            backends: source.mapping(map::BACKENDS, access)?,
            frontends_v4: Table::new(map::FRONTENDS_V4, source.data(map::FRONTENDS_V4)?, false)
                .map_err(refused(map::FRONTENDS_V4))?,
            frontends_v6: Table::new(map::FRONTENDS_V6, source.data(map::FRONTENDS_V6)?, false)
                .map_err(refused(map::FRONTENDS_V6))?,
            names: Table::new(map::SERVICE_NAMES, source.data(map::SERVICE_NAMES)?, false)
                .map_err(refused(map::SERVICE_NAMES))?,
            counters: Counters::open(&mut source)?,
        })
    }
}

impl Maps for KernelMaps {
    fn capacities(&self) -> Capacities {
        Capacities {
            services: self.services.entries(),
            slots: self.slots.entries(),
            backends: self.backends.entries(),
            frontends_v4: self.frontends_v4.capacity(),
            frontends_v6: self.frontends_v6.capacity(),
        }
    }

    fn read_config(&self) -> Result<Config, MapsError> {
        element(&self.config, map::CONFIG, 0).map(bytemuck::cast::<[u64; config_word::COUNT], _>)
    }

    fn read_service(&self, index: u32) -> Result<ServiceEntry, MapsError> {
        element(&self.services, map::SERVICES, index).map(bytemuck::cast::<[u64; 8], _>)
    }

    fn read_slot(&self, index: u32) -> Result<BackendRef, MapsError> {
        load(&self.slots, map::SLOTS, index, 0).map(BackendRef)
    }

    fn read_backend(&self, index: u32) -> Result<BackendEntry, MapsError> {
        element(&self.backends, map::BACKENDS, index).map(bytemuck::cast::<[u64; 4], _>)
    }

    fn read_services(&self, visit: &mut dyn FnMut(u32, &ServiceEntry)) -> Result<(), MapsError> {
        let scanned = self.services.scan::<8>(|index, words| visit(index, &bytemuck::cast(words)));
        scanned.map_err(refused(map::SERVICES, "read"))
    }

    fn read_slots(&self, visit: &mut dyn FnMut(u32, BackendRef)) -> Result<(), MapsError> {
        let scanned = self.slots.scan::<1>(|index, [word]| visit(index, BackendRef(word)));
        scanned.map_err(refused(map::SLOTS, "read"))
    }

    fn read_backends(&self, visit: &mut dyn FnMut(u32, &BackendEntry)) -> Result<(), MapsError> {
        let scanned = self.backends.scan::<4>(|index, words| visit(index, &bytemuck::cast(words)));
        scanned.map_err(refused(map::BACKENDS, "read"))
    }

    fn read_frontends(&self) -> Result<Vec<(Frontend, u32)>, MapsError> {
        let v4 = self.frontends_v4.entries()?.into_iter().map(|(key, index)| (of_key_v4(&key), index));
        let v6 = self.frontends_v6.entries()?.into_iter().map(|(key, index)| (of_key_v6(&key), index));
        Ok(v4.chain(v6).collect())
    }

    fn read_names(&self) -> Result<Vec<(u32, ServiceName)>, MapsError> {
        self.names.entries()
    }

    fn read_address_class(&self, address: IpAddr) -> Result<u8, MapsError> {
        let (index, mask) = words::filter_position(address, u8::MAX);
        let word = load(&self.filter, map::ADDRESS_FILTER, index, 0)?;
        Ok(((word & mask) >> mask.trailing_zeros()) as u8)
    }

    fn write_service(&mut self, index: u32, entry: &ServiceEntry) -> Result<(), MapsError> {
        let words: [u64; 8] = bytemuck::cast(*entry);
        for (position, word) in
            words.into_iter().enumerate().filter(|(position, _)| *position != service_word::PUBLICATION)
        {
            store(&self.services, map::SERVICES, index, position, word)?;
        }
        Ok(())
    }

    fn write_service_flags(&mut self, index: u32, flags: u32) -> Result<(), MapsError> {
        let mut entry = self.read_service(index)?;
        entry.flags = flags;
        let words: [u64; 8] = bytemuck::cast(entry);
        store(&self.services, map::SERVICES, index, service_word::FLAGS, words[service_word::FLAGS])
    }

    fn write_affinity_timeout(&mut self, index: u32, seconds: u32) -> Result<(), MapsError> {
        let mut entry = self.read_service(index)?;
        entry.affinity_timeout = seconds;
        let words: [u64; 8] = bytemuck::cast(entry);
        store(&self.services, map::SERVICES, index, service_word::AFFINITY, words[service_word::AFFINITY])
    }

    fn write_publication(&mut self, index: u32, publication: Publication) -> Result<(), MapsError> {
        store(&self.services, map::SERVICES, index, service_word::PUBLICATION, publication.0)
    }

    fn write_slots(&mut self, first: u32, backends: &[BackendRef]) -> Result<(), MapsError> {
        for (index, backend) in (first..).zip(backends) {
            store(&self.slots, map::SLOTS, index, 0, backend.0)?;
        }
        Ok(())
    }

    fn write_backend(&mut self, index: u32, entry: &BackendEntry) -> Result<(), MapsError> {
        let generation = self.read_backend(index)?.generation;
        let words: [u64; 4] = bytemuck::cast(BackendEntry { generation, ..*entry });
        for (position, word) in words.into_iter().enumerate() {
            store(&self.backends, map::BACKENDS, index, position, word)?;
        }
        Ok(())
    }

    fn write_backend_flags(&mut self, index: u32, flags: u16) -> Result<(), MapsError> {
        let entry = BackendEntry { flags, ..self.read_backend(index)? };
        self.write_state(index, entry)
    }

    fn write_generation(&mut self, index: u32, generation: u32) -> Result<(), MapsError> {
        let entry = BackendEntry { generation, ..self.read_backend(index)? };
        self.write_state(index, entry)
    }

    fn add_address_class(&mut self, address: IpAddr, class: u8) -> Result<(), MapsError> {
        let (index, bits) = words::filter_position(address, class);
        let word = load(&self.filter, map::ADDRESS_FILTER, index, 0)?;
        if word & bits == bits { Ok(()) } else { store(&self.filter, map::ADDRESS_FILTER, index, 0, word | bits) }
    }

    fn write_config(&mut self, field: ConfigField) -> Result<(), MapsError> {
        // A monitor writes its time beside an agent that writes the node's address: one word holds both.
        for position in 0..config_word::COUNT {
            let with_field = |word| {
                let mut words = [0u64; config_word::COUNT];
                words[position] = word;
                bytemuck::cast::<_, [u64; config_word::COUNT]>(words::with_field(bytemuck::cast(words), field))
                    [position]
            };
            if with_field(0) != 0 || with_field(u64::MAX) != u64::MAX {
                self.config.update(0, position, with_field).map_err(refused(map::CONFIG, "write"))?;
            }
        }
        Ok(())
    }

    fn insert_frontends(&mut self, frontends: &[(Frontend, u32)]) -> Result<(), BatchError> {
        // Runs of one family, so that "the first so many are done" stays true.
        let mut done = 0;
        for run in frontends.chunk_by(|(a, _), (b, _)| a.family == b.family) {
            let indexes: Vec<u32> = run.iter().map(|(_, index)| *index).collect();
            let inserted = if run.first().is_some_and(|(frontend, _)| frontend.family == Family::V6) {
                self.frontends_v6.insert_all(&run.iter().map(|(f, _)| key_v6(f)).collect::<Vec<_>>(), &indexes)
            } else {
                self.frontends_v4.insert_all(&run.iter().map(|(f, _)| key_v4(f)).collect::<Vec<_>>(), &indexes)
            };
            inserted.map_err(|error| BatchError { done: done + error.done, ..error })?;
            done += run.len();
        }
        Ok(())
    }

    fn delete_frontend(&mut self, frontend: Frontend) -> Result<(), MapsError> {
        if frontend.family == Family::V6 {
            self.frontends_v6.remove(&key_v6(&frontend))
        } else {
            self.frontends_v4.remove(&key_v4(&frontend))
        }
    }

    fn insert_names(&mut self, names: &[(u32, ServiceName)]) -> Result<(), BatchError> {
        let (indexes, names): (Vec<u32>, Vec<ServiceName>) = names.iter().copied().unzip();
        self.names.insert_all(&indexes, &names)
    }

    fn delete_name(&mut self, index: u32) -> Result<(), MapsError> {
        self.names.remove(&index)
    }

    fn delete_counters(&mut self, index: u32) -> Result<(), MapsError> {
        self.counters.remove(index)
    }
}

impl KernelMaps {
    /// Names there are (an estimate if they are many), and how many there can be.
    pub fn name_fill(&self) -> Result<(u64, u32), MapsError> {
        Ok((self.names.estimate()?, self.names.capacity()))
    }

    /// `None` if the service has no name, or no longer.
    pub fn read_name(&self, index: u32) -> Result<Option<ServiceName>, MapsError> {
        self.names.get(&index)
    }

    /// The word that holds port, flags and generation.
    fn write_state(&self, index: u32, entry: BackendEntry) -> Result<(), MapsError> {
        let words: [u64; 4] = bytemuck::cast(entry);
        store(&self.backends, map::BACKENDS, index, backend_word::STATE, words[backend_word::STATE])
    }
}

fn key_v4(frontend: &Frontend) -> FrontendKeyV4 {
    FrontendKey { address: AddrV4(frontend.address.0[0]), port: frontend.port, protocol: frontend.protocol, zero: 0 }
}

fn key_v6(frontend: &Frontend) -> FrontendKeyV6 {
    FrontendKey { address: frontend.address, port: frontend.port, protocol: frontend.protocol, zero: 0 }
}

fn of_key_v4(key: &FrontendKeyV4) -> Frontend {
    Frontend { address: AddrV6::from(key.address), port: key.port, protocol: key.protocol, family: Family::V4 }
}

fn of_key_v6(key: &FrontendKeyV6) -> Frontend {
    Frontend { address: key.address, port: key.port, protocol: key.protocol, family: Family::V6 }
}

fn element<const N: usize>(array: &ArrayMapping, map: &'static str, index: u32) -> Result<[u64; N], MapsError> {
    check_index(array, map, index)?;
    array.element(index).map_err(refused(map, "read"))
}

fn load(array: &ArrayMapping, map: &'static str, index: u32, word: usize) -> Result<u64, MapsError> {
    check_index(array, map, index)?;
    array.load(index, word).map_err(refused(map, "read"))
}

fn store(array: &ArrayMapping, map: &'static str, index: u32, word: usize, value: u64) -> Result<(), MapsError> {
    check_index(array, map, index)?;
    array.store(index, word, value).map_err(refused(map, "write"))
}

fn check_index(array: &ArrayMapping, map: &'static str, index: u32) -> Result<(), MapsError> {
    let capacity = array.entries();
    if index < capacity { Ok(()) } else { Err(MapsError::OutOfRange { map, index, capacity }) }
}

fn refused(map: &'static str, action: &'static str) -> impl FnOnce(io::Error) -> MapsError {
    move |source| MapsError::Refused { map, action, source }
}
