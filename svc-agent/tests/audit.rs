//! Maps that are broken in one place each: the audit names it, and only it. And maps in order: it is silent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod publish_support;

use publish_support::CAPACITIES;
use publish_support::node::{Node, frontend};
use svc_agent::audit::{Entries, Report, Settled, audit};
use svc_agent::publish::maps::address_of;
use svc_agent::publish::memory::MemoryMaps;
use svc_agent::publish::{ConfigField, GRACE, Maps};
use svc_common::{
    ABI_VERSION, AddrV4, AffinityKey, AffinityValue, BackendEntry, BackendRef, FlowKeyV4, FlowV4, Port, Protocol,
    Publication, ServiceEntry, ServiceName, SocketKey, SocketValue, Verdict, backend_flag, flow_op, flow_stage,
    flow_state, socket_fact,
};

const WEB: &str = "default/web:http 10.96.0.1:80/tcp forward affinity=30s 10.0.0.1:8080 10.0.0.2:8080+local \
                   10.0.0.3:8080+draining";
const WEB6: &str = "default/web:http [fd96::1]:80/tcp forward affinity=30s [fd00::1]:8080 [fd00::2]:8080+local";
const DNS: &str = "default/dns:dns 10.96.0.2:53/tcp forward 10.0.0.4:53";
const NONE: &str = "default/none 10.96.0.3:80/tcp reject";

/// Two Services that work and one that refuses.
fn node() -> Node {
    let mut node = Node::new(CAPACITIES);
    node.publisher.write_config(ConfigField::AbiVersion(ABI_VERSION)).unwrap();
    node.publisher.write_node_address("192.168.50.1".parse().unwrap()).unwrap();
    node.publish(&[WEB, WEB6]);
    node.publish(&[DNS]);
    node.publish(&[NONE]);
    node
}

fn look(maps: &MemoryMaps, entries: &Entries) -> Report {
    audit(maps, entries).unwrap()
}

/// Breaks good maps; the audit must say what is wrong, in each line `rule: object`.
fn broken(expected: &[&str], break_it: impl FnOnce(&mut MemoryMaps)) {
    let node = node();
    let mut maps = node.publisher.maps().share();
    break_it(&mut maps);
    judge(expected, &look(&maps, &Entries::default()));
}

fn judge(expected: &[&str], report: &Report) {
    let found: Vec<String> = report.violations.iter().map(ToString::to_string).collect();
    let matches =
        found.len() == expected.len() && expected.iter().all(|start| found.iter().any(|line| line.starts_with(start)));
    assert!(matches, "expected {expected:#?}, found {found:#?}");
}

/// Index of the service at this frontend, and its entry.
fn entry_of(maps: &MemoryMaps, address: &str) -> (u32, ServiceEntry) {
    let index = maps.frontend(&frontend(address)).expect("there is such a frontend");
    (index, maps.read_service(index).unwrap())
}

fn first_slot(maps: &MemoryMaps, address: &str) -> (u32, BackendRef) {
    let slot = entry_of(maps, address).1.publication.first_slot();
    (slot, maps.read_slot(slot).unwrap())
}

#[test]
fn maps_in_order_say_nothing() {
    let mut node = node();
    let report = look(node.publisher.maps(), &Entries::default());
    judge(&[], &report);
    let counts = report.counts;
    assert_eq!((counts.services, counts.frontends, counts.markers, counts.names), (4, 4, 4, 4));
    assert_eq!((counts.slots, counts.backends, counts.draining), (5, 6, 1));
    node.restart();
    judge(&[], &look(node.publisher.maps(), &Entries::default()));
    for object in ["default/web", "default/dns", "default/none"] {
        node.remove(object);
    }
    // Names rest together with their indexes.
    let mut settled = Settled::default();
    assert!(settled.add(look(node.publisher.maps(), &Entries::default())));
    node.pass(GRACE);
    assert!(!settled.add(look(node.publisher.maps(), &Entries::default())));
    let report = settled.into_report();
    assert!(report.is_clean());
    assert_eq!(report.counts, svc_agent::audit::Counts::default());
}

#[test]
fn frontends_and_markers() {
    broken(&["leaked-service: default/none at 10.96.0.3:80/tcp", "marker: 10.96.0.3"], |maps| {
        maps.delete_frontend(frontend("10.96.0.3:80")).unwrap();
    });
    let expected = [
        "frontend: 10.96.0.1:80/tcp",
        "leaked-service: default/web:http at 10.96.0.1:80/tcp",
        "marker: 10.96.0.1: answers pings",
    ];
    broken(&expected, |maps| {
        let (other, _) = entry_of(maps, "10.96.0.3:80");
        maps.insert_frontends(&[(frontend("10.96.0.1:80"), other)]).unwrap();
    });
    broken(&["frontend: 10.96.0.1:81/tcp"], |maps| {
        maps.insert_frontends(&[(frontend("10.96.0.1:81"), 63)]).unwrap();
    });
    broken(&["marker: 10.96.0.1"], |maps| {
        maps.delete_frontend(frontend("10.96.0.1:80").marker()).unwrap();
    });
    broken(&["marker: 10.96.0.1"], |maps| {
        maps.insert_frontends(&[(frontend("10.96.0.1:80").marker(), 0)]).unwrap();
    });
    broken(&["filter: 10.96.9.9", "marker: 10.96.9.9"], |maps| {
        maps.insert_frontends(&[(frontend("10.96.9.9:80").marker(), u32::MAX)]).unwrap();
    });
}

#[test]
fn publication_words_and_slots() {
    let expected =
        ["publication: default/none at 10.96.0.3:80/tcp: verdict 1 (forward) with 0 slots", "marker: 10.96.0.3"];
    broken(&expected, |maps| {
        let (index, _) = entry_of(maps, "10.96.0.3:80");
        maps.write_publication(index, Publication::new(Verdict::FORWARD, 0, 0)).unwrap();
    });
    broken(&["publication: default/none at 10.96.0.3:80/tcp: verdict 2 (reject) with 3 slots"], |maps| {
        let (index, _) = entry_of(maps, "10.96.0.3:80");
        maps.write_publication(index, Publication::new(Verdict::REJECT, 0, 3)).unwrap();
    });
    let expected =
        ["publication: default/none at 10.96.0.3:80/tcp: names slots 511 to 511+2, there are 512", "marker: 10.96.0.3"];
    broken(&expected, |maps| {
        let (index, _) = entry_of(maps, "10.96.0.3:80");
        maps.write_publication(index, Publication::new(Verdict::FORWARD, 511, 2)).unwrap();
    });
    let shared = ["slot: default/none at 10.96.0.3:80/tcp", "slot-range: default/", "marker: 10.96.0.3"];
    broken(&shared, |maps| {
        let (index, _) = entry_of(maps, "10.96.0.3:80");
        let (slot, _) = first_slot(maps, "10.96.0.1:80");
        maps.write_publication(index, Publication::new(Verdict::FORWARD, slot, 1)).unwrap();
    });
    broken(
        &["slot: default/web:http at 10.96.0.1:80/tcp", "leaked-backend: default/web:http at 10.96.0.1:80"],
        |maps| {
            let (slot, reference) = first_slot(maps, "10.96.0.1:80");
            maps.write_slots(slot, &[BackendRef::new(reference.index(), reference.generation() + 2)]).unwrap();
        },
    );
    broken(
        &["slot: default/web:http at 10.96.0.1:80/tcp", "leaked-backend: default/web:http at 10.96.0.1:80"],
        |maps| {
            let (slot, _) = first_slot(maps, "10.96.0.1:80");
            let (_, other) = first_slot(maps, "10.96.0.2:53");
            maps.write_slots(slot, &[other]).unwrap();
        },
    );
}

#[test]
fn backends() {
    broken(&["slot: default/web:http at 10.96.0.1:80/tcp"], |maps| {
        let (_, reference) = first_slot(maps, "10.96.0.1:80");
        maps.write_generation(reference.index(), reference.generation() + 1).unwrap();
    });
    broken(&["slot: default/web:http at 10.96.0.1:80/tcp"], |maps| {
        let (_, reference) = first_slot(maps, "10.96.0.1:80");
        maps.write_backend_flags(reference.index(), 0).unwrap();
    });
    broken(&["leaked-backend: default/none at 10.96.0.3:80/tcp: 10.0.0.1"], |maps| {
        let (service, _) = entry_of(maps, "10.96.0.3:80");
        begin(maps, BackendEntry { flags: backend_flag::ELIGIBLE, service, ..backend() });
    });
    broken(&["leaked-backend: backend 100"], |maps| begin(maps, BackendEntry { service: 60, ..backend() }));
    broken(&["backend: default/web:http at 10.96.0.1:80/tcp: 10.0.0.1 lives twice"], |maps| {
        let (service, _) = entry_of(maps, "10.96.0.1:80");
        begin(maps, BackendEntry { service, ..backend() });
    });
    broken(&["backend: default/web:http at 10.96.0.1:80/tcp"], |maps| {
        let (service, _) = entry_of(maps, "10.96.0.1:80");
        begin(maps, BackendEntry { service, port: Port(0), ..backend() });
    });
    broken(&["filter: 10.9.9.9"], |maps| {
        let (service, _) = entry_of(maps, "10.96.0.1:80");
        begin(maps, BackendEntry { service, address: address_of("10.9.9.9".parse().unwrap()), ..backend() });
    });
}

fn backend() -> BackendEntry {
    BackendEntry { address: address_of("10.0.0.1".parse().unwrap()), port: Port::from_host(8080), ..Default::default() }
}

fn begin(maps: &mut MemoryMaps, entry: BackendEntry) {
    maps.write_backend(100, &entry).unwrap();
    maps.write_generation(100, 1).unwrap();
}

#[test]
fn names_affinity_ids_and_configuration() {
    broken(&["name: service #"], |maps| {
        let (index, _) = entry_of(maps, "10.96.0.1:80");
        maps.delete_name(index).unwrap();
    });
    broken(&["leaked-name: default/old"], |maps| maps.insert_names(&[(50, name("default/old"))]).unwrap());
    broken(&["affinity-id: default/web:http at [fd96::1]:80/tcp"], |maps| {
        let (index, entry) = entry_of(maps, "[fd96::1]:80");
        maps.write_service(index, &ServiceEntry { affinity_id: 99, ..entry }).unwrap();
    });
    broken(&["config: CONFIG"], |maps| maps.write_config(ConfigField::AbiVersion(ABI_VERSION + 1)).unwrap());
    broken(&["filter: 192.168.9.9"], |maps| {
        maps.write_config(ConfigField::NodeV4(v4("192.168.9.9"))).unwrap();
    });
}

fn name(text: &str) -> ServiceName {
    let mut bytes = [0; ServiceName::MAX_LEN];
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    ServiceName { bytes }
}

fn v4(text: &str) -> AddrV4 {
    AddrV4::from_octets(text.parse::<std::net::Ipv4Addr>().unwrap().octets())
}

/// A connection from a pod to the Service web, with both its flows.
fn connection(maps: &MemoryMaps) -> [(FlowKeyV4, FlowV4); 2] {
    let (service, _) = entry_of(maps, "10.96.0.1:80");
    let (_, backend) = first_slot(maps, "10.96.0.1:80");
    let entry = maps.read_backend(backend.index()).unwrap();
    let (client, frontend) = ((v4("10.0.7.7"), Port(999)), (v4("10.96.0.1"), Port::from_host(80)));
    let target = (AddrV4(entry.address.0[0]), entry.port);
    let flow = |source: (AddrV4, Port), destination: (AddrV4, Port), ops, peer_stage| FlowV4 {
        backend,
        source: source.0,
        source_port: source.1,
        destination: destination.0,
        destination_port: destination.1,
        service,
        ops,
        peer_stage,
        ..FlowV4::default()
    };
    let key = |source: (AddrV4, Port), destination: (AddrV4, Port), stage| FlowKeyV4 {
        source: source.0,
        source_port: source.1,
        destination: destination.0,
        destination_port: destination.1,
        protocol: Protocol::TCP,
        stage,
        zero: 0,
    };
    let ops = flow_op::ADDRESSES | flow_op::TO_BACKEND;
    [
        (key(client, frontend, flow_stage::INGRESS), flow(client, target, ops, flow_stage::EGRESS)),
        (key(target, client, flow_stage::EGRESS), flow(frontend, client, flow_op::ADDRESSES, flow_stage::INGRESS)),
    ]
}

fn with_flows(expected: &[&str], change: impl FnOnce(&mut [(FlowKeyV4, FlowV4); 2]) -> usize) -> Report {
    let node = node();
    let mut flows = connection(node.publisher.maps());
    let kept = change(&mut flows);
    let entries = Entries { flows_v4: flows[..kept].to_vec(), flow_capacities: [1024, 1024], ..Entries::default() };
    let report = look(node.publisher.maps(), &entries);
    judge(expected, &report);
    report
}

#[test]
fn flows() {
    const NAME: &str = "tcp 10.0.7.7:59139 > 10.96.0.1:80 at ingress (default/web:http at 10.96.0.1:80/tcp)";
    let flow = format!("flow: {NAME}");
    let pair = format!("flow-pair: {NAME}");
    with_flows(&[], |_| 2);
    with_flows(&[&pair], |_| 1);
    with_flows(&[&format!("{flow}: its endpoint has another address")], |flows| {
        flows[0].1.destination = v4("10.0.0.77");
        flows[1].0.source = v4("10.0.0.77");
        flows[1].1.service = FlowV4::NO_SERVICE;
        2
    });
    with_flows(
        &["flow: tcp 10.0.7.7:59139 > 10.96.0.1:80 at ingress (default/web:http at [fd96::1]:80/tcp)"],
        |flows| {
            flows[0].1.service ^= 1;
            2
        },
    );
    with_flows(&[&format!("{flow}: its reference")], |flows| {
        flows[0].1.backend = BackendRef::new(flows[0].1.backend.index(), 77);
        2
    });
    with_flows(&[&format!("{flow}: its reference")], |flows| {
        flows[0].1.backend = BackendRef::new(flows[0].1.backend.index(), 2);
        2
    });
    with_flows(&["flow: tcp 10.0.7.7:59139 > 10.96.0.1:80"], |flows| {
        flows[0].1.service = 64;
        2
    });
    with_flows(&[&pair, "flow-pair: "], |flows| {
        flows[1].1.ops |= flow_op::TO_BACKEND;
        flows[1].1.backend = BackendRef::NONE;
        2
    });
}

#[test]
fn flows_that_were_forgotten_or_superseded_are_counted() {
    let node = node();
    let flows = connection(node.publisher.maps());
    let full = Entries { flows_v4: flows[..1].to_vec(), flow_capacities: [2, 2], ..Entries::default() };
    let report = look(node.publisher.maps(), &full);
    assert!(report.is_clean());
    assert_eq!(report.counts.half_flows, 1);
    // The client moved to another endpoint: late replies of the first one may still come.
    let mut old_reply = flows[1];
    old_reply.0.source = v4("10.0.0.9");
    old_reply.1.backend = BackendRef::NONE;
    // Another connection took the tuple of one that is over.
    let mut over = flows[0];
    over.0.source_port = Port(998);
    over.1.state = flow_state::CLOSED;
    over.1.source_port = Port(999);
    let entries = Entries {
        flows_v4: vec![flows[0], flows[1], old_reply, over],
        flow_capacities: [1024, 1024],
        ..Entries::default()
    };
    let report = look(node.publisher.maps(), &entries);
    judge(&[], &report);
    assert_eq!(report.counts.superseded_flows, 2);
    // The connection that took its place has been swept already.
    let only = |flow| Entries { flows_v4: vec![flow], flow_capacities: [1024, 1024], ..Entries::default() };
    let report = look(node.publisher.maps(), &only(old_reply));
    judge(&[], &report);
    assert_eq!(report.counts.superseded_flows, 1);
    assert_eq!(look(node.publisher.maps(), &only(over)).counts.superseded_flows, 1);
    judge(&["flow-pair: "], &look(node.publisher.maps(), &only(flows[0])));
    judge(&["flow-pair: "], &look(node.publisher.maps(), &only(flows[1])));
}

#[test]
fn affinities_and_sockets() {
    let node = node();
    let maps = node.publisher.maps();
    let (_, backend) = first_slot(maps, "10.96.0.1:80");
    let (_, web) = entry_of(maps, "10.96.0.1:80");
    let (_, dns) = first_slot(maps, "10.96.0.2:53");
    let target = maps.read_backend(backend.index()).unwrap();
    let affinity = |affinity_id, backend| {
        let key = AffinityKey { client: address_of("10.0.7.7".parse().unwrap()), affinity_id, zero: 0 };
        let entries = Entries {
            affinity: vec![(key, AffinityValue { backend, ..AffinityValue::default() })],
            ..Entries::default()
        };
        look(maps, &entries)
    };
    judge(&[], &affinity(web.affinity_id, backend));
    judge(&["affinity: "], &affinity(0, BackendRef::new(200, 1)).into_first());
    judge(&["affinity: "], &affinity(web.affinity_id, dns));
    judge(&["affinity: "], &affinity(1000, backend).into_first());
    judge(&["affinity: "], &affinity(web.affinity_id, BackendRef::new(backend.index(), backend.generation() + 2)));
    let socket = |cookie, fact, value| {
        let key = SocketKey { cookie, fact, zero: 0 };
        look(maps, &Entries { sockets: vec![(key, value)], ..Entries::default() })
    };
    let translated =
        SocketValue { backend: target.address, frontend: web.address, backend_port: target.port, ..Default::default() };
    judge(&[], &socket(7, socket_fact::TRANSLATED, translated));
    judge(&[], &socket(7, socket_fact::BOUND, SocketValue::default()));
    judge(&["socket: socket 0x7"], &socket(7, socket_fact::TRANSLATED, SocketValue::default()));
    judge(&["socket: socket 0x7"], &socket(7, socket_fact::BOUND, translated));
    judge(&["socket: socket 0x7"], &socket(7, 9, translated));
    judge(&["socket: socket 0x0"], &socket(0, socket_fact::TRANSLATED, translated));
}

trait First {
    fn into_first(self) -> Report;
}

impl First for Report {
    /// One entry may break several rules.
    fn into_first(mut self) -> Report {
        self.violations.truncate(1);
        self
    }
}
