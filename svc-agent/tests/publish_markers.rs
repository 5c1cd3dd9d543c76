//! Every address of a service is marked while, and only while, a frontend has it: programs refuse packets to its other
//! ports.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod publish_support;

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use publish_support::node::{Node, frontend, frontend_writes};
use publish_support::{CAPACITIES, expected_text, plans};
use svc_agent::publish::faulty::{Fault, FaultyMaps};
use svc_agent::publish::memory::{MemoryMaps, Write};
use svc_agent::publish::{Maps, MapsSnapshot, PublishError, Publisher};
use svc_common::address_marker;

const WEB: &str = "default/web:http 10.96.0.1:80/tcp forward 10.0.0.1:8080 10.0.0.2:8080+local";

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

/// What the marker of 10.96.0.1 says.
fn marker(node: &Node) -> u32 {
    let marker = frontend("10.96.0.1:80").marker();
    let found = node.publisher.maps().read_frontends().unwrap().into_iter().find(|(key, _)| *key == marker);
    assert_eq!(node.publisher.audit(), None);
    found.unwrap().1
}

fn marker_writes(log: &[Write]) -> usize {
    log.iter().filter(|write| matches!(write, Write::InsertFrontend(key, _) if key.is_marker())).count()
}

#[test]
fn a_marker_says_whether_any_service_of_the_address_has_an_endpoint() {
    let mut node = Node::new(CAPACITIES);
    let mut step = |plans: &[&str]| {
        let log = node.publish(plans);
        (marker(&node), marker_writes(&log))
    };
    let (empty, local) = ("default/web:a 10.96.0.1:80/tcp reject", "default/web:a 10.96.0.1:80/tcp drop");
    let full = "default/web:a 10.96.0.1:80/tcp forward 10.0.0.1:8080";
    let more = "default/web:a 10.96.0.1:80/tcp forward 10.0.0.1:8080 10.0.0.2:8080";
    let other = "default/web:b 10.96.0.1:81/udp forward 10.0.0.1:8080";
    assert_eq!(step(&[empty]), (address_marker::REFUSES, 1));
    assert_eq!(step(&[full]), (address_marker::ANSWERS, 1));
    assert_eq!(step(&[more]), (address_marker::ANSWERS, 0), "only a change of the verdict is written");
    assert_eq!(step(&[local]), (address_marker::DROPS, 1));
    assert_eq!(step(&[local, other]), (address_marker::ANSWERS, 1));
    assert_eq!(step(&[empty, other]), (address_marker::ANSWERS, 0));
    assert_eq!(step(&[empty]), (address_marker::REFUSES, 1), "the other port is gone");
}

#[test]
fn a_marker_that_says_something_else_is_put_right_after_a_restart() {
    let mut node = Node::new(CAPACITIES);
    node.publish(&[WEB]);
    let key = frontend("10.96.0.1:80").marker();
    node.publisher.maps_mut().insert_frontends(&[(key, address_marker::REFUSES)]).unwrap();
    node.restart();
    assert_eq!(node.pass(Duration::ZERO), [Write::InsertFrontend(key, address_marker::ANSWERS)]);
    assert_eq!(marker(&node), address_marker::ANSWERS);
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
    maps.insert_frontends(&[(left_over, address_marker::REFUSES), (taken, address_marker::REFUSES)]).unwrap();
    node.restart();
    assert_eq!(node.publisher.maps_mut().take_log(), [], "adoption writes nothing");
    assert_eq!(node.publisher.deadline(), Some(node.now));
    let marker = frontend("10.96.0.1:80").marker();
    assert_eq!(node.pass(Duration::ZERO), [Write::InsertFrontend(marker, address_marker::ANSWERS)]);
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
