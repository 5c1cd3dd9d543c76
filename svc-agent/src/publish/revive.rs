//! Backends that come back at once are the same ones: their references become valid again, and flows that held them never notice.
//! An API server tells of a Service and of its slices one after the other, so that a renamed port has no endpoints in between.
//! Neighbours: [`super::settle`] ends and begins backends; [`super::allocate`] keeps their indexes at rest meanwhile.

use std::collections::BTreeMap;
use std::time::Instant;

use super::allocate::{GRACE, IndexPool};
use super::record::{Backend, Target};

/// Backends that ended within the time of rest, by service index and target.
#[derive(Default, Debug)]
pub struct Ended {
    backends: BTreeMap<(u32, Target), End>,
}

#[derive(Clone, Copy, Debug)]
struct End {
    at: Instant,
    index: u32,
    generation: u32,
}

impl Ended {
    pub fn insert(&mut self, now: Instant, service: u32, backend: Backend) {
        let end = End { at: now, index: backend.index, generation: backend.generation };
        self.backends.insert((service, backend.target), end);
    }

    /// Index and generation of this backend if it ended a moment ago; the index is out of its rest then.
    pub fn revive(&mut self, now: Instant, service: u32, target: Target, pool: &mut IndexPool) -> Option<(u32, u32)> {
        let end = self.backends.remove(&(service, target))?;
        let recent = now.saturating_duration_since(end.at) < GRACE;
        (recent && pool.wake(end.index)).then_some((end.index, end.generation))
    }

    /// Forgets those whose indexes may belong to others by now.
    pub fn forget(&mut self, now: Instant) {
        self.backends.retain(|_, end| now.saturating_duration_since(end.at) < GRACE);
    }
}
