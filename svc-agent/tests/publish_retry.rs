//! Services that could not be published: when they are tried again, and how many at a time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod publish_support;

use std::time::Duration;

use publish_support::node::Node;
use publish_support::{CAPACITIES, expected_text, plans};
use svc_agent::publish::{Capacities, GRACE};

fn service(number: usize) -> String {
    format!("default/s{number:02} 10.96.0.{number}:80/tcp forward 10.0.0.1:80")
}

#[test]
fn attempts_become_rare_while_nothing_is_freed() {
    let mut node = Node::new(Capacities { slots: 1, ..CAPACITIES });
    node.publish(&[&service(1)]);
    node.try_publish(&[&service(2)]).unwrap_err();
    let mut waits = Vec::new();
    for attempt in 1..=9 {
        let wait = node.publisher.deadline().unwrap() - node.now;
        waits.push(wait.as_secs());
        node.pass(wait);
        assert_eq!(node.publisher.stats().failures.full, 1 + attempt, "one attempt each");
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 64, 64]);

    // Space ends the wait at once.
    node.remove("default/s01");
    node.pass(GRACE);
    assert_eq!(node.text(), expected_text(&plans(&[&service(2)])));
    assert_eq!(node.publisher.deadline().filter(|at| *at < node.now + Duration::from_secs(60)), None);
    // The next one does not pay for the last.
    node.try_publish(&[&service(3)]).unwrap_err();
    assert_eq!(node.publisher.deadline().unwrap() - node.now, Duration::from_secs(1));
}

#[test]
fn freed_space_is_tried_by_few_and_used_by_all_that_fit() {
    const WAITING: usize = 40;
    let mut node = Node::new(Capacities { slots: 3, ..CAPACITIES });
    let large = "default/large 10.96.1.1:80/tcp forward 10.0.0.1:80 10.0.0.2:80 10.0.0.3:80";
    node.publish(&[large]);
    let larger = "default/a-larger 10.96.1.2:80/tcp forward 10.0.0.1:80 10.0.0.2:80 10.0.0.3:80 10.0.0.4:80";
    node.try_publish(&[larger]).unwrap_err();
    for number in 1..=WAITING {
        node.try_publish(&[&service(number)]).unwrap_err();
    }
    // Long after, so that no attempt is due.
    while node.publisher.deadline().unwrap() - node.now < Duration::from_secs(64) {
        let wait = node.publisher.deadline().unwrap() - node.now;
        node.pass(wait);
    }
    let before = node.publisher.stats().failures.full;
    node.remove("default/large");
    node.pass(GRACE);
    let tried = node.publisher.stats().failures.full - before;
    assert!((13..=32).contains(&tried), "{tried} attempts in vain");
    assert_eq!((node.publisher.stats().services, node.publisher.pending()), (3, WAITING + 1 - 3));
    assert_eq!(node.publisher.audit(), None);
}
