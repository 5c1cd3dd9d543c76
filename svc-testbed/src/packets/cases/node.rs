//! The node's own connections, with socket hooks off: routed to the service address by then, they leave by an uplink.

use svc_common::Protocol;

use super::cast::*;
use crate::packets::case::Hook::*;
use crate::packets::case::{Case, case};
use crate::packets::frame::{tcp, udp};
use crate::packets::world::World;

const NODE: &str = "10.0.0.1:40000";
/// Not a port of its sockets.
const SHOWN: &str = "10.0.0.1:CHOSEN";
const NO_ROUTES: &str = "a test run has no routes to send the packet by";

pub fn cases() -> Vec<Case> {
    vec![there_and_back(), by_loopback(), refused(), foreign()]
}

fn there_and_back() -> Case {
    let world = World::new().forward(Protocol::TCP, NGINX, &[POD_1]);
    case("node: its own connection gets another way out, and its replies on the way in", &world)
        .native_only(NO_ROUTES)
        .at(UplinkEgress, tcp(NODE, NGINX).syn(100))
        .is_redirected_as(tcp(SHOWN, POD_1).syn(100))
        .changes(
            "+ flow egress tcp 10.0.0.1:40000 > 10.110.110.219:80 => 10.0.0.1:CHOSEN > 10.244.3.46:8080, backend 1, service 1, to_backend reroute addresses, peer ingress []
             + flow ingress tcp 10.244.3.46:8080 > 10.0.0.1:CHOSEN => 10.110.110.219:80 > 10.0.0.1:40000, backend 1, service 1, reroute addresses, peer egress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +40",
        )
        .at(PodEgress, tcp(SHOWN, POD_1).syn(100))
        .at(PodIngress, tcp(POD_1, SHOWN).syn_ack(500, 101))
        .is_redirected_as(tcp(NGINX, NODE).syn_ack(500, 101))
        .changes(
            "~ flow egress tcp 10.0.0.1:40000 > 10.110.110.219:80 [replied]
             ~ flow ingress tcp 10.244.3.46:8080 > 10.0.0.1:CHOSEN [replied]
             service 1: packets_to_client +1, bytes_to_client +40",
        )
        .at(UplinkEgress, tcp(NODE, NGINX).ack(101, 501))
        .is_redirected_as(tcp(SHOWN, POD_1).ack(101, 501))
        .changes("service 1: packets_to_backend +1, bytes_to_backend +40")
}

/// Translated replies reach the node by loopback, where packets to endpoints on the node are looked at.
fn by_loopback() -> Case {
    let world = World::new().forward(Protocol::UDP, DNS, &[DNS_POD]).forward(Protocol::TCP, NGINX, &["10.0.0.1:9000"]);
    case("node: a reply is not taken for another connection, also if the node is an endpoint itself", &world)
        .native_only(NO_ROUTES)
        .at(UplinkEgress, udp(NODE, DNS))
        .is_redirected_as(udp(SHOWN, DNS_POD))
        .changes(
            "+ flow egress udp 10.0.0.1:40000 > 10.96.0.10:53 => 10.0.0.1:CHOSEN > 10.244.3.2:53, backend 1, service 1, to_backend reroute addresses, peer ingress []
             + flow ingress udp 10.244.3.2:53 > 10.0.0.1:CHOSEN => 10.96.0.10:53 > 10.0.0.1:40000, backend 1, service 1, reroute addresses, peer egress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +36",
        )
        .at(PodIngress, udp(DNS_POD, SHOWN))
        .is_redirected_as(udp(DNS, NODE))
        .changes(
            "~ flow egress udp 10.0.0.1:40000 > 10.96.0.10:53 [replied]
             ~ flow ingress udp 10.244.3.2:53 > 10.0.0.1:CHOSEN [replied]
             service 1: packets_to_client +1, bytes_to_client +36",
        )
        .at(UplinkIngress, udp(DNS, NODE))
}

fn refused() -> Case {
    let world = World::new().reject(Protocol::TCP, NGINX);
    case("node: a service without endpoints refuses the node, too", &world)
        .at(UplinkEgress, tcp(NODE, NGINX).syn(100))
        .is_answered_with(|_| super::refused::reset(NGINX, NODE, 0, Some(101)))
        .changes(
            "service 1: rejected +1
             drops: no_endpoint +1",
        )
}

fn foreign() -> Case {
    let world = World::new().forward(Protocol::TCP, NGINX, &[POD_1]);
    case("node: what others send through it to a service address is not its own", &world)
        .at(UplinkEgress, tcp("10.244.3.5:40000", NGINX).syn(100))
}
