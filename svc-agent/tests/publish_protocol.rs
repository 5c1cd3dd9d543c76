//! What exactly is written, in which order, for each kind of change; and what stays when something does not fit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod publish_support;

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use publish_support::{CAPACITIES, expected_text, object_name, plan, plans};
use svc_agent::model::Transport;
use svc_agent::plan::ServicePlan;
use svc_agent::publish::faulty::{Fault, FaultyMaps};
use svc_agent::publish::memory::{MemoryMaps, Write};
use svc_agent::publish::{Capacities, Frontend, GRACE, Maps, MapsSnapshot, PublishError, Publisher};
use svc_common::{BackendRef, Publication, Verdict, address_class, backend_flag};

struct Node {
    publisher: Publisher<MemoryMaps>,
    now: Instant,
}

impl Node {
    fn new(capacities: Capacities) -> Self {
        Self { publisher: Publisher::new(MemoryMaps::new(capacities)), now: Instant::now() }
    }

    fn try_publish(&mut self, texts: &[&str]) -> Result<bool, PublishError> {
        let plans = plans(texts);
        self.publisher.publish_service(self.now, &plans[0].id.service, &plans)
    }

    fn publish(&mut self, texts: &[&str]) -> Vec<Write> {
        self.publisher.maps_mut().take_log();
        self.try_publish(texts).unwrap();
        assert_eq!(self.publisher.audit(), None);
        self.publisher.maps_mut().take_log()
    }

    fn remove(&mut self, object: &str) -> Vec<Write> {
        self.publisher.maps_mut().take_log();
        self.publisher.remove_service(self.now, &object_name(object)).unwrap();
        assert_eq!(self.publisher.audit(), None);
        self.publisher.maps_mut().take_log()
    }

    fn pass(&mut self, time: Duration) -> Vec<Write> {
        self.now += time;
        self.publisher.maps_mut().take_log();
        self.publisher.tick(self.now);
        assert_eq!(self.publisher.audit(), None);
        self.publisher.maps_mut().take_log()
    }

    fn text(&self) -> String {
        MapsSnapshot::read(self.publisher.maps()).unwrap().to_string()
    }

    fn restart(&mut self) {
        let maps = self.publisher.maps().share();
        let (publisher, _) = Publisher::adopt(maps, self.now).unwrap();
        self.publisher = publisher;
        assert_eq!(self.publisher.audit(), None);
    }
}

const WEB: &str = "default/web:http 10.96.0.1:80/tcp forward 10.0.0.1:8080 10.0.0.2:8080+local";

fn frontend(address: &str) -> Frontend {
    Frontend::new(address.parse().unwrap(), Transport::Tcp)
}

/// The log without everything but frontends and markers, as text: `+80`, `-0`.
fn frontend_writes(log: &[Write]) -> Vec<String> {
    let port = |frontend: &Frontend| frontend.port.to_host();
    log.iter()
        .filter_map(|write| match write {
            Write::InsertFrontend(frontend, _) => Some(format!("+{}", port(frontend))),
            Write::DeleteFrontend(frontend) => Some(format!("-{}", port(frontend))),
            _ => None,
        })
        .collect()
}

fn forward(first: u32, count: u32) -> Publication {
    Publication::new(Verdict::FORWARD, first, count)
}

#[test]
fn a_new_service_becomes_visible_last() {
    let mut node = Node::new(CAPACITIES);
    let log = node.publish(&[WEB]);
    let frontend = frontend("10.96.0.1:80");
    assert_eq!(
        log,
        [
            Write::Service(0),
            Write::AddressClass("10.96.0.1".parse().unwrap(), address_class::FRONTEND),
            Write::AddressClass("10.0.0.1".parse().unwrap(), address_class::BACKEND),
            Write::Backend(0),
            Write::Generation(0, 1),
            Write::AddressClass("10.0.0.2".parse().unwrap(), address_class::BACKEND),
            Write::Backend(1),
            Write::Generation(1, 1),
            Write::Slots(0, vec![BackendRef::new(0, 1), BackendRef::new(1, 1)]),
            Write::Publication(0, forward(0, 2)),
            Write::InsertName(0, "default/web:http".into()),
            Write::InsertFrontend(frontend.marker(), u32::MAX),
            Write::InsertFrontend(frontend, 0),
        ]
    );
    assert_eq!(node.text(), "10.96.0.1:80/tcp default/web:http forward\n  10.0.0.1:8080\n  10.0.0.2:8080 local\n");
}

#[test]
fn an_equal_plan_writes_nothing() {
    let mut node = Node::new(CAPACITIES);
    node.publish(&[WEB]);
    assert_eq!(node.publish(&[WEB]), []);
    node.restart();
    assert_eq!(node.publish(&[WEB]), []);
    assert_eq!(node.publisher.prune(node.now), 0);
    assert_eq!(node.publisher.maps_mut().take_log(), []);
}

#[test]
fn an_endpoint_change_writes_only_that_service() {
    let mut node = Node::new(CAPACITIES);
    node.publish(&["default/other 10.96.0.9:80/tcp forward 10.0.0.1:8080 10.0.0.9:8080"]);
    node.publish(&[WEB]);
    let log = node.publish(&["default/web:http 10.96.0.1:80/tcp forward 10.0.0.1:8080 10.0.0.3:8080"]);
    assert_eq!(
        log,
        [
            Write::AddressClass("10.0.0.3".parse().unwrap(), address_class::BACKEND),
            Write::Backend(4),
            Write::Generation(4, 1),
            Write::Slots(4, vec![BackendRef::new(2, 1), BackendRef::new(4, 1)]),
            Write::Publication(1, forward(4, 2)),
            Write::Generation(3, 2),
        ]
    );
}

#[test]
fn a_draining_backend_lives_without_a_slot() {
    let mut node = Node::new(CAPACITIES);
    node.publish(&[WEB]);
    let log = node.publish(&["default/web:http 10.96.0.1:80/tcp forward 10.0.0.1:8080 10.0.0.2:8080+local+draining"]);
    assert_eq!(
        log,
        [
            Write::BackendFlags(1, backend_flag::LOCAL),
            Write::Slots(2, vec![BackendRef::new(0, 1)]),
            Write::Publication(0, forward(2, 1)),
        ]
    );
    assert_eq!(
        node.text(),
        "10.96.0.1:80/tcp default/web:http forward\n  10.0.0.1:8080\n  10.0.0.2:8080 local draining\n"
    );
    node.restart();
    let log = node.publish(&["default/web:http 10.96.0.1:80/tcp forward 10.0.0.1:8080"]);
    assert_eq!(log, [Write::Generation(1, 2)]);
}

#[test]
fn verdicts_change_with_one_store() {
    let mut node = Node::new(CAPACITIES);
    node.publish(&[WEB]);
    let reject = Publication::new(Verdict::REJECT, 0, 0);
    let log = node.publish(&["default/web:http 10.96.0.1:80/tcp reject"]);
    assert_eq!(log, [Write::Publication(0, reject), Write::Generation(0, 2), Write::Generation(1, 2)]);
    let drop = Publication::new(Verdict::DROP, 0, 0);
    assert_eq!(node.publish(&["default/web:http 10.96.0.1:80/tcp drop"]), [Write::Publication(0, drop)]);
    assert_eq!(node.publisher.stats().maps[1].entries, 0);
}

#[test]
fn facts_of_a_service_and_of_a_backend_change_in_place() {
    let mut node = Node::new(CAPACITIES);
    node.publish(&[WEB]);
    let log = node
        .publish(&["default/web:http 10.96.0.1:80/tcp forward affinity=10s 10.0.0.1:8080+local 10.0.0.2:8080+local"]);
    let flags = backend_flag::LOCAL | backend_flag::ELIGIBLE;
    assert_eq!(log, [Write::AffinityTimeout(0, 10), Write::BackendFlags(0, flags)]);
}

#[test]
fn a_removed_service_disappears_frontend_first() {
    let mut node = Node::new(CAPACITIES);
    node.publish(&[WEB]);
    let frontend = frontend("10.96.0.1:80");
    assert_eq!(
        node.remove("default/web"),
        [
            Write::DeleteFrontend(frontend),
            Write::Publication(0, Publication::default()),
            Write::Generation(0, 2),
            Write::Generation(1, 2),
            Write::DeleteFrontend(frontend.marker()),
        ]
    );
    assert_eq!(node.pass(GRACE), [Write::DeleteCounters(0), Write::DeleteName(0)]);
    assert!(node.publisher.stats().maps.iter().all(|usage| usage.entries == 0));
}

#[test]
fn nothing_is_reused_before_it_has_rested() {
    let capacities = Capacities { services: 1, slots: 2, backends: 2, frontends_v4: 2, frontends_v6: 2 };
    let mut node = Node::new(capacities);
    node.publish(&[WEB]);
    node.remove("default/web");
    let other = ["default/other 10.96.0.2:80/tcp forward 10.0.0.5:80"];
    assert!(matches!(node.try_publish(&other), Err(PublishError::Full { map: "SERVICES", .. })));
    node.pass(GRACE - Duration::from_millis(1));
    assert_eq!(node.text(), "");
    node.pass(Duration::from_millis(1));
    assert_eq!(node.text(), "10.96.0.2:80/tcp default/other forward\n  10.0.0.5:80\n");
    let backend = node.publisher.maps().read_backend(0).unwrap();
    assert_eq!(backend.generation, 3, "an index never gets a generation twice");
}

#[test]
fn a_service_that_does_not_fit_keeps_what_it_had() {
    let capacities = Capacities { services: 4, slots: 5, backends: 16, frontends_v4: 4, frontends_v6: 4 };
    let mut node = Node::new(capacities);
    node.publish(&[WEB]);
    node.publish(&["default/api 10.96.0.2:80/tcp forward 10.0.0.7:80"]);
    let before = node.text();
    let grown = ["default/web:http 10.96.0.1:80/tcp forward 10.0.0.1:8080 10.0.0.2:8080+local 10.0.0.3:8080"];
    let error = node.try_publish(&grown).unwrap_err();
    assert_eq!(
        error.to_string(),
        "service default/web:http at 10.96.0.1:80/tcp does not fit: map SLOTS is full (5 entries). It keeps what it \
         had before and is retried when space is freed; remove services, or raise the capacity of SLOTS"
    );
    assert_eq!(node.text(), before);
    assert_eq!(node.publisher.audit(), None);
    assert_eq!((node.publisher.stats().pending, node.publisher.stats().failures.full), (1, 1));
    node.remove("default/api");
    node.pass(GRACE);
    assert_eq!(node.text(), expected_text(&plans(&grown)));
    assert_eq!(node.publisher.stats().pending, 0);
}

#[test]
fn a_frontend_map_that_is_full_takes_everything_of_the_service_back() {
    let mut node = Node::new(Capacities { frontends_v4: 2, ..CAPACITIES });
    node.publish(&[WEB]);
    let both =
        ["default/two:a 10.96.0.2:80/tcp forward 10.0.0.7:80", "default/two:b [fd00::1]:80/tcp forward [fd01::7]:80"];
    let error = node.try_publish(&both).unwrap_err();
    assert!(matches!(error, PublishError::Full { map: "FRONTENDS_V4", capacity: 2, .. }), "{error}");
    assert_eq!(node.publisher.audit(), None);
    assert_eq!(node.text(), expected_text(&plans(&[WEB, both[1]])), "the port that fits is there");
    node.remove("default/web");
    node.pass(Duration::ZERO);
    assert_eq!(node.text(), expected_text(&plans(&both)));
}

#[test]
fn a_changed_port_is_a_new_service_and_the_old_one_goes_afterwards() {
    let mut node = Node::new(CAPACITIES);
    node.publish(&[WEB]);
    let log = node.publish(&["default/web:http 10.96.0.1:81/tcp forward 10.0.0.1:8080 10.0.0.2:8080+local"]);
    let at = |wanted: fn(&Write) -> bool| log.iter().position(wanted).unwrap();
    assert!(at(|w| matches!(w, Write::InsertFrontend(..))) < at(|w| matches!(w, Write::DeleteFrontend(..))));
    let snapshot = MapsSnapshot::read(node.publisher.maps()).unwrap();
    assert_eq!((snapshot.services[0].index, snapshot.services[0].affinity_id), (1, 1));
}

#[test]
fn ports_that_swap_their_numbers_never_disappear() {
    let mut node = Node::new(CAPACITIES);
    let a = "10.96.0.1:80/tcp forward 10.0.0.1:8080";
    let b = "10.96.0.1:81/tcp forward 10.0.0.1:8081";
    node.publish(&[&format!("default/web:a {a}"), &format!("default/web:b {b}")]);
    let swapped = [format!("default/web:b {a}"), format!("default/web:a {b}")];
    let log = node.publish(&[&swapped[0], &swapped[1]]);
    assert_eq!(
        log,
        [
            Write::DeleteCounters(0),
            Write::InsertName(0, "default/web:b".into()),
            Write::DeleteCounters(1),
            Write::InsertName(1, "default/web:a".into()),
        ]
    );
}

#[test]
fn a_frontend_changes_hands_when_its_owner_lets_go() {
    let mut node = Node::new(CAPACITIES);
    node.publish(&[WEB]);
    let heir = ["default/heir 10.96.0.1:80/tcp forward 10.0.0.9:8080"];
    let error = node.try_publish(&heir).unwrap_err();
    assert!(matches!(&error, PublishError::FrontendTaken { owner, .. } if owner.to_string() == "default/web:http"));
    assert_eq!(node.text(), expected_text(&plans(&[WEB])));
    node.remove("default/web");
    assert_eq!(node.publisher.deadline(), Some(node.now), "no need to wait");
    node.pass(Duration::ZERO);
    assert_eq!(node.text(), expected_text(&plans(&heir)));
}

#[test]
fn one_affinity_id_for_all_families_of_a_port() {
    let mut node = Node::new(CAPACITIES);
    let dual = |port: &str, number: u16| {
        [
            format!("default/web:{port} 10.96.0.1:{number}/tcp forward affinity=10s 10.0.0.1:80"),
            format!("default/web:{port} [fd00::1]:{number}/tcp forward affinity=10s [fd01::1]:80"),
        ]
    };
    let texts = [dual("a", 80), dual("b", 81)].concat();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    node.publish(&texts);
    let ids = |node: &Node| -> Vec<u32> {
        let snapshot = MapsSnapshot::read(node.publisher.maps()).unwrap();
        snapshot.services.iter().map(|service| service.affinity_id).collect()
    };
    assert_eq!(ids(&node), [1, 2, 1, 2]);
    node.remove("default/web");
    node.restart();
    node.publish(&texts);
    assert_eq!(ids(&node), [3, 4, 3, 4], "never used twice, not even after a restart");
}

#[test]
fn adoption_keeps_indexes_and_prunes_only_when_told() {
    let mut node = Node::new(CAPACITIES);
    let gone = "default/gone 10.96.0.5:53/udp forward 10.0.0.5:53";
    node.publish(&[gone]);
    node.publish(&[WEB]);
    let before = MapsSnapshot::read(node.publisher.maps()).unwrap();
    node.restart();
    assert_eq!(node.publisher.stats().unclaimed, 2);
    let log =
        node.publish(&["default/web:http 10.96.0.1:80/tcp forward 10.0.0.1:8080 10.0.0.2:8080+local 10.0.0.3:8080"]);
    let generations: Vec<_> = log.iter().filter(|write| matches!(write, Write::Generation(..))).collect();
    assert_eq!(generations, [&Write::Generation(3, 1)], "known backends are not touched");
    let after = MapsSnapshot::read(node.publisher.maps()).unwrap();
    assert_eq!(after.services.len(), 2);
    let web = |snapshot: &MapsSnapshot| {
        snapshot
            .services
            .iter()
            .find(|s| s.verdict == Verdict::FORWARD && s.frontend.port.to_host() == 80)
            .cloned()
            .unwrap()
    };
    assert_eq!((web(&before).index, web(&before).affinity_id), (web(&after).index, web(&after).affinity_id));
    assert_eq!(node.publisher.prune(node.now), 1);
    assert_eq!(node.publisher.audit(), None);
    assert!(!node.text().contains("default/gone"));
    node.pass(GRACE);
    assert_eq!(node.publisher.stats().maps[0].entries, 1);
}

#[test]
fn an_unclaimed_service_gives_way_without_a_gap() {
    let mut node = Node::new(CAPACITIES);
    node.publish(&[WEB]);
    node.restart();
    let heir = ["default/heir 10.96.0.1:80/tcp forward 10.0.0.9:8080"];
    let log = node.publish(&heir);
    assert!(!log.iter().any(|write| matches!(write, Write::DeleteFrontend(_))));
    assert_eq!(node.text(), expected_text(&plans(&heir)));
}

#[test]
fn the_address_filter_knows_everything_visible() {
    let mut node = Node::new(CAPACITIES);
    node.publish(&[WEB]);
    node.publisher.write_node_address("fd00::99".parse().unwrap()).unwrap();
    let class = |address: &str| node.publisher.maps().address_class(address.parse().unwrap());
    assert_eq!(class("10.96.0.1"), address_class::FRONTEND);
    assert_eq!(class("10.0.0.2"), address_class::BACKEND);
    assert_eq!(class("fd00::99"), address_class::NODE);
    assert_eq!(class("192.0.2.1"), 0);
}

#[test]
fn many_services_are_announced_together() {
    let mut node =
        Node::new(Capacities { services: 3000, slots: 3000, backends: 3000, frontends_v4: 5000, frontends_v6: 0 });
    let plans: Vec<ServicePlan> = (0..3000u32)
        .map(|n| {
            plan(&format!("default/s{n} 10.96.{}.{}:80/tcp forward 10.0.{}.{}:80", n / 250, n % 250, n / 250, n % 250))
        })
        .collect();
    let objects = plans.iter().map(|plan| (&plan.id.service, std::slice::from_ref(plan)));
    let published = node.publisher.publish_services(node.now, objects);
    assert_eq!((published.changed, published.failures.len()), (3000, 500));
    assert_eq!(node.publisher.stats().pending, 500);
    assert_eq!(node.publisher.audit(), None);
    assert_eq!(MapsSnapshot::read(node.publisher.maps()).unwrap().services.len(), 2500);
}

#[test]
fn an_address_is_marked_before_its_first_port_and_until_its_last() {
    let mut node = Node::new(CAPACITIES);
    let port = |number: u16| format!("default/web:p{number} 10.96.0.1:{number}/tcp reject");
    let (a, b, c) = (port(80), port(81), port(82));
    assert_eq!(frontend_writes(&node.publish(&[&a, &b])), ["+0", "+80", "+81"]);
    assert_eq!(frontend_writes(&node.publish(&[&a, &b, &c])), ["+82"], "it is marked already");
    assert_eq!(frontend_writes(&node.publish(&[&b])), ["-80", "-82"]);
    assert_eq!(frontend_writes(&node.publish(&[&a])), ["+80", "-81"], "there is always a port");
    assert_eq!(frontend_writes(&node.remove("default/web")), ["-80", "-0"]);
    assert!(node.publisher.maps().read_frontends().unwrap().is_empty());
}

#[test]
fn services_and_protocols_share_the_marker_of_an_address_but_families_do_not() {
    let mut node = Node::new(CAPACITIES);
    // The first four bytes of the IPv6 address are those of the IPv4 one.
    let dns = ["default/dns 10.96.0.10:53/udp reject", "default/dns [a60:a::]:53/udp reject"];
    assert_eq!(frontend_writes(&node.publish(&dns)), ["+0", "+53", "+0", "+53"]);
    assert_eq!(frontend_writes(&node.publish(&["default/tcp 10.96.0.10:53/tcp reject"])), ["+53"]);
    assert_eq!(frontend_writes(&node.remove("default/dns")), ["-53", "-53", "-0"]);
    let left = node.publisher.maps().read_frontends().unwrap();
    let frontend = frontend("10.96.0.10:53");
    assert_eq!(left.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [frontend.marker(), frontend]);
    assert_eq!(node.publisher.stats().maps[3].entries, 2);
    assert_eq!(node.text(), "10.96.0.10:53/tcp default/tcp reject\n", "a marker is no service");
}

#[test]
fn a_service_without_its_marker_is_not_announced() {
    let memory = MemoryMaps::new(CAPACITIES);
    let nth = Rc::new(Cell::new(None));
    let fault = Rc::clone(&nth);
    let mut frontends = 0;
    let judge = move |_, map: &str| {
        frontends += u32::from(map == "FRONTENDS_V4");
        (map == "FRONTENDS_V4" && fault.get() == Some(frontends)).then_some(Fault::NotPermitted)
    };
    let mut publisher = Publisher::new(FaultyMaps::new(memory.share(), judge));
    let wanted = plans(&[
        "default/web:a 10.96.0.1:80/tcp reject",
        "default/web:b 10.96.0.2:80/tcp reject",
        "default/web:c 10.96.0.1:81/tcp reject",
    ]);
    let now = Instant::now();
    nth.set(Some(1));
    let error = publisher.publish_service(now, &wanted[0].id.service, &wanted).unwrap_err();
    assert!(matches!(&error, PublishError::Refused { service, .. } if &*service.port_name == "a"), "{error}");
    let log = publisher.maps_mut().inner_mut().take_log();
    assert_eq!(frontend_writes(&log), ["+0", "+80", "+0", "+81"], "the other port marks the address");
    assert_eq!(publisher.audit(), None);
    nth.set(None);
    publisher.tick(now + Duration::from_secs(1));
    assert_eq!((publisher.pending(), publisher.audit()), (0, None));
    assert_eq!(MapsSnapshot::read(&memory).unwrap().to_string(), expected_text(&wanted));
}

#[test]
fn a_marker_waits_for_a_frontend_that_could_not_be_deleted() {
    let memory = MemoryMaps::new(CAPACITIES);
    let failing = Rc::new(Cell::new(false));
    let fault = Rc::clone(&failing);
    let judge = move |_, map: &str| (fault.get() && map == "FRONTENDS_V4").then_some(Fault::NotPermitted);
    let mut publisher = Publisher::new(FaultyMaps::new(memory.share(), judge));
    let (wanted, now) = (plans(&[WEB]), Instant::now());
    publisher.publish_service(now, &wanted[0].id.service, &wanted).unwrap();
    failing.set(true);
    publisher.remove_service(now, &wanted[0].id.service).unwrap();
    assert_eq!((memory.read_frontends().unwrap().len(), publisher.audit()), (2, None));
    assert!(publisher.deadline().is_some());
    failing.set(false);
    publisher.maps_mut().inner_mut().take_log();
    publisher.tick(now + Duration::from_millis(1));
    assert_eq!(frontend_writes(&publisher.maps_mut().inner_mut().take_log()), ["-80", "-0"]);
    assert_eq!(publisher.audit(), None);
}

#[test]
fn adopted_addresses_get_the_markers_they_lack_and_others_go_when_told() {
    let mut node = Node::new(CAPACITIES);
    node.publish(&[WEB]);
    node.publish(&["default/keeps 10.96.0.2:80/tcp reject"]);
    let maps = node.publisher.maps_mut();
    maps.delete_frontend(frontend("10.96.0.1:80").marker()).unwrap();
    let (left_over, taken) = (frontend("10.96.0.3:80").marker(), frontend("10.96.0.4:80").marker());
    maps.insert_frontends(&[(left_over, u32::MAX), (taken, u32::MAX)]).unwrap();
    node.restart();
    assert_eq!(node.publisher.maps_mut().take_log(), [], "adoption writes nothing");
    assert_eq!(node.publisher.deadline(), Some(node.now));
    let marker = frontend("10.96.0.1:80").marker();
    assert_eq!(node.pass(Duration::ZERO), [Write::InsertFrontend(marker, u32::MAX)]);
    node.publish(&["default/heir 10.96.0.4:80/tcp reject"]);
    node.publish(&[WEB]);
    node.publisher.maps_mut().take_log();
    assert_eq!(node.publisher.prune(node.now), 1);
    assert_eq!(node.publisher.audit(), None);
    let gone = frontend("10.96.0.2:80");
    let deleted: Vec<Write> = node.publisher.maps_mut().take_log();
    let deleted: Vec<_> = deleted.iter().filter(|write| matches!(write, Write::DeleteFrontend(_))).collect();
    let expected = [gone, left_over, gone.marker()].map(Write::DeleteFrontend);
    assert_eq!(deleted, expected.iter().collect::<Vec<_>>());
    let left: Vec<_> = node.publisher.maps().read_frontends().unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!(left, [marker, frontend("10.96.0.1:80"), taken, frontend("10.96.0.4:80")]);
}

#[test]
fn only_a_backend_with_a_slot_is_eligible() {
    let mut node = Node::new(CAPACITIES);
    let flags = |node: &Node| -> Vec<u16> {
        (0..3).map(|index| node.publisher.maps().read_backend(index).unwrap().flags).collect()
    };
    let (local, eligible) = (backend_flag::LOCAL, backend_flag::ELIGIBLE);
    let web = |backends: &str| format!("default/web:http 10.96.0.1:80/tcp forward {backends}");
    node.publish(&[&web("10.0.0.1:80 10.0.0.2:80+local 10.0.0.3:80+draining")]);
    assert_eq!(flags(&node), [eligible, local | eligible, 0]);
    let log = node.publish(&[&web("10.0.0.1:80+draining 10.0.0.2:80+local+draining 10.0.0.3:80")]);
    assert_eq!(flags(&node), [0, local, eligible]);
    let at = |wanted: fn(&Write) -> bool| log.iter().rposition(wanted).unwrap();
    assert!(at(|w| matches!(w, Write::BackendFlags(..))) < at(|w| matches!(w, Write::Publication(..))));
    // An agent that did not know the flag has left it out.
    node.publisher.maps_mut().write_backend_flags(2, 0).unwrap();
    node.restart();
    node.publish(&[&web("10.0.0.1:80+draining 10.0.0.2:80+local+draining 10.0.0.3:80")]);
    assert_eq!(flags(&node), [0, local, eligible]);
    node.publish(&["default/web:http 10.96.0.1:80/tcp reject 10.0.0.9:80+draining 10.0.0.3:80+draining"]);
    assert_eq!(flags(&node)[2], 0);
}
