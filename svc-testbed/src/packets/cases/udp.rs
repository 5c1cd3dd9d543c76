//! The life of UDP flows to a service.

use svc_common::Protocol;

use super::cast::*;
use super::refused::unreachable;
use crate::packets::case::Hook::*;
use crate::packets::case::{Case, case, dice};
use crate::packets::frame::{Checksums, ETHERNET_LEN, Frame, udp};
use crate::packets::world::{Change, World};

const DNS_POD_2: &str = "10.244.4.2:53";
const DNS_V6: &str = "[fd00:10:96::a]:53";
const DNS_POD_V6: &str = "[fd00:10:244:3::2]:5353";

const OPENED: &str = "
    + flow ingress udp 10.244.3.5:40000 > 10.96.0.10:53 => 10.244.3.5:40000 > 10.244.3.2:53, backend 1, service 1, to_backend addresses, peer egress []
    + flow egress udp 10.244.3.2:53 > 10.244.3.5:40000 => 10.96.0.10:53 > 10.244.3.5:40000, backend 1, service 1, addresses, peer ingress []
    service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +36";
const REPLIED: &str = "
    ~ flow egress udp 10.244.3.2:53 > 10.244.3.5:40000 [replied]
    ~ flow ingress udp 10.244.3.5:40000 > 10.96.0.10:53 [replied]
    service 1: packets_to_client +1, bytes_to_client +36";
/// A packet of either direction keeps both flows alive.
const SEEN: &str = "
    ~ flow ingress udp 10.244.3.5:40000 > 10.96.0.10:53 seen
    ~ flow egress udp 10.244.3.2:53 > 10.244.3.5:40000 seen";
const TO_BACKEND: &str = "service 1: packets_to_backend +1, bytes_to_backend +36";
const TO_CLIENT: &str = "service 1: packets_to_client +1, bytes_to_client +36";
const OPENED_2: &str = "
    ~ flow ingress udp 10.244.3.5:40000 > 10.96.0.10:53 => 10.244.3.5:40000 > 10.244.4.2:53, backend 2, service 1, to_backend addresses, peer egress []
    + flow egress udp 10.244.4.2:53 > 10.244.3.5:40000 => 10.96.0.10:53 > 10.244.3.5:40000, backend 2, service 1, addresses, peer ingress []
    service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +36";
const OLD_REPLIES: &str = "late replies of the old backend may still pass";

fn two_pods() -> World {
    World::new().forward(Protocol::UDP, DNS, &[DNS_POD, DNS_POD_2])
}

fn opened(name: &'static str, world: &World) -> Case {
    case(name, world).at(PodIngress, udp(CLIENT, DNS)).becomes(udp(CLIENT, DNS_POD)).changes(OPENED)
}

fn answered(name: &'static str, world: &World) -> Case {
    opened(name, world).at(PodEgress, udp(DNS_POD, CLIENT)).becomes(udp(DNS, CLIENT)).changes(REPLIED)
}

/// Chooses the payload so that `translated(payload)` has the checksum zero, which UDP writes as 0xffff.
fn with_checksum_zero(translated: impl Fn(&[u8]) -> Frame, checksum_at: usize) -> [u8; 2] {
    (0..=u16::MAX)
        .map(u16::to_be_bytes)
        .find(|payload| {
            let bytes = translated(payload).bytes(Checksums::Complete);
            bytes[ETHERNET_LEN + checksum_at..][..2] == [0xff, 0xff]
        })
        .expect("one of all payloads makes the sum full")
}

pub fn cases() -> Vec<Case> {
    vec![
        query_and_answer(),
        query_and_answer_v6(),
        without_checksum(),
        checksum_zero(),
        checksum_zero_v6(),
        stays_while_it_serves(),
        moves(),
        moves_to_nobody(),
        drains(),
        idle(),
        kept_alive_by_answers(),
        socket_older_than_service(),
        reused_index(),
        odd_length(),
    ]
}

fn query_and_answer() -> Case {
    answered("udp: question and answer, IPv4", &two_pods())
        .random(&[dice(0, 2)])
        .at(PodIngress, udp(CLIENT, DNS))
        .becomes(udp(CLIENT, DNS_POD))
        .changes(TO_BACKEND)
        .then_at(PodEgress)
        .at(PodEgress, udp(DNS_POD, CLIENT))
        .becomes(udp(DNS, CLIENT))
        .changes(TO_CLIENT)
}

fn query_and_answer_v6() -> Case {
    let world = World::new().forward(Protocol::UDP, DNS_V6, &[DNS_POD_V6]);
    case("udp: question and answer, IPv6, another target port", &world)
        .at(PodIngress, udp(CLIENT_V6, DNS_V6))
        .becomes(udp(CLIENT_V6, DNS_POD_V6))
        .changes(
            "+ flow ingress udp [fd00:10:244:3::5]:40000 > [fd00:10:96::a]:53 => [fd00:10:244:3::5]:40000 > [fd00:10:244:3::2]:5353, backend 1, service 1, to_backend addresses, peer egress []
             + flow egress udp [fd00:10:244:3::2]:5353 > [fd00:10:244:3::5]:40000 => [fd00:10:96::a]:53 > [fd00:10:244:3::5]:40000, backend 1, service 1, addresses, peer ingress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +56",
        )
        .at(PodEgress, udp(DNS_POD_V6, CLIENT_V6))
        .becomes(udp(DNS_V6, CLIENT_V6))
        .changes(
            "~ flow egress udp [fd00:10:244:3::2]:5353 > [fd00:10:244:3::5]:40000 [replied]
             ~ flow ingress udp [fd00:10:244:3::5]:40000 > [fd00:10:96::a]:53 [replied]
             service 1: packets_to_client +1, bytes_to_client +56",
        )
}

fn without_checksum() -> Case {
    let world = World::new().forward(Protocol::UDP, DNS, &[DNS_POD]);
    case("udp: no checksum stays no checksum", &world)
        .at(PodIngress, udp(CLIENT, DNS).without_checksum())
        .becomes(udp(CLIENT, DNS_POD).without_checksum())
        .changes(OPENED)
        .at(PodEgress, udp(DNS_POD, CLIENT).without_checksum())
        .becomes(udp(DNS, CLIENT).without_checksum())
        .changes(REPLIED)
}

fn checksum_zero() -> Case {
    let world = World::new().forward(Protocol::UDP, DNS, &[DNS_POD]);
    let payload = with_checksum_zero(|payload| udp(CLIENT, DNS_POD).payload(payload), 26);
    case("udp: a checksum that becomes zero is written as 0xffff, IPv4", &world)
        .at(PodIngress, udp(CLIENT, DNS).payload(&payload))
        .becomes(udp(CLIENT, DNS_POD).payload(&payload))
        .changes(&OPENED.replace("bytes_to_backend +36", "bytes_to_backend +30"))
}

fn checksum_zero_v6() -> Case {
    let world = World::new().forward(Protocol::UDP, DNS_V6, &["[fd00:10:244:3::2]:53"]);
    let payload = with_checksum_zero(|payload| udp(CLIENT_V6, "[fd00:10:244:3::2]:53").payload(payload), 46);
    case("udp: a checksum that becomes zero is written as 0xffff, IPv6 (RFC 8200 8.1)", &world)
        .at(PodIngress, udp(CLIENT_V6, DNS_V6).payload(&payload))
        .becomes(udp(CLIENT_V6, "[fd00:10:244:3::2]:53").payload(&payload))
        .changes(
            "+ flow ingress udp [fd00:10:244:3::5]:40000 > [fd00:10:96::a]:53 => [fd00:10:244:3::5]:40000 > [fd00:10:244:3::2]:53, backend 1, service 1, to_backend addresses, peer egress []
             + flow egress udp [fd00:10:244:3::2]:53 > [fd00:10:244:3::5]:40000 => [fd00:10:96::a]:53 > [fd00:10:244:3::5]:40000, backend 1, service 1, addresses, peer ingress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +50",
        )
}

fn stays_while_it_serves() -> Case {
    let mut world = two_pods();
    let start = answered("udp: a flow stays with a backend that serves, whatever happens to the others", &world);
    let changed = [world.publish(1, &[1]), world.end_backend(2)].concat();
    start
        .random(&[dice(0, 2)])
        .meanwhile(changed)
        .at(PodIngress, udp(CLIENT, DNS))
        .becomes(udp(CLIENT, DNS_POD))
        .changes(TO_BACKEND)
}

fn moves() -> Case {
    let mut world = two_pods();
    let start = answered("udp: the next datagram after its backend is gone goes to another one", &world);
    let removed = [world.publish(1, &[2]), world.end_backend(1)].concat();
    start
        .random(&[dice(0, 2)])
        .meanwhile(removed)
        .at(PodIngress, udp(CLIENT, DNS))
        .becomes(udp(CLIENT, DNS_POD_2))
        .changes(OPENED_2)
        .leaves_half(OLD_REPLIES)
        .at(PodEgress, udp(DNS_POD, CLIENT))
        .becomes(udp(DNS, CLIENT))
        .changes(TO_CLIENT)
        .at(PodEgress, udp(DNS_POD_2, CLIENT))
        .becomes(udp(DNS, CLIENT))
        .changes(
            "~ flow egress udp 10.244.4.2:53 > 10.244.3.5:40000 [replied]
             ~ flow ingress udp 10.244.3.5:40000 > 10.96.0.10:53 [replied]
             service 1: packets_to_client +1, bytes_to_client +36",
        )
}

fn moves_to_nobody() -> Case {
    let mut world = two_pods();
    let start = answered("udp: the next datagram after the last backend is gone is refused", &world);
    let removed = [world.publish(1, &[]), world.end_backend(1), world.end_backend(2)].concat();
    start
        .random(&[dice(0, 2)])
        .meanwhile(removed)
        .at(PodIngress, udp(CLIENT, DNS))
        .is_answered_with(|checksums| unreachable(&udp(CLIENT, DNS), checksums))
        .changes(
            "service 1: rejected +1
             drops: no_endpoint +1",
        )
}

fn drains() -> Case {
    let mut world = two_pods();
    let start = answered("udp: a flow stays with a backend that drains", &world);
    let draining = [world.publish(1, &[2]), world.drain_backend(1)].concat();
    start
        .random(&[dice(0, 2), dice(0, 1)])
        .meanwhile(draining)
        .at(PodIngress, udp(CLIENT, DNS))
        .becomes(udp(CLIENT, DNS_POD))
        .changes(TO_BACKEND)
        .at(PodIngress, udp("10.244.3.5:40001", DNS))
        .becomes(udp("10.244.3.5:40001", DNS_POD_2))
        .changes(
            "+ flow ingress udp 10.244.3.5:40001 > 10.96.0.10:53 => 10.244.3.5:40001 > 10.244.4.2:53, backend 2, service 1, to_backend addresses, peer egress []
             + flow egress udp 10.244.4.2:53 > 10.244.3.5:40001 => 10.96.0.10:53 > 10.244.3.5:40001, backend 2, service 1, addresses, peer ingress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +36",
        )
}

fn idle() -> Case {
    answered("udp: a flow is forgotten after some minutes of silence", &two_pods())
        .random(&[dice(0, 2), dice(1, 2)])
        .meanwhile(vec![Change::Advance(170)])
        .at(PodIngress, udp(CLIENT, DNS))
        .becomes(udp(CLIENT, DNS_POD))
        .changes(SEEN)
        .changes(TO_BACKEND)
        .meanwhile(vec![Change::Advance(200)])
        .at(PodIngress, udp(CLIENT, DNS))
        .becomes(udp(CLIENT, DNS_POD_2))
        .changes(OPENED_2)
        .leaves_half(OLD_REPLIES)
}

/// The client of a stream only listens; conntrack keeps such a flow as well.
fn kept_alive_by_answers() -> Case {
    answered("udp: answers alone keep a flow with its backend", &two_pods())
        .random(&[dice(0, 2), dice(1, 2)])
        .meanwhile(vec![Change::Advance(100)])
        .at(PodEgress, udp(DNS_POD, CLIENT))
        .becomes(udp(DNS, CLIENT))
        .changes(SEEN)
        .changes(TO_CLIENT)
        .meanwhile(vec![Change::Advance(100)])
        .at(PodIngress, udp(CLIENT, DNS))
        .becomes(udp(CLIENT, DNS_POD))
        .changes(SEEN)
        .changes(TO_BACKEND)
}

fn socket_older_than_service() -> Case {
    let world = World::new();
    let service = World::new().forward(Protocol::UDP, DNS, &[DNS_POD]);
    case("udp: a socket that sent before its service existed works once it does", &world)
        .at(PodIngress, udp(CLIENT, DNS))
        .meanwhile(service.changes().to_vec())
        .at(PodIngress, udp(CLIENT, DNS))
        .becomes(udp(CLIENT, DNS_POD))
        .changes(OPENED)
}

fn reused_index() -> Case {
    let mut world = two_pods();
    let start = answered("udp: the index of the backend is used for another service's endpoint", &world);
    let reused = [world.publish(1, &[2]), world.end_backend(1), world.reuse_backend(1, "10.244.9.9:999", 7)].concat();
    start
        .random(&[dice(0, 2)])
        .meanwhile(reused)
        .at(PodIngress, udp(CLIENT, DNS))
        .becomes(udp(CLIENT, DNS_POD_2))
        .changes(OPENED_2)
        .leaves_half(OLD_REPLIES)
}

fn odd_length() -> Case {
    let world = World::new().forward(Protocol::UDP, DNS, &[DNS_POD]);
    case("udp: odd and empty payloads", &world)
        .at(PodIngress, udp(CLIENT, DNS).payload(b"12345678"))
        .becomes(udp(CLIENT, DNS_POD).payload(b"12345678"))
        .changes(OPENED)
        .at(PodIngress, udp(CLIENT, DNS).payload(b"odd"))
        .becomes(udp(CLIENT, DNS_POD).payload(b"odd"))
        .changes("service 1: packets_to_backend +1, bytes_to_backend +31")
        .at(PodIngress, udp(CLIENT, DNS).payload(b""))
        .becomes(udp(CLIENT, DNS_POD).payload(b""))
        .changes("service 1: packets_to_backend +1, bytes_to_backend +28")
}
