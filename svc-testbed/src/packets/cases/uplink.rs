//! Clients from outside: they reach the backend as the node, so that the replies come back here.

use svc_common::{DropReason, Protocol};

use super::cast::*;
use crate::packets::case::Hook::*;
use crate::packets::case::{Case, case};
use crate::packets::frame::{tcp, udp};
use crate::packets::world::World;

const OUTSIDE: &str = "192.0.2.9:5000";
/// Between the two pairs of flows, where nobody looks: by a port that it does not use itself.
const BETWEEN: &str = "192.0.2.9:CHOSEN";
const AS_NODE: &str = "10.0.0.1:CHOSEN";
const OUTSIDE_V6: &str = "[2001:db8::9]:5000";
const BETWEEN_V6: &str = "[2001:db8::9]:CHOSEN";
const AS_NODE_V6: &str = "[fd00::1]:CHOSEN";
const REMOTE: &str = "10.244.7.9:8080";

pub fn cases() -> Vec<Case> {
    vec![
        there_and_back("outside: to a pod of this node", [OUTSIDE, BETWEEN, NGINX, POD_1, AS_NODE], 40, true),
        there_and_back("outside: to a pod of another node", [OUTSIDE, BETWEEN, NGINX, REMOTE, AS_NODE], 40, false),
        there_and_back(
            "outside: IPv6, to a pod of this node",
            [OUTSIDE_V6, BETWEEN_V6, NGINX_V6, POD_V6, AS_NODE_V6],
            60,
            true,
        ),
        datagrams(),
        straight_after(),
        cluster_client(),
        nameless_node(),
    ]
}

/// There and back, once; `pod` is where the backend is, `hooks` where packets to it leave and come from.
fn there_and_back(name: &'static str, addresses: [&str; 5], bytes: u32, local: bool) -> Case {
    let [client, between, service, pod, as_node] = addresses;
    let (to_pod, from_pod) = if local { (PodEgress, PodIngress) } else { (UplinkEgress, UplinkIngress) };
    let world = World::new().forward(Protocol::TCP, service, &[pod]);
    case(name, &world)
        .at(UplinkIngress, tcp(client, service).syn(100))
        .becomes(tcp(between, pod).syn(100))
        .changes(&format!(
            "+ flow ingress tcp {client} > {service} => {between} > {pod}, backend 1, service 1, to_backend addresses, peer egress []
             + flow egress tcp {pod} > {between} => {service} > {client}, backend 1, service 1, addresses, peer ingress []
             + flow egress tcp {between} > {pod} => {as_node} > {pod}, backend 1, no service, to_backend addresses, peer ingress []
             + flow ingress tcp {pod} > {as_node} => {pod} > {between}, backend 1, no service, addresses, peer egress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +{bytes}"
        ))
        .then_at(to_pod)
        .becomes(tcp(as_node, pod).syn(100))
        .at(from_pod, tcp(pod, as_node).syn_ack(500, 101))
        .becomes(tcp(pod, between).syn_ack(500, 101))
        .changes(&format!(
            "~ flow egress tcp {between} > {pod} [replied]
             ~ flow ingress tcp {pod} > {as_node} [replied]"
        ))
        .then_at(UplinkEgress)
        .becomes(tcp(service, client).syn_ack(500, 101))
        .changes(&format!(
            "~ flow ingress tcp {client} > {service} [replied]
             ~ flow egress tcp {pod} > {between} [replied]
             service 1: packets_to_client +1, bytes_to_client +{bytes}"
        ))
        .at(UplinkIngress, tcp(client, service).ack(101, 501))
        .becomes(tcp(between, pod).ack(101, 501))
        .changes(&format!("service 1: packets_to_backend +1, bytes_to_backend +{bytes}"))
        .then_at(to_pod)
        .becomes(tcp(as_node, pod).ack(101, 501))
}

fn datagrams() -> Case {
    let world = World::new().forward(Protocol::UDP, DNS, &[DNS_POD]);
    case("outside: datagrams", &world)
        .at(UplinkIngress, udp(OUTSIDE, DNS))
        .becomes(udp(BETWEEN, DNS_POD))
        .changes(
            "+ flow ingress udp 192.0.2.9:5000 > 10.96.0.10:53 => 192.0.2.9:CHOSEN > 10.244.3.2:53, backend 1, service 1, to_backend addresses, peer egress []
             + flow egress udp 10.244.3.2:53 > 192.0.2.9:CHOSEN => 10.96.0.10:53 > 192.0.2.9:5000, backend 1, service 1, addresses, peer ingress []
             + flow egress udp 192.0.2.9:CHOSEN > 10.244.3.2:53 => 10.0.0.1:CHOSEN > 10.244.3.2:53, backend 1, no service, to_backend addresses, peer ingress []
             + flow ingress udp 10.244.3.2:53 > 10.0.0.1:CHOSEN => 10.244.3.2:53 > 192.0.2.9:CHOSEN, backend 1, no service, addresses, peer egress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +36",
        )
        .then_at(PodEgress)
        .becomes(udp(AS_NODE, DNS_POD))
}

/// The tuple between the pairs is nobody's own; who comes by it all the same is not mistaken for that connection.
fn straight_after() -> Case {
    const ANOTHER: &str = "192.0.2.9:61000";
    let world = World::new().forward(Protocol::TCP, NGINX, &[POD_1]);
    case("outside: straight to the backend by the port that a connection to its service was given", &world)
        .random(&[0x5555, 0x5555, 0])
        .native_only("the port of the third packet is known only if the dice are")
        .at(UplinkIngress, tcp(OUTSIDE, NGINX).syn(100))
        .becomes(tcp(BETWEEN, POD_1).syn(100))
        .changes(
            "+ flow ingress tcp 192.0.2.9:5000 > 10.110.110.219:80 => 192.0.2.9:CHOSEN > 10.244.3.46:8080, backend 1, service 1, to_backend addresses, peer egress []
             + flow egress tcp 10.244.3.46:8080 > 192.0.2.9:CHOSEN => 10.110.110.219:80 > 192.0.2.9:5000, backend 1, service 1, addresses, peer ingress []
             + flow egress tcp 192.0.2.9:CHOSEN > 10.244.3.46:8080 => 10.0.0.1:CHOSEN > 10.244.3.46:8080, backend 1, no service, to_backend addresses, peer ingress []
             + flow ingress tcp 10.244.3.46:8080 > 10.0.0.1:CHOSEN => 10.244.3.46:8080 > 192.0.2.9:CHOSEN, backend 1, no service, addresses, peer egress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +40",
        )
        .at(UplinkIngress, tcp(BETWEEN, POD_1).syn(900))
        .becomes(tcp(ANOTHER, POD_1).syn(900))
        .changes(
            "+ flow ingress tcp 192.0.2.9:CHOSEN > 10.244.3.46:8080 => 192.0.2.9:61000 > 10.244.3.46:8080, no backend, no service, to_backend direct, peer egress []
             + flow egress tcp 10.244.3.46:8080 > 192.0.2.9:61000 => 10.244.3.46:8080 > 192.0.2.9:CHOSEN, no backend, no service, direct, peer ingress []",
        )
        .then_at(PodEgress)
        .at(PodIngress, tcp(POD_1, ANOTHER).syn_ack(700, 901))
        .then_at(UplinkEgress)
        .becomes(tcp(POD_1, BETWEEN).syn_ack(700, 901))
        .changes(
            "~ flow ingress tcp 192.0.2.9:CHOSEN > 10.244.3.46:8080 [replied]
             ~ flow egress tcp 10.244.3.46:8080 > 192.0.2.9:61000 [replied]",
        )
}

fn cluster_client() -> Case {
    let client = "10.244.7.20:40000";
    let world = World::new().forward(Protocol::TCP, NGINX, &[POD_1]);
    case("outside: a pod of another node is not outside, it keeps its address", &world)
        .at(UplinkIngress, tcp(client, NGINX).syn(100))
        .becomes(tcp(client, POD_1).syn(100))
        .changes(
            "+ flow ingress tcp 10.244.7.20:40000 > 10.110.110.219:80 => 10.244.7.20:40000 > 10.244.3.46:8080, backend 1, service 1, to_backend addresses, peer egress []
             + flow egress tcp 10.244.3.46:8080 > 10.244.7.20:40000 => 10.110.110.219:80 > 10.244.7.20:40000, backend 1, service 1, addresses, peer ingress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +40",
        )
        .then_at(PodEgress)
        .at(PodIngress, tcp(POD_1, client).syn_ack(500, 101))
        .then_at(UplinkEgress)
        .becomes(tcp(NGINX, client).syn_ack(500, 101))
        .changes(
            "~ flow ingress tcp 10.244.7.20:40000 > 10.110.110.219:80 [replied]
             ~ flow egress tcp 10.244.3.46:8080 > 10.244.7.20:40000 [replied]
             service 1: packets_to_client +1, bytes_to_client +40",
        )
}

fn nameless_node() -> Case {
    const DROPPED: &str = "
        service 1: rejected +1
        drops: no_node_address +1";
    let world = World::new().forward(Protocol::TCP, NGINX, &[POD_1]).without_node_addresses();
    case("outside: the node has no address to lend, not to the second SYN either", &world)
        .at(UplinkIngress, tcp(OUTSIDE, NGINX).syn(100))
        .is_dropped(DropReason::NoNodeAddress)
        .changes(DROPPED)
        .at(UplinkIngress, tcp(OUTSIDE, NGINX).syn(100))
        .is_dropped(DropReason::NoNodeAddress)
        .changes(DROPPED)
}
