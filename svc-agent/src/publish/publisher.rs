//! [`Publisher`]: what the maps hold, and the way from there to what plans ask for. Decides the order of all writes;
//! synchronous, time comes from the caller. Neighbours: [`super::apply`] handles one object, [`super::adopt`]
//! starts from maps that an earlier agent has filled.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::ops::Bound;
use std::time::{Duration, Instant};

use svc_common::{AddrV4, address_class, map};

use super::allocate::{IndexPool, RangePool, Reuse};
use super::error::PublishError;
use super::maps::{ConfigField, Frontend, Maps, MapsError, address_of};
use super::markers::Markers;
use super::record::Record;
use super::retire::Retired;
use super::revive::Ended;
use crate::model::ObjectName;
use crate::plan::{ServiceId, ServicePlan};

/// How long a service waits that could not be published: at first, and after many attempts in vain.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_AT_MOST: Duration = Duration::from_secs(64);
/// Waiting services that are tried when space was freed before their time; the others follow if these now fit.
const PROBE: usize = 16;
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

/// An object that does not have what its plans ask for.
#[derive(Debug)]
pub(super) struct Waiting {
    pub plans: Vec<ServicePlan>,
    /// Nothing else is in its way.
    pub lacks_space: bool,
}

pub struct Publisher<M> {
    pub(super) maps: M,
    /// By service index.
    pub(super) records: BTreeMap<u32, Record>,
    pub(super) objects: HashMap<ObjectName, Vec<u32>>,
    /// Service index by frontend, also of services not yet announced.
    pub(super) frontends: BTreeMap<Frontend, u32>,
    pub(super) markers: Markers,
    pub(super) services: IndexPool,
    pub(super) backends: IndexPool,
    pub(super) slots: RangePool,
    pub(super) next_affinity_id: u32,
    /// Services on their way out whose last writes failed.
    pub(super) retired: Vec<Retired>,
    /// Backends (index, generation) that belong to nobody and whose end could not be written.
    pub(super) ending: Vec<(u32, u32)>,
    pub(super) ended: Ended,
    /// Frontends found at adoption that lead nowhere, and markers of addresses without any.
    pub(super) stale_frontends: Vec<Frontend>,
    pub(super) pruned: bool,
    /// Objects that do not have what their plans ask for.
    pub(super) pending: BTreeMap<ObjectName, Waiting>,
    /// Services were taken away since the last tick: others may get their frontends.
    pub(super) let_go: Option<Instant>,
    retry_at: Option<Instant>,
    retry_after: Duration,
    /// Where the next probe begins: the last waiting object that was tried early.
    probed: Option<ObjectName>,
    pub(super) failures: Failures,
}

impl<M: Maps> Publisher<M> {
    /// For maps that were just made; [`Publisher::adopt`] is for all others.
    pub fn new(maps: M) -> Self {
        let capacities = maps.capacities();
        Self {
            maps,
            records: BTreeMap::new(),
            objects: HashMap::new(),
            frontends: BTreeMap::new(),
            markers: Markers::default(),
            services: IndexPool::new(capacities.services, Reuse::Oldest),
            backends: IndexPool::new(capacities.backends, Reuse::Lowest),
            slots: RangePool::new(capacities.slots),
            next_affinity_id: 1,
            retired: Vec::new(),
            ending: Vec::new(),
            ended: Ended::default(),
            stale_frontends: Vec::new(),
            pruned: false,
            pending: BTreeMap::new(),
            let_go: None,
            retry_at: None,
            retry_after: RETRY,
            probed: None,
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
        let published = self.publish_all(now, services);
        if !self.lacks_only_space() {
            self.retry_after = RETRY;
        }
        self.schedule(now + self.retry_after);
        published
    }

    fn publish_all<'a>(
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
        published
    }

    /// Deferred work: indexes and slots that have rested, writes that failed, services that did not fit.
    /// To be called at [`Self::deadline`] or later.
    pub fn tick(&mut self, now: Instant) -> Published {
        self.finish_retired(now);
        let freed = self.reclaim(now);
        let let_go = self.let_go.take().is_some();
        let mut published = Published::default();
        if self.retry_at.take_if(|at| *at <= now).is_some() {
            self.retry(now, &mut published, |_| true);
            self.retry_after = if self.lacks_only_space() { (self.retry_after * 2).min(RETRY_AT_MOST) } else { RETRY };
        } else if freed || let_go {
            if let_go {
                self.retry(now, &mut published, |waiting| !waiting.lacks_space);
            }
            while self.probe(now, &mut published) {}
        }
        if self.pending.is_empty() {
            (self.retry_after, self.probed) = (RETRY, None);
        }
        self.schedule(now + self.retry_after);
        published
    }

    fn retry(&mut self, now: Instant, published: &mut Published, which: impl Fn(&Waiting) -> bool) {
        let (again, rest) = std::mem::take(&mut self.pending).into_iter().partition(|(_, waiting)| which(waiting));
        self.pending = rest;
        self.publish_again(now, again, published);
    }

    /// Tries the next few that lack space, in turns; says whether others should be tried as well.
    fn probe(&mut self, now: Instant, published: &mut Published) -> bool {
        let begin = self.probed.take().map_or(Bound::Unbounded, Bound::Excluded);
        let lacking = self.pending.range((begin, Bound::Unbounded)).filter(|(_, waiting)| waiting.lacks_space);
        let names: Vec<ObjectName> = lacking.map(|(name, _)| name).take(PROBE).cloned().collect();
        let again = names.iter().filter_map(|name| self.pending.remove_entry(name)).collect();
        self.probed = names.last().filter(|_| names.len() == PROBE).cloned();
        let failures = published.failures.len();
        self.publish_again(now, again, published);
        names.len() == PROBE && published.failures.len() == failures
    }

    fn publish_again(&mut self, now: Instant, again: BTreeMap<ObjectName, Waiting>, published: &mut Published) {
        let result = self.publish_all(now, again.iter().map(|(object, waiting)| (object, waiting.plans.as_slice())));
        published.changed += result.changed;
        published.failures.extend(result.failures);
    }

    /// When [`Self::tick`] has something to do next.
    pub fn deadline(&self) -> Option<Instant> {
        let rests = [self.services.deadline(), self.backends.deadline(), self.slots.deadline()];
        rests.into_iter().flatten().chain(self.retry_at).chain(self.let_go).min()
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
        self.schedule(if unclaimed.is_empty() { now + self.retry_after } else { now });
        unclaimed.len()
    }

    /// A lack of space is answered by space; whatever else could not be written may be possible soon.
    fn lacks_only_space(&self) -> bool {
        self.pending.values().all(|waiting| waiting.lacks_space) && !self.has_leftovers()
    }

    /// Writes that failed, and are due again.
    fn has_leftovers(&self) -> bool {
        !self.retired.is_empty()
            || !self.ending.is_empty()
            || !self.markers.overdue.is_empty()
            || (self.pruned && !self.stale_frontends.is_empty())
    }

    /// Asks for a tick at `at` if anything waits for one.
    pub(super) fn schedule(&mut self, at: Instant) {
        let waiting = !self.pending.is_empty() || self.has_leftovers();
        self.retry_at = waiting.then(|| self.retry_at.map_or(at, |before| before.min(at)));
    }

    pub(super) fn count_failures(&mut self, failures: &[PublishError]) {
        for failure in failures {
            match failure {
                PublishError::Full { .. } | PublishError::Reduced { .. } => self.failures.full += 1,
                PublishError::FrontendTaken { .. } => self.failures.frontend_taken += 1,
                PublishError::Refused { .. } => self.failures.refused += 1,
            }
        }
    }

    pub(super) fn describe(&self, error: MapsError, id: &ServiceId, frontend: Frontend) -> PublishError {
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
            source => PublishError::Refused { service, frontend, source: Box::new(source) },
        }
    }

    /// Objects that do not have what their plans ask for.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }
}
