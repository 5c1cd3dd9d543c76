//! A pod that reaches itself through a service: it is shown the node's address, both directions turn back.

use svc_common::{DropReason, Protocol};

use super::cast::*;
use crate::packets::case::Hook::*;
use crate::packets::case::{Case, case};
use crate::packets::frame::{tcp, udp};
use crate::packets::world::World;

const SELF: &str = "10.244.3.46:40000";
const SELF_V6: &str = "[fd00:10:244:3::46]:40000";
const AS_NODE: &str = "10.0.0.1:CHOSEN";
const AS_NODE_V6: &str = "[fd00::1]:CHOSEN";

pub fn cases() -> Vec<Case> {
    vec![v4(), v6(), datagrams(), nameless_node(), not_every_time()]
}

fn v4() -> Case {
    let world = World::new().forward(Protocol::TCP, NGINX, &[POD_1]);
    case("hairpin: IPv4", &world)
        .at(PodIngress, tcp(SELF, NGINX).syn(100))
        .is_redirected_as(tcp(AS_NODE, POD_1).syn(100).turned())
        .changes(
            "+ flow ingress tcp 10.244.3.46:40000 > 10.110.110.219:80 => 10.0.0.1:CHOSEN > 10.244.3.46:8080, backend 1, service 1, to_backend turn_back addresses, peer ingress []
             + flow ingress tcp 10.244.3.46:8080 > 10.0.0.1:CHOSEN => 10.110.110.219:80 > 10.244.3.46:40000, backend 1, service 1, turn_back addresses, peer ingress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +40",
        )
        .then_at(PodEgress)
        .at(PodIngress, tcp(POD_1, AS_NODE).syn_ack(500, 101))
        .is_redirected_as(tcp(NGINX, SELF).syn_ack(500, 101).turned())
        .changes(
            "~ flow ingress tcp 10.244.3.46:40000 > 10.110.110.219:80 [replied]
             ~ flow ingress tcp 10.244.3.46:8080 > 10.0.0.1:CHOSEN [replied]
             service 1: packets_to_client +1, bytes_to_client +40",
        )
        .then_at(PodEgress)
        .at(PodIngress, tcp(SELF, NGINX).ack(101, 501).payload(b"to myself"))
        .is_redirected_as(tcp(AS_NODE, POD_1).ack(101, 501).payload(b"to myself").turned())
        .changes("service 1: packets_to_backend +1, bytes_to_backend +49")
        .at(PodIngress, tcp(POD_1, AS_NODE).fin(501, 110))
        .is_redirected_as(tcp(NGINX, SELF).fin(501, 110).turned())
        .changes(
            "~ flow ingress tcp 10.244.3.46:40000 > 10.110.110.219:80 [replied fin_backend]
             ~ flow ingress tcp 10.244.3.46:8080 > 10.0.0.1:CHOSEN [replied fin_backend]
             service 1: packets_to_client +1, bytes_to_client +40",
        )
}

fn v6() -> Case {
    let world = World::new().forward(Protocol::TCP, NGINX_V6, &[POD_V6]);
    case("hairpin: IPv6", &world)
        .at(PodIngress, tcp(SELF_V6, NGINX_V6).syn(100))
        .is_redirected_as(tcp(AS_NODE_V6, POD_V6).syn(100).turned())
        .changes(
            "+ flow ingress tcp [fd00:10:244:3::46]:40000 > [fd00:10:110::db]:80 => [fd00::1]:CHOSEN > [fd00:10:244:3::46]:8080, backend 1, service 1, to_backend turn_back addresses, peer ingress []
             + flow ingress tcp [fd00:10:244:3::46]:8080 > [fd00::1]:CHOSEN => [fd00:10:110::db]:80 > [fd00:10:244:3::46]:40000, backend 1, service 1, turn_back addresses, peer ingress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +60",
        )
        .at(PodIngress, tcp(POD_V6, AS_NODE_V6).syn_ack(500, 101))
        .is_redirected_as(tcp(NGINX_V6, SELF_V6).syn_ack(500, 101).turned())
        .changes(
            "~ flow ingress tcp [fd00:10:244:3::46]:40000 > [fd00:10:110::db]:80 [replied]
             ~ flow ingress tcp [fd00:10:244:3::46]:8080 > [fd00::1]:CHOSEN [replied]
             service 1: packets_to_client +1, bytes_to_client +60",
        )
}

fn datagrams() -> Case {
    let myself = "10.244.3.2:40000";
    let world = World::new().forward(Protocol::UDP, DNS, &[DNS_POD]);
    case("hairpin: datagrams, with and without checksum", &world)
        .at(PodIngress, udp(myself, DNS))
        .is_redirected_as(udp(AS_NODE, DNS_POD).turned())
        .changes(
            "+ flow ingress udp 10.244.3.2:40000 > 10.96.0.10:53 => 10.0.0.1:CHOSEN > 10.244.3.2:53, backend 1, service 1, to_backend turn_back addresses, peer ingress []
             + flow ingress udp 10.244.3.2:53 > 10.0.0.1:CHOSEN => 10.96.0.10:53 > 10.244.3.2:40000, backend 1, service 1, turn_back addresses, peer ingress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +36",
        )
        .at(PodIngress, udp(DNS_POD, AS_NODE).without_checksum())
        .is_redirected_as(udp(DNS, myself).without_checksum().turned())
        .changes(
            "~ flow ingress udp 10.244.3.2:40000 > 10.96.0.10:53 [replied]
             ~ flow ingress udp 10.244.3.2:53 > 10.0.0.1:CHOSEN [replied]
             service 1: packets_to_client +1, bytes_to_client +36",
        )
}

fn nameless_node() -> Case {
    let world = World::new().forward(Protocol::TCP, NGINX, &[POD_1]).without_node_addresses();
    case("hairpin: the node has no address to lend", &world)
        .at(PodIngress, tcp(SELF, NGINX).syn(100))
        .is_dropped(DropReason::NoNodeAddress)
        .changes(
            "service 1: rejected +1
             drops: no_node_address +1",
        )
}

fn not_every_time() -> Case {
    use crate::packets::case::dice;
    let world = World::new().forward(Protocol::TCP, NGINX, &[POD_1, POD_2]);
    case("hairpin: not when another backend is chosen", &world)
        .random(&[dice(1, 2)])
        .at(PodIngress, tcp(SELF, NGINX).syn(100))
        .becomes(tcp(SELF, POD_2).syn(100))
        .changes(
            "+ flow ingress tcp 10.244.3.46:40000 > 10.110.110.219:80 => 10.244.3.46:40000 > 10.244.3.47:8080, backend 2, service 1, to_backend addresses, peer egress []
             + flow egress tcp 10.244.3.47:8080 > 10.244.3.46:40000 => 10.110.110.219:80 > 10.244.3.46:40000, backend 2, service 1, addresses, peer ingress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +40",
        )
}
