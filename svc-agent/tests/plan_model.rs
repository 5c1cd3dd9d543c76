//! The agent against an independent account of kube-proxy's rules (`reference`), from JSON objects to what a reader of
//! the maps finds: over random clusters, and over random histories of changes, lists and restarts.
#![allow(clippy::unwrap_used, reason = "tests")]

mod objects;
mod publish_support;
mod reference;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use objects::{Objects, deleted, event, list};
use proptest::collection::vec;
use proptest::prelude::*;
use publish_support::unreliable;
use reference::cluster::{Change, any_history, any_object_change};
use reference::{Address, NODE, Outcome, outcomes};
use svc_agent::audit::{Entries, audit};
use svc_agent::index::Index;
use svc_agent::model::ObjectName;
use svc_agent::plan::{Decision, PlannedBackend, ServicePlan, plan_affected};
use svc_agent::publish::maps::{ip_of, transport_of};
use svc_agent::publish::memory::MemoryMaps;
use svc_agent::publish::snapshot::{text_of, verdict_text};
use svc_agent::publish::{Capacities, ConfigField, Frontend, GRACE, Maps, Publisher};
use svc_agent::source::{Interner, Kind};
use svc_common::{ABI_VERSION, BackendRef, Verdict, backend_flag};

const CAPACITIES: Capacities =
    Capacities { services: 128, slots: 512, backends: 512, frontends_v4: 64, frontends_v6: 64 };

type Found = BTreeMap<Address, Outcome>;

/// The agent without its tasks.
struct Agent {
    index: Index,
    interner: Interner,
    /// What the last change of each object asked for.
    plans: BTreeMap<ObjectName, Vec<ServicePlan>>,
}

impl Agent {
    fn start(objects: &Objects) -> Self {
        let mut agent = Self { index: Index::new(NODE), interner: Interner::default(), plans: BTreeMap::new() };
        list(&mut agent.index, &mut agent.interner, objects);
        agent
    }

    fn take(&mut self) -> Vec<ObjectName> {
        let affected = self.index.take_changes().services;
        for name in &affected {
            let plans = plan_affected(&self.index, name);
            if plans.is_empty() {
                self.plans.remove(name)
            } else {
                self.plans.insert(name.clone(), plans)
            };
        }
        affected
    }

    fn found(&self) -> Found {
        let mut found = Found::new();
        for plan in self.plans.values().flatten() {
            let (verdict, slots): (_, &[PlannedBackend]) = match &plan.decision {
                Decision::Forward(slots) => ("forward", slots),
                Decision::Reject => ("reject", &[]),
                Decision::Drop => ("drop", &[]),
            };
            let view = |backend: &PlannedBackend| (backend.address, backend.local);
            let outcome = Outcome {
                name: plan.id.to_string(),
                verdict,
                slots: slots.iter().map(view).collect(),
                draining: plan.draining.iter().map(view).collect(),
                affinity: plan.affinity_timeout_seconds.unwrap_or(0).into(),
            };
            let address = (plan.frontend, plan.id.transport.to_string().to_lowercase());
            assert_eq!(found.insert(address, outcome), None, "two plans for one frontend");
        }
        found
    }
}

/// Applies a change to the objects; says what a watch would have said.
fn happen(objects: &mut Objects, change: &Change) {
    match change {
        Change::Apply(kind, name, value) => drop(objects.insert((*kind, name.clone()), value.clone())),
        Change::Delete(kind, name) => drop(objects.remove(&(*kind, name.clone()))),
        Change::Relist(changes) | Change::Restart(changes) => {
            changes.iter().for_each(|change| happen(objects, change));
        }
        Change::Pass(_) => {}
    }
}

fn watch(agent: &mut Agent, objects: &Objects, change: &Change) {
    match change {
        Change::Apply(kind, name, value) => {
            let event = event(&mut agent.interner, *kind, name, value);
            agent.index.apply(event);
        }
        Change::Delete(kind, name) => agent.index.apply(deleted(*kind, name)),
        Change::Relist(_) => list(&mut agent.index, &mut agent.interner, objects),
        Change::Restart(_) => *agent = Agent::start(objects),
        Change::Pass(_) => {}
    }
}

/// Goes through the maps as a program does, to every slot instead of a random one.
fn read(maps: &impl Maps) -> Found {
    let mut living: BTreeMap<u32, BTreeSet<(SocketAddr, bool)>> = BTreeMap::new();
    let names: BTreeMap<_, _> = maps.read_names().unwrap().into_iter().collect();
    let frontends = maps.read_frontends().unwrap();
    let (markers, frontends): (Vec<_>, Vec<_>) = frontends.into_iter().partition(|(frontend, _)| frontend.is_marker());
    let marked: BTreeSet<_> = markers.iter().map(|(marker, _)| *marker).collect();
    let addresses: BTreeSet<_> = frontends.iter().map(|(frontend, _)| frontend.marker()).collect();
    assert_eq!(marked, addresses, "markers and addresses");
    let family: BTreeMap<u32, _> = frontends.iter().map(|(frontend, index)| (*index, frontend.family)).collect();
    maps.read_backends(&mut |_, entry| {
        if entry.generation % 2 == 1 {
            let address = SocketAddr::new(ip_of(entry.address, family[&entry.service]), entry.port.to_host());
            let local = entry.flags & backend_flag::LOCAL != 0;
            assert!(living.entry(entry.service).or_default().insert((address, local)), "{address} lives twice");
        }
    })
    .unwrap();
    let mut found = Found::new();
    for (frontend, index) in frontends {
        let entry = maps.read_service(index).unwrap();
        assert_eq!(Frontend::of_entry(&entry), frontend);
        let mut slots = BTreeSet::new();
        if entry.publication.verdict() == Verdict::FORWARD {
            let first = entry.publication.first_slot();
            for slot in first..first + entry.publication.slot_count() {
                let reference: BackendRef = maps.read_slot(slot).unwrap();
                let backend = maps.read_backend(reference.index()).unwrap();
                assert_eq!((backend.generation, backend.service), (reference.generation(), index));
                let address = SocketAddr::new(ip_of(backend.address, entry.family), backend.port.to_host());
                slots.insert((address, backend.flags & backend_flag::LOCAL != 0));
            }
        }
        let living = living.remove(&index).unwrap_or_default();
        let outcome = Outcome {
            name: text_of(&names[&index]),
            verdict: verdict_text(entry.publication.verdict()),
            draining: living.difference(&slots).copied().collect(),
            slots,
            affinity: entry.affinity_timeout.into(),
        };
        found.insert((frontend.socket_address(), transport_of(frontend.protocol).to_owned()), outcome);
    }
    assert_eq!(living, BTreeMap::new(), "backends of nobody");
    found
}

fn check(objects: &Objects, found: &Found, place: &str) -> Result<(), TestCaseError> {
    let expected = outcomes(objects);
    for (address, outcome) in found {
        let allowed = expected.get(address);
        prop_assert!(
            allowed.is_some_and(|allowed| allowed.contains(outcome)),
            "{place}: {address:?} is {outcome:#?}\nbut should be {allowed:#?}"
        );
    }
    let missing: Vec<_> = expected.keys().filter(|address| !found.contains_key(address)).collect();
    prop_assert!(missing.is_empty(), "{place}: nothing for {missing:?}");
    Ok(())
}

fn publish<M: Maps>(publisher: &mut Publisher<M>, now: Instant, agent: &mut Agent) {
    let affected = agent.take();
    let plans: Vec<_> =
        affected.iter().map(|name| (name, agent.plans.get(name).map_or(&[][..], Vec::as_slice))).collect();
    publisher.publish_services(now, plans);
}

/// Time for everything that is due: services that do not fit are tried ever more seldom.
fn wait<M: Maps>(publisher: &mut Publisher<M>, now: &mut Instant) {
    for _ in 0..40 {
        *now = (*now + GRACE).max(publisher.deadline().unwrap_or(*now));
        publisher.tick(*now);
    }
}

/// A history through one publisher after the other on the same maps; `each` sees every state.
fn live<M: Maps>(
    history: &[Change],
    mut open: impl FnMut() -> M,
    mut each: impl FnMut(&Publisher<M>, &Objects, &Agent) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let mut objects = Objects::new();
    let mut now = Instant::now();
    let mut agent = Agent::start(&objects);
    let (mut publisher, _) = Publisher::adopt(open(), now).unwrap();
    publisher.maps_mut().write_config(ConfigField::AbiVersion(ABI_VERSION)).ok();
    publish(&mut publisher, now, &mut agent);
    publisher.prune(now);
    for change in history {
        happen(&mut objects, change);
        watch(&mut agent, &objects, change);
        match change {
            Change::Restart(_) => {
                publisher = Publisher::adopt(open(), now).unwrap().0;
                publish(&mut publisher, now, &mut agent);
                publisher.prune(now);
                publisher.tick(now);
            }
            Change::Pass(milliseconds) => {
                now += Duration::from_millis(*milliseconds);
                publisher.tick(now);
            }
            _ => publish(&mut publisher, now, &mut agent),
        }
        // A frontend that moves between Services is free for its new owner by the next tick, which is due at once. That
        // one may free another.
        let mut ticks = 0..20;
        while ticks.next().is_some() && publisher.deadline().is_some_and(|deadline| deadline <= now) {
            publisher.tick(now);
        }
        each(&publisher, &objects, &agent)?;
    }
    wait(&mut publisher, &mut now);
    prop_assert_eq!(publisher.audit(), None);
    check(&objects, &read(publisher.maps()), "at the end")?;
    // And nothing is left of it when everything goes.
    let gone = Objects::new();
    list(&mut agent.index, &mut agent.interner, &gone);
    publish(&mut publisher, now, &mut agent);
    wait(&mut publisher, &mut now);
    prop_assert_eq!(publisher.audit(), None);
    prop_assert_eq!(read(publisher.maps()), Found::new());
    let left = audit(publisher.maps(), &Entries::default()).unwrap();
    prop_assert_eq!(left.violations.iter().filter(|violation| violation.rule != "config").count(), 0);
    prop_assert_eq!(left.counts, Default::default());
    prop_assert!(publisher.maps().read_names().unwrap().is_empty());
    prop_assert!(publisher.stats().maps.iter().all(|usage| usage.entries == 0));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_loaded_cluster_is_planned_by_the_rules(changes in vec(any_object_change(), 1..16)) {
        let mut objects = Objects::new();
        changes.iter().for_each(|change| happen(&mut objects, change));
        let mut agent = Agent::start(&objects);
        agent.take();
        check(&objects, &agent.found(), "fresh")?;
    }

    #[test]
    fn any_history_ends_in_the_plan_of_a_fresh_start(history in any_history()) {
        let mut objects = Objects::new();
        let mut agent = Agent::start(&objects);
        for change in &history {
            happen(&mut objects, change);
            watch(&mut agent, &objects, change);
            agent.take();
        }
        let mut fresh = Agent::start(&objects);
        fresh.take();
        prop_assert_eq!(&agent.plans, &fresh.plans);
        check(&objects, &agent.found(), "after the history")?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_reader_of_the_maps_finds_the_rules_after_every_change(history in any_history()) {
        let memory = MemoryMaps::new(CAPACITIES);
        live(&history, || memory.share(), |publisher, objects, agent| {
            prop_assert_eq!(publisher.audit(), None);
            let mut found = audit(publisher.maps(), &Entries::default()).unwrap().violations;
            // Names rest with their indexes.
            found.retain(|violation| violation.rule != "leaked-name");
            prop_assert_eq!(found, vec![]);
            let read = read(publisher.maps());
            prop_assert_eq!(&read, &agent.found());
            check(objects, &read, "in the maps")
        })?;
    }

    #[test]
    fn and_in_the_end_where_writes_fail(history in any_history(), seed in any::<u64>()) {
        let memory = MemoryMaps::new(CAPACITIES);
        live(&history, || unreliable(&memory, seed), |_, _, _| Ok(()))?;
    }
}

/// The account itself, where a mistake in both would hide: cases from kube-proxy's own tests, by hand.
#[test]
fn the_account_knows_what_kube_proxy_recorded() {
    let service = serde_json::json!({"spec": {"clusterIP": "10.96.0.1", "internalTrafficPolicy": "Local",
        "ports": [{"port": 80}]}});
    let slice = |endpoints: serde_json::Value| {
        serde_json::json!({"metadata": {"labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
            "ports": [{"name": "", "port": 8080}], "endpoints": endpoints})
    };
    let verdict = |endpoints| {
        let mut objects = Objects::new();
        objects.insert((Kind::Service, "default/web".to_owned()), service.clone());
        objects.insert((Kind::EndpointSlice, "default/web-1".to_owned()), slice(endpoints));
        let outcomes = outcomes(&objects);
        let outcome = outcomes.values().next().unwrap().first().unwrap().clone();
        (outcome.verdict, outcome.slots.len(), outcome.draining.len())
    };
    let endpoint = |ready: bool, serving: bool, terminating: bool, node: &str| {
        serde_json::json!({"addresses": [format!("10.0.0.{}", node.len())], "nodeName": node,
            "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
    };
    assert_eq!(verdict(serde_json::json!([])), ("reject", 0, 0));
    assert_eq!(verdict(serde_json::json!([endpoint(true, true, false, "far")])), ("drop", 0, 1));
    assert_eq!(verdict(serde_json::json!([endpoint(false, false, true, "far")])), ("reject", 0, 0));
    assert_eq!(
        verdict(serde_json::json!([endpoint(true, true, false, "far"), endpoint(false, true, true, NODE)])),
        ("forward", 1, 1)
    );
}
