//! Any write may fail, and the agent may die after any write: clients never see anything but what was asked for before
//! or what is asked for now, and once writes succeed again everything comes out right and nothing is lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod publish_support;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use publish_support::{Random, Selection, expected_text, object_name, select};
use svc_agent::model::{IpFamily, LoadBalancing, ObjectName, Transport, Weight};
use svc_agent::plan::{Decision, PlannedBackend, ServiceId, ServicePlan};
use svc_agent::publish::faulty::{Fault, FaultyMaps};
use svc_agent::publish::maps::ip_of;
use svc_agent::publish::memory::MemoryMaps;
use svc_agent::publish::{Capacities, Frontend, GRACE, Maps, MapsSnapshot, Publisher};
use svc_common::address_class;

/// Enough for everything the steps ask for, also when nothing that rests is ever reused.
const PLENTY: Capacities =
    Capacities { services: 1024, slots: 4096, backends: 4096, frontends_v4: 64, frontends_v6: 64 };

/// What clients of one frontend may find: nothing, or one list of backends (empty: refused or dropped).
type Seen = Option<BTreeSet<SocketAddr>>;
type Allowed = Arc<Mutex<HashMap<Frontend, Vec<Seen>>>>;

#[derive(Clone, Debug)]
enum Step {
    Publish(usize, u64),
    Remove(usize),
    /// The agent dies after so many more writes, and a new one starts.
    Crash(usize, u64, u64),
    Restart,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..4usize, any::<u64>()).prop_map(|(object, seed)| Step::Publish(object, seed)),
        2 => (0..4usize).prop_map(Step::Remove),
        2 => (0..4usize, any::<u64>(), 0..30u64).prop_map(|(object, seed, writes)| Step::Crash(object, seed, writes)),
        1 => Just(Step::Restart),
        3 => (0..1500u64).prop_map(Step::Pass),
    ]
}

/// Plans of one object: a few ports in both families. Objects have addresses of their own; ports change their names.
fn random_plans(object: usize, seed: u64) -> Vec<ServicePlan> {
    let mut random = Random(seed);
    let mut plans = Vec::new();
    for port in 0..random.below(3) + 1 {
        for family in [IpFamily::V4, IpFamily::V6] {
            if random.below(4) == 0 {
                continue;
            }
            plans.push(random_plan(object, port, family, &mut random));
        }
    }
    plans
}

fn random_plan(object: usize, port: u32, family: IpFamily, random: &mut Random) -> ServicePlan {
    let (frontend, backend): (_, fn(u32) -> String) = match family {
        IpFamily::V4 => (format!("10.96.0.{}:{}", object + 1, 80 + port), |n| format!("10.0.0.{}:8080", n + 1)),
        IpFamily::V6 => (format!("[fd00::{}]:{}", object + 1, 80 + port), |n| format!("[fd01::{}]:8080", n + 1)),
    };
    let (mut slots, mut draining) = (Vec::new(), Vec::new());
    for number in 0..8 {
        let planned = PlannedBackend {
            address: backend(number).parse().unwrap(),
            local: random.below(3) == 0,
            weight: Weight::new(1 + random.below(3) as u16).unwrap(),
        };
        match random.below(5) {
            0 | 1 => slots.push(planned),
            2 => draining.push(planned),
            _ => {}
        }
    }
    let decision = match random.below(6) {
        0 => Decision::Reject,
        1 => Decision::Drop,
        _ if slots.is_empty() => Decision::Reject,
        _ => Decision::Forward(slots),
    };
    ServicePlan {
        id: ServiceId {
            service: object_name(&format!("default/object-{object}")),
            port_name: format!("p{}", (port + random.below(2)) % 3).into(),
            transport: Transport::Tcp,
            family,
        },
        frontend: frontend.parse().unwrap(),
        decision,
        draining,
        affinity_timeout_seconds: (random.below(3) == 0).then(|| random.below(100) + 1),
        load_balancing: LoadBalancing::Random,
        reset_when_gone: false,
    }
}

fn seen_of(plan: &ServicePlan) -> Seen {
    Some(match &plan.decision {
        Decision::Forward(backends) => backends.iter().map(|backend| backend.address).collect(),
        _ => BTreeSet::new(),
    })
}

fn frontend_of(plan: &ServicePlan) -> Frontend {
    Frontend::new(plan.frontend, plan.id.transport)
}

/// What clients find right now; every way a packet can take must end well.
fn read_all(maps: &MemoryMaps) -> HashMap<Frontend, BTreeSet<SocketAddr>> {
    let mut seen = HashMap::new();
    let (markers, frontends): (Vec<_>, Vec<_>) =
        maps.read_frontends().unwrap().into_iter().partition(|(frontend, _)| frontend.is_marker());
    for (frontend, index) in frontends {
        assert!(markers.iter().any(|(marker, _)| *marker == frontend.marker()), "{frontend} without a marker");
        let entry = maps.read_service(index).unwrap();
        let mut backends = BTreeSet::new();
        for random in 0..entry.publication.slot_count().max(1) {
            match select(maps, index, &frontend, random) {
                Selection::Backend(address, _) => {
                    assert!(maps.read_address_class(address.ip()).unwrap() & address_class::BACKEND != 0);
                    backends.insert(address);
                }
                Selection::Again => panic!("{frontend} leads to a backend that does not live"),
                Selection::NotOurs | Selection::Reject | Selection::Drop => {}
            }
        }
        if select(maps, index, &frontend, 0) != Selection::NotOurs {
            assert!(
                maps.read_address_class(ip_of(frontend.address, frontend.family)).unwrap() & address_class::FRONTEND
                    != 0
            );
            seen.insert(frontend, backends);
        }
    }
    seen
}

/// Asserts after every write that clients see something allowed.
fn watched(memory: &MemoryMaps, allowed: &Allowed) -> MemoryMaps {
    let mut maps = memory.share();
    let allowed = Arc::clone(allowed);
    maps.watch(move |maps| {
        let seen = read_all(maps);
        let all = allowed.lock().unwrap();
        for (frontend, allowed) in all.iter() {
            let found = seen.get(frontend).cloned();
            assert!(allowed.contains(&found), "{frontend}: {found:?} is none of {allowed:?}");
        }
        assert!(seen.keys().all(|frontend| all.contains_key(frontend)));
    });
    maps
}

struct World {
    memory: MemoryMaps,
    allowed: Allowed,
    /// Seed of faults, 0: no faults; and after how many writes all of them fail.
    faults: Rc<Cell<(u64, u64)>>,
    publisher: Publisher<FaultyMaps<MemoryMaps>>,
    now: Instant,
    wanted: BTreeMap<ObjectName, Vec<ServicePlan>>,
}

impl World {
    fn new(capacities: Capacities) -> Self {
        let memory = MemoryMaps::new(capacities);
        let (allowed, faults) = (Allowed::default(), Rc::new(Cell::new((0, u64::MAX))));
        let publisher = Publisher::new(faulty(&memory, &allowed, &faults));
        Self { memory, allowed, faults, publisher, now: Instant::now(), wanted: BTreeMap::new() }
    }

    /// What is seen now stays allowed until it is what is planned.
    fn allow_transition(&self) {
        let now = read_all(&self.memory);
        let mut allowed = self.allowed.lock().unwrap();
        let wanted: HashMap<Frontend, Seen> =
            self.wanted.values().flatten().map(|plan| (frontend_of(plan), seen_of(plan))).collect();
        let settled = self.publisher.pending() == 0;
        for frontend in wanted.keys().chain(now.keys()).collect::<HashSet<_>>() {
            let (now, new) = (now.get(frontend).cloned(), wanted.get(frontend).cloned().flatten());
            let asked = allowed.entry(*frontend).or_default();
            // What was asked for and refused may still come on the way to what is asked for now; also where things look
            // right already, because a service that could not be removed looks like the one that is to replace it.
            if settled && asked.last() == Some(&now) {
                asked.clear();
            }
            asked.extend([now, new]);
        }
    }

    fn publish(&mut self, object: usize, plans: Vec<ServicePlan>) {
        let name = object_name(&format!("default/object-{object}"));
        self.wanted.insert(name.clone(), plans);
        self.allow_transition();
        let failed = self.publisher.publish_service(self.now, &name, &self.wanted[&name]).is_err();
        assert!(!failed || self.publisher.pending() > 0, "what failed is tried again");
    }

    fn pass(&mut self, milliseconds: u64) {
        self.now += Duration::from_millis(milliseconds);
        self.allow_transition();
        self.publisher.tick(self.now);
    }

    fn restart(&mut self) {
        self.faults.set((0, u64::MAX));
        self.allow_transition();
        let maps = faulty(&self.memory, &self.allowed, &self.faults);
        (self.publisher, _) = Publisher::adopt(maps, self.now).unwrap();
        assert_eq!(self.publisher.audit(), None);
        let wanted = self.wanted.iter().map(|(name, plans)| (name, plans.as_slice()));
        let published = self.publisher.publish_services(self.now, wanted);
        assert!(published.failures.is_empty(), "{:?}", published.failures);
        self.publisher.prune(self.now);
    }

    /// Without faults and with time everything must come out right.
    fn converge(&mut self) {
        self.faults.set((0, u64::MAX));
        for _ in 0..4 {
            self.pass(GRACE.as_millis() as u64);
        }
        let plans: Vec<&ServicePlan> = self.wanted.values().flatten().collect();
        assert_eq!(MapsSnapshot::read(&self.memory).unwrap().to_string(), expected_text(plans.iter().copied()));
        assert_eq!((self.publisher.pending(), self.publisher.audit()), (0, None));
        assert_eq!(self.publisher.deadline(), None, "nothing left to do");
        let names: BTreeSet<u32> = self.memory.read_names().unwrap().iter().map(|(index, _)| *index).collect();
        assert_eq!(names.len(), plans.len(), "names of removed services are gone");
        let frontends: BTreeSet<Frontend> = plans.iter().map(|plan| frontend_of(plan)).collect();
        let markers = frontends.iter().map(Frontend::marker);
        let entries: BTreeSet<Frontend> = self.memory.read_frontends().unwrap().iter().map(|(key, _)| *key).collect();
        assert_eq!(entries, frontends.iter().copied().chain(markers).collect());
    }
}

fn faulty(memory: &MemoryMaps, allowed: &Allowed, faults: &Rc<Cell<(u64, u64)>>) -> FaultyMaps<MemoryMaps> {
    let faults = Rc::clone(faults);
    FaultyMaps::new(watched(memory, allowed), move |_, _| {
        let (seed, left) = faults.get();
        if left == 0 {
            return Some(Fault::NotPermitted);
        }
        let mut random = Random(seed);
        let number = random.next();
        faults.set((if seed == 0 { 0 } else { random.0 }, left.saturating_sub(u64::from(left != u64::MAX))));
        match number % 12 {
            _ if seed == 0 => None,
            0 => Some(Fault::Full),
            1 => Some(Fault::NotPermitted),
            _ => None,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn clients_see_only_what_was_asked_for(seed in 1..u64::MAX, steps in prop::collection::vec(step(), 1..25)) {
        let mut world = World::new(PLENTY);
        for step in steps {
            world.faults.set((seed, u64::MAX));
            match step {
                Step::Publish(object, seed) => world.publish(object, random_plans(object, seed)),
                Step::Remove(object) => world.publish(object, Vec::new()),
                Step::Crash(object, seed, writes) => {
                    world.faults.set((0, writes));
                    world.publish(object, random_plans(object, seed));
                    world.restart();
                }
                Step::Restart => world.restart(),
                Step::Pass(milliseconds) => world.pass(milliseconds),
            }
            prop_assert_eq!(world.publisher.audit(), None);
        }
        world.converge();
        world.restart();
        world.converge();
        let objects: Vec<usize> = (0..4).collect();
        for object in objects {
            world.publish(object, Vec::new());
        }
        world.converge();
        prop_assert!(world.publisher.stats().maps.iter().all(|usage| usage.entries == 0));
    }

    /// Too small for what is asked: what does not fit waits, nothing is lost, and it comes once there is room.
    #[test]
    fn what_does_not_fit_comes_later(seeds in prop::collection::vec((0..4usize, any::<u64>()), 1..20)) {
        let mut world = World::new(Capacities { services: 10, slots: 24, backends: 30, frontends_v4: 7, frontends_v6: 7 });
        for (object, seed) in seeds {
            world.publish(object, random_plans(object, seed));
            prop_assert_eq!(world.publisher.audit(), None);
            world.pass(300);
            prop_assert_eq!(world.publisher.audit(), None);
        }
        for object in 1..4 {
            world.publish(object, Vec::new());
        }
        let last = vec![random_plan(0, 0, IpFamily::V4, &mut Random(1)), random_plan(0, 1, IpFamily::V6, &mut Random(2))];
        world.publish(0, last);
        world.converge();
    }
}
