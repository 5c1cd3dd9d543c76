//! The same operations on real maps: what is written through memory is what bpf(2) reads, batches, adoption, and a
//! whole cluster at once. Needs root; skipped with a message otherwise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod publish_support;

use std::time::{Duration, Instant};

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuHashMap, PerCpuValues};
use aya::util::nr_cpus;
use publish_support::kernel::PinnedMaps;
use publish_support::{CAPACITIES, expected_text, plan, plans};
use svc_agent::datapath::maps::{Access, KernelMaps, OpenError};
use svc_agent::model::Weight;
use svc_agent::plan::{Decision, PlannedBackend, ServicePlan};
use svc_agent::publish::{Capacities, ConfigField, GRACE, Maps, MapsError, MapsSnapshot, PublishError, Publisher};
use svc_common::{
    AddrV4, AddrV6, BackendEntry, Config, FrontendKeyV4, Port, Protocol, ServiceCounters, ServiceEntry, Verdict,
    address_class, address_marker, backend_flag, map,
};

const WEB: &str = "default/web:http 10.96.0.1:80/tcp forward affinity=10s 10.0.0.1:8080 10.0.0.2:8080+local";
const WEB6: &str = "default/web:http [fd00::1]:80/tcp forward affinity=10s [fd01::1]:8080 [fd01::2]:8080+draining";

fn pinned<V: aya::Pod>(maps: &PinnedMaps, name: &str) -> Array<MapData, V> {
    Map::Array(MapData::from_pin(maps.directory().join(name)).unwrap()).try_into().unwrap()
}

#[test]
fn programs_read_what_was_written_through_memory() {
    let Some(pinned_maps) = PinnedMaps::create(CAPACITIES) else { return };
    let mut publisher = Publisher::new(pinned_maps.open(Access::ReadWrite));
    let plans = plans(&[WEB, WEB6]);
    publisher.publish_service(Instant::now(), &plans[0].id.service, &plans).unwrap();
    publisher.write_node_address("192.0.2.7".parse().unwrap()).unwrap();
    publisher.write_node_address("fd00::7".parse().unwrap()).unwrap();
    publisher.write_config(ConfigField::Features(5)).unwrap();

    let frontends = MapData::from_pin(pinned_maps.directory().join(map::FRONTENDS_V4)).unwrap();
    let frontends: HashMap<MapData, FrontendKeyV4, u32> = Map::HashMap(frontends).try_into().unwrap();
    let address = AddrV4::from_octets([10, 96, 0, 1]);
    let key = FrontendKeyV4 { address, port: Port::from_host(80), protocol: Protocol::TCP, zero: 0 };
    let index = frontends.get(&key, 0).unwrap();
    let marker = FrontendKeyV4 { address, ..FrontendKeyV4::default() };
    assert_eq!(frontends.get(&marker, 0).unwrap(), address_marker::ANSWERS);
    let service = pinned::<ServiceEntry>(&pinned_maps, map::SERVICES).get(&index, 0).unwrap();
    assert_eq!((service.address, service.port, service.affinity_timeout), (address.into(), key.port, 10));
    assert_eq!((service.publication.verdict(), service.publication.slot_count()), (Verdict::FORWARD, 2));
    let backend = pinned::<BackendEntry>(&pinned_maps, map::BACKENDS).get(&1, 0).unwrap();
    let expected = BackendEntry {
        address: AddrV4::from_octets([10, 0, 0, 2]).into(),
        port: Port::from_host(8080),
        flags: backend_flag::LOCAL | backend_flag::ELIGIBLE,
        generation: 1,
        service: index,
        zero: 0,
    };
    assert_eq!(backend, expected);
    let config = pinned::<Config>(&pinned_maps, map::CONFIG).get(&0, 0).unwrap();
    assert_eq!(config.node_v4, AddrV4::from_octets([192, 0, 2, 7]));
    assert_eq!(AddrV6::from_octets("fd00::7".parse::<std::net::Ipv6Addr>().unwrap().octets()), config.node_v6);
    assert_eq!(config.features, 5);
    let slot = svc_datapath::filter::slot_v4(AddrV4::from_octets([10, 0, 0, 2]));
    let word = pinned::<u64>(&pinned_maps, map::ADDRESS_FILTER).get(&(slot / 8), 0).unwrap();
    assert_eq!(word.to_le_bytes()[(slot % 8) as usize], address_class::BACKEND);
}

#[test]
fn a_second_agent_adopts_what_the_first_left() {
    let Some(pinned_maps) = PinnedMaps::create(CAPACITIES) else { return };
    let now = Instant::now();
    let plans = plans(&[WEB, WEB6]);
    let object = plans[0].id.service.clone();
    let mut first = Publisher::new(pinned_maps.open(Access::ReadWrite));
    first.publish_service(now, &object, &plans).unwrap();
    let before = MapsSnapshot::read(first.maps()).unwrap();
    drop(first);

    let (mut second, adopted) = Publisher::adopt(pinned_maps.open(Access::ReadWrite), now).unwrap();
    assert_eq!((adopted.services, adopted.backends, adopted.unfinished), (2, 4, 0));
    assert!(!second.publish_service(now, &object, &plans).unwrap(), "nothing to write");
    assert_eq!(second.prune(now), 0);
    let after = MapsSnapshot::read(&pinned_maps.open(Access::ReadOnly)).unwrap();
    assert_eq!(before, after);
    assert_eq!(after.to_string(), expected_text(&plans));

    second.remove_service(now, &object).unwrap();
    second.tick(now + GRACE);
    assert_eq!(second.audit(), None);
    assert!(second.stats().maps.iter().all(|usage| usage.entries == 0));
    assert!(second.maps().read_names().unwrap().is_empty());
    assert!(second.maps().read_frontends().unwrap().is_empty());
}

#[test]
fn a_full_hash_map_refuses_and_what_was_begun_is_taken_back() {
    let Some(pinned_maps) = PinnedMaps::create(Capacities { frontends_v4: 80, ..CAPACITIES }) else { return };
    let mut publisher = Publisher::new(pinned_maps.open(Access::ReadWrite));
    let plans: Vec<ServicePlan> =
        (1..=60).map(|n| plan(&format!("default/s{n} 10.96.0.{n}:80/tcp forward 10.0.0.{n}:80"))).collect();
    let objects = plans.iter().map(|plan| (&plan.id.service, std::slice::from_ref(plan)));
    let published = publisher.publish_services(Instant::now(), objects);
    assert!(published.failures.iter().all(|e| matches!(e, PublishError::Full { map: "FRONTENDS_V4", .. })));
    assert_eq!(publisher.audit(), None);
    let shown = MapsSnapshot::read(publisher.maps()).unwrap().services.len();
    assert_eq!((shown + published.failures.len(), publisher.pending()), (60, published.failures.len()));
    assert!(shown >= 40, "{shown}");
}

#[test]
fn read_only_maps_refuse_writes_and_missing_ones_say_so() {
    let Some(pinned_maps) = PinnedMaps::create(CAPACITIES) else { return };
    let mut maps = pinned_maps.open(Access::ReadOnly);
    let error = maps.write_generation(0, 1).unwrap_err();
    assert!(matches!(error, MapsError::Refused { map: "BACKENDS", .. }), "{error}");
    assert_eq!(maps.read_backend(0).unwrap().generation, 0);
    assert!(matches!(maps.read_backend(CAPACITIES.backends), Err(MapsError::OutOfRange { .. })));
    std::fs::remove_file(pinned_maps.directory().join(map::SLOTS)).unwrap();
    let missing = KernelMaps::open_pinned(pinned_maps.directory(), Access::ReadOnly).err().unwrap();
    assert!(matches!(&missing, OpenError::Missing { map: "SLOTS", .. }), "{missing}");
    Array::<MapData, u64>::create(8, 0).unwrap().pin(pinned_maps.directory().join(map::SLOTS)).unwrap();
    let foreign = KernelMaps::open_pinned(pinned_maps.directory(), Access::ReadOnly).err().unwrap();
    assert!(matches!(&foreign, OpenError::Foreign { map: "SLOTS", what: "BPF_F_MMAPABLE", .. }), "{foreign}");
}

/// Prints times for whoever wants to know; asserts only what is there.
#[test]
fn a_whole_cluster_at_once() {
    let capacities = Capacities {
        services: 65_536,
        slots: 1_048_576,
        backends: 524_288,
        frontends_v4: 131_072,
        frontends_v6: 131_072,
    };
    let Some(pinned_maps) = PinnedMaps::create(capacities) else { return };
    let plans: Vec<ServicePlan> = (0..10_000).map(cluster_plan).collect();
    let mut publisher = Publisher::new(pinned_maps.open(Access::ReadWrite));
    let now = Instant::now();
    let objects = || plans.iter().map(|plan| (&plan.id.service, std::slice::from_ref(plan)));
    let published = publisher.publish_services(now, objects());
    let cold = now.elapsed();
    assert_eq!((published.changed, published.failures.len()), (10_000, 0));
    drop(publisher);

    let start = Instant::now();
    let (mut publisher, adopted) = Publisher::adopt(pinned_maps.open(Access::ReadWrite), now).unwrap();
    let adoption = start.elapsed();
    assert_eq!((adopted.services, adopted.backends, adopted.unfinished), (10_000, 50_000, 0));
    let start = Instant::now();
    let published = publisher.publish_services(now + Duration::from_secs(1), objects());
    let claim = start.elapsed();
    assert_eq!((published.changed, published.failures.len(), publisher.prune(now)), (0, 0, 0));
    println!("10,000 services: cold start {cold:?}, adoption {adoption:?}, nothing changed {claim:?}");
    assert_eq!(publisher.audit(), None);
}

fn cluster_plan(number: u32) -> ServicePlan {
    let (high, low) = (number / 250, number % 250 + 1);
    let mut plan = plan(&format!("namespace-{high}/service-{number}:http 10.{}.{high}.{low}:80/tcp reject", 96));
    let address = |n: u32| format!("10.{n}.{high}.{low}:8080").parse().unwrap();
    plan.decision = Decision::Forward(
        (1..=5).map(|n| PlannedBackend { address: address(n), local: n == 1, weight: Weight::default() }).collect(),
    );
    plan
}

#[test]
fn a_new_service_begins_counting_at_zero() {
    let Some(pinned_maps) = PinnedMaps::create(CAPACITIES) else { return };
    let directory = pinned_maps.directory();
    let counted = vec![ServiceCounters { packets_to_client: 1, ..ServiceCounters::default() }; nr_cpus().unwrap()];
    let all = || PerCpuValues::try_from(counted.clone()).unwrap();
    // Connections of services that are gone have counted here, for every index.
    let first = MapData::from_pin(directory.join(map::SERVICE_COUNTERS_FIRST)).unwrap();
    let mut first: PerCpuArray<MapData, ServiceCounters> = Map::PerCpuArray(first).try_into().unwrap();
    (0..first.len()).for_each(|index| first.set(index, all(), 0).unwrap());
    let rest = MapData::from_pin(directory.join(map::SERVICE_COUNTERS)).unwrap();
    let mut rest: PerCpuHashMap<MapData, u32, ServiceCounters> = Map::PerCpuHashMap(rest).try_into().unwrap();
    (first.len()..CAPACITIES.services).for_each(|index| rest.insert(index, all(), 0).unwrap());

    let mut publisher = Publisher::new(pinned_maps.open(Access::ReadWrite));
    let services = CAPACITIES.services.min(first.len() + 2);
    for number in 0..services {
        let text = format!("default/s{number} 10.96.1.{number}:80/tcp reject");
        let plans = plans(&[&text]);
        publisher.publish_service(Instant::now(), &plans[0].id.service, &plans).unwrap();
    }
    let mut used = 0;
    MapsSnapshot::read(publisher.maps()).unwrap().services.iter().for_each(|service| {
        match service.index < first.len() {
            true => assert!(first.get(&service.index, 0).unwrap().iter().all(|cpu| *cpu == ServiceCounters::default())),
            false => assert!(rest.get(&service.index, 0).is_err()),
        }
        used += 1;
    });
    assert_eq!(used, services);
}
