//! Changes what new flows of one service are chosen from, in the order that keeps every reader right: new backends,
//! then a fresh range of slots, then one store of the publication word, then the end of what is gone.
//! Must not touch names and frontends; the publisher does.

use std::net::SocketAddr;
use std::time::Instant;

use svc_common::{BackendEntry, BackendRef, Publication, Verdict, address_class, map, service_flag};

use super::allocate::Range;
use super::maps::{Frontend, Maps, MapsError, ip_of};
use super::publisher::Publisher;
use super::record::{Backend, Goal, Step, Target, Wanted, must_publish, steps};
use crate::model::LoadBalancing;
use crate::plan::spread::slot_order;

/// What exists already but nobody can see; given back if a later write fails.
#[derive(Default)]
struct Unseen {
    begun: Vec<Backend>,
    /// Flows may hold their references.
    revived: Vec<Backend>,
    range: Option<Range>,
}

/// What the slots of a service hold, in their order.
fn slots_of(backends: &[Backend], frontend: Frontend, load_balancing: LoadBalancing) -> Vec<BackendRef> {
    let address = |target: Target| SocketAddr::new(ip_of(target.address, frontend.family), target.port.to_host());
    let endpoints: Vec<_> = backends.iter().map(|backend| (address(backend.target), backend.slots)).collect();
    let order = slot_order(load_balancing, &endpoints);
    order.iter().filter_map(|position| backends.get(*position as usize)).map(Backend::reference).collect()
}

/// What became of a goal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Settled {
    /// Anything was written.
    pub changed: bool,
    /// There was no room for more than one slot for each backend.
    pub reduced: bool,
}

impl<M: Maps> Publisher<M> {
    /// Brings one service from what the maps hold to `goal`. After an error new flows find what they found before.
    pub(super) fn settle(&mut self, now: Instant, index: u32, goal: &Goal) -> Result<Settled, MapsError> {
        match (self.settle_exactly(now, index, goal), goal.plain()) {
            // Better the right backends in equal shares than those of yesterday.
            (Err(MapsError::Full { map: map::SLOTS }), Some(plain)) => {
                let changed = self.settle_exactly(now, index, &plain)?;
                Ok(Settled { changed, reduced: true })
            }
            (settled, _) => Ok(Settled { changed: settled?, reduced: false }),
        }
    }

    fn settle_exactly(&mut self, now: Instant, index: u32, goal: &Goal) -> Result<bool, MapsError> {
        let Some(record) = self.records.get_mut(&index) else { return Ok(false) };
        let mut changed = false;
        if record.flags != goal.flags() {
            self.maps.write_service_flags(index, goal.flags())?;
            // Until its slots are in the right order, too.
            record.damaged |= (record.flags ^ goal.flags()) & service_flag::HASH != 0;
            record.flags = goal.flags();
            changed = true;
        }
        if record.affinity_timeout != goal.affinity_timeout {
            self.maps.write_affinity_timeout(index, goal.affinity_timeout)?;
            record.affinity_timeout = goal.affinity_timeout;
            changed = true;
        }
        for backend in &mut record.backends {
            let wanted = goal.backends.binary_search_by_key(&backend.target, |wanted| wanted.target);
            if let Some(wanted) = wanted.ok().and_then(|position| goal.backends.get(position))
                && wanted.flags != backend.flags
            {
                self.maps.write_backend_flags(backend.index, wanted.flags)?;
                backend.flags = wanted.flags;
                changed = true;
            }
        }
        let publish = must_publish(record, goal);
        let steps: Vec<Step> = steps(&record.backends, &goal.backends).collect();
        if !publish && steps.iter().all(|step| matches!(step, Step::Keep(..))) {
            return Ok(changed);
        }
        let frontend = record.frontend;
        let mut unseen = Unseen::default();
        match self.replace(now, index, frontend, goal, &steps, publish, &mut unseen) {
            Ok((backends, publication)) => {
                self.settled(now, index, backends, publication, unseen.range, &steps);
                Ok(true)
            }
            Err(error) => {
                self.take_back(now, unseen);
                Err(error)
            }
        }
    }

    /// All writes up to the one that makes them visible.
    #[expect(clippy::too_many_arguments, reason = "one step of settle, split for its error path")]
    fn replace(
        &mut self,
        now: Instant,
        index: u32,
        frontend: Frontend,
        goal: &Goal,
        steps: &[Step],
        publish: bool,
        unseen: &mut Unseen,
    ) -> Result<(Vec<Backend>, Option<Publication>), MapsError> {
        let mut next = Vec::with_capacity(goal.backends.len());
        for step in steps {
            match *step {
                Step::Begin(want) => {
                    let (backend, revived) = self.begin(now, index, frontend, want)?;
                    if revived { &mut unseen.revived } else { &mut unseen.begun }.push(backend);
                    next.push(backend);
                }
                Step::Keep(have, want) => next.push(Backend { slots: want.slots, ..have }),
                Step::End(_) => {}
            }
        }
        if !publish {
            return Ok((next, None));
        }
        let publication = if goal.verdict == Verdict::FORWARD {
            let range = self.take_slots(now, goal.slot_count()).ok_or(MapsError::Full { map: map::SLOTS })?;
            unseen.range = Some(range);
            self.maps.write_slots(range.first, &slots_of(&next, frontend, goal.load_balancing))?;
            Publication::new(goal.verdict, range.first, range.count).with_local(goal.has_local())
        } else {
            Publication::new(goal.verdict, 0, 0)
        };
        self.maps.write_publication(index, publication)?;
        Ok((next, Some(publication)))
    }

    /// The new list is visible: what is not in it may go.
    fn settled(
        &mut self,
        now: Instant,
        index: u32,
        backends: Vec<Backend>,
        publication: Option<Publication>,
        slots: Option<Range>,
        steps: &[Step],
    ) {
        if let Some(record) = self.records.get_mut(&index) {
            record.backends = backends;
            if let Some(publication) = publication {
                if record.publication.verdict() != publication.verdict() {
                    self.markers.touch(record.frontend);
                }
                record.publication = publication;
                record.damaged = false;
                if let Some(before) = std::mem::replace(&mut record.slots, slots) {
                    self.slots.rest(before, now);
                }
            }
        }
        for step in steps {
            if let Step::End(backend) = step {
                self.end(now, backend.index, backend.generation);
                self.ended.insert(now, index, *backend);
            }
        }
    }

    fn take_back(&mut self, now: Instant, unseen: Unseen) {
        for backend in unseen.revived {
            self.end(now, backend.index, backend.generation);
        }
        for backend in unseen.begun {
            // Nobody has its reference, so its index needs no rest.
            match self.maps.write_generation(backend.index, backend.generation.wrapping_add(1)) {
                Ok(()) => self.backends.put_back(backend.index),
                Err(_) => self.ending.push((backend.index, backend.generation)),
            }
        }
        if let Some(range) = unseen.range {
            self.slots.put_back(range);
        }
    }

    /// The backend, and whether it had ended a moment ago.
    fn begin(
        &mut self,
        now: Instant,
        service: u32,
        frontend: Frontend,
        want: Wanted,
    ) -> Result<(Backend, bool), MapsError> {
        let address = ip_of(want.target.address, frontend.family);
        self.maps.add_address_class(address, address_class::BACKEND)?;
        let revived = self.ended.revive(now, service, want.target, &mut self.backends);
        let index = revived.map(|(index, _)| index).or_else(|| self.take_backend(now));
        let index = index.ok_or(MapsError::Full { map: map::BACKENDS })?;
        match self.write_begin(service, want, index, revived.map(|(_, generation)| generation)) {
            Ok(generation) => {
                let Wanted { target, flags, slots } = want;
                Ok((Backend { target, flags, slots, index, generation }, revived.is_some()))
            }
            Err(error) => {
                match revived {
                    Some(_) => self.backends.rest(index, now),
                    None => self.backends.put_back(index),
                }
                Err(error)
            }
        }
    }

    fn write_begin(&mut self, service: u32, want: Wanted, index: u32, revived: Option<u32>) -> Result<u32, MapsError> {
        let generation = match revived {
            Some(generation) => generation,
            None => self.maps.read_backend(index)?.generation.wrapping_add(1) | 1,
        };
        let entry = BackendEntry {
            address: want.target.address,
            port: want.target.port,
            flags: want.flags,
            service,
            ..BackendEntry::default()
        };
        self.maps.write_backend(index, &entry)?;
        self.maps.write_generation(index, generation)?;
        Ok(generation)
    }

    /// Flows and affinities that hold the reference notice on their next packet.
    pub(super) fn end(&mut self, now: Instant, index: u32, generation: u32) {
        match self.maps.write_generation(index, generation.wrapping_add(1)) {
            Ok(()) => self.backends.rest(index, now),
            Err(_) => {
                self.failures.refused += 1;
                self.ending.push((index, generation));
            }
        }
    }

    pub(super) fn take_service(&mut self, now: Instant) -> Option<u32> {
        self.services.take().or_else(|| self.reclaim(now).then(|| self.services.take()).flatten())
    }

    fn take_backend(&mut self, now: Instant) -> Option<u32> {
        self.backends.take().or_else(|| self.reclaim(now).then(|| self.backends.take()).flatten())
    }

    fn take_slots(&mut self, now: Instant, count: u32) -> Option<Range> {
        self.slots.take(count).or_else(|| self.reclaim(now).then(|| self.slots.take(count)).flatten())
    }
}
