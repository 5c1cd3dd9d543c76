//! Starts from maps that an earlier agent has filled: indexes, generations, slots and affinity ids stay what they are,
//! whatever an interrupted agent left half done is taken apart. Writes nothing before the first tick.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use svc_common::{BackendRef, Protocol, ServiceEntry, Verdict};

use super::allocate::{IndexPool, Range, RangePool, Reuse};
use super::maps::{Frontend, Maps, MapsError, ip_family_of};
use super::publisher::Publisher;
use super::record::{Backend, Record, Target};
use super::retire::Retired;
use super::snapshot::text_of;
use crate::model::{ObjectName, Transport};
use crate::plan::ServiceId;

/// What was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Adopted {
    pub services: usize,
    pub backends: usize,
    /// Services and backends that were only half written or half removed.
    pub unfinished: usize,
}

impl<M: Maps> Publisher<M> {
    pub fn adopt(maps: M, now: Instant) -> Result<(Self, Adopted), MapsError> {
        let found = Found::read(&maps)?;
        let mut publisher = Self::new(maps);
        let adopted = found.install(&mut publisher, now)?;
        Ok((publisher, adopted))
    }
}

struct Found {
    entries: BTreeMap<u32, ServiceEntry>,
    services_unused_from: u32,
    last_affinity_id: u32,
    /// By service index; index, target, flags and generation of all that live.
    backends: HashMap<u32, Vec<Backend>>,
    backends_unused_from: u32,
    slots_unused_from: u32,
    frontends: Vec<(Frontend, u32)>,
    names: HashMap<u32, String>,
}

impl Found {
    fn read(maps: &impl Maps) -> Result<Self, MapsError> {
        let mut found = Self {
            entries: BTreeMap::new(),
            services_unused_from: 0,
            last_affinity_id: 0,
            backends: HashMap::new(),
            backends_unused_from: 0,
            slots_unused_from: 0,
            frontends: maps.read_frontends()?,
            names: maps.read_names()?.iter().map(|(index, name)| (*index, text_of(name))).collect(),
        };
        maps.read_services(&mut |index, entry| {
            if *entry != ServiceEntry::default() {
                found.services_unused_from = index + 1;
                found.last_affinity_id = found.last_affinity_id.max(entry.affinity_id);
            }
            if entry.publication.verdict() != Verdict::NONE {
                found.entries.insert(index, *entry);
            }
        })?;
        maps.read_slots(&mut |index, slot| {
            if slot != BackendRef::NONE {
                found.slots_unused_from = index + 1;
            }
        })?;
        maps.read_backends(&mut |index, entry| {
            if entry.generation != 0 {
                found.backends_unused_from = index + 1;
            }
            if entry.generation % 2 == 1 {
                found.backends.entry(entry.service).or_default().push(Backend {
                    target: Target { address: entry.address, port: entry.port },
                    flags: entry.flags,
                    slots: 0,
                    index,
                    generation: entry.generation,
                });
            }
        })?;
        Ok(found)
    }

    fn install<M: Maps>(mut self, publisher: &mut Publisher<M>, now: Instant) -> Result<Adopted, MapsError> {
        let mut adopted = Adopted::default();
        let (mut markers, mut addresses) = (Vec::new(), HashSet::new());
        for (frontend, index) in std::mem::take(&mut self.frontends) {
            if frontend.is_marker() {
                markers.push((frontend, index));
                continue;
            }
            addresses.insert(frontend.marker());
            match self.entries.get(&index) {
                Some(entry) if Frontend::of_entry(entry) == frontend => {
                    publisher.frontends.insert(frontend, index);
                }
                _ => publisher.stale_frontends.push(frontend),
            }
        }
        let mut ranges = Vec::new();
        for (index, entry) in &self.entries {
            let mut backends = self.backends.remove(index).unwrap_or_default();
            backends.sort_by_key(|backend| backend.target);
            let mut record = Record {
                id: self.id_of(*index, entry),
                frontend: Frontend::of_entry(entry),
                publication: entry.publication,
                flags: entry.flags,
                affinity_timeout: entry.affinity_timeout,
                affinity_id: entry.affinity_id,
                slots: None,
                backends,
                damaged: false,
                claimed: false,
                announced: true,
            };
            count_slots(&publisher.maps, &mut record)?;
            for pair in record.backends.windows(2) {
                record.damaged |= pair[0].target == pair[1].target;
            }
            if let Some(range) = record.slots {
                ranges.push((range, *index));
            }
            if publisher.frontends.get(&record.frontend) == Some(index) {
                adopted.services += 1;
                adopted.backends += record.backends.len();
                publisher.objects.entry(record.id.service.clone()).or_default().push(*index);
                publisher.records.insert(*index, record);
            } else {
                // No client comes here: the last agent was adding or removing it.
                adopted.unfinished += 1;
                publisher.retired.push(Retired {
                    index: *index,
                    frontend: None,
                    published: true,
                    slots: record.slots,
                    backends: record.backends.iter().map(|backend| (backend.index, backend.generation)).collect(),
                });
            }
        }
        publisher.adopt_markers(markers, &addresses);
        for backend in self.backends.values().flatten() {
            adopted.unfinished += 1;
            publisher.ending.push((backend.index, backend.generation));
        }
        self.install_pools(publisher, ranges, now);
        publisher.next_affinity_id = self.last_affinity_id + 1;
        publisher.schedule(now);
        Ok(adopted)
    }

    fn install_pools<M: Maps>(&self, publisher: &mut Publisher<M>, mut ranges: Vec<(Range, u32)>, now: Instant) {
        let capacities = publisher.maps.capacities();
        ranges.sort();
        let mut used: Vec<Range> = Vec::with_capacity(ranges.len());
        for (range, index) in ranges {
            match used.last() {
                // Two services cannot share slots; the later one gets new ones from its next plan.
                Some(last) if last.first + last.count > range.first => {
                    if let Some(record) = publisher.records.get_mut(&index) {
                        (record.damaged, record.slots) = (true, None);
                    }
                    for retired in publisher.retired.iter_mut().filter(|retired| retired.index == index) {
                        retired.slots = None;
                    }
                }
                _ => used.push(range),
            }
        }
        publisher.slots = RangePool::adopt(capacities.slots, self.slots_unused_from, &used, now);
        let services: HashSet<u32> = self.entries.keys().copied().collect();
        publisher.services = IndexPool::adopt(
            capacities.services,
            Reuse::Oldest,
            self.services_unused_from,
            |index| services.contains(&index),
            now,
        );
        let records = publisher.records.values().flat_map(|record| &record.backends).map(|backend| backend.index);
        let retired = publisher.retired.iter().flat_map(|retired| &retired.backends).map(|(index, _)| *index);
        let ending = publisher.ending.iter().map(|(index, _)| *index);
        let live: HashSet<u32> = records.chain(retired).chain(ending).collect();
        publisher.backends = IndexPool::adopt(
            capacities.backends,
            Reuse::Lowest,
            self.backends_unused_from,
            |index| live.contains(&index),
            now,
        );
    }

    /// A service whose name is missing or damaged gets one that no object has, so that no plan claims it.
    fn id_of(&self, index: u32, entry: &ServiceEntry) -> ServiceId {
        let name = self.names.get(&index).map_or("", String::as_str);
        let (object, port) = name.split_once(':').unwrap_or((name, ""));
        let (namespace, name) = object.split_once('/').unwrap_or_default();
        ServiceId {
            service: ObjectName { namespace: Arc::from(namespace), name: Arc::from(name) },
            port_name: Arc::from(port),
            transport: match entry.protocol {
                Protocol::UDP => Transport::Udp,
                Protocol::SCTP => Transport::Sctp,
                _ => Transport::Tcp,
            },
            family: ip_family_of(entry.family),
        }
    }
}

/// Finds out how much of the new flows each backend gets. A slot that leads nowhere makes the record damaged.
fn count_slots(maps: &impl Maps, record: &mut Record) -> Result<(), MapsError> {
    if record.publication.verdict() != Verdict::FORWARD {
        return Ok(());
    }
    let (first, count) = (record.publication.first_slot(), record.publication.slot_count());
    let capacity = maps.capacities().slots;
    if count == 0 || first.checked_add(count).is_none_or(|end| end > capacity) {
        record.damaged = true;
        return Ok(());
    }
    record.slots = Some(Range { first, count });
    let mut slots: HashMap<BackendRef, u32> = HashMap::new();
    for slot in first..first + count {
        *slots.entry(maps.read_slot(slot)?).or_default() += 1;
    }
    for backend in &mut record.backends {
        backend.slots = slots.remove(&backend.reference()).unwrap_or(0);
    }
    record.damaged = !slots.is_empty();
    Ok(())
}
