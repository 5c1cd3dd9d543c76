//! What programs have written and the agent may take away again, with the published facts that this depends on.
//! Must not decide what is taken away; `sweep` does.

use std::io;
use std::path::Path;

use svc_common::{
    AffinityKey, AffinityValue, FlowEntryV4, FlowEntryV6, FlowKeyV4, FlowKeyV6, ServiceEntry, Verdict, map,
};

use super::counters::Counters;
use super::open::{OpenError, Opener, from_directory};
use super::table::Table;
use crate::datapath::mmap::{Access, ArrayMapping};
use crate::publish::MapsError;

pub struct Forgettable {
    pub flows_v4: Table<FlowKeyV4, FlowEntryV4>,
    pub flows_v6: Table<FlowKeyV6, FlowEntryV6>,
    pub affinity: Table<AffinityKey, AffinityValue>,
    counters: Counters,
    services: ArrayMapping,
}

impl Forgettable {
    pub fn open_pinned(directory: &Path) -> Result<Self, OpenError> {
        let mut source = Opener(from_directory(directory));
        Ok(Self {
            flows_v4: source.lru(map::FLOWS_V4)?,
            flows_v6: source.lru(map::FLOWS_V6)?,
            affinity: source.lru(map::AFFINITY)?,
            counters: Counters::open(&mut source)?,
            services: source.mapping(map::SERVICES, Access::ReadOnly)?,
        })
    }

    /// Visits the services that clients can reach, by index, ascending.
    pub fn services(&self, mut visit: impl FnMut(u32, &ServiceEntry)) -> Result<(), MapsError> {
        let scanned = self.services.scan::<8>(|index, words| {
            let entry: ServiceEntry = bytemuck::cast(words);
            if is_published(&entry) {
                visit(index, &entry);
            }
        });
        scanned.map_err(unreadable)
    }

    /// Whether clients can reach a service with this index.
    pub fn is_service(&self, index: u32) -> Result<bool, MapsError> {
        if index >= self.services.entries() {
            return Ok(false);
        }
        let words = self.services.element::<8>(index).map_err(unreadable)?;
        Ok(is_published(&bytemuck::cast(words)))
    }

    /// Indexes of services that have counted anything.
    pub fn counted(&self) -> Result<Vec<u32>, MapsError> {
        Ok(self.counters.sums()?.into_iter().map(|(index, _)| index).collect())
    }

    pub fn remove_counters(&mut self, index: u32) -> Result<(), MapsError> {
        self.counters.remove(index)
    }
}

fn is_published(entry: &ServiceEntry) -> bool {
    entry.publication.verdict() != Verdict::NONE
}

fn unreadable(source: io::Error) -> MapsError {
    MapsError::Refused { map: map::SERVICES, action: "read", source }
}
