//! How a backend is chosen: slots, stale reads, affinity.

use svc_common::{DropReason, Protocol};

use super::cast::*;
use crate::packets::case::Hook::*;
use crate::packets::case::{Case, case, dice};
use crate::packets::frame::tcp;
use crate::packets::world::{Change, World};

fn two_pods() -> World {
    World::new().forward(Protocol::TCP, NGINX, &[POD_1, POD_2])
}

/// A connection from a port of the client pod to one of the pods, and its flows.
fn connects(case: Case, port: u16, pod: u32) -> Case {
    connects_at(case, NGINX, port, pod, pod, 1)
}

/// The same through a certain frontend, whose entry is `service`, to a pod that is `backend` in the maps.
fn connects_at(case: Case, frontend: &str, port: u16, pod: u32, backend: u32, service: u32) -> Case {
    let (client, pod) = (format!("10.244.3.5:{port}"), format!("10.244.3.{}:8080", 45 + pod));
    case.at(PodIngress, tcp(&client, frontend).syn(100)).becomes(tcp(&client, &pod).syn(100)).changes(&format!(
        "+ flow ingress tcp {client} > {frontend} => {client} > {pod}, backend {backend}, service {service}, to_backend addresses, peer egress []
         + flow egress tcp {pod} > {client} => {frontend} > {client}, backend {backend}, service {service}, addresses, peer ingress []
         service {service}: connections_tc +1, packets_to_backend +1, bytes_to_backend +40"
    ))
}

pub fn cases() -> Vec<Case> {
    vec![
        every_slot(),
        hashed(),
        hashed_stale_slot(),
        stale_slot(),
        only_stale_slots(),
        empty_slots(),
        foreign_slot(),
        empty_publication(),
        recycled(),
        recycled_address(),
        withdrawn(),
        affinity(),
        affinity_ends_with_backend(),
        affinity_ends_with_draining(),
        affinity_of_all_frontends(),
        affinity_v6(),
    ]
}

fn every_slot() -> Case {
    let start = case("choice: every slot is used", &two_pods()).random(&[dice(0, 2), dice(1, 2)]);
    connects(connects(start, 40_000, 1), 40_001, 2)
}

/// The dice show the other slot each time: nobody throws them.
fn hashed() -> Case {
    let start = case("choice: the hash of the client decides", &two_pods().hashed()).random(&[dice(1, 2), dice(0, 2)]);
    connects(connects(start, 40_000, 1), 40_001, 2)
}

fn hashed_stale_slot() -> Case {
    let mut world = two_pods().hashed();
    let ended = world.end_backend(1);
    let start = case("choice: a hashed slot whose backend has just ended is passed over", &world)
        .random(&[dice(0, 2), dice(1, 2)])
        .meanwhile(ended);
    connects(start, 40_000, 2)
}

fn stale_slot() -> Case {
    let mut world = two_pods();
    let ended = world.end_backend(1);
    let start = case("choice: a slot whose backend has just ended is passed over", &world)
        .random(&[dice(0, 2), dice(0, 2), dice(1, 2)])
        .meanwhile(ended);
    connects(start, 40_000, 2)
}

fn backend_changed(case: Case) -> Case {
    case.at(PodIngress, tcp(CLIENT, NGINX).syn(100)).is_dropped(DropReason::BackendChanged).changes(
        "service 1: rejected +1
         drops: backend_changed +1",
    )
}

fn only_stale_slots() -> Case {
    let mut world = two_pods();
    let ended = [world.end_backend(1), world.end_backend(2)].concat();
    backend_changed(case("choice: no slot holds", &world).meanwhile(ended))
}

fn empty_slots() -> Case {
    let mut world = two_pods();
    let first = world.first_slot(1);
    let emptied = [world.empty_slot(first), world.empty_slot(first + 1)].concat();
    backend_changed(case("choice: slots that name nothing", &world).meanwhile(emptied))
}

fn foreign_slot() -> Case {
    let mut world = two_pods().forward(Protocol::TCP, "10.96.7.7:80", &["10.244.9.9:999"]);
    let foreign = world.publish(1, &[3]);
    backend_changed(case("choice: a slot range that belongs to another service by now", &world).meanwhile(foreign))
}

fn empty_publication() -> Case {
    use svc_common::{Port, Publication, ServiceEntry, Verdict};

    use crate::packets::frame::at;
    use crate::packets::world::wide;
    let world = two_pods();
    let entry = ServiceEntry {
        publication: Publication::new(Verdict::FORWARD, 4000, 0),
        address: wide(at(NGINX).ip()),
        port: Port::from_host(80),
        protocol: Protocol::TCP,
        family: svc_common::Family::V4,
        ..ServiceEntry::default()
    };
    backend_changed(
        case("choice: a publication without slots", &world).meanwhile(vec![Change::Service { index: 1, entry }]),
    )
}

fn recycled() -> Case {
    let mut world = two_pods();
    let deleted = world.delete_service(1);
    let recycled = world.recycle_service(1, "10.96.7.7:80");
    let stale =
        Change::Frontend { address: crate::packets::frame::at(NGINX), protocol: Protocol::TCP, service: Some(1) };
    case("choice: a frontend that leads to an entry of another service by now is no frontend", &world)
        .meanwhile([deleted, recycled, vec![stale]].concat())
        .at(PodIngress, tcp(CLIENT, NGINX).syn(100))
}

fn recycled_address() -> Case {
    let mut world = two_pods();
    let recycled = world.recycle_service(1, "10.96.7.7:80");
    case("choice: the same on an address that has other ports: there is no such port", &world)
        .meanwhile(recycled)
        .at(PodIngress, tcp(CLIENT, NGINX).syn(100))
        .is_answered_with(|_| super::refused::reset(NGINX, CLIENT, 0, Some(101)))
        .changes("drops: no_such_port +1")
}

fn withdrawn() -> Case {
    let mut world = two_pods();
    let withdrawn = world.withdraw_service(1);
    let mut any_port = crate::packets::frame::at(NGINX);
    any_port.set_port(0);
    case("choice: an entry that is not in use is no service, as if its frontend were gone already", &world)
        .meanwhile(withdrawn)
        .at(PodIngress, tcp(CLIENT, NGINX).syn(100))
        .is_answered_with(|_| super::refused::reset(NGINX, CLIENT, 0, Some(101)))
        .changes("drops: no_such_port +1")
        .meanwhile(vec![Change::Frontend { address: any_port, protocol: Protocol(0), service: None }])
        .at(PodIngress, tcp(CLIENT, NGINX).syn(100))
}

fn affinity() -> Case {
    let start =
        case("affinity: a client stays with its backend until it was away for the timeout", &two_pods().affinity(100))
            .random(&[dice(1, 2), dice(0, 2)]);
    let case = connects(start, 40_000, 2).changes("+ affinity 10.244.3.5 id 100 => backend 2");
    let case = connects(case, 40_001, 2).meanwhile(vec![Change::Advance(80)]);
    let case = connects(case, 40_002, 2).changes("~ affinity 10.244.3.5 id 100 seen");
    let case =
        connects(case.meanwhile(vec![Change::Advance(80)]), 40_003, 2).changes("~ affinity 10.244.3.5 id 100 seen");
    connects(case.meanwhile(vec![Change::Advance(120)]), 40_004, 1).changes("~ affinity 10.244.3.5 id 100 => backend 1")
}

fn affinity_ends_with_backend() -> Case {
    let mut world = two_pods().affinity(10_800);
    let start = case("affinity: a backend that is gone loses its clients", &world).random(&[dice(1, 2), dice(0, 1)]);
    let case = connects(start, 40_000, 2).changes("+ affinity 10.244.3.5 id 100 => backend 2");
    let gone = [world.publish(1, &[1]), world.end_backend(2)].concat();
    connects(case.meanwhile(gone), 40_001, 1).changes("~ affinity 10.244.3.5 id 100 => backend 1")
}

fn affinity_ends_with_draining() -> Case {
    let mut world = two_pods().affinity(10_800);
    let start =
        case("affinity: a backend that only drains loses its clients", &world).random(&[dice(1, 2), dice(0, 1)]);
    let case = connects(start, 40_000, 2).changes("+ affinity 10.244.3.5 id 100 => backend 2");
    let draining = [world.publish(1, &[1]), world.drain_backend(2)].concat();
    connects(case.meanwhile(draining), 40_001, 1).changes("~ affinity 10.244.3.5 id 100 => backend 1")
}

fn affinity_of_all_frontends() -> Case {
    let second = "10.99.0.5:80";
    let world = two_pods().affinity(10_800).also_at(second, &[POD_1, POD_2]);
    let start = case("affinity: shared by all frontends of a service", &world).random(&[dice(1, 2), dice(0, 2)]);
    let case = connects(start, 40_000, 2).changes("+ affinity 10.244.3.5 id 100 => backend 2");
    connects_at(case, second, 40_001, 2, 2, 2)
}

fn affinity_v6() -> Case {
    let world = World::new().forward(Protocol::TCP, NGINX_V6, &[POD_V6]).affinity(10_800);
    case("affinity: IPv6", &world)
        .at(PodIngress, tcp(CLIENT_V6, NGINX_V6).syn(100))
        .becomes(tcp(CLIENT_V6, POD_V6).syn(100))
        .changes(
            "+ flow ingress tcp [fd00:10:244:3::5]:40000 > [fd00:10:110::db]:80 => [fd00:10:244:3::5]:40000 > [fd00:10:244:3::46]:8080, backend 1, service 1, to_backend addresses, peer egress []
             + flow egress tcp [fd00:10:244:3::46]:8080 > [fd00:10:244:3::5]:40000 => [fd00:10:110::db]:80 > [fd00:10:244:3::5]:40000, backend 1, service 1, addresses, peer ingress []
             + affinity fd00:10:244:3::5 id 100 => backend 1
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +60",
        )
}
