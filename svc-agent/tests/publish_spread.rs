//! Weights and Maglev tables in the maps: what is written when they change, what a restart finds, and what happens when
//! there is no room for them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod publish_support;

use std::time::Duration;

use publish_support::node::Node;
use publish_support::{CAPACITIES, expected_text, plans};
use svc_agent::publish::memory::Write;
use svc_agent::publish::{Capacities, GRACE, Maps, PublishError};
use svc_common::{BackendRef, Publication, Verdict, service_flag};

const ROOM: Capacities = Capacities { slots: 4_096, ..CAPACITIES };
const RANDOM: &str = "default/web 10.96.0.1:80/tcp forward 10.0.0.1:80 10.0.0.2:80 10.0.0.3:80+draining";
const MAGLEV: &str = "default/web 10.96.0.1:80/tcp forward maglev 10.0.0.1:80 10.0.0.2:80 10.0.0.3:80+draining";

fn slots(node: &Node, index: u32) -> Vec<BackendRef> {
    let maps = node.publisher.maps();
    let publication = maps.read_service(index).unwrap().publication;
    let first = publication.first_slot();
    (first..first + publication.slot_count()).map(|slot| maps.read_slot(slot).unwrap()).collect()
}

#[test]
fn weights_repeat_slots_and_change_with_one_store() {
    let mut node = Node::new(CAPACITIES);
    node.publish(&[RANDOM]);
    let weighted = RANDOM.replace("10.0.0.2:80", "10.0.0.2:80+x2");
    let log = node.publish(&[&weighted]);
    let [first, second] = [BackendRef::new(0, 1), BackendRef::new(1, 1)];
    let publication = Publication::new(Verdict::FORWARD, 2, 3);
    assert_eq!(log, [Write::Slots(2, vec![first, second, second]), Write::Publication(0, publication)]);
    assert_eq!(node.text(), expected_text(&plans(&[&weighted])));
    node.restart();
    assert_eq!(node.publish(&[&weighted]), []);
}

#[test]
fn the_algorithm_changes_in_place_and_survives_a_restart() {
    let mut node = Node::new(ROOM);
    node.publish(&[RANDOM]);
    let log = node.publish(&[MAGLEV]);
    assert_eq!(log[0], Write::ServiceFlags(0, service_flag::HASH));
    assert!(matches!(log[1], Write::Slots(2, _)) && matches!(log[2], Write::Publication(0, _)) && log.len() == 3);
    assert_eq!(node.text(), expected_text(&plans(&[MAGLEV])));
    let table = slots(&node, 0);
    assert_eq!(table.len(), 1_021);
    node.restart();
    assert_eq!(node.publish(&[MAGLEV]), [], "a restart moves nobody");

    let grown = MAGLEV.replace("10.0.0.3:80+draining", "10.0.0.3:80 10.0.0.4:80");
    node.publish(&[&grown]);
    node.publish(&[MAGLEV]);
    assert_eq!(slots(&node, 0), table, "the same endpoints, the same table");
    node.publish(&[RANDOM]);
    assert_eq!(node.text(), expected_text(&plans(&[RANDOM])));
}

#[test]
fn without_room_for_a_table_the_endpoints_are_right_and_the_shares_equal() {
    let mut node = Node::new(Capacities { slots: 1_030, ..CAPACITIES });
    node.publish(&[MAGLEV]);
    let other = "default/api 10.96.0.2:80/tcp forward maglev 10.0.0.7:80 10.0.0.8:80";
    let error = node.try_publish(&[other]).unwrap_err();
    assert!(matches!(error, PublishError::Reduced { capacity: 1_030, .. }), "{error}");
    assert!(error.to_string().contains("map SLOTS is full"), "{error}");
    assert_eq!((slots(&node, 1).len(), node.publisher.pending()), (2, 1));
    assert_eq!(node.publisher.audit(), None);

    // Its endpoints still follow the cluster.
    let moved = other.replace("10.0.0.8", "10.0.0.9");
    node.try_publish(&[&moved]).unwrap_err();
    assert!(node.text().contains("10.0.0.9:80") && !node.text().contains("10.0.0.8:80"), "{}", node.text());
    assert_eq!(node.pass(Duration::ZERO), [], "an attempt that fails again writes nothing");

    node.remove("default/web");
    node.pass(GRACE);
    assert_eq!(node.text(), expected_text(&plans(&[&moved])));
    assert_eq!(node.publisher.pending(), 0);
}
