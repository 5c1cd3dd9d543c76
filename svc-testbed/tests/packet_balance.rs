//! How new connections spread over backends, through the packet logic with fixed seeds and many clients: chi-square against
//! equal and weighted shares, and that a hashed choice depends on the client only.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::HashMap;

use svc_common::Protocol;
use svc_testbed::packets::case::Hook;
use svc_testbed::packets::frame::{Checksums, tcp};
use svc_testbed::packets::native;
use svc_testbed::packets::tables::MemoryTables;
use svc_testbed::packets::world::World;

const NGINX: &str = "10.110.110.219:80";
const CONNECTIONS: u32 = 20_000;
/// Of 7 degrees of freedom, exceeded by one in a million of fair choices. The seeds are fixed: it fails always or never.
const CRITICAL: f64 = 40.5;

fn pods() -> Vec<String> {
    (1..=8).map(|number| format!("10.244.3.{}:8080", 45 + number)).collect()
}

/// A service with the first pod in `weight` slots and seven others in one each.
fn world(weight: usize) -> (World, [u32; 8]) {
    let pods = pods();
    let mut backends: Vec<&str> = pods.iter().map(String::as_str).collect();
    backends.truncate(8);
    let mut world = World::new().forward(Protocol::TCP, NGINX, &backends);
    let mut slots = vec![1; weight];
    slots.extend(2..=8);
    world.publish(1, &slots);
    (world, [weight as u32, 1, 1, 1, 1, 1, 1, 1])
}

/// The pod (from 0) that a client's connection reaches.
fn connect(tables: &MemoryTables, client: &str) -> usize {
    let mut packet = tcp(client, NGINX).syn(100).packet(Checksums::Complete);
    native::run(Hook::PodIngress, &mut packet, tables);
    usize::from(packet.finish()[33]) - 46
}

/// Ports of one client, then of the next: as clients do it.
fn clients() -> impl Iterator<Item = String> {
    (0..CONNECTIONS)
        .map(|number| format!("10.244.{}.{}:{}", number / 2_000, 100 + number / 500 % 4, 32_768 + number % 500))
}

fn expect_shares(counts: &[u32; 8], weights: &[u32; 8]) {
    let (sum, total): (u32, u32) = (weights.iter().sum(), counts.iter().sum());
    let chi_square: f64 = counts
        .iter()
        .zip(weights)
        .map(|(count, weight)| {
            let expected = f64::from(total) * f64::from(*weight) / f64::from(sum);
            (f64::from(*count) - expected).powi(2) / expected
        })
        .sum();
    assert!(chi_square < CRITICAL, "chi-square {chi_square:.1} of {counts:?}");
}

fn count(tables: &MemoryTables, clients: impl Iterator<Item = String>) -> [u32; 8] {
    let mut counts = [0; 8];
    clients.for_each(|client| counts[connect(tables, &client)] += 1);
    counts
}

#[test]
fn random_choice_is_fair() {
    let (world, weights) = world(1);
    expect_shares(&count(&MemoryTables::new(world.changes(), &[]), clients()), &weights);
}

#[test]
fn repeated_slots_are_weights() {
    let (world, weights) = world(5);
    expect_shares(&count(&MemoryTables::new(world.changes(), &[]), clients()), &weights);
}

#[test]
fn the_hash_of_clients_is_fair() {
    for weight in [1, 5] {
        let (world, weights) = world(weight);
        let tables = MemoryTables::new(world.hashed().changes(), &[]);
        expect_shares(&count(&tables, clients()), &weights);
        // Also over the addresses of a network alone.
        let addresses =
            (0..CONNECTIONS).map(|n| format!("10.{}.{}.{}:40000", 240 + n / 65_536, n / 256 % 256, n % 256));
        expect_shares(&count(&tables, addresses), &weights);
    }
}

#[test]
fn a_hashed_choice_depends_on_the_client_only() {
    let hashed = world(1).0.hashed();
    let [first, second] = [[1, 2, 3], [u32::MAX, 7, 0]].map(|random| MemoryTables::new(hashed.changes(), &random));
    let mut pods_of: HashMap<String, Vec<usize>> = HashMap::new();
    for client in clients().step_by(20) {
        let pod = connect(&first, &client);
        assert_eq!(pod, connect(&second, &client), "{client} on another node");
        pods_of.entry(client.split(':').next().unwrap().to_owned()).or_default().push(pod);
    }
    assert!(pods_of.values().all(|pods| pods.iter().any(|pod| *pod != pods[0])), "connections of one client spread");
}

/// A client whose affinity was forgotten still comes to the same pod.
#[test]
fn with_affinity_the_address_alone_decides() {
    let world = world(1).0.affinity(60).hashed();
    let mut counts = [0; 8];
    for number in 0..200 {
        let pods: Vec<_> = [40_000, 40_001, 50_000]
            .map(|port| connect(&MemoryTables::new(world.changes(), &[port]), &format!("10.244.9.{number}:{port}")))
            .into();
        assert!(pods.iter().all(|pod| *pod == pods[0]), "client {number}: {pods:?}");
        counts[pods[0]] += 1;
    }
    expect_shares(&counts, &[1; 8]);
}
