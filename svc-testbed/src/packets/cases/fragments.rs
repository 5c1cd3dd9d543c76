//! Fragmented datagrams, in any order: those that overtake the first one wait for it.

use svc_common::{DropReason, Protocol};

use super::cast::*;
use crate::packets::case::Hook::*;
use crate::packets::case::{Case, case};
use crate::packets::frame::{Frame, raw, udp};
use crate::packets::world::{Change, NODE_V4, World};

const DNS_V6: &str = "[fd00:10:96::a]:53";
const DNS_POD_V6: &str = "[fd00:10:244:3::2]:53";
const OUTSIDE: &str = "192.0.2.9:5000";
/// As it is known between its two pairs of flows.
const BETWEEN: &str = "192.0.2.9:CHOSEN";

const OPENED: &str = "
    + flow ingress udp 10.244.3.5:40000 > 10.96.0.10:53 => 10.244.3.5:40000 > 10.244.3.2:53, backend 1, service 1, to_backend addresses, peer egress []
    + flow egress udp 10.244.3.2:53 > 10.244.3.5:40000 => 10.96.0.10:53 > 10.244.3.5:40000, backend 1, service 1, addresses, peer ingress []
    service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +44";
const REPLIED: &str = "
    ~ flow ingress udp 10.244.3.5:40000 > 10.96.0.10:53 [replied]
    ~ flow egress udp 10.244.3.2:53 > 10.244.3.5:40000 [replied]
    service 1: packets_to_client +1, bytes_to_client +44";
const LATER_TO_BACKEND: &str = "service 1: packets_to_backend +1, bytes_to_backend +33";
const LAST_TO_BACKEND: &str = "service 1: packets_to_backend +1, bytes_to_backend +34";
const LAST_TO_CLIENT: &str = "service 1: packets_to_client +1, bytes_to_client +34";
const UNKNOWN: &str = "drops: fragment_unknown +1";

fn world() -> World {
    World::new().forward(Protocol::UDP, DNS, &[DNS_POD])
}

fn first(from: &str, to: &str) -> Frame {
    udp(from, to).payload(&[1; 16]).fragment(7, 0, true)
}

fn later(from: &str, to: &str) -> Frame {
    raw(17, from, to, b"a later piece").fragment(7, 185, true)
}

fn last(from: &str, to: &str) -> Frame {
    raw(17, from, to, b"the last piece").fragment(7, 370, false)
}

pub fn cases() -> Vec<Case> {
    vec![
        in_order(),
        in_order_v6(),
        reversed(),
        reversed_v6(),
        replies_reversed(),
        outside_reversed(),
        too_late(),
        too_many(),
        too_long(),
        refused(),
        strangers(),
        first_again(),
    ]
}

fn in_order() -> Case {
    case("fragments: they follow the first of their datagram, both ways", &world())
        .at(PodIngress, first(CLIENT, DNS))
        .becomes(first(CLIENT, DNS_POD))
        .changes(OPENED)
        .at(PodIngress, later(CLIENT, DNS))
        .becomes(later(CLIENT, DNS_POD))
        .changes(LATER_TO_BACKEND)
        .at(PodIngress, last(CLIENT, DNS))
        .becomes(last(CLIENT, DNS_POD))
        .changes(LAST_TO_BACKEND)
        .at(PodEgress, first(DNS_POD, CLIENT))
        .becomes(first(DNS, CLIENT))
        .changes(REPLIED)
        .at(PodEgress, last(DNS_POD, CLIENT))
        .becomes(last(DNS, CLIENT))
        .changes(LAST_TO_CLIENT)
}

const OPENED_V6: &str = "
    + flow ingress udp [fd00:10:244:3::5]:40000 > [fd00:10:96::a]:53 => [fd00:10:244:3::5]:40000 > [fd00:10:244:3::2]:53, backend 1, service 1, to_backend addresses, peer egress []
    + flow egress udp [fd00:10:244:3::2]:53 > [fd00:10:244:3::5]:40000 => [fd00:10:96::a]:53 > [fd00:10:244:3::5]:40000, backend 1, service 1, addresses, peer ingress []
    service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +72";

fn first_v6(to: &str) -> Frame {
    udp(CLIENT_V6, to).payload(&[1; 16]).fragment(70_000, 0, true)
}

fn last_v6(to: &str) -> Frame {
    raw(17, CLIENT_V6, to, b"the last piece").fragment(70_000, 185, false)
}

fn in_order_v6() -> Case {
    let world = World::new().forward(Protocol::UDP, DNS_V6, &[DNS_POD_V6]);
    case("fragments: they follow the first of their datagram, IPv6", &world)
        .at(PodIngress, first_v6(DNS_V6))
        .becomes(first_v6(DNS_POD_V6))
        .changes(OPENED_V6)
        .at(PodIngress, last_v6(DNS_V6))
        .becomes(last_v6(DNS_POD_V6))
        .changes("service 1: packets_to_backend +1, bytes_to_backend +62")
}

/// The copies that come again are the frames of the last steps: a case plays every arrival itself.
fn reversed() -> Case {
    case("fragments: those that overtake the first wait, and come again after it", &world())
        .at(PodIngress, last(CLIENT, DNS))
        .waits()
        .changes("+ held ingress udp 10.244.3.5 > 10.96.0.10 id 7 number 0 => 34 bytes")
        .at(PodIngress, later(CLIENT, DNS))
        .waits()
        .changes("+ held ingress udp 10.244.3.5 > 10.96.0.10 id 7 number 1 => 33 bytes")
        .at(PodIngress, first(CLIENT, DNS))
        .waits()
        .changes(
            "- held ingress udp 10.244.3.5 > 10.96.0.10 id 7 number 0
             - held ingress udp 10.244.3.5 > 10.96.0.10 id 7 number 1",
        )
        .at(PodIngress, first(CLIENT, DNS))
        .becomes(first(CLIENT, DNS_POD))
        .changes(OPENED)
        .at(PodIngress, last(CLIENT, DNS))
        .becomes(last(CLIENT, DNS_POD))
        .changes(LAST_TO_BACKEND)
        .at(PodIngress, later(CLIENT, DNS))
        .becomes(later(CLIENT, DNS_POD))
        .changes(LATER_TO_BACKEND)
}

fn reversed_v6() -> Case {
    let world = World::new().forward(Protocol::UDP, DNS_V6, &[DNS_POD_V6]);
    case("fragments: those that overtake the first wait, and come again after it, IPv6", &world)
        .at(UplinkIngress, last_v6(DNS_V6))
        .waits()
        .changes("+ held ingress udp fd00:10:244:3::5 > fd00:10:96::a id 70000 number 0 => 62 bytes")
        .at(UplinkIngress, first_v6(DNS_V6))
        .waits()
        .changes("- held ingress udp fd00:10:244:3::5 > fd00:10:96::a id 70000 number 0")
        .at(UplinkIngress, first_v6(DNS_V6))
        .becomes(first_v6(DNS_POD_V6))
        .changes(OPENED_V6)
        .at(UplinkIngress, last_v6(DNS_V6))
        .becomes(last_v6(DNS_POD_V6))
        .changes("service 1: packets_to_backend +1, bytes_to_backend +62")
}

fn replies_reversed() -> Case {
    case("fragments: replies wait for their first one, too", &world())
        .at(PodIngress, first(CLIENT, DNS))
        .becomes(first(CLIENT, DNS_POD))
        .changes(OPENED)
        .at(PodEgress, last(DNS_POD, CLIENT))
        .waits()
        .changes("+ held egress udp 10.244.3.2 > 10.244.3.5 id 7 number 0 => 34 bytes")
        .at(PodEgress, first(DNS_POD, CLIENT))
        .waits()
        .changes("- held egress udp 10.244.3.2 > 10.244.3.5 id 7 number 0")
        .at(PodEgress, first(DNS_POD, CLIENT))
        .becomes(first(DNS, CLIENT))
        .changes(REPLIED)
        .at(PodEgress, last(DNS_POD, CLIENT))
        .becomes(last(DNS, CLIENT))
        .changes(LAST_TO_CLIENT)
}

/// A client outside: its packets meet two hooks each way, and the replies to the node's address must wait as well.
fn outside_reversed() -> Case {
    const AS_NODE: &str = "10.0.0.1:CHOSEN";
    case("fragments: of a client outside, and replies to the node in its stead", &world())
        .at(UplinkIngress, last(OUTSIDE, DNS))
        .waits()
        .changes("+ held ingress udp 192.0.2.9 > 10.96.0.10 id 7 number 0 => 34 bytes")
        .at(UplinkIngress, first(OUTSIDE, DNS))
        .waits()
        .changes("- held ingress udp 192.0.2.9 > 10.96.0.10 id 7 number 0")
        .at(UplinkIngress, first(OUTSIDE, DNS))
        .becomes(first(BETWEEN, DNS_POD))
        .changes(
            "+ flow ingress udp 192.0.2.9:5000 > 10.96.0.10:53 => 192.0.2.9:CHOSEN > 10.244.3.2:53, backend 1, service 1, to_backend addresses, peer egress []
             + flow egress udp 10.244.3.2:53 > 192.0.2.9:CHOSEN => 10.96.0.10:53 > 192.0.2.9:5000, backend 1, service 1, addresses, peer ingress []
             + flow egress udp 192.0.2.9:CHOSEN > 10.244.3.2:53 => 10.0.0.1:CHOSEN > 10.244.3.2:53, backend 1, no service, to_backend addresses, peer ingress []
             + flow ingress udp 10.244.3.2:53 > 10.0.0.1:CHOSEN => 10.244.3.2:53 > 192.0.2.9:CHOSEN, backend 1, no service, addresses, peer egress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +44",
        )
        .at(PodEgress, last(OUTSIDE, DNS_POD))
        .waits()
        .changes("+ held egress udp 192.0.2.9 > 10.244.3.2 id 7 number 0 => 34 bytes")
        .at(PodEgress, first(BETWEEN, DNS_POD))
        .waits()
        .changes("- held egress udp 192.0.2.9 > 10.244.3.2 id 7 number 0")
        .at(PodEgress, first(BETWEEN, DNS_POD))
        .becomes(first(AS_NODE, DNS_POD))
        .at(PodEgress, last(OUTSIDE, DNS_POD))
        .becomes(last(NODE_V4, DNS_POD))
        .at(PodIngress, last(DNS_POD, NODE_V4))
        .waits()
        .changes("+ held ingress udp 10.244.3.2 > 10.0.0.1 id 7 number 0 => 34 bytes")
        .at(PodIngress, first(DNS_POD, AS_NODE))
        .waits()
        .changes("- held ingress udp 10.244.3.2 > 10.0.0.1 id 7 number 0")
        .at(PodIngress, first(DNS_POD, AS_NODE))
        .becomes(first(DNS_POD, BETWEEN))
        .changes(
            "~ flow egress udp 192.0.2.9:CHOSEN > 10.244.3.2:53 [replied]
             ~ flow ingress udp 10.244.3.2:53 > 10.0.0.1:CHOSEN [replied]",
        )
        .at(PodIngress, last(DNS_POD, NODE_V4))
        .becomes(last(DNS_POD, OUTSIDE))
}

fn too_late() -> Case {
    case("fragments: what waited too long is given up", &world())
        .at(PodIngress, last(CLIENT, DNS))
        .waits()
        .changes("+ held ingress udp 10.244.3.5 > 10.96.0.10 id 7 number 0 => 34 bytes")
        .meanwhile(vec![Change::Advance(40)])
        .at(PodIngress, later(CLIENT, DNS))
        .waits()
        .changes("~ held ingress udp 10.244.3.5 > 10.96.0.10 id 7 number 0 => 33 bytes")
        .changes(UNKNOWN)
        .meanwhile(vec![Change::Advance(40)])
        .at(PodIngress, first(CLIENT, DNS))
        .waits()
        .changes("- held ingress udp 10.244.3.5 > 10.96.0.10 id 7 number 0")
        .changes(UNKNOWN)
        .at(PodIngress, first(CLIENT, DNS))
        .becomes(first(CLIENT, DNS_POD))
        .changes(OPENED)
}

fn too_many() -> Case {
    let piece = |number: u16| raw(17, CLIENT, DNS, b"piece").fragment(7, 1 + number, true);
    let start = case("fragments: more than a datagram can have are not held", &world());
    let held = (0..56).fold(start, |case, number| {
        let line = format!("+ held ingress udp 10.244.3.5 > 10.96.0.10 id 7 number {number} => 25 bytes");
        case.at(PodIngress, piece(number)).waits().changes(&line)
    });
    held.at(PodIngress, piece(56)).is_dropped(DropReason::FragmentUnknown).changes(UNKNOWN)
}

fn too_long() -> Case {
    let long = raw(17, CLIENT, DNS, &[5; 2048]).fragment(7, 185, false);
    let of_reply = raw(17, DNS_POD, CLIENT, &[5; 2048]).fragment(7, 185, false);
    case("fragments: longer ones than an Ethernet frame are not held", &world())
        .at(PodIngress, long)
        .is_dropped(DropReason::FragmentUnknown)
        .changes(UNKNOWN)
        .at(PodEgress, of_reply)
}

fn refused() -> Case {
    let first = first(CLIENT, DNS);
    case("fragments: the first one is refused, the others cannot be", &World::new().reject(Protocol::UDP, DNS))
        .at(PodIngress, first.clone())
        .is_answered_with(|checksums| super::refused::unreachable(&first, checksums))
        .changes(
            "service 1: rejected +1
             drops: no_endpoint +1",
        )
        .at(PodIngress, last(CLIENT, DNS))
        .is_dropped(DropReason::FragmentUnknown)
        .changes(UNKNOWN)
}

fn strangers() -> Case {
    case("fragments: those of others do not wait", &world())
        .at(PodIngress, last(CLIENT, "10.244.3.2"))
        .at(UplinkIngress, last("192.0.2.9", "10.244.3.5"))
        .at(PodEgress, last("192.0.2.9", "10.244.3.5"))
        .at(UplinkEgress, last("10.244.3.5", "192.0.2.9"))
}

fn first_again() -> Case {
    case("fragments: nobody waits for a first one that comes twice", &world())
        .at(PodIngress, first(CLIENT, DNS))
        .becomes(first(CLIENT, DNS_POD))
        .changes(OPENED)
        .at(PodIngress, first(CLIENT, DNS))
        .becomes(first(CLIENT, DNS_POD))
        .changes("service 1: packets_to_backend +1, bytes_to_backend +44")
}
