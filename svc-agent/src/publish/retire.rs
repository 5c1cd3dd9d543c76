//! Takes services away: the frontend first, then the verdict, then the backends; whatever fails is tried again, and
//! nothing is reused before all of it is done and has rested. Neighbours: [`super::allocate`] keeps the time of rest.

use std::time::Instant;

use svc_common::Publication;

use super::allocate::Range;
use super::maps::{Frontend, Maps};
use super::publisher::Publisher;
use super::record::Record;

/// A service that no client shall reach any more, as far as that is not yet true.
#[derive(Debug)]
pub struct Retired {
    pub index: u32,
    /// `None`: deleted, or it leads to another service by now.
    pub frontend: Option<Frontend>,
    pub published: bool,
    pub slots: Option<Range>,
    /// Index and generation of those that live.
    pub backends: Vec<(u32, u32)>,
}

impl Retired {
    fn is_done(&self) -> bool {
        self.frontend.is_none() && !self.published && self.backends.is_empty()
    }
}

impl<M: Maps> Publisher<M> {
    /// Withdraws a service. Its frontend stays if another service has taken it over.
    pub(super) fn retire(&mut self, now: Instant, index: u32) -> Option<Record> {
        let record = self.records.remove(&index)?;
        self.markers.touch(record.frontend);
        let owned = self.frontends.get(&record.frontend) == Some(&index);
        if owned {
            self.frontends.remove(&record.frontend);
        }
        if let Some(siblings) = self.objects.get_mut(&record.id.service) {
            siblings.retain(|sibling| *sibling != index);
            if siblings.is_empty() {
                self.objects.remove(&record.id.service);
            }
        }
        let retired = Retired {
            index,
            frontend: (owned && record.announced).then_some(record.frontend),
            published: record.publication != Publication::default(),
            slots: record.slots,
            backends: record.backends.iter().map(|backend| (backend.index, backend.generation)).collect(),
        };
        self.advance(now, retired);
        Some(record)
    }

    /// Does what can be done now; the rest waits for the next tick.
    pub(super) fn advance(&mut self, now: Instant, mut retired: Retired) {
        if let Some(frontend) = retired.frontend
            && self.succeeded(|publisher| publisher.maps.delete_frontend(frontend))
        {
            retired.frontend = None;
            self.markers.touch(frontend);
        }
        if retired.published
            && self.succeeded(|publisher| publisher.maps.write_publication(retired.index, Publication::default()))
        {
            retired.published = false;
        }
        // While clients may still choose from the slots, their backends must live.
        if !retired.published {
            if let Some(slots) = retired.slots.take() {
                self.slots.rest(slots, now);
            }
            for (index, generation) in std::mem::take(&mut retired.backends) {
                self.end(now, index, generation);
            }
        }
        self.keep_or_rest(now, retired);
    }

    fn keep_or_rest(&mut self, now: Instant, retired: Retired) {
        if retired.is_done() {
            self.services.rest(retired.index, now);
        } else {
            self.retired.push(retired);
        }
    }

    /// The frontend leads to another service now and must not be deleted.
    pub(super) fn forget_deletion(&mut self, now: Instant, frontend: Frontend) {
        if self.retired.iter().any(|retired| retired.frontend == Some(frontend)) {
            for mut retired in std::mem::take(&mut self.retired) {
                retired.frontend = retired.frontend.filter(|other| *other != frontend);
                self.keep_or_rest(now, retired);
            }
        }
        self.stale_frontends.retain(|stale| *stale != frontend);
    }

    /// Writes that failed when something was taken away.
    pub(super) fn finish_retired(&mut self, now: Instant) {
        self.markers.touch_overdue();
        for retired in std::mem::take(&mut self.retired) {
            self.advance(now, retired);
        }
        for (index, generation) in std::mem::take(&mut self.ending) {
            self.end(now, index, generation);
        }
        if self.pruned {
            for frontend in std::mem::take(&mut self.stale_frontends) {
                if self.succeeded(|publisher| publisher.maps.delete_frontend(frontend)) {
                    self.markers.touch(frontend);
                } else {
                    self.stale_frontends.push(frontend);
                }
            }
        }
        self.settle_markers();
    }

    /// Makes free what has rested long enough; says whether there was anything.
    pub(super) fn reclaim(&mut self, now: Instant) -> bool {
        self.ended.forget(now);
        let mut any = self.backends.reclaim(now) | self.slots.reclaim(now);
        while let Some(index) = self.services.next_rested(now) {
            // Whoever gets the index next must not inherit the name or the counters.
            let cleared = self.succeeded(|publisher| publisher.maps.delete_counters(index))
                && self.succeeded(|publisher| publisher.maps.delete_name(index));
            if cleared {
                self.services.put_back(index);
                any = true;
            } else {
                self.services.rest(index, now);
            }
        }
        any
    }

    /// Writes of this kind that fail are counted and tried again; nobody waits for them.
    pub(super) fn succeeded(&mut self, write: impl FnOnce(&mut Self) -> Result<(), super::maps::MapsError>) -> bool {
        let result = write(self);
        self.failures.refused += u64::from(result.is_err());
        result.is_ok()
    }
}
