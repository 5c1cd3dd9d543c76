//! Shared by the tests of publishing: plans as text, and a reader that goes through the maps like a program does.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

pub mod kernel;
pub mod node;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use svc_agent::model::{IpFamily, LoadBalancing, ObjectName, Transport, Weight};
use svc_agent::plan::spread::slot_counts;
use svc_agent::plan::{Decision, PlannedBackend, ServiceId, ServicePlan};
use svc_agent::publish::faulty::{Fault, FaultyMaps};
use svc_agent::publish::maps::ip_of;
use svc_agent::publish::memory::MemoryMaps;
use svc_agent::publish::{Capacities, Frontend, Maps};
use svc_common::{BackendRef, ServiceEntry, Verdict};

pub const CAPACITIES: Capacities =
    Capacities { services: 64, slots: 512, backends: 256, frontends_v4: 64, frontends_v6: 64 };

/// `namespace/name:port 10.96.0.1:80/tcp forward affinity=10s 10.0.0.1:8080 10.0.0.2:8080+local 10.0.0.3:8080+draining`;
/// also `maglev`, `reset`, and `10.0.0.1:8080+x3` for weight 3
pub fn plan(text: &str) -> ServicePlan {
    let mut words = text.split_whitespace();
    let (object, port) = match words.next().unwrap().split_once(':') {
        Some((object, port)) => (object, port),
        None => (text.split_whitespace().next().unwrap(), ""),
    };
    let (frontend, transport) = words.next().unwrap().split_once('/').unwrap();
    let frontend: SocketAddr = frontend.parse().unwrap();
    let verdict = words.next().unwrap();
    let (mut slots, mut draining, mut affinity) = (Vec::new(), Vec::new(), None);
    let mut load_balancing = LoadBalancing::Random;
    let mut reset_when_gone = false;
    for word in words {
        if word == "reset" {
            reset_when_gone = true;
            continue;
        }
        if word == "maglev" {
            load_balancing = LoadBalancing::Maglev;
            continue;
        }
        if let Some(seconds) = word.strip_prefix("affinity=") {
            affinity = Some(seconds.trim_end_matches('s').parse().unwrap());
            continue;
        }
        let mut parts = word.split('+');
        let address = parts.next().unwrap().parse().unwrap();
        let marks: Vec<&str> = parts.collect();
        let weight = marks.iter().find_map(|mark| mark.strip_prefix('x'));
        let weight = weight.map_or_else(Weight::default, |weight| Weight::new(weight.parse().unwrap()).unwrap());
        let backend = PlannedBackend { address, local: marks.contains(&"local"), weight };
        if marks.contains(&"draining") { draining.push(backend) } else { slots.push(backend) }
    }
    slots.sort();
    draining.sort();
    ServicePlan {
        id: ServiceId {
            service: object_name(object),
            port_name: Arc::from(port),
            transport: match transport {
                "tcp" => Transport::Tcp,
                "udp" => Transport::Udp,
                _ => Transport::Sctp,
            },
            family: IpFamily::from(frontend.ip()),
        },
        frontend,
        decision: match verdict {
            "forward" => Decision::Forward(slots),
            "reject" => Decision::Reject,
            _ => Decision::Drop,
        },
        draining,
        affinity_timeout_seconds: affinity,
        load_balancing,
        reset_when_gone,
    }
}

pub fn plans(texts: &[&str]) -> Vec<ServicePlan> {
    texts.iter().map(|text| plan(text)).collect()
}

pub fn object_name(text: &str) -> ObjectName {
    let (namespace, name) = text.split_once('/').unwrap();
    ObjectName { namespace: Arc::from(namespace), name: Arc::from(name) }
}

/// The snapshot that a set of plans should give, in its text form.
pub fn expected_text<'a>(plans: impl IntoIterator<Item = &'a ServicePlan>) -> String {
    let mut services = BTreeMap::new();
    for plan in plans {
        let transport = format!("{:?}", plan.id.transport).to_lowercase();
        let (verdict, slots): (_, &[PlannedBackend]) = match &plan.decision {
            Decision::Forward(slots) => ("forward", slots),
            Decision::Reject => ("reject", &[]),
            Decision::Drop => ("drop", &[]),
        };
        let mut text = format!("{}/{transport} {} {verdict}", plan.frontend, plan.id);
        if plan.load_balancing == LoadBalancing::Maglev {
            text += " maglev";
        }
        if plan.reset_when_gone {
            text += " reset";
        }
        if let Some(seconds) = plan.affinity_timeout_seconds {
            text += &format!(" affinity={seconds}s");
        }
        let weights: Vec<_> = slots.iter().map(|backend| backend.weight).collect();
        let mut backends: Vec<_> = slots.iter().zip(slot_counts(plan.load_balancing, &weights)).collect();
        backends.extend(plan.draining.iter().map(|backend| (backend, 0)));
        backends.sort();
        for (backend, count) in backends {
            let slots = if count > 1 { format!(" slots={count}") } else { String::new() };
            let local = if backend.local { " local" } else { "" };
            let draining = if count == 0 { " draining" } else { "" };
            text += &format!("\n  {}{slots}{local}{draining}", backend.address);
        }
        services.insert((plan.frontend.is_ipv6(), plan.frontend, transport), text + "\n");
    }
    services.into_values().collect()
}

/// What one packet of a new flow finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Selection {
    NotOurs,
    Reject,
    Drop,
    Backend(SocketAddr, BackendRef),
    /// The slot's reference is not valid any more: a program chooses again.
    Again,
}

/// The way of a program through the maps, from the service index of a frontend on.
pub fn select(maps: &impl Maps, index: u32, frontend: &Frontend, random: u32) -> Selection {
    let entry = maps.read_service(index).unwrap();
    if Frontend::of_entry(&entry) != *frontend {
        return Selection::NotOurs;
    }
    match entry.publication.verdict() {
        Verdict::REJECT => Selection::Reject,
        Verdict::DROP => Selection::Drop,
        Verdict::FORWARD => select_slot(maps, index, &entry, random),
        _ => Selection::NotOurs,
    }
}

pub fn select_slot(maps: &impl Maps, index: u32, entry: &ServiceEntry, random: u32) -> Selection {
    let publication = entry.publication;
    let reference = maps.read_slot(publication.first_slot() + random % publication.slot_count()).unwrap();
    let backend = maps.read_backend(reference.index()).unwrap();
    if backend.generation != reference.generation() || backend.generation.is_multiple_of(2) {
        return Selection::Again;
    }
    assert_eq!(backend.service, index, "backend {reference:?} belongs to another service");
    let address = SocketAddr::new(ip_of(backend.address, entry.family), backend.port.to_host());
    Selection::Backend(address, reference)
}

/// A small generator that needs no crate: the tests want variety, not quality.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    pub fn below(&mut self, limit: u32) -> u32 {
        self.next() % limit
    }
}

/// Maps in which one write in twenty fails, always the same ones for a seed.
pub fn unreliable(memory: &MemoryMaps, seed: u64) -> FaultyMaps<MemoryMaps> {
    let mut random = Random(seed);
    FaultyMaps::new(memory.share(), move |_, _| match random.below(40) {
        0 => Some(Fault::NotPermitted),
        1 => Some(Fault::Full),
        _ => None,
    })
}
