//! What was true when: every state of every Service with the time it was written and the time the kernel was seen to have
//! it. Between the two a client may meet the old or the new one, and before and after only one of them.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::state::{NodeState, Place, Service, View};
use crate::Family;

/// Changes shown when something went wrong.
const SHOWN: usize = 20;

#[derive(Clone, Debug)]
struct Moment {
    service: Service,
    node: NodeState,
    written: Instant,
    /// From here on every client meets this state or a later one.
    applied: Option<Instant>,
}

pub(super) struct Timeline {
    places: Vec<Place>,
    start: Instant,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    services: Vec<Vec<Moment>>,
    last_changes: VecDeque<String>,
    changes: u64,
}

/// What a request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Target {
    pub service: usize,
    pub family: Family,
    pub web: bool,
    pub port: u16,
}

impl Timeline {
    pub fn new(places: Vec<Place>) -> Self {
        Self { places, start: Instant::now(), inner: Mutex::default() }
    }

    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// The state is about to be written. The first one of a Service counts as applied from the beginning.
    pub fn write(&self, index: usize, service: &Service, node: &NodeState) {
        let mut inner = self.lock();
        if inner.services.len() <= index {
            inner.services.resize_with(index + 1, Vec::new);
        }
        let applied = inner.services[index].is_empty().then_some(self.start);
        let moment = Moment { service: service.clone(), node: node.clone(), written: Instant::now(), applied };
        inner.services[index].push(moment);
    }

    /// The kernel has everything written so far.
    pub fn apply(&self, index: usize) {
        let now = Instant::now();
        for moment in self.lock().services[index].iter_mut().rev() {
            match moment.applied {
                None => moment.applied = Some(now),
                Some(_) => break,
            }
        }
    }

    pub fn note(&self, change: &str) {
        let line = format!("{:8.3} {change}", self.start.elapsed().as_secs_f64());
        let mut inner = self.lock();
        inner.changes += 1;
        inner.last_changes.push_back(line);
        if inner.last_changes.len() > SHOWN {
            inner.last_changes.pop_front();
        }
    }

    pub fn changes(&self) -> u64 {
        self.lock().changes
    }

    pub fn last_changes(&self) -> Vec<String> {
        self.lock().last_changes.iter().cloned().collect()
    }

    pub fn seconds(&self, at: Instant) -> f64 {
        at.duration_since(self.start).as_secs_f64()
    }

    /// Every view of the target that a client may have had between the two moments, newest first.
    pub fn views(&self, target: Target, from: Instant, to: Instant) -> Vec<Option<View>> {
        let inner = self.lock();
        let mut views = Vec::new();
        for moment in inner.services[target.service].iter().rev() {
            if moment.written <= to {
                views.push(moment.service.view(&self.places, &moment.node, target.family, target.web, target.port));
            }
            if moment.applied.is_some_and(|applied| applied <= from) {
                break;
            }
        }
        drop(inner);
        views.dedup();
        views
    }

    /// Port of the Service that was written last.
    pub fn web_port(&self, index: usize) -> u16 {
        self.lock().services[index].last().map_or(0, |moment| moment.service.web_port)
    }

    pub fn ip(&self, target: Target) -> std::net::IpAddr {
        let inner = self.lock();
        inner.services[target.service].last().map_or([0, 0, 0, 0].into(), |moment| moment.service.ip(target.family))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
