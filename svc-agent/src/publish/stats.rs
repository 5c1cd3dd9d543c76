//! How full the maps are and what waits, counted when asked, so that no number drifts.
//! [`Publisher::audit`] checks that nothing was lost between the lists.

use svc_common::{Family, Verdict, map};

use super::maps::{Frontend, Maps};
use super::publisher::{Failures, Publisher};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapUsage {
    pub map: &'static str,
    /// In use; what rests before it is reused is neither in use nor free.
    pub entries: u32,
    pub capacity: u32,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stats {
    pub maps: [MapUsage; 5],
    /// Service ports in each address family.
    pub services: usize,
    pub backends: usize,
    /// Objects that do not have what their plans ask for.
    pub pending: usize,
    /// Adopted services that no plan has claimed yet.
    pub unclaimed: usize,
    pub failures: Failures,
}

impl<M: Maps> Publisher<M> {
    pub fn stats(&self) -> Stats {
        let capacities = self.maps.capacities();
        let frontends = |family| {
            let entries = self.frontends.keys().chain(self.markers.present.keys());
            entries.filter(|entry| entry.family == family).count() as u32
        };
        let usage = |map, entries, capacity| MapUsage { map, entries, capacity };
        Stats {
            maps: [
                usage(map::SERVICES, self.services.in_use(), self.services.capacity()),
                usage(map::SLOTS, self.slots.in_use(), self.slots.capacity()),
                usage(map::BACKENDS, self.backends.in_use(), self.backends.capacity()),
                usage(map::FRONTENDS_V4, frontends(Family::V4), capacities.frontends_v4),
                usage(map::FRONTENDS_V6, frontends(Family::V6), capacities.frontends_v6),
            ],
            services: self.records.len(),
            backends: self.records.values().map(|record| record.backends.len()).sum(),
            pending: self.pending(),
            unclaimed: self.records.values().filter(|record| !record.claimed).count(),
            failures: self.failures,
        }
    }

    /// The first thing that is allocated without being referenced, or referenced twice, or not what the maps hold.
    /// `None` if all is well. Reads all maps.
    pub fn audit(&self) -> Option<String> {
        let retired = |count: fn(&super::retire::Retired) -> u32| self.retired.iter().map(count).sum::<u32>();
        let backends = self.records.values().map(|record| record.backends.len() as u32).sum::<u32>()
            + retired(|retired| retired.backends.len() as u32)
            + self.ending.len() as u32;
        let slots = self.records.values().filter_map(|record| record.slots).map(|slots| slots.count).sum::<u32>()
            + retired(|retired| retired.slots.map_or(0, |slots| slots.count));
        let services = self.records.len() as u32 + self.retired.len() as u32;
        let listed = self.objects.values().map(Vec::len).sum::<usize>();
        let counts = [
            ("backend indexes", backends, self.backends.in_use()),
            ("slots", slots, self.slots.in_use()),
            ("service indexes", services, self.services.in_use()),
            ("services of objects", listed as u32, self.records.len() as u32),
            ("frontends", self.frontends.len() as u32, self.records.len() as u32),
        ];
        let unequal = counts.into_iter().find(|(_, referenced, allocated)| referenced != allocated);
        unequal
            .map(|(what, referenced, allocated)| format!("{what}: {referenced} referenced, {allocated} allocated"))
            .or_else(|| self.audit_maps().unwrap_or_else(|error| Some(error.to_string())))
    }

    fn audit_maps(&self) -> Result<Option<String>, super::MapsError> {
        let mut live = 0;
        self.maps.read_backends(&mut |_, entry| live += entry.generation % 2)?;
        let mut published = 0;
        self.maps
            .read_services(&mut |_, entry| published += u32::from(entry.publication.verdict() != Verdict::NONE))?;
        if live != self.backends.in_use() {
            return Ok(Some(format!("{live} backends live, {} allocated", self.backends.in_use())));
        }
        let retired = self.retired.iter().filter(|retired| retired.published).count();
        if published as usize != self.records.len() + retired {
            return Ok(Some(format!("{published} services published, {} known", self.records.len() + retired)));
        }
        for (index, record) in &self.records {
            let entry = self.maps.read_service(*index)?;
            if Frontend::of_entry(&entry) != record.frontend
                || entry.publication != record.publication
                || entry.flags != record.flags
            {
                return Ok(Some(format!("service {} differs from its entry {index}", record.id)));
            }
            for backend in &record.backends {
                let entry = self.maps.read_backend(backend.index)?;
                if entry.service != *index || entry.generation != backend.generation || entry.flags != backend.flags {
                    return Ok(Some(format!("backend {} of {} differs from its entry", backend.index, record.id)));
                }
            }
        }
        self.audit_markers()
    }
}
