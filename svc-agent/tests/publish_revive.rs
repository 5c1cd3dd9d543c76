//! Backends that leave and return: within the time of rest they are the same ones, so that no flow notices; later they are others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod publish_support;

use std::time::Duration;

use publish_support::node::Node;
use svc_agent::publish::memory::Write;
use svc_agent::publish::{Capacities, GRACE};

const CAPACITIES: Capacities = Capacities { services: 4, slots: 16, backends: 4, frontends_v4: 8, frontends_v6: 8 };
const WEB: &str = "default/web:http 10.96.0.1:80/tcp forward 10.0.0.1:8080 10.0.0.2:8080";
const RENAMED: &str = "default/web:www 10.96.0.1:80/tcp forward 10.0.0.1:8080 10.0.0.2:8080";
const NOBODY: &str = "default/web:www 10.96.0.1:80/tcp reject";

fn generations(log: &[Write]) -> Vec<(u32, u32)> {
    let written = log.iter().filter_map(|write| match write {
        Write::Generation(index, generation) => Some((*index, *generation)),
        _ => None,
    });
    written.collect()
}

#[test]
fn a_port_that_is_renamed_before_its_slices_keeps_its_backends() {
    let mut node = Node::new(CAPACITIES);
    assert_eq!(generations(&node.publish(&[WEB])), [(0, 1), (1, 1)]);
    assert_eq!(generations(&node.publish(&[NOBODY])), [(0, 2), (1, 2)]);
    node.pass(GRACE - Duration::from_millis(1));
    assert_eq!(generations(&node.publish(&[RENAMED])), [(0, 1), (1, 1)]);
    // They are in use again, and not given to others when the rest of their first life is over.
    node.pass(GRACE);
    assert_eq!(node.publisher.stats().backends, 2);
    let log = node.publish(&["default/web:www 10.96.0.1:80/tcp forward 10.0.0.1:8080 10.0.0.2:8080 10.0.0.3:8080"]);
    assert_eq!(generations(&log), [(2, 1)]);
}

#[test]
fn who_was_away_for_longer_comes_back_as_another() {
    let mut node = Node::new(CAPACITIES);
    node.publish(&[WEB]);
    node.publish(&[NOBODY]);
    node.pass(GRACE);
    assert_eq!(generations(&node.publish(&[RENAMED])), [(0, 3), (1, 3)]);
}

#[test]
fn another_service_does_not_get_the_backend_of_the_one_that_lost_it() {
    let mut node = Node::new(CAPACITIES);
    node.publish(&[WEB]);
    node.publish(&[NOBODY]);
    let log = node.publish(&["default/api:http 10.96.0.2:80/tcp forward 10.0.0.1:8080"]);
    assert_eq!(generations(&log), [(2, 1)]);
}

#[test]
fn it_comes_back_with_what_it_is_now() {
    let mut node = Node::new(CAPACITIES);
    node.publish(&[WEB]);
    node.publish(&["default/web:http 10.96.0.1:80/tcp forward 10.0.0.1:8080"]);
    node.publish(&["default/web:http 10.96.0.1:80/tcp forward 10.0.0.1:8080 10.0.0.2:8080+local"]);
    let text = node.text();
    assert!(text.contains("10.0.0.2:8080") && text.contains("local"), "{text}");
}
