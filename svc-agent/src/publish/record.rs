//! What the maps hold for one service, and how a plan differs from it. Pure: no maps, no allocation of indexes.
//! Backends lie in one sorted list without indexes beside it: hundreds of thousands of them must stay small.

use std::cmp::Reverse;

use svc_common::{AddrV6, BackendRef, Port, Publication, ServiceName, Verdict, backend_flag, service_flag};

use super::allocate::Range;
use super::maps::{Frontend, address_of};
use crate::model::{LoadBalancing, Weight};
use crate::plan::spread::slot_counts;
use crate::plan::{Decision, PlannedBackend, ServiceId, ServicePlan};

/// Address and port of a backend, as in BACKENDS.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Target {
    pub address: AddrV6,
    pub port: Port,
}

/// A backend that the maps hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backend {
    pub target: Target,
    /// Bits of [`backend_flag`].
    pub flags: u16,
    /// Its share of new flows; zero while it drains.
    pub slots: u32,
    pub index: u32,
    /// Odd.
    pub generation: u32,
}

impl Backend {
    pub fn reference(&self) -> BackendRef {
        BackendRef::new(self.index, self.generation)
    }
}

/// A backend that a plan asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    pub target: Target,
    pub flags: u16,
    pub slots: u32,
}

/// What the maps hold for one frontend.
#[derive(Debug)]
pub struct Record {
    pub id: ServiceId,
    pub frontend: Frontend,
    pub publication: Publication,
    /// Bits of [`service_flag`].
    pub flags: u32,
    pub affinity_timeout: u32,
    pub affinity_id: u32,
    /// The slots that belong to this service.
    pub slots: Option<Range>,
    /// Sorted by target, no two alike unless damaged.
    pub backends: Vec<Backend>,
    /// Slots or backends are not what they should be; the next plan writes them anew.
    pub damaged: bool,
    /// A plan asked for this since the agent started.
    pub claimed: bool,
    /// Name and frontend are in their maps.
    pub announced: bool,
}

/// A plan in the terms of the maps.
#[derive(Debug)]
pub struct Goal {
    pub verdict: Verdict,
    /// Sorted by target, no two alike; none has slots unless the verdict is FORWARD.
    pub backends: Vec<Wanted>,
    pub load_balancing: LoadBalancing,
    pub reset_when_gone: bool,
    pub affinity_timeout: u32,
}

impl Goal {
    pub fn of(plan: &ServicePlan) -> Self {
        let (verdict, eligible): (_, &[PlannedBackend]) = match &plan.decision {
            Decision::Forward(backends) => (Verdict::FORWARD, backends),
            Decision::Reject => (Verdict::REJECT, &[]),
            Decision::Drop => (Verdict::DROP, &[]),
        };
        let wanted = |backend: &PlannedBackend, slots| Wanted {
            target: Target { address: address_of(backend.address.ip()), port: Port::from_host(backend.address.port()) },
            flags: if backend.local { backend_flag::LOCAL } else { 0 }
                | if slots > 0 { backend_flag::ELIGIBLE } else { 0 },
            slots,
        };
        let weights: Vec<Weight> = eligible.iter().map(|backend| backend.weight).collect();
        let counts = slot_counts(plan.load_balancing, &weights);
        let mut backends = Vec::with_capacity(eligible.len() + plan.draining.len());
        backends.extend(eligible.iter().zip(counts).map(|(backend, slots)| wanted(backend, slots)));
        backends.extend(plan.draining.iter().map(|backend| wanted(backend, 0)));
        // Of two alike the one that gets new flows stays.
        backends.sort_by_key(|backend| (backend.target, Reverse(backend.slots)));
        backends.dedup_by_key(|backend| backend.target);
        Self {
            verdict,
            backends,
            load_balancing: plan.load_balancing,
            reset_when_gone: plan.reset_when_gone,
            affinity_timeout: plan.affinity_timeout_seconds.unwrap_or(0),
        }
    }

    /// Bits of [`service_flag`].
    pub fn flags(&self) -> u32 {
        let hash = if self.load_balancing == LoadBalancing::Maglev { service_flag::HASH } else { 0 };
        let reset = if self.reset_when_gone { service_flag::RESET_WHEN_GONE } else { 0 };
        hash | reset
    }

    pub fn slot_count(&self) -> u32 {
        self.backends.iter().map(|backend| backend.slots).sum()
    }

    /// The same with one slot for each backend; `None` if it has no more.
    pub fn plain(&self) -> Option<Self> {
        let plain = |backend: &Wanted| Wanted { slots: backend.slots.min(1), ..*backend };
        let backends = self.backends.iter().map(plain).collect();
        self.backends.iter().any(|backend| backend.slots > 1).then_some(Self { backends, ..*self })
    }

    /// For [`Publication::has_local`].
    pub fn has_local(&self) -> bool {
        self.backends.iter().any(|backend| backend.slots > 0 && backend.flags & backend_flag::LOCAL != 0)
    }
}

/// One backend on the way from a record to a goal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Begin(Wanted),
    /// The backend as it is, and as it shall be.
    Keep(Backend, Wanted),
    End(Backend),
}

/// Both lists side by side, in the order of targets.
pub fn steps<'a>(actual: &'a [Backend], wanted: &'a [Wanted]) -> impl Iterator<Item = Step> + 'a {
    let (mut actual, mut wanted) = (actual.iter().copied().peekable(), wanted.iter().copied().peekable());
    std::iter::from_fn(move || match (actual.peek().copied(), wanted.peek().copied()) {
        (Some(have), Some(want)) if have.target == want.target => {
            actual.next();
            wanted.next();
            Some(Step::Keep(have, want))
        }
        (Some(have), want) if want.is_none_or(|want| have.target < want.target) => {
            actual.next();
            Some(Step::End(have))
        }
        (_, Some(want)) => {
            wanted.next();
            Some(Step::Begin(want))
        }
        (_, None) => None,
    })
}

/// Whether the list that new flows are chosen from must be published anew.
pub fn must_publish(record: &Record, goal: &Goal) -> bool {
    record.damaged
        || record.publication.verdict() != goal.verdict
        || record.publication.has_local() != goal.has_local()
        || steps(&record.backends, &goal.backends).any(|step| match step {
            Step::Begin(want) => want.slots > 0,
            Step::Keep(have, want) => have.slots != want.slots,
            Step::End(have) => have.slots > 0,
        })
}

pub fn name_of(id: &ServiceId) -> ServiceName {
    let mut bytes = [0; ServiceName::MAX_LEN];
    for (byte, letter) in bytes.iter_mut().zip(id.to_string().bytes()) {
        *byte = letter;
    }
    ServiceName { bytes }
}
