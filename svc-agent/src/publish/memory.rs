//! [`Maps`] in plain memory, word for word like the kernel's: for tests of everything above the kernel.
//! Several handles may share one memory, so that a reader can run beside the writer. Keeps a log of all writes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use svc_common::{
    ADDRESS_FILTER_WORDS, BackendEntry, BackendRef, Config, Family, Publication, ServiceEntry, ServiceName, map,
};

use super::maps::{BatchError, Capacities, ConfigField, Frontend, Maps, MapsError};
use super::words::{self, backend_word, config_word, service_word};

/// One write, as it was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Write {
    Service(u32),
    ServiceFlags(u32, u32),
    AffinityTimeout(u32, u32),
    Publication(u32, Publication),
    Slots(u32, Vec<BackendRef>),
    Backend(u32),
    BackendFlags(u32, u16),
    Generation(u32, u32),
    AddressClass(IpAddr, u8),
    Config(ConfigField),
    InsertFrontend(Frontend, u32),
    DeleteFrontend(Frontend),
    InsertName(u32, String),
    DeleteName(u32),
    DeleteCounters(u32),
}

struct Array<const N: usize> {
    map: &'static str,
    elements: Box<[[AtomicU64; N]]>,
}

impl<const N: usize> Array<N> {
    fn new(map: &'static str, entries: u32) -> Self {
        Self { map, elements: (0..entries).map(|_| std::array::from_fn(|_| AtomicU64::new(0))).collect() }
    }

    fn element(&self, index: u32) -> Result<&[AtomicU64; N], MapsError> {
        let capacity = self.elements.len() as u32;
        self.elements.get(index as usize).ok_or(MapsError::OutOfRange { map: self.map, index, capacity })
    }

    fn load(&self, index: u32) -> Result<[u64; N], MapsError> {
        self.element(index).map(|words| words.each_ref().map(|word| word.load(Ordering::Acquire)))
    }

    fn store(&self, index: u32, word: usize, value: u64) -> Result<(), MapsError> {
        self.element(index).map(|words| words[word].store(value, Ordering::Release))
    }

    fn scan(&self, visit: &mut dyn FnMut(u32, [u64; N])) -> Result<(), MapsError> {
        (0..self.elements.len() as u32).try_for_each(|index| self.load(index).map(|words| visit(index, words)))
    }
}

struct Memory {
    capacities: Capacities,
    config: Array<{ config_word::COUNT }>,
    filter: Array<1>,
    services: Array<8>,
    slots: Array<1>,
    backends: Array<4>,
    frontends: Mutex<BTreeMap<Frontend, u32>>,
    names: Mutex<BTreeMap<u32, ServiceName>>,
}

type Watcher = Box<dyn FnMut(&MemoryMaps) + Send>;

/// One handle on a memory.
pub struct MemoryMaps {
    memory: Arc<Memory>,
    log: Vec<Write>,
    watcher: Option<Watcher>,
}

impl MemoryMaps {
    pub fn new(capacities: Capacities) -> Self {
        let memory = Memory {
            capacities,
            config: Array::new(map::CONFIG, 1),
            filter: Array::new(map::ADDRESS_FILTER, ADDRESS_FILTER_WORDS),
            services: Array::new(map::SERVICES, capacities.services),
            slots: Array::new(map::SLOTS, capacities.slots),
            backends: Array::new(map::BACKENDS, capacities.backends),
            frontends: Mutex::default(),
            names: Mutex::default(),
        };
        Self { memory: Arc::new(memory), log: Vec::new(), watcher: None }
    }

    /// Another handle on the same memory, with a log of its own.
    pub fn share(&self) -> Self {
        Self { memory: Arc::clone(&self.memory), log: Vec::new(), watcher: None }
    }

    /// What was written through this handle since the last call.
    pub fn take_log(&mut self) -> Vec<Write> {
        std::mem::take(&mut self.log)
    }

    /// Called after every single write.
    pub fn watch(&mut self, watcher: impl FnMut(&MemoryMaps) + Send + 'static) {
        self.watcher = Some(Box::new(watcher));
    }

    /// One lookup in FRONTENDS.
    pub fn frontend(&self, frontend: &Frontend) -> Option<u32> {
        self.frontends().get(frontend).copied()
    }

    fn frontends(&self) -> MutexGuard<'_, BTreeMap<Frontend, u32>> {
        self.memory.frontends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<u32, ServiceName>> {
        self.memory.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn written(&mut self, write: Write) {
        self.log.push(write);
        if let Some(mut watcher) = self.watcher.take() {
            watcher(self);
            self.watcher = Some(watcher);
        }
    }

    fn insert_frontend(&mut self, frontend: Frontend, index: u32) -> Result<(), MapsError> {
        let capacities = self.memory.capacities;
        let (map, capacity) = match frontend.family {
            Family::V6 => (map::FRONTENDS_V6, capacities.frontends_v6),
            _ => (map::FRONTENDS_V4, capacities.frontends_v4),
        };
        let mut frontends = self.frontends();
        let used = frontends.keys().filter(|other| other.family == frontend.family).count();
        if used >= capacity as usize && !frontends.contains_key(&frontend) {
            return Err(MapsError::Full { map });
        }
        frontends.insert(frontend, index);
        drop(frontends);
        self.written(Write::InsertFrontend(frontend, index));
        Ok(())
    }

    fn store_backend(&self, index: u32, entry: BackendEntry) -> Result<(), MapsError> {
        let words: [u64; 4] = bytemuck::cast(entry);
        self.memory.backends.store(index, backend_word::STATE, words[backend_word::STATE])
    }
}

impl Maps for MemoryMaps {
    fn capacities(&self) -> Capacities {
        self.memory.capacities
    }

    fn read_config(&self) -> Result<Config, MapsError> {
        self.memory.config.load(0).map(bytemuck::cast)
    }

    fn read_service(&self, index: u32) -> Result<ServiceEntry, MapsError> {
        self.memory.services.load(index).map(bytemuck::cast)
    }

    fn read_slot(&self, index: u32) -> Result<BackendRef, MapsError> {
        self.memory.slots.load(index).map(|[word]| BackendRef(word))
    }

    fn read_backend(&self, index: u32) -> Result<BackendEntry, MapsError> {
        self.memory.backends.load(index).map(bytemuck::cast)
    }

    fn read_services(&self, visit: &mut dyn FnMut(u32, &ServiceEntry)) -> Result<(), MapsError> {
        self.memory.services.scan(&mut |index, words| visit(index, &bytemuck::cast(words)))
    }

    fn read_slots(&self, visit: &mut dyn FnMut(u32, BackendRef)) -> Result<(), MapsError> {
        self.memory.slots.scan(&mut |index, [word]| visit(index, BackendRef(word)))
    }

    fn read_backends(&self, visit: &mut dyn FnMut(u32, &BackendEntry)) -> Result<(), MapsError> {
        self.memory.backends.scan(&mut |index, words| visit(index, &bytemuck::cast(words)))
    }

    fn read_frontends(&self) -> Result<Vec<(Frontend, u32)>, MapsError> {
        Ok(self.frontends().iter().map(|(frontend, index)| (*frontend, *index)).collect())
    }

    fn read_names(&self) -> Result<Vec<(u32, ServiceName)>, MapsError> {
        Ok(self.names().iter().map(|(index, name)| (*index, *name)).collect())
    }

    fn read_address_class(&self, address: IpAddr) -> Result<u8, MapsError> {
        let (index, mask) = words::filter_position(address, u8::MAX);
        let [word] = self.memory.filter.load(index)?;
        Ok(((word & mask) >> mask.trailing_zeros()) as u8)
    }

    fn write_service(&mut self, index: u32, entry: &ServiceEntry) -> Result<(), MapsError> {
        let words: [u64; 8] = bytemuck::cast(*entry);
        for position in (0..words.len()).filter(|position| *position != service_word::PUBLICATION) {
            self.memory.services.store(index, position, words[position])?;
        }
        self.written(Write::Service(index));
        Ok(())
    }

    fn write_service_flags(&mut self, index: u32, flags: u32) -> Result<(), MapsError> {
        let entry = ServiceEntry { flags, ..self.read_service(index)? };
        let words: [u64; 8] = bytemuck::cast(entry);
        self.memory.services.store(index, service_word::FLAGS, words[service_word::FLAGS])?;
        self.written(Write::ServiceFlags(index, flags));
        Ok(())
    }

    fn write_affinity_timeout(&mut self, index: u32, seconds: u32) -> Result<(), MapsError> {
        let entry = ServiceEntry { affinity_timeout: seconds, ..self.read_service(index)? };
        let words: [u64; 8] = bytemuck::cast(entry);
        self.memory.services.store(index, service_word::AFFINITY, words[service_word::AFFINITY])?;
        self.written(Write::AffinityTimeout(index, seconds));
        Ok(())
    }

    fn write_publication(&mut self, index: u32, publication: Publication) -> Result<(), MapsError> {
        self.memory.services.store(index, service_word::PUBLICATION, publication.0)?;
        self.written(Write::Publication(index, publication));
        Ok(())
    }

    fn write_slots(&mut self, first: u32, backends: &[BackendRef]) -> Result<(), MapsError> {
        for (index, backend) in (first..).zip(backends) {
            self.memory.slots.store(index, 0, backend.0)?;
        }
        self.written(Write::Slots(first, backends.to_vec()));
        Ok(())
    }

    fn write_backend(&mut self, index: u32, entry: &BackendEntry) -> Result<(), MapsError> {
        let generation = self.read_backend(index)?.generation;
        let words: [u64; 4] = bytemuck::cast(BackendEntry { generation, ..*entry });
        for (position, word) in words.into_iter().enumerate() {
            self.memory.backends.store(index, position, word)?;
        }
        self.written(Write::Backend(index));
        Ok(())
    }

    fn write_backend_flags(&mut self, index: u32, flags: u16) -> Result<(), MapsError> {
        self.store_backend(index, BackendEntry { flags, ..self.read_backend(index)? })?;
        self.written(Write::BackendFlags(index, flags));
        Ok(())
    }

    fn write_generation(&mut self, index: u32, generation: u32) -> Result<(), MapsError> {
        self.store_backend(index, BackendEntry { generation, ..self.read_backend(index)? })?;
        self.written(Write::Generation(index, generation));
        Ok(())
    }

    fn add_address_class(&mut self, address: IpAddr, class: u8) -> Result<(), MapsError> {
        let (index, bits) = words::filter_position(address, class);
        let [word] = self.memory.filter.load(index)?;
        if word & bits != bits {
            self.memory.filter.store(index, 0, word | bits)?;
            self.written(Write::AddressClass(address, class));
        }
        Ok(())
    }

    fn write_config(&mut self, field: ConfigField) -> Result<(), MapsError> {
        let words: [u64; config_word::COUNT] = bytemuck::cast(words::with_field(self.read_config()?, field));
        for (position, word) in words.into_iter().enumerate() {
            self.memory.config.store(0, position, word)?;
        }
        self.written(Write::Config(field));
        Ok(())
    }

    fn insert_frontends(&mut self, frontends: &[(Frontend, u32)]) -> Result<(), BatchError> {
        for (done, (frontend, index)) in frontends.iter().enumerate() {
            self.insert_frontend(*frontend, *index).map_err(|error| BatchError { done, error })?;
        }
        Ok(())
    }

    fn delete_frontend(&mut self, frontend: Frontend) -> Result<(), MapsError> {
        self.frontends().remove(&frontend);
        self.written(Write::DeleteFrontend(frontend));
        Ok(())
    }

    fn insert_names(&mut self, names: &[(u32, ServiceName)]) -> Result<(), BatchError> {
        for (index, name) in names {
            self.names().insert(*index, *name);
            self.written(Write::InsertName(*index, super::snapshot::text_of(name)));
        }
        Ok(())
    }

    fn delete_name(&mut self, index: u32) -> Result<(), MapsError> {
        self.names().remove(&index);
        self.written(Write::DeleteName(index));
        Ok(())
    }

    fn delete_counters(&mut self, index: u32) -> Result<(), MapsError> {
        self.written(Write::DeleteCounters(index));
        Ok(())
    }
}
