//! Ping to a service address: answered while a service there has an endpoint.

use std::net::IpAddr;

use svc_common::{DropReason, Protocol};

use super::cast::*;
use crate::packets::case::Hook::*;
use crate::packets::case::{Case, Hook, case};
use crate::packets::frame::{Checksums, Frame, at, icmp, raw};
use crate::packets::world::{NODE_V4, NODE_V6, World};

const SERVICE: &str = "10.110.110.219";
const SERVICE_V6: &str = "fd00:10:110::db";
const POD: &str = "10.244.3.5";
const POD_IP_V6: &str = "fd00:10:244:3::5";
const OUTSIDE: &str = "192.0.2.9";
const OUTSIDE_V6: &str = "2001:db8::9";
const PAYLOAD: &[u8] = b"0123456789abcdef0123456789abcdef0123456789abcdef012345678";

fn world() -> World {
    World::new().forward(Protocol::TCP, NGINX, &[POD_1]).forward(Protocol::TCP, NGINX_V6, &[POD_V6])
}

/// Identifier and sequence number.
const ASKED: [u8; 4] = [0x12, 0x34, 0, 1];

fn is_v4(address: &str) -> bool {
    matches!(at(address).ip(), IpAddr::V4(_))
}

fn request(from: &str, to: &str) -> Frame {
    icmp(from, to, if is_v4(to) { 8 } else { 128 }, 0, ASKED, PAYLOAD)
}

fn reply(from: &str, to: &str) -> Frame {
    icmp(from, to, if is_v4(to) { 0 } else { 129 }, 0, ASKED, PAYLOAD).turned()
}

/// Port unreachable that quotes the request.
fn refusal(refused: &Frame) -> Frame {
    let (v4, (from, to)) = (refused.source.is_ipv4(), (refused.destination.ip(), refused.source.ip()));
    let quote = refused.ip_bytes(Checksums::Complete)[..if v4 { 28 } else { 48 }].to_vec();
    let (kind, code) = if v4 { (3, 3) } else { (1, 4) };
    Frame { flow_label: 0, ..icmp(&from.to_string(), &to.to_string(), kind, code, [0; 4], &quote).id(0).ttl(64) }
        .turned()
}

pub fn cases() -> Vec<Case> {
    vec![
        answered("echo: a pod's ping is answered", PodIngress, POD, SERVICE),
        answered("echo: a pod's ping is answered, IPv6", PodIngress, POD_IP_V6, SERVICE_V6),
        answered("echo: a ping from outside is answered", UplinkIngress, OUTSIDE, SERVICE),
        answered("echo: a ping from outside is answered, IPv6", UplinkIngress, OUTSIDE_V6, SERVICE_V6),
        answered("echo: the node's own ping is answered", UplinkEgress, NODE_V4, SERVICE),
        answered("echo: the node's own ping is answered, IPv6", UplinkEgress, NODE_V6, SERVICE_V6),
        case("echo: what others ping through the node is not its own", &world())
            .at(UplinkEgress, request(POD, SERVICE))
            .at(PodEgress, request(OUTSIDE, SERVICE)),
        behind_headers(),
        fragmented(),
        fragmented_v6(),
        refused("echo: refused without endpoint", POD, SERVICE, NGINX),
        refused("echo: refused without endpoint, IPv6", POD_IP_V6, SERVICE_V6, NGINX_V6),
        any_service_counts(),
        local_policy(),
        comes_back(),
        other_messages(),
    ]
}

fn answered(name: &'static str, hook: Hook, client: &str, service: &str) -> Case {
    case(name, &world())
        .at(hook, request(client, service).ttl(7))
        .is_redirected_as(reply(service, client))
        .at(hook, icmp(client, service, if is_v4(service) { 8 } else { 128 }, 0, ASKED, b""))
        .is_redirected_as(icmp(service, client, if is_v4(service) { 0 } else { 129 }, 0, ASKED, b"").turned())
}

fn behind_headers() -> Case {
    case("echo: behind IPv4 options, and behind an IPv6 extension header", &world())
        .at(PodIngress, request(POD, SERVICE).ip_options(&[1; 8]))
        .is_redirected_as(reply(SERVICE, POD).ip_options(&[1; 8]))
        .at(PodIngress, request(POD_IP_V6, SERVICE_V6).extension(60, &[1, 4, 0, 0, 0, 0]))
        .is_redirected_as(reply(SERVICE_V6, POD_IP_V6).extension(60, &[1, 4, 0, 0, 0, 0]))
}

/// The checksum is that of the whole message, so the first fragment takes up the whole change.
fn first_fragment(frame: &Frame, place: impl Fn(Frame) -> Frame) -> Frame {
    let mut first = place(frame.clone());
    first.payload.truncate(40);
    first
}

fn last_fragment(from: &str, to: &str, place: impl Fn(Frame) -> Frame) -> Frame {
    place(raw(if is_v4(to) { 1 } else { 58 }, from, to, &PAYLOAD[32..]))
}

fn fragmented() -> Case {
    let (first, last) = (|frame: Frame| frame.fragment(7, 0, true), |frame: Frame| frame.fragment(7, 5, false));
    case("echo: each fragment of a ping is turned back, in any order", &world())
        .at(PodIngress, last_fragment(POD, SERVICE, last))
        .is_redirected_as(last_fragment(SERVICE, POD, last).turned())
        .at(PodIngress, first_fragment(&request(POD, SERVICE), first))
        .is_redirected_as(first_fragment(&reply(SERVICE, POD), first))
}

fn fragmented_v6() -> Case {
    let place = |frame: Frame| frame.fragment(70_000, 0, true);
    let last = |frame: Frame| frame.fragment(70_000, 5, false);
    case("echo: each fragment of a ping is turned back, in any order, IPv6", &world())
        .at(UplinkIngress, last_fragment(OUTSIDE_V6, SERVICE_V6, last))
        .is_redirected_as(last_fragment(SERVICE_V6, OUTSIDE_V6, last).turned())
        .at(UplinkIngress, first_fragment(&request(OUTSIDE_V6, SERVICE_V6), place))
        .is_redirected_as(first_fragment(&reply(SERVICE_V6, OUTSIDE_V6), place))
}

fn refused(name: &'static str, client: &str, service: &str, frontend: &str) -> Case {
    let asked = request(client, service);
    let later = last_fragment(client, service, |frame| frame.fragment(7, 5, false));
    let (protocol, nowhere) = if is_v4(client) { ("icmp", "0.0.0.0:0") } else { ("icmpv6", "[::]:0") };
    let event = |kind: &str| {
        let (client, service) = (at(client), at(service));
        format!("event {kind} tc {protocol} {client} > {service} > {nowhere} no service no_endpoint")
    };
    case(name, &World::new().reject(Protocol::TCP, frontend).listening())
        .at(PodIngress, asked.clone())
        .is_answered_with(|_| refusal(&asked))
        .changes("drops: no_endpoint +1")
        .changes(&event("refused"))
        .at(PodIngress, later)
        .is_dropped(DropReason::NoEndpoint)
        .changes("drops: no_endpoint +1")
        .changes(&event("dropped"))
}

fn any_service_counts() -> Case {
    let world = World::new()
        .reject(Protocol::TCP, NGINX)
        .forward(Protocol::UDP, "10.110.110.219:53", &[DNS_POD])
        .local_drop(Protocol::TCP, "10.110.110.219:81");
    case("echo: one service of the address with an endpoint is enough", &world)
        .at(PodIngress, request(POD, SERVICE))
        .is_redirected_as(reply(SERVICE, POD))
}

fn local_policy() -> Case {
    let world = World::new().reject(Protocol::TCP, NGINX).local_drop(Protocol::TCP, "10.110.110.219:81");
    case("echo: silence where the Local policy allows no endpoint", &world)
        .at(PodIngress, request(POD, SERVICE))
        .is_dropped(DropReason::NoLocalEndpoint)
        .changes("drops: no_local_endpoint +1")
}

fn comes_back() -> Case {
    let mut world = World::new().forward(Protocol::TCP, NGINX, &[POD_1]);
    let full = world.publish(1, &[1]);
    let empty = world.publish(1, &[]);
    let asked = request(POD, SERVICE);
    case("echo: answered as soon as there is an endpoint again", &world)
        .at(PodIngress, asked.clone())
        .is_answered_with(|_| refusal(&request(POD, SERVICE)))
        .changes("drops: no_endpoint +1")
        .meanwhile(full)
        .at(PodIngress, asked.clone())
        .is_redirected_as(reply(SERVICE, POD))
        .meanwhile(empty)
        .at(PodIngress, asked)
        .is_answered_with(|_| refusal(&request(POD, SERVICE)))
        .changes("drops: no_endpoint +1")
}

fn other_messages() -> Case {
    case("echo: other messages, other addresses and other families' types pass", &world())
        .at(PodIngress, icmp(POD, SERVICE, 13, 0, ASKED, PAYLOAD))
        .at(PodIngress, icmp(POD, SERVICE, 0, 0, ASKED, PAYLOAD))
        .at(PodIngress, icmp(POD, "10.110.110.220", 8, 0, ASKED, PAYLOAD))
        .at(PodIngress, icmp(POD, "10.244.3.46", 8, 0, ASKED, PAYLOAD))
        .at(PodIngress, icmp(POD_IP_V6, SERVICE_V6, 135, 0, ASKED, PAYLOAD))
        .at(PodIngress, raw(58, POD, SERVICE, &[128, 0, 0, 0, 0, 0, 0, 0]))
}
