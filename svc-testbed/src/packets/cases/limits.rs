//! Full tables and events: what happens beside the packets.

use svc_common::{DropReason, Protocol};

use super::cast::*;
use crate::packets::case::Hook::*;
use crate::packets::case::{Case, case, dice};
use crate::packets::frame::{tcp, udp};
use crate::packets::world::{Change, World};

const ONLY_LRU: &str = "the kernel's LRU maps make room instead of being full";

fn world() -> World {
    World::new().forward(Protocol::TCP, NGINX, &[POD_1])
}

pub fn cases() -> Vec<Case> {
    vec![full(), nearly_full(), full_for_masquerade(), full_for_direct(), event(), event_v6()]
}

const FULL: &str = "
    service 1: rejected +1
    drops: flow_table_full +1";

fn full() -> Case {
    case("limits: the flow table is full", &world())
        .native_only(ONLY_LRU)
        .meanwhile(vec![Change::FlowCapacity(0)])
        .at(PodIngress, tcp(CLIENT, NGINX).syn(100))
        .is_dropped(DropReason::FlowTableFull)
        .changes(FULL)
        .meanwhile(vec![Change::FlowCapacity(2)])
        .at(PodIngress, tcp(CLIENT, NGINX).syn(100))
        .becomes(tcp(CLIENT, POD_1).syn(100))
        .changes(
            "+ flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 => 10.244.3.5:40000 > 10.244.3.46:8080, backend 1, service 1, to_backend addresses, peer egress []
             + flow egress tcp 10.244.3.46:8080 > 10.244.3.5:40000 => 10.110.110.219:80 > 10.244.3.5:40000, backend 1, service 1, addresses, peer ingress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +40",
        )
        .at(PodIngress, tcp(CLIENT, NGINX).ack(101, 501))
        .becomes(tcp(CLIENT, POD_1).ack(101, 501))
        .changes("service 1: packets_to_backend +1, bytes_to_backend +40")
}

fn nearly_full() -> Case {
    case("limits: the flow table takes only one half of a pair", &world())
        .native_only(ONLY_LRU)
        .meanwhile(vec![Change::FlowCapacity(1)])
        .at(PodIngress, tcp(CLIENT, NGINX).syn(100))
        .is_dropped(DropReason::FlowTableFull)
        .changes(FULL)
        .changes("+ flow egress tcp 10.244.3.46:8080 > 10.244.3.5:40000 => 10.110.110.219:80 > 10.244.3.5:40000, backend 1, service 1, addresses, peer ingress []")
        .leaves_half("there is no way to take it back that another connection could not be hurt by")
}

/// The first pair is made, the one that shows the client as the node is not. By then the packet has been translated and
/// counted, so it counts as a connection and as a rejected one.
fn full_for_masquerade() -> Case {
    let client = "192.0.2.9:5000";
    case("limits: a connection from outside that failed half way begins anew with the next SYN", &world())
        .native_only(ONLY_LRU)
        .random(&[dice(0, 1), 0, dice(0, 1), 0])
        .meanwhile(vec![Change::FlowCapacity(2)])
        .at(UplinkIngress, tcp(client, NGINX).syn(100))
        .is_dropped(DropReason::FlowTableFull)
        .changes(
            "+ flow ingress tcp 192.0.2.9:5000 > 10.110.110.219:80 => 192.0.2.9:61000 > 10.244.3.46:8080, backend 1, service 1, to_backend addresses, peer egress [closed]
             + flow egress tcp 10.244.3.46:8080 > 192.0.2.9:61000 => 10.110.110.219:80 > 192.0.2.9:5000, backend 1, service 1, addresses, peer ingress [closed]
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +40, rejected +1
             drops: flow_table_full +1",
        )
        .meanwhile(vec![Change::FlowCapacity(4)])
        .at(UplinkIngress, tcp(client, NGINX).syn(100))
        .becomes(tcp("192.0.2.9:61000", POD_1).syn(100))
        .changes(
            "~ flow ingress tcp 192.0.2.9:5000 > 10.110.110.219:80 []
             ~ flow egress tcp 10.244.3.46:8080 > 192.0.2.9:61000 []
             + flow egress tcp 192.0.2.9:61000 > 10.244.3.46:8080 => 10.0.0.1:61000 > 10.244.3.46:8080, backend 1, no service, to_backend addresses, peer ingress []
             + flow ingress tcp 10.244.3.46:8080 > 10.0.0.1:61000 => 10.244.3.46:8080 > 192.0.2.9:61000, backend 1, no service, addresses, peer egress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +40",
        )
        .then_at(PodEgress)
        .becomes(tcp("10.0.0.1:61000", POD_1).syn(100))
}

fn full_for_direct() -> Case {
    case("limits: a direct connection does not suffer from a full flow table", &world())
        .native_only(ONLY_LRU)
        .meanwhile(vec![Change::FlowCapacity(0)])
        .at(PodIngress, tcp(CLIENT, POD_1).syn(100))
}

fn event() -> Case {
    case("events: one for each connection, none for its packets", &world().listening())
        .at(PodIngress, tcp(CLIENT, NGINX).syn(100))
        .becomes(tcp(CLIENT, POD_1).syn(100))
        .changes(
            "+ flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 => 10.244.3.5:40000 > 10.244.3.46:8080, backend 1, service 1, to_backend addresses, peer egress []
             + flow egress tcp 10.244.3.46:8080 > 10.244.3.5:40000 => 10.110.110.219:80 > 10.244.3.5:40000, backend 1, service 1, addresses, peer ingress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +40
             event translated tc tcp 10.244.3.5:40000 > 10.110.110.219:80 > 10.244.3.46:8080 service 1",
        )
        .at(PodIngress, tcp(CLIENT, NGINX).ack(101, 501))
        .becomes(tcp(CLIENT, POD_1).ack(101, 501))
        .changes("service 1: packets_to_backend +1, bytes_to_backend +40")
        .at(PodIngress, tcp(CLIENT, "10.110.110.219:443").syn(100))
        .is_answered_with(|_| super::refused::reset("10.110.110.219:443", CLIENT, 0, Some(101)))
        .changes(
            "drops: no_such_port +1
             event refused tc tcp 10.244.3.5:40000 > 10.110.110.219:443 > 0.0.0.0:0 no service no_such_port",
        )
        .at(PodIngress, tcp(CLIENT, "192.0.2.10:80").syn(1))
}

fn event_v6() -> Case {
    let (dns, pod) = ("[fd00:10:96::a]:53", "[fd00:10:244:3::2]:53");
    let world = World::new().forward(Protocol::UDP, dns, &[pod]).listening();
    case("events: IPv6", &world)
        .at(PodIngress, udp(CLIENT_V6, dns))
        .becomes(udp(CLIENT_V6, pod))
        .changes(
            "+ flow ingress udp [fd00:10:244:3::5]:40000 > [fd00:10:96::a]:53 => [fd00:10:244:3::5]:40000 > [fd00:10:244:3::2]:53, backend 1, service 1, to_backend addresses, peer egress []
             + flow egress udp [fd00:10:244:3::2]:53 > [fd00:10:244:3::5]:40000 => [fd00:10:96::a]:53 > [fd00:10:244:3::5]:40000, backend 1, service 1, addresses, peer ingress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +56
             event translated tc udp [fd00:10:244:3::5]:40000 > [fd00:10:96::a]:53 > [fd00:10:244:3::2]:53 service 1",
        )
}
