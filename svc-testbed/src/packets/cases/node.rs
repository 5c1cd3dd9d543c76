//! The node's own connections, with socket hooks off: routed to the service address by then, they leave by an uplink.

use svc_common::Protocol;

use super::cast::*;
use crate::packets::case::Hook::*;
use crate::packets::case::{Case, case};
use crate::packets::frame::tcp;
use crate::packets::world::World;

const NODE: &str = "10.0.0.1:40000";
const NO_ROUTES: &str = "a test run has no routes to send the packet by";

pub fn cases() -> Vec<Case> {
    vec![there_and_back(), refused(), foreign()]
}

fn there_and_back() -> Case {
    let world = World::new().forward(Protocol::TCP, NGINX, &[POD_1]);
    case("node: its own connection gets another way out, and its replies on the way in", &world)
        .native_only(NO_ROUTES)
        .at(UplinkEgress, tcp(NODE, NGINX).syn(100))
        .is_redirected_as(tcp(NODE, POD_1).syn(100))
        .changes(
            "+ flow egress tcp 10.0.0.1:40000 > 10.110.110.219:80 => 10.0.0.1:40000 > 10.244.3.46:8080, backend 1, service 1, to_backend reroute addresses, peer ingress []
             + flow ingress tcp 10.244.3.46:8080 > 10.0.0.1:40000 => 10.110.110.219:80 > 10.0.0.1:40000, backend 1, service 1, reroute addresses, peer egress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +40",
        )
        .at(PodEgress, tcp(NODE, POD_1).syn(100))
        .at(PodIngress, tcp(POD_1, NODE).syn_ack(500, 101))
        .is_redirected_as(tcp(NGINX, NODE).syn_ack(500, 101))
        .changes(
            "~ flow egress tcp 10.0.0.1:40000 > 10.110.110.219:80 [replied]
             ~ flow ingress tcp 10.244.3.46:8080 > 10.0.0.1:40000 [replied]
             service 1: packets_to_client +1, bytes_to_client +40",
        )
        .at(UplinkEgress, tcp(NODE, NGINX).ack(101, 501))
        .is_redirected_as(tcp(NODE, POD_1).ack(101, 501))
        .changes("service 1: packets_to_backend +1, bytes_to_backend +40")
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
