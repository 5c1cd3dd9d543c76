//! The sweep on real maps: what ended goes, in pairs, and nothing that lives. The clock is the test's own. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod observe_support;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;

use aya::maps::{HashMap, Map, MapData};
use observe_support::kernel::BpfRoot;
use observe_support::{DNS, MemoryReader, NGINX, cluster, pair, v4, v6};
use svc_agent::audit::audit;
use svc_agent::datapath::maps::{Access, KernelMaps, Traffic};
use svc_agent::observe::{MapReader, PinnedMaps};
use svc_agent::sweep::{Sweeper, Timeouts};
use svc_common::{
    AddrV4, AffinityKey, AffinityValue, BackendRef, Flow, FlowEntryV4, FlowKey, FlowKeyV4, FlowV4, Port, Protocol,
    ServiceCounters, flow_op, flow_stage, flow_state, map,
};

const NOW: u32 = 200_000;
/// In the array of counters of the first services, which has one element here; it is no service's.
const NOBODY_FIRST: u32 = 0;
const NOBODY: u32 = 60;

type Entry<A> = (FlowKey<A>, Flow<A>);

fn sweeper(root: &BpfRoot) -> Sweeper {
    Sweeper::open(&root.maps(), Timeouts::default()).unwrap()
}

/// One pass over all maps: how much was removed from each.
fn pass(sweeper: &mut Sweeper, now: u32) -> BTreeMap<&'static str, u64> {
    let mut removed = BTreeMap::new();
    loop {
        let turn = sweeper.turn(now).unwrap();
        *removed.entry(turn.map).or_default() += turn.removed;
        if turn.pass_ends {
            removed.retain(|_, count| *count > 0);
            return removed;
        }
    }
}

fn connection(protocol: Protocol, client_port: u16, pod: u8, state: u8, idle: u32) -> [Entry<AddrV4>; 2] {
    let ends = [(v4([10, 244, 3, 50]), client_port), (v4([10, 110, 110, 219]), 80), (v4([10, 244, 3, pod]), 80)];
    let flow = Flow { backend: BackendRef::new(10, 1), service: NGINX, last_seen: 0, state, ..Flow::default() };
    let flow = Flow { last_seen: NOW.wrapping_sub(idle), ..flow };
    pair(protocol, ends, flow)
}

/// The two pairs of a client outside, as `masquerade` makes them.
fn masqueraded(client_port: u16, idle: u32) -> [[Entry<AddrV4>; 2]; 2] {
    let first = connection(Protocol::UDP, client_port, 46, flow_state::REPLIED, idle);
    let (key, flow) = first[0];
    let node = (v4([192, 168, 50, 1]), 61_000 + client_port % 1000);
    let at = |address: AddrV4, port: Port| (address, port.to_host());
    let (client, pod) = (at(key.source, key.source_port), at(flow.destination, flow.destination_port));
    let marks = Flow { service: FlowV4::NO_SERVICE, last_seen: flow.last_seen, state: flow.state, ..Flow::default() };
    let [(mut key, mut there), (mut reply_key, mut back)] = pair(Protocol::UDP, [client, pod, pod], marks);
    key.stage = flow_stage::EGRESS;
    (there.source, there.source_port, there.peer_stage) = (node.0, Port::from_host(node.1), flow_stage::INGRESS);
    (reply_key.destination, reply_key.destination_port) = (there.source, there.source_port);
    (reply_key.stage, back.peer_stage) = (flow_stage::INGRESS, flow_stage::EGRESS);
    [first, [(key, there), (reply_key, back)]]
}

fn keys<K: Copy + Eq + Hash + std::fmt::Debug, F>(entries: &[(K, F)]) -> BTreeSet<String> {
    entries.iter().map(|(key, _)| format!("{key:?}")).collect()
}

#[test]
fn what_ended_goes_and_what_lives_stays() {
    const TCP: Protocol = Protocol::TCP;
    const UDP: Protocol = Protocol::UDP;
    let (replied, closed) = (flow_state::REPLIED, flow_state::CLOSED);
    let mut half_heard = connection(TCP, 5, 46, closed, 121);
    half_heard[1].1.last_seen = NOW - 5;
    // Its client has left for another endpoint: this is what the first one's replies met.
    let superseded = connection(UDP, 6, 46, replied, 181)[1];
    let mut direct = connection(TCP, 7, 46, 0, 121);
    for (_, flow) in &mut direct {
        (flow.service, flow.ops) = (FlowV4::NO_SERVICE, flow.ops | flow_op::DIRECT);
    }
    let [of_first, of_second] = masqueraded(8, 170);
    let mut older_second = of_second;
    older_second.iter_mut().for_each(|(_, flow)| flow.last_seen = NOW - 1_000);
    let [_, left_over] = masqueraded(9, 150);
    // Another client has the port of this masquerade by now.
    let mut taken = older_second[0];
    taken.0.source_port = Port::from_host(18);
    (taken.1.source_port, taken.1.state) = (Port::from_host(62_000), closed);
    let [of_taken, _] = masqueraded(18, 170);
    let living = [
        connection(TCP, 1, 46, replied, 24 * 3600),
        connection(TCP, 2, 46, replied | flow_state::FIN_CLIENT, 3600),
        connection(TCP, 3, 46, closed, 120),
        connection(UDP, 4, 46, replied, 180),
        half_heard,
        connection(UDP, 6, 47, replied, 3),
        of_first,
        older_second,
        of_taken,
        // Newer than the clock that was read.
        connection(UDP, 10, 46, 0, 0u32.wrapping_sub(2)),
    ]
    .concat();
    let ended = [
        connection(TCP, 11, 46, replied, 24 * 3600 + 1).to_vec(),
        connection(TCP, 12, 46, replied | flow_state::FIN_BACKEND, 3601).to_vec(),
        connection(TCP, 13, 46, replied | flow_state::FIN_CLIENT | flow_state::FIN_BACKEND, 121).to_vec(),
        connection(TCP, 14, 46, 0, 121).to_vec(),
        connection(UDP, 15, 46, replied, 181).to_vec(),
        vec![connection(TCP, 16, 46, closed, 121)[0]],
        vec![connection(TCP, 17, 46, closed, 121)[1]],
        vec![superseded],
        vec![taken],
        direct.to_vec(),
        left_over.to_vec(),
    ]
    .concat();
    let old = Flow { service: NGINX, last_seen: NOW - 121, state: closed, ..Flow::default() };
    let ended_v6 = pair(TCP, [(v6(0x70), 50_001), (v6(0x51), 443), (v6(0x61), 8443)], old);
    let reader = MemoryReader {
        flows_v4: [living.clone(), ended.clone()].concat(),
        flows_v6: ended_v6.to_vec(),
        counters: BTreeMap::new(),
        ..cluster(NOW)
    };
    let root = BpfRoot::with_maps(&reader);
    let mut sweeper = sweeper(&root);
    let expected = BTreeMap::from([(map::FLOWS_V4, ended.len() as u64), (map::FLOWS_V6, 2)]);
    assert_eq!(pass(&mut sweeper, NOW), expected);
    let maps = PinnedMaps::open(root.path()).unwrap();
    assert_eq!(keys(&maps.flows_v4().unwrap()), keys(&living));
    assert_eq!(maps.flows_v6().unwrap(), []);
    assert_eq!(pass(&mut sweeper, NOW), BTreeMap::new(), "what is left stays");
    // The masquerade goes after the connection that it belonged to.
    let mut sizes = Vec::new();
    for _ in 0..3 {
        pass(&mut sweeper, NOW + 24 * 3600 + 1);
        sizes.push(maps.flows_v4().unwrap().len());
    }
    assert_eq!((sizes[1], sizes[2]), (0, 0), "{sizes:?}");
}

#[test]
fn a_large_table_is_gone_through_in_slices() {
    const PAIRS: u32 = 20_000;
    let root = BpfRoot::with_maps(&MemoryReader { counters: BTreeMap::new(), ..cluster(NOW) });
    root.fill_flows(1 << 17, 0);
    let mut flows = pinned::<FlowKeyV4, FlowEntryV4>(&root, map::FLOWS_V4);
    for number in 0..PAIRS {
        let (port, pod) = (1 + (number % 60_000) as u16, (number / 60_000) as u8);
        let idle = if number % 4 == 0 { 5 } else { 500 };
        for (key, flow) in connection(Protocol::UDP, port, pod, flow_state::REPLIED, idle) {
            flows.insert(key, FlowEntryV4 { flow, ..FlowEntryV4::default() }, 0).unwrap();
        }
    }
    let mut sweeper = sweeper(&root);
    let turn = sweeper.turn(NOW).unwrap();
    assert!(!turn.pass_ends && turn.removed < u64::from(PAIRS / 2), "{turn:?}");
    let removed = turn.removed + pass(&mut sweeper, NOW).get(map::FLOWS_V4).copied().unwrap_or_default();
    assert_eq!(removed, u64::from(PAIRS / 4 * 3 * 2));
    let left = PinnedMaps::open(root.path()).unwrap().flows_v4().unwrap();
    assert_eq!(left.len() as u32, PAIRS / 4 * 2);
    assert!(left.iter().all(|(_, flow)| flow.last_seen == NOW - 5));
}

fn pinned<K: aya::Pod, V: aya::Pod>(root: &BpfRoot, name: &str) -> HashMap<MapData, K, V> {
    Map::LruHashMap(MapData::from_pin(root.maps().join(name)).unwrap()).try_into().unwrap()
}

#[test]
fn affinity_goes_with_its_time_and_with_its_service() {
    let mut reader = MemoryReader { flows_v4: Vec::new(), flows_v6: Vec::new(), ..cluster(NOW) };
    reader.counters.clear();
    let dns = reader.services.get_mut(&DNS).unwrap();
    (dns.affinity_id, dns.affinity_timeout) = (5, 30);
    reader.services.get_mut(&NGINX).unwrap().affinity_id = 6;
    let root = BpfRoot::with_maps(&reader);
    let mut affinity = pinned::<AffinityKey, AffinityValue>(&root, map::AFFINITY);
    let client = |last| v4([10, 244, 3, last]).into();
    for (last, affinity_id, idle) in [(1, 5, 30), (2, 5, 31), (3, 5, 0u32.wrapping_sub(1)), (4, 6, 1), (5, 99, 1)] {
        let value = AffinityValue { backend: BackendRef::NONE, last_seen: NOW.wrapping_sub(idle), zero: 0 };
        affinity.insert(AffinityKey { client: client(last), affinity_id, zero: 0 }, value, 0).unwrap();
    }
    let mut sweeper = sweeper(&root);
    assert_eq!(pass(&mut sweeper, NOW), BTreeMap::from([(map::AFFINITY, 1)]), "nobody's is looked for twice");
    assert_eq!(pass(&mut sweeper, NOW), BTreeMap::from([(map::AFFINITY, 2)]));
    let mut left: Vec<_> = affinity.keys().map(|key| key.unwrap().client).collect();
    left.sort_unstable_by_key(|address| address.octets());
    assert_eq!(left, [client(1), client(3)]);
}

#[test]
fn counters_of_nobody_go() {
    let counted = ServiceCounters { packets_to_backend: 3, ..ServiceCounters::default() };
    let mut reader = MemoryReader { flows_v4: Vec::new(), flows_v6: Vec::new(), ..cluster(NOW) };
    reader.counters.insert(NOBODY, counted);
    let root = BpfRoot::with_maps(&reader);
    root.count_first(NOBODY_FIRST, counted);
    let counters = || Traffic::open_pinned(&root.maps()).unwrap().service_counters().unwrap();
    assert_eq!(counters().len(), 4);
    let maps = KernelMaps::open_pinned(&root.maps(), Access::ReadOnly).unwrap();
    let audited = || {
        let entries = Traffic::open_pinned(&root.maps()).unwrap().entries().unwrap();
        audit(&maps, &entries).unwrap().counts.counters_of_nobody
    };
    assert_eq!(audited(), 2);
    assert_eq!(pass(&mut sweeper(&root), NOW), BTreeMap::from([(map::SERVICE_COUNTERS, 2)]));
    assert_eq!(audited(), 0);
    reader.counters.remove(&NOBODY);
    assert_eq!(counters().into_iter().collect::<BTreeMap<_, _>>(), reader.counters);
}
