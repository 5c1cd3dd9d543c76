//! Services that ask for it: connections to an endpoint that is gone are reset with the client's next packet.

use svc_common::Protocol;

use super::cast::*;
use super::refused::reset;
use crate::packets::case::Hook::*;
use crate::packets::case::{Case, case};
use crate::packets::frame::{tcp, udp};
use crate::packets::world::{Change, World};

const OPENED: &str = "
    + flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 => 10.244.3.5:40000 > 10.244.3.46:8080, backend 1, service 1, to_backend addresses reset_when_gone, peer egress []
    + flow egress tcp 10.244.3.46:8080 > 10.244.3.5:40000 => 10.110.110.219:80 > 10.244.3.5:40000, backend 1, service 1, addresses, peer ingress []
    service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +40";
const REPLIED: &str = "
    ~ flow egress tcp 10.244.3.46:8080 > 10.244.3.5:40000 [replied]
    ~ flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 [replied]
    service 1: packets_to_client +1, bytes_to_client +40";
const CLOSED: &str = "
    ~ flow egress tcp 10.244.3.46:8080 > 10.244.3.5:40000 [replied closed]
    ~ flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 [replied closed]";
const TO_BACKEND: &str = "service 1: packets_to_backend +1, bytes_to_backend +40";
const TO_CLIENT: &str = "service 1: packets_to_client +1, bytes_to_client +40";
const RESET: &str = "drops: endpoint_gone +1";

fn world() -> World {
    World::new().forward(Protocol::TCP, NGINX, &[POD_1, POD_2]).reset_when_gone()
}

fn established(name: &'static str) -> Case {
    case(name, &world())
        .random(&[0, u32::MAX])
        .at(PodIngress, tcp(CLIENT, NGINX).syn(100))
        .becomes(tcp(CLIENT, POD_1).syn(100))
        .changes(OPENED)
        .at(PodEgress, tcp(POD_1, CLIENT).syn_ack(500, 101))
        .becomes(tcp(NGINX, CLIENT).syn_ack(500, 101))
        .changes(REPLIED)
}

/// The first endpoint ends.
fn gone() -> Vec<Change> {
    let mut world = world();
    let mut changes = world.publish(1, &[2]);
    changes.extend(world.end_backend(1));
    changes
}

pub fn cases() -> Vec<Case> {
    vec![is_reset(), service_deleted(), begins_anew(), drains(), node(), outside(), v6(), datagrams()]
}

fn is_reset() -> Case {
    established("gone: the client's next packet is answered with a reset, and its own ends the other side")
        .meanwhile(gone())
        .at(PodEgress, tcp(POD_1, CLIENT).ack(501, 101))
        .becomes(tcp(NGINX, CLIENT).ack(501, 101))
        .changes(TO_CLIENT)
        .at(PodIngress, tcp(CLIENT, NGINX).ack(101, 501).payload(b"question"))
        .is_answered_with(|_| reset(NGINX, CLIENT, 501, None))
        .changes(CLOSED)
        .changes(RESET)
        .at(PodIngress, tcp(CLIENT, NGINX).ack(101, 501))
        .is_answered_with(|_| reset(NGINX, CLIENT, 501, None))
        .changes(RESET)
        .at(PodIngress, tcp(CLIENT, NGINX).rst(101))
        .becomes(tcp(CLIENT, POD_1).rst(101))
        .changes(TO_BACKEND)
}

fn service_deleted() -> Case {
    let mut world = world();
    let mut deleted = world.delete_service(1);
    deleted.extend(world.end_backend(1));
    deleted.extend(world.end_backend(2));
    established("gone: the flow knows, also when the Service was deleted")
        .meanwhile(deleted)
        .at(PodIngress, tcp(CLIENT, NGINX).ack(101, 501))
        .is_answered_with(|_| reset(NGINX, CLIENT, 501, None))
        .changes(CLOSED)
        .changes(RESET)
}

fn begins_anew() -> Case {
    established("gone: after the reset the same port gets another endpoint")
        .meanwhile(gone())
        .at(PodIngress, tcp(CLIENT, NGINX).ack(101, 501))
        .is_answered_with(|_| reset(NGINX, CLIENT, 501, None))
        .changes(CLOSED)
        .changes(RESET)
        .at(PodIngress, tcp(CLIENT, NGINX).syn(900))
        .becomes(tcp(CLIENT, POD_2).syn(900))
        .changes(
            "~ flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 => 10.244.3.5:40000 > 10.244.3.47:8080, backend 2, service 1, to_backend addresses reset_when_gone, peer egress []
             + flow egress tcp 10.244.3.47:8080 > 10.244.3.5:40000 => 10.110.110.219:80 > 10.244.3.5:40000, backend 2, service 1, addresses, peer ingress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +40",
        )
        .leaves_half("late packets of the old endpoint still look like the service's")
}

fn drains() -> Case {
    let mut world = world();
    let mut draining = world.publish(1, &[2]);
    draining.extend(world.drain_backend(1));
    established("gone: an endpoint that still serves keeps its connections")
        .meanwhile(draining)
        .at(PodIngress, tcp(CLIENT, NGINX).ack(101, 501))
        .becomes(tcp(CLIENT, POD_1).ack(101, 501))
        .changes(TO_BACKEND)
}

fn node() -> Case {
    let node = "10.0.0.1:40000";
    let mut world = World::new().forward(Protocol::TCP, NGINX, &[POD_1]).reset_when_gone();
    let start = world.clone();
    let gone = world.end_backend(1);
    case("gone: the node's own connections", &start)
        .native_only("a test run has no routes to send the packet by")
        .at(UplinkEgress, tcp(node, NGINX).syn(100))
        .is_redirected_as(tcp("10.0.0.1:CHOSEN", POD_1).syn(100))
        .changes(
            "+ flow egress tcp 10.0.0.1:40000 > 10.110.110.219:80 => 10.0.0.1:CHOSEN > 10.244.3.46:8080, backend 1, service 1, to_backend reroute addresses reset_when_gone, peer ingress []
             + flow ingress tcp 10.244.3.46:8080 > 10.0.0.1:CHOSEN => 10.110.110.219:80 > 10.0.0.1:40000, backend 1, service 1, reroute addresses, peer egress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +40",
        )
        .meanwhile(gone)
        .at(UplinkEgress, tcp(node, NGINX).ack(101, 501))
        .is_answered_with(|_| reset(NGINX, node, 501, None))
        .changes(
            "~ flow egress tcp 10.0.0.1:40000 > 10.110.110.219:80 [closed]
             ~ flow ingress tcp 10.244.3.46:8080 > 10.0.0.1:CHOSEN [closed]
             drops: endpoint_gone +1",
        )
}

fn outside() -> Case {
    let (client, between) = ("192.0.2.9:5000", "192.0.2.9:CHOSEN");
    let mut world = World::new().forward(Protocol::TCP, NGINX, &[POD_1]).reset_when_gone();
    let start = world.clone();
    let gone = world.end_backend(1);
    case("gone: a client outside is reset where it comes in", &start)
        .at(UplinkIngress, tcp(client, NGINX).syn(100))
        .becomes(tcp(between, POD_1).syn(100))
        .changes(
            "+ flow ingress tcp 192.0.2.9:5000 > 10.110.110.219:80 => 192.0.2.9:CHOSEN > 10.244.3.46:8080, backend 1, service 1, to_backend addresses reset_when_gone, peer egress []
             + flow egress tcp 10.244.3.46:8080 > 192.0.2.9:CHOSEN => 10.110.110.219:80 > 192.0.2.9:5000, backend 1, service 1, addresses, peer ingress []
             + flow egress tcp 192.0.2.9:CHOSEN > 10.244.3.46:8080 => 10.0.0.1:CHOSEN > 10.244.3.46:8080, backend 1, no service, to_backend addresses, peer ingress []
             + flow ingress tcp 10.244.3.46:8080 > 10.0.0.1:CHOSEN => 10.244.3.46:8080 > 192.0.2.9:CHOSEN, backend 1, no service, addresses, peer egress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +40",
        )
        .meanwhile(gone)
        .at(PodEgress, tcp(between, POD_1).ack(101, 501))
        .becomes(tcp("10.0.0.1:CHOSEN", POD_1).ack(101, 501))
        .at(UplinkIngress, tcp(client, NGINX).ack(101, 501))
        .is_answered_with(|_| reset(NGINX, client, 501, None))
        .changes(
            "~ flow ingress tcp 192.0.2.9:5000 > 10.110.110.219:80 [closed]
             ~ flow egress tcp 10.244.3.46:8080 > 192.0.2.9:CHOSEN [closed]
             drops: endpoint_gone +1",
        )
}

fn v6() -> Case {
    let mut world = World::new().forward(Protocol::TCP, NGINX_V6, &[POD_V6]).reset_when_gone().listening();
    let start = world.clone();
    let gone = world.end_backend(1);
    case("gone: IPv6, with an event for who listens", &start)
        .at(PodIngress, tcp(CLIENT_V6, NGINX_V6).syn(100))
        .becomes(tcp(CLIENT_V6, POD_V6).syn(100))
        .changes(
            "+ flow ingress tcp [fd00:10:244:3::5]:40000 > [fd00:10:110::db]:80 => [fd00:10:244:3::5]:40000 > [fd00:10:244:3::46]:8080, backend 1, service 1, to_backend addresses reset_when_gone, peer egress []
             + flow egress tcp [fd00:10:244:3::46]:8080 > [fd00:10:244:3::5]:40000 => [fd00:10:110::db]:80 > [fd00:10:244:3::5]:40000, backend 1, service 1, addresses, peer ingress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +60
             event translated tc tcp [fd00:10:244:3::5]:40000 > [fd00:10:110::db]:80 > [fd00:10:244:3::46]:8080 service 1",
        )
        .meanwhile(gone)
        .at(PodIngress, tcp(CLIENT_V6, NGINX_V6).ack(101, 501))
        .is_answered_with(|_| reset(NGINX_V6, CLIENT_V6, 501, None))
        .changes(
            "~ flow ingress tcp [fd00:10:244:3::5]:40000 > [fd00:10:110::db]:80 [closed]
             ~ flow egress tcp [fd00:10:244:3::46]:8080 > [fd00:10:244:3::5]:40000 [closed]
             drops: endpoint_gone +1
             event refused tc tcp [fd00:10:244:3::5]:40000 > [fd00:10:110::db]:80 > [::]:0 service 1 endpoint_gone",
        )
}

fn datagrams() -> Case {
    let world = World::new().forward(Protocol::UDP, DNS, &[DNS_POD]).reset_when_gone();
    case("gone: datagrams have no connection to reset", &world)
        .at(PodIngress, udp(CLIENT, DNS))
        .becomes(udp(CLIENT, DNS_POD))
        .changes(
            "+ flow ingress udp 10.244.3.5:40000 > 10.96.0.10:53 => 10.244.3.5:40000 > 10.244.3.2:53, backend 1, service 1, to_backend addresses, peer egress []
             + flow egress udp 10.244.3.2:53 > 10.244.3.5:40000 => 10.96.0.10:53 > 10.244.3.5:40000, backend 1, service 1, addresses, peer ingress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +36",
        )
}
