//! [`Publisher`]: what the maps hold, and the way from there to what plans ask for. Decides the order of all writes;
//! synchronous, time comes from the caller. Neighbours: [`super::settle`] changes one service, [`super::retire`] takes
//! things away, [`super::adopt`] starts from maps that an earlier agent has filled.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use svc_common::{AddrV4, ServiceEntry, address_class, map, service_flag};

use super::allocate::{IndexPool, RangePool, Reuse};
use super::error::PublishError;
use super::maps::{ConfigField, Frontend, Maps, MapsError, address_of, ip_of};
use super::record::{Goal, Record, name_of};
use super::retire::Retired;
use crate::model::ObjectName;
use crate::plan::{ServiceId, ServicePlan};

/// How long a service waits that could not be published.
const RETRY: Duration = Duration::from_secs(1);
/// Services announced together: names and frontends go to the kernel in batches.
const ANNOUNCE_BATCH: usize = 1024;

/// What became of plans.
#[derive(Debug, Default)]
pub struct Published {
    /// Objects of which something was written.
    pub changed: usize,
    pub failures: Vec<PublishError>,
}

/// Failures since the agent started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Failures {
    pub full: u64,
    pub frontend_taken: u64,
    pub refused: u64,
}

pub struct Publisher<M> {
    pub(super) maps: M,
    /// By service index.
    pub(super) records: BTreeMap<u32, Record>,
    pub(super) objects: HashMap<ObjectName, Vec<u32>>,
    /// Service index by frontend, also of services not yet announced.
    pub(super) frontends: HashMap<Frontend, u32>,
    pub(super) services: IndexPool,
    pub(super) backends: IndexPool,
    pub(super) slots: RangePool,
    pub(super) next_affinity_id: u32,
    /// Services on their way out whose last writes failed.
    pub(super) retired: Vec<Retired>,
    /// Backends (index, generation) that belong to nobody and whose end could not be written.
    pub(super) ending: Vec<(u32, u32)>,
    /// Frontends found at adoption that lead nowhere.
    pub(super) stale_frontends: Vec<Frontend>,
    pub(super) pruned: bool,
    /// Objects that do not have what their plans ask for.
    pending: BTreeMap<ObjectName, Vec<ServicePlan>>,
    retry_at: Option<Instant>,
    pub(super) failures: Failures,
}

/// A service that has everything but its name and frontend.
struct Added {
    index: u32,
    /// Who has the frontend so far: a service that no plan has claimed.
    replaces: Option<u32>,
}

struct Work<'a> {
    object: &'a ObjectName,
    plans: &'a [ServicePlan],
    kept: Vec<u32>,
    added: Vec<Added>,
    failures: Vec<PublishError>,
    failed: Vec<ServiceId>,
    changed: bool,
}

impl<M: Maps> Publisher<M> {
    /// For maps that were just made; [`Publisher::adopt`] is for all others.
    pub fn new(maps: M) -> Self {
        let capacities = maps.capacities();
        Self {
            maps,
            records: BTreeMap::new(),
            objects: HashMap::new(),
            frontends: HashMap::new(),
            services: IndexPool::new(capacities.services, Reuse::Oldest),
            backends: IndexPool::new(capacities.backends, Reuse::Lowest),
            slots: RangePool::new(capacities.slots),
            next_affinity_id: 1,
            retired: Vec::new(),
            ending: Vec::new(),
            stale_frontends: Vec::new(),
            pruned: false,
            pending: BTreeMap::new(),
            retry_at: None,
            failures: Failures::default(),
        }
    }

    pub fn maps(&self) -> &M {
        &self.maps
    }

    pub fn maps_mut(&mut self) -> &mut M {
        &mut self.maps
    }

    pub fn write_config(&mut self, field: ConfigField) -> Result<(), MapsError> {
        self.maps.write_config(field)
    }

    /// The address that clients are seen as when they are masqueraded or reach themselves.
    pub fn write_node_address(&mut self, address: IpAddr) -> Result<(), MapsError> {
        self.maps.add_address_class(address, address_class::NODE)?;
        self.maps.write_config(match address {
            IpAddr::V4(v4) => ConfigField::NodeV4(AddrV4::from_octets(v4.octets())),
            IpAddr::V6(_) => ConfigField::NodeV6(address_of(address)),
        })
    }

    /// Makes the maps hold exactly `plans` for this object: all its ports and families.
    pub fn publish_service(
        &mut self,
        now: Instant,
        object: &ObjectName,
        plans: &[ServicePlan],
    ) -> Result<bool, PublishError> {
        let mut published = self.publish_services(now, [(object, plans)]);
        match published.failures.is_empty() {
            true => Ok(published.changed > 0),
            false => Err(published.failures.swap_remove(0)),
        }
    }

    pub fn remove_service(&mut self, now: Instant, object: &ObjectName) -> Result<bool, PublishError> {
        self.publish_service(now, object, &[])
    }

    /// As [`Self::publish_service`] for many: what can go to the kernel together does.
    pub fn publish_services<'a>(
        &mut self,
        now: Instant,
        services: impl IntoIterator<Item = (&'a ObjectName, &'a [ServicePlan])>,
    ) -> Published {
        let mut published = Published::default();
        let mut works = Vec::new();
        for (object, plans) in services {
            works.push(self.prepare(now, object, plans));
            if works.len() >= ANNOUNCE_BATCH {
                self.finish(now, std::mem::take(&mut works), &mut published);
            }
        }
        self.finish(now, works, &mut published);
        self.schedule(now + RETRY);
        published
    }

    /// Deferred work: indexes and slots that have rested, writes that failed, services that did not fit.
    /// To be called at [`Self::deadline`] or later.
    pub fn tick(&mut self, now: Instant) -> Published {
        self.finish_retired(now);
        let freed = self.reclaim(now);
        let due = self.retry_at.take_if(|at| *at <= now).is_some();
        if self.pending.is_empty() || !(freed || due) {
            self.schedule(now + RETRY);
            return Published::default();
        }
        let pending = std::mem::take(&mut self.pending);
        self.publish_services(now, pending.iter().map(|(object, plans)| (object, plans.as_slice())))
    }

    /// When [`Self::tick`] has something to do next.
    pub fn deadline(&self) -> Option<Instant> {
        let rests = [self.services.deadline(), self.backends.deadline(), self.slots.deadline()];
        rests.into_iter().flatten().chain(self.retry_at).min()
    }

    /// Removes what no plan has claimed since the adoption. Only once all sources have synced.
    /// Returns the number of services removed.
    pub fn prune(&mut self, now: Instant) -> usize {
        self.pruned = true;
        let unclaimed: Vec<u32> =
            self.records.iter().filter(|(_, record)| !record.claimed).map(|(index, _)| *index).collect();
        for index in &unclaimed {
            self.retire(now, *index);
        }
        self.finish_retired(now);
        self.schedule(if unclaimed.is_empty() { now + RETRY } else { now });
        unclaimed.len()
    }

    /// Asks for a tick at `at` if anything waits for one.
    pub(super) fn schedule(&mut self, at: Instant) {
        let waiting = !self.pending.is_empty()
            || !self.retired.is_empty()
            || !self.ending.is_empty()
            || (self.pruned && !self.stale_frontends.is_empty());
        self.retry_at = waiting.then(|| self.retry_at.map_or(at, |before| before.min(at)));
    }

    /// Everything of one object that nobody can reach yet, and changes of what it has already.
    fn prepare<'a>(&mut self, now: Instant, object: &'a ObjectName, plans: &'a [ServicePlan]) -> Work<'a> {
        let mut work = Work {
            object,
            plans,
            kept: Vec::with_capacity(plans.len()),
            added: Vec::new(),
            failures: Vec::new(),
            failed: Vec::new(),
            changed: false,
        };
        for plan in plans {
            if let Err(error) = self.prepare_plan(now, plan, &mut work) {
                work.failed.push(plan.id.clone());
                work.failures.push(error);
            }
        }
        work
    }

    fn prepare_plan(&mut self, now: Instant, plan: &ServicePlan, work: &mut Work<'_>) -> Result<(), PublishError> {
        let frontend = Frontend::new(plan.frontend, plan.id.transport);
        let goal = Goal::of(plan);
        let owner = self.frontends.get(&frontend).copied();
        let replaces = match owner.and_then(|index| self.records.get_mut(&index).map(|record| (index, record))) {
            Some((index, record)) if record.id.service == *work.object && !work.kept.contains(&index) => {
                record.claimed = true;
                work.kept.push(index);
                let renamed = self.rename(index, &plan.id);
                let settled = renamed.and_then(|renamed| Ok(renamed | self.settle(now, index, &goal)?));
                work.changed |= settled.map_err(|error| self.describe(error, &plan.id, frontend))?;
                return Ok(());
            }
            Some((_, record)) if record.claimed => {
                let owner = record.id.clone();
                return Err(PublishError::FrontendTaken { service: plan.id.clone(), frontend, owner });
            }
            Some((index, _)) => Some(index),
            None => None,
        };
        let affinity_id = self.affinity_id(&plan.id, &work.kept);
        let added = self.add(now, plan.id.clone(), frontend, &goal, affinity_id);
        let index = added.map_err(|error| self.describe(error, &plan.id, frontend))?;
        self.frontends.insert(frontend, index);
        work.kept.push(index);
        work.added.push(Added { index, replaces });
        work.changed = true;
        Ok(())
    }

    /// Everything of a new service but its name and frontend.
    fn add(
        &mut self,
        now: Instant,
        id: ServiceId,
        frontend: Frontend,
        goal: &Goal,
        affinity_id: u32,
    ) -> Result<u32, MapsError> {
        let index = self.take_service(now).ok_or(MapsError::Full { map: map::SERVICES })?;
        let entry = ServiceEntry {
            address: frontend.address,
            port: frontend.port,
            protocol: frontend.protocol,
            family: frontend.family,
            flags: service_flag::MASQUERADE_OUTSIDE,
            affinity_timeout: goal.affinity_timeout,
            affinity_id,
            ..ServiceEntry::default()
        };
        let address = ip_of(frontend.address, frontend.family);
        let written = self
            .maps
            .write_service(index, &entry)
            .and_then(|()| self.maps.add_address_class(address, address_class::FRONTEND));
        if let Err(error) = written {
            self.services.put_back(index);
            return Err(error);
        }
        let record = Record {
            id,
            frontend,
            publication: entry.publication,
            affinity_timeout: goal.affinity_timeout,
            affinity_id,
            slots: None,
            backends: Vec::new(),
            damaged: false,
            claimed: true,
            announced: false,
        };
        self.records.insert(index, record);
        match self.settle(now, index, goal) {
            Ok(_) => Ok(index),
            Err(error) => {
                self.records.remove(&index);
                self.services.put_back(index);
                Err(error)
            }
        }
    }

    /// The same for all families and frontends of one Service port, never used twice. `prepared` are services of the
    /// same object that are not in the list of objects yet.
    fn affinity_id(&mut self, id: &ServiceId, prepared: &[u32]) -> u32 {
        let siblings = self.objects.get(&id.service).into_iter().flatten().chain(prepared);
        let sibling = siblings.filter_map(|index| self.records.get(index)).find_map(|record| {
            let same = record.id.port_name == id.port_name && record.id.transport == id.transport;
            same.then_some(record.affinity_id)
        });
        sibling.unwrap_or_else(|| {
            let id = self.next_affinity_id;
            self.next_affinity_id += 1;
            id
        })
    }

    /// The port of a frontend got another name: clients notice nothing, counters start anew.
    fn rename(&mut self, index: u32, id: &ServiceId) -> Result<bool, MapsError> {
        let Some(record) = self.records.get_mut(&index) else { return Ok(false) };
        let renamed = record.id != *id;
        if renamed {
            self.maps.delete_counters(index)?;
            self.maps.insert_names(&[(index, name_of(id))]).map_err(|error| error.error)?;
        }
        // Also when it is equal: an adopted id does not share its text with the rest of the agent yet.
        record.id = id.clone();
        Ok(renamed)
    }

    /// Shows prepared services to clients, then takes away what no plan asks for any more.
    fn finish(&mut self, now: Instant, works: Vec<Work<'_>>, published: &mut Published) {
        let added: Vec<u32> = works.iter().flat_map(|work| &work.added).map(|added| added.index).collect();
        let mut refused = self.announce(now, &added);
        let mut let_go = false;
        for mut work in works {
            for Added { index, replaces } in std::mem::take(&mut work.added) {
                match (refused.remove(&index), replaces) {
                    (Some(error), _) => {
                        work.kept.retain(|kept| *kept != index);
                        if let Some(record) = self.retire(now, index) {
                            self.frontends.extend(replaces.map(|owner| (record.frontend, owner)));
                            work.failures.push(self.describe(error, &record.id, record.frontend));
                            work.failed.push(record.id);
                        }
                    }
                    (None, Some(owner)) => drop(self.retire(now, owner)),
                    (None, None) => {}
                }
            }
            let before = self.objects.remove(work.object).unwrap_or_default();
            for index in before {
                let spared = |record: &Record| work.failed.contains(&record.id);
                if work.kept.contains(&index) || !self.records.contains_key(&index) {
                    continue;
                }
                if self.records.get(&index).is_some_and(spared) {
                    work.kept.push(index);
                } else {
                    self.retire(now, index);
                    (let_go, work.changed) = (true, true);
                }
            }
            if !work.kept.is_empty() {
                self.objects.insert(work.object.clone(), work.kept);
            }
            if work.failures.is_empty() {
                self.pending.remove(work.object);
            } else {
                self.pending.insert(work.object.clone(), work.plans.to_vec());
            }
            self.count_failures(&work.failures);
            published.changed += usize::from(work.changed);
            published.failures.append(&mut work.failures);
        }
        if let_go {
            self.schedule(now);
        }
    }

    /// Writes names, then frontends. Returns what went wrong, by service index.
    fn announce(&mut self, now: Instant, added: &[u32]) -> HashMap<u32, MapsError> {
        let mut refused = HashMap::new();
        let records = |index: &u32| self.records.get(index).map(|record| (*index, record));
        let names: Vec<_> =
            added.iter().filter_map(records).map(|(index, record)| (index, name_of(&record.id))).collect();
        let frontends: Vec<_> =
            added.iter().filter_map(records).map(|(index, record)| (record.frontend, index)).collect();
        let mut rest = names.as_slice();
        while let Err(stopped) = self.maps.insert_names(rest) {
            let Some((index, _)) = rest.get(stopped.done) else { break };
            refused.insert(*index, stopped.error);
            rest = &rest[stopped.done + 1..];
        }
        let named: Vec<_> = frontends.into_iter().filter(|(_, index)| !refused.contains_key(index)).collect();
        let mut rest = named.as_slice();
        while let Err(stopped) = self.maps.insert_frontends(rest) {
            let Some((_, index)) = rest.get(stopped.done) else { break };
            refused.insert(*index, stopped.error);
            rest = &rest[stopped.done + 1..];
        }
        for (frontend, index) in named {
            if !refused.contains_key(&index) {
                if let Some(record) = self.records.get_mut(&index) {
                    record.announced = true;
                }
                self.forget_deletion(now, frontend);
            }
        }
        refused
    }

    fn count_failures(&mut self, failures: &[PublishError]) {
        for failure in failures {
            match failure {
                PublishError::Full { .. } => self.failures.full += 1,
                PublishError::FrontendTaken { .. } => self.failures.frontend_taken += 1,
                PublishError::Refused { .. } => self.failures.refused += 1,
            }
        }
    }

    fn describe(&self, error: MapsError, id: &ServiceId, frontend: Frontend) -> PublishError {
        let service = id.clone();
        let capacities = self.maps.capacities();
        let capacity = match error.map() {
            map::SLOTS => capacities.slots,
            map::BACKENDS => capacities.backends,
            map::FRONTENDS_V4 => capacities.frontends_v4,
            map::FRONTENDS_V6 => capacities.frontends_v6,
            _ => capacities.services,
        };
        match error {
            MapsError::Full { map } => PublishError::Full { service, frontend, map, capacity },
            source => PublishError::Refused { service, frontend, source },
        }
    }

    /// Objects that do not have what their plans ask for.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }
}
