//! What exactly is written, in which order, for each kind of change; and what stays when something does not fit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod publish_support;

use std::time::Duration;

use publish_support::node::{Node, frontend};
use publish_support::{CAPACITIES, expected_text, plan, plans};
use svc_agent::plan::ServicePlan;
use svc_agent::publish::memory::Write;
use svc_agent::publish::{Capacities, GRACE, Maps, MapsSnapshot, PublishError};
use svc_common::{BackendRef, Publication, Verdict, address_class, address_marker, backend_flag, service_flag};

const WEB: &str = "default/web:http 10.96.0.1:80/tcp forward 10.0.0.1:8080 10.0.0.2:8080+local";

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
            Write::DeleteCounters(0),
            Write::AddressClass("10.0.0.1".parse().unwrap(), address_class::BACKEND),
            Write::Backend(0),
            Write::Generation(0, 1),
            Write::AddressClass("10.0.0.2".parse().unwrap(), address_class::BACKEND),
            Write::Backend(1),
            Write::Generation(1, 1),
            Write::Slots(0, vec![BackendRef::new(0, 1), BackendRef::new(1, 1)]),
            Write::Publication(0, forward(0, 2).with_local(true)),
            Write::InsertName(0, "default/web:http".into()),
            Write::InsertFrontend(frontend.marker(), address_marker::ANSWERS),
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
    // Afterwards the marker tells what pings get.
    let marker = |value| Write::InsertFrontend(frontend("10.96.0.1:80").marker(), value);
    let ends = [Write::Generation(0, 2), Write::Generation(1, 2)];
    assert_eq!(log[..1], [Write::Publication(0, reject)]);
    assert_eq!((&log[1..3], &log[3..]), (&ends[..], &[marker(address_marker::REFUSES)][..]));
    let drop = Publication::new(Verdict::DROP, 0, 0);
    let log = node.publish(&["default/web:http 10.96.0.1:80/tcp drop"]);
    assert_eq!(log, [Write::Publication(0, drop), marker(address_marker::DROPS)]);
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
fn the_wish_for_resets_comes_and_goes_without_touching_the_endpoints() {
    let mut node = Node::new(CAPACITIES);
    node.publish(&[WEB]);
    let asking = "default/web:http 10.96.0.1:80/tcp forward reset 10.0.0.1:8080 10.0.0.2:8080+local";
    assert_eq!(node.publish(&[asking]), [Write::ServiceFlags(0, service_flag::RESET_WHEN_GONE)]);
    node.restart();
    assert_eq!(node.publish(&[asking]), []);
    assert_eq!(node.publish(&[WEB]), [Write::ServiceFlags(0, 0)]);
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
    let class = |address: &str| node.publisher.maps().read_address_class(address.parse().unwrap()).unwrap();
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
fn the_publication_says_whether_an_endpoint_is_on_this_node() {
    let mut node = Node::new(CAPACITIES);
    let web = |backends: &str| format!("default/web:http 10.96.0.1:80/tcp forward {backends}");
    for (backends, local) in [
        ("10.0.0.1:80 10.0.0.2:80+local", true),
        ("10.0.0.1:80 10.0.0.2:80+local+draining", false),
        // The endpoint stays, what is known of its node changes.
        ("10.0.0.1:80+local 10.0.0.2:80+local+draining", true),
        ("10.0.0.1:80 10.0.0.2:80+local+draining", false),
    ] {
        node.publish(&[&web(backends)]);
        let publication = node.publisher.maps().read_service(0).unwrap().publication;
        assert_eq!((publication.verdict(), publication.has_local()), (Verdict::FORWARD, local), "{backends}");
        node.restart();
        assert!(node.publish(&[&web(backends)]).is_empty(), "{backends}: it is found as it was left");
    }
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
