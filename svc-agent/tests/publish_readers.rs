//! Readers hammer the maps while services change 10,000 times: they never see a removed, a foreign or a half-written
//! backend. Readers do what a program does; like a program, none takes longer than the grace period over one packet
//! (one that does, on the test's own clock, is not counted).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod publish_support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aya::maps::{HashMap, Map, MapData};
use publish_support::kernel::PinnedMaps;
use publish_support::{Random, Selection, object_name, select};
use svc_agent::datapath::maps::Access;
use svc_agent::model::{IpFamily, LoadBalancing, Transport, Weight};
use svc_agent::plan::{Decision, PlannedBackend, ServiceId, ServicePlan};
use svc_agent::publish::memory::MemoryMaps;
use svc_agent::publish::{Capacities, Frontend, GRACE, Maps, Publisher};
use svc_common::{AddrV4, FrontendKeyV4, map};

const SERVICES: usize = 4;
const CHANGES: u32 = 10_000;
const CAPACITIES: Capacities =
    Capacities { services: 64, slots: 32_768, backends: 16_384, frontends_v4: 64, frontends_v6: 64 };

/// What each reader may find, and the clock it measures itself with.
#[derive(Default)]
struct Shared {
    milliseconds: AtomicU64,
    stop: AtomicBool,
    /// By service: backends numbered from `oldest` on are in the maps; none above `newest` was ever asked for.
    windows: [(AtomicU32, AtomicU32); SERVICES],
    reads: AtomicU64,
    too_slow: AtomicU64,
    again: AtomicU64,
}

fn frontend(service: usize) -> SocketAddr {
    SocketAddr::from(([10, 96, 0, service as u8 + 1], 80))
}

/// Service and number are in the address and, against half-written ones, the number again in the port.
fn backend(service: usize, number: u32) -> PlannedBackend {
    let address =
        SocketAddr::from(([10, service as u8, (number >> 8) as u8, number as u8], (number % 60_000) as u16 + 1));
    PlannedBackend { address, local: number.is_multiple_of(2), weight: Weight::default() }
}

fn number_of(service: usize, address: SocketAddr) -> u32 {
    let SocketAddr::V4(v4) = address else { panic!("{address} is of the wrong family") };
    let [ten, owner, high, low] = v4.ip().octets();
    let number = u32::from(high) << 8 | u32::from(low);
    assert_eq!((ten, usize::from(owner)), (10, service), "{address} belongs to another service");
    assert_eq!(u32::from(v4.port()), number % 60_000 + 1, "{address} is half written");
    number
}

fn plan(service: usize, first: u32, count: u32, decision: Option<Decision>) -> ServicePlan {
    let mut backends: Vec<PlannedBackend> = (first..first + count).map(|number| backend(service, number)).collect();
    backends.sort();
    ServicePlan {
        id: ServiceId {
            service: object_name(&format!("default/s{service}")),
            port_name: "http".into(),
            transport: Transport::Tcp,
            family: IpFamily::V4,
        },
        frontend: frontend(service),
        decision: decision.unwrap_or(Decision::Forward(backends)),
        draining: Vec::new(),
        affinity_timeout_seconds: None,
        load_balancing: LoadBalancing::Random,
        reset_when_gone: false,
    }
}

fn read(maps: &impl Maps, shared: &Shared, indexes: impl Fn(&Frontend) -> Vec<u32>, seed: u64) {
    let mut random = Random(seed);
    while !shared.stop.load(Ordering::Relaxed) {
        let service = random.below(SERVICES as u32) as usize;
        let key = Frontend::new(frontend(service), Transport::Tcp);
        let started = shared.milliseconds.load(Ordering::SeqCst);
        let oldest = shared.windows[service].0.load(Ordering::SeqCst);
        let mut found = Vec::new();
        for index in indexes(&key) {
            // A panic in here would be a foreign backend; that too only counts within the grace period.
            let number = random.next();
            found.push(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| select(maps, index, &key, number))));
        }
        let newest = shared.windows[service].1.load(Ordering::SeqCst);
        if shared.milliseconds.load(Ordering::SeqCst) - started >= GRACE.as_millis() as u64 {
            shared.too_slow.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        for selection in found {
            match selection.unwrap_or_else(|foreign| std::panic::resume_unwind(foreign)) {
                Selection::Backend(address, _) => {
                    let number = number_of(service, address);
                    assert!((oldest..newest).contains(&number), "{address}: {number} not in {oldest}..{newest}");
                    shared.reads.fetch_add(1, Ordering::Relaxed);
                }
                Selection::Again => drop(shared.again.fetch_add(1, Ordering::Relaxed)),
                Selection::NotOurs | Selection::Reject | Selection::Drop => {}
            }
        }
    }
}

fn change<M: Maps>(publisher: &mut Publisher<M>, shared: &Shared) {
    let start = Instant::now();
    let mut now = start;
    let mut random = Random(7);
    for step in 0..CHANGES {
        now += Duration::from_millis(1);
        shared.milliseconds.fetch_add(1, Ordering::SeqCst);
        let service = random.below(SERVICES as u32) as usize;
        let (oldest, newest) = &shared.windows[service];
        let (first, count) = (oldest.load(Ordering::SeqCst) + random.below(3), random.below(12) + 1);
        let last = newest.load(Ordering::SeqCst).max(first + count);
        newest.store(last, Ordering::SeqCst);
        let object = object_name(&format!("default/s{service}"));
        let plans = match random.below(20) {
            0 => vec![],
            1 => vec![plan(service, first, count, Some(Decision::Reject))],
            _ => vec![plan(service, first, count, None)],
        };
        publisher.publish_service(now, &object, &plans).unwrap();
        // From here on nothing below `first` may be seen any more.
        oldest.store(first, Ordering::SeqCst);
        if step % 64 == 0 {
            publisher.tick(now);
        }
    }
    for service in 0..SERVICES {
        publisher.remove_service(now, &object_name(&format!("default/s{service}"))).unwrap();
    }
    publisher.tick(now + GRACE);
    assert_eq!(publisher.audit(), None);
    assert!(publisher.stats().maps.iter().all(|usage| usage.entries == 0), "{:?}", publisher.stats());
    assert_eq!(publisher.deadline(), None);
}

fn hammer<M: Maps>(mut publisher: Publisher<M>, readers: Vec<impl FnOnce(&Shared) + Send>) {
    let shared = Shared::default();
    std::thread::scope(|scope| {
        for reader in readers {
            let shared = &shared;
            scope.spawn(move || reader(shared));
        }
        change(&mut publisher, &shared);
        shared.stop.store(true, Ordering::SeqCst);
    });
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!("{} reads, {} again, {} too slow", count(&shared.reads), count(&shared.again), count(&shared.too_slow));
    assert!(count(&shared.reads) > 0);
}

#[test]
fn readers_of_memory_never_see_what_they_must_not() {
    let memory = MemoryMaps::new(CAPACITIES);
    let readers = (0..2).map(|seed| {
        let maps = memory.share();
        move |shared: &Shared| read(&maps, shared, |key| maps.frontend(key).into_iter().collect(), seed)
    });
    let readers = readers.collect();
    hammer(Publisher::new(memory), readers);
}

#[test]
fn readers_of_kernel_maps_never_see_what_they_must_not() {
    let Some(pinned) = PinnedMaps::create(CAPACITIES) else { return };
    let readers = (0..2).map(|seed| {
        let maps = pinned.open(Access::ReadOnly);
        let frontends = MapData::from_pin(pinned.directory().join(map::FRONTENDS_V4)).unwrap();
        let frontends: HashMap<MapData, FrontendKeyV4, u32> = Map::HashMap(frontends).try_into().unwrap();
        let index = move |frontend: &Frontend| {
            let address = AddrV4(frontend.address.0[0]);
            let key = FrontendKeyV4 { address, port: frontend.port, protocol: frontend.protocol, zero: 0 };
            frontends.get(&key, 0).into_iter().collect()
        };
        move |shared: &Shared| read(&maps, shared, index, seed)
    });
    let readers = readers.collect();
    hammer(Publisher::new(pinned.open(Access::ReadWrite)), readers);
}
