//! A cluster as large as they come, 44,000 Services with 250,000 endpoints in both families, through index, plan and publish
//! into kernel maps of the usual capacity. Prints times and memory for whoever wants to know; asserts only what is there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod model;
mod publish_support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use publish_support::kernel::PinnedMaps;
use svc_agent::datapath::maps::{Access, KernelMaps};
use svc_agent::index::Index;
use svc_agent::model::{Endpoint, EndpointSlice, IpFamily, Node, ObjectName, Service};
use svc_agent::plan::plan_affected;
use svc_agent::publish::{Capacities, Publisher};
use svc_agent::source::{Kind, SourceEvent};
use svc_common::{capacity, map};

const SERVICES: u32 = 44_000;
const ENDPOINTS: u32 = 250_000;
/// As the agent works.
const CHUNK: usize = 512;
const USUAL: Capacities = Capacities {
    services: capacity::SERVICES,
    slots: capacity::SLOTS,
    backends: capacity::BACKENDS,
    frontends_v4: capacity::FRONTENDS,
    frontends_v6: capacity::FRONTENDS,
};

fn name(number: u32) -> ObjectName {
    ObjectName { namespace: format!("namespace-{}", number / 100).into(), name: format!("service-{number}").into() }
}

fn service(number: u32) -> Service {
    let [_, a, b, c] = number.to_be_bytes();
    let addresses = [format!("10.{}.{b}.{c}", 96 + a), format!("fd96::{b:x}:{c:x}")];
    Service { name: name(number), ..model::service("", &[&addresses[0], &addresses[1]]) }
}

/// Five or six endpoints, one more with `extra`.
fn slices(number: u32, extra: bool) -> [EndpointSlice; 2] {
    let count = ENDPOINTS / SERVICES + u32::from(number < ENDPOINTS % SERVICES) + u32::from(extra);
    [IpFamily::V4, IpFamily::V6].map(|family| {
        let address = |endpoint: u32| match family {
            IpFamily::V4 => std::net::Ipv4Addr::from(0x0b00_0000 + number * 8 + endpoint).into(),
            IpFamily::V6 => std::net::Ipv6Addr::from(0xfd0b_u128 << 112 | u128::from(number * 8 + endpoint)).into(),
        };
        let endpoint = |number| Endpoint { address: address(number), ..model::endpoint("10.0.0.1", model::Is::Ready) };
        let slice = model::slice("", &format!("service-{number}"), &(0..count).map(endpoint).collect::<Vec<_>>());
        let ObjectName { namespace, name } = name(number);
        EndpointSlice { name: ObjectName { namespace, name: format!("{name}-{family:?}").into() }, ..slice }
    })
}

/// Publishes everything that changed; the number of objects of which something was written.
fn publish(index: &mut Index, publisher: &mut Publisher<KernelMaps>) -> usize {
    let changes = index.take_changes();
    let mut written = 0;
    for chunk in changes.services.chunks(CHUNK) {
        let plans: Vec<_> = chunk.iter().map(|name| (name, plan_affected(index, name))).collect();
        let plans = plans.iter().map(|(name, plans)| (*name, plans.as_slice()));
        let published = publisher.publish_services(Instant::now(), plans);
        assert!(published.failures.is_empty(), "{}", published.failures[0]);
        written += published.changed;
    }
    written
}

/// Of this process: what it took, however busy the machine is.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Resident memory of this process in MiB: without what it has mapped of the kernel's maps, and with it.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    (field("RssAnon:"), field("VmRSS:"))
}

#[test]
fn the_largest_cluster_fits() {
    let Some(maps) = PinnedMaps::create(USUAL) else { return };
    let mut index = Index::new("n1");
    let list = |index: &mut Index, kind, events: &mut dyn Iterator<Item = SourceEvent>| {
        index.apply(SourceEvent::ListStarted(kind));
        events.for_each(|event| index.apply(event));
        index.apply(SourceEvent::ListCompleted(kind));
    };
    let start = memory();
    list(
        &mut index,
        Kind::Node,
        &mut std::iter::once(SourceEvent::NodeApplied(Arc::new(Node { name: "n1".into(), ..Node::default() }))),
    );
    list(&mut index, Kind::Service, &mut (0..SERVICES).map(|n| SourceEvent::ServiceApplied(Arc::new(service(n)))));
    let applied = |slice| SourceEvent::SliceApplied(Arc::new(slice));
    list(&mut index, Kind::EndpointSlice, &mut (0..SERVICES).flat_map(|n| slices(n, false)).map(applied));
    let indexed = memory();

    let mut publisher = Publisher::new(maps.open(Access::ReadWrite));
    let begin = cpu_time();
    assert_eq!(publish(&mut index, &mut publisher), SERVICES as usize);
    let (cold, published) = (cpu_time() - begin, memory());
    let stats = publisher.stats();
    assert_eq!((stats.services, stats.backends, stats.pending), (2 * SERVICES as usize, 2 * ENDPOINTS as usize, 0));
    let used = |name| stats.maps.iter().find(|usage| usage.map == name).unwrap().entries;
    assert_eq!(
        (used(map::SERVICES), used(map::FRONTENDS_V4), used(map::SLOTS)),
        (2 * SERVICES, 2 * SERVICES, 2 * ENDPOINTS)
    );
    let room = stats.maps.iter().all(|usage| usage.entries * 10 <= usage.capacity * 8);
    assert!(room, "more than 80 % used: {:?}", stats.maps);

    // Every fortieth service gets one more endpoint: nothing else is touched.
    for number in (0..SERVICES).step_by(40) {
        slices(number, true).into_iter().for_each(|slice| index.apply(applied(slice)));
    }
    let begin = cpu_time();
    assert_eq!(publish(&mut index, &mut publisher), (SERVICES / 40) as usize);
    let changed = cpu_time() - begin;
    assert_eq!(publisher.stats().backends as u32, 2 * (ENDPOINTS + SERVICES / 40));
    assert_eq!(publisher.audit(), None);
    drop(publisher);

    let begin = cpu_time();
    let (publisher, adopted) = Publisher::adopt(maps.open(Access::ReadWrite), Instant::now()).unwrap();
    let adoption = cpu_time() - begin;
    assert_eq!((adopted.services as u32, adopted.unfinished), (2 * SERVICES, 0));
    assert_eq!(publisher.stats().backends as u32, 2 * (ENDPOINTS + SERVICES / 40));
    println!(
        "{SERVICES} services, {ENDPOINTS} endpoints, both families: CPU time to publish {cold:?}, {} changes {changed:?}, to adopt {adoption:?}",
        SERVICES / 40
    );
    println!("memory in MiB (anonymous, all): at the start {start:?}, indexed {indexed:?}, published {published:?}");
}
