//! Past the node's stack: what leaves by itself, what a router would do to it, and what is left to the stack.

use std::net::IpAddr;

use svc_common::{Hop, Protocol, hop_kind};

use super::cast::*;
use crate::packets::case::Hook::*;
use crate::packets::case::{Case, case, dice};
use crate::packets::frame::{at, tcp, udp};
use crate::packets::world::{Change, World};

const REASON: &str = "the machine has a routing table of its own";
const OUTSIDE: &str = "192.0.2.9:40000";

fn peer(address: &str, interface: u32) -> Change {
    hop(at(address).ip(), Hop { interface, mtu: 1500, kind: hop_kind::PEER, ..Hop::default() })
}

fn hop(destination: IpAddr, hop: Hop) -> Change {
    Change::Hop { destination, hop }
}

fn through_the_stack(address: &str) -> Change {
    hop(at(address).ip(), Hop { kind: hop_kind::STACK, ..Hop::default() })
}

fn lifecycle(name: &'static str, client: &str, service: &str, pod: &str, lines: [&str; 3]) -> Case {
    let [opened, answered, request] = lines;
    let world = World::new().forward(Protocol::TCP, service, &[pod]);
    case(name, &world)
        .native_only(REASON)
        .meanwhile(vec![peer(pod, 7), peer(client, 8)])
        .at(PodIngress, tcp(client, service).syn(100))
        .is_redirected_as(tcp(client, pod).syn(100).ttl(63))
        .changes(opened)
        // The reply enters by the backend's interface, and does not come by the client's.
        .at(PodIngress, tcp(pod, client).syn_ack(500, 101))
        .is_redirected_as(tcp(service, client).syn_ack(500, 101).ttl(63))
        .changes(answered)
        .at(PodIngress, tcp(client, service).ack(101, 501).payload(b"GET / HTTP/1.1\r\n\r\n"))
        .is_redirected_as(tcp(client, pod).ack(101, 501).payload(b"GET / HTTP/1.1\r\n\r\n").ttl(63))
        .changes(request)
}

fn known_connection(name: &'static str) -> Case {
    let world = World::new().forward(Protocol::TCP, NGINX, &[POD_1]);
    case(name, &world)
        .native_only(REASON)
        .meanwhile(vec![peer(POD_1, 7), peer(CLIENT, 8)])
        .at(PodIngress, tcp(CLIENT, NGINX).syn(100))
        .is_redirected_as(tcp(CLIENT, POD_1).syn(100).ttl(63))
        .changes(
            "+ flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 => 10.244.3.5:40000 > 10.244.3.46:8080, backend 1, service 1, to_backend addresses, peer egress []
             + flow egress tcp 10.244.3.46:8080 > 10.244.3.5:40000 => 10.110.110.219:80 > 10.244.3.5:40000, backend 1, service 1, addresses, peer ingress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +40",
        )
}

pub fn cases() -> Vec<Case> {
    vec![
        lifecycle(
            "direct: a connection's life, IPv4",
            CLIENT,
            NGINX,
            POD_1,
            [
                "+ flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 => 10.244.3.5:40000 > 10.244.3.46:8080, backend 1, service 1, to_backend addresses, peer egress []
                 + flow egress tcp 10.244.3.46:8080 > 10.244.3.5:40000 => 10.110.110.219:80 > 10.244.3.5:40000, backend 1, service 1, addresses, peer ingress []
                 service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +40",
                "~ flow egress tcp 10.244.3.46:8080 > 10.244.3.5:40000 [replied]
                 ~ flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 [replied]
                 service 1: packets_to_client +1, bytes_to_client +40",
                "service 1: packets_to_backend +1, bytes_to_backend +58",
            ],
        ),
        lifecycle(
            "direct: a connection's life, IPv6",
            CLIENT_V6,
            NGINX_V6,
            POD_V6,
            [
                "+ flow ingress tcp [fd00:10:244:3::5]:40000 > [fd00:10:110::db]:80 => [fd00:10:244:3::5]:40000 > [fd00:10:244:3::46]:8080, backend 1, service 1, to_backend addresses, peer egress []
                 + flow egress tcp [fd00:10:244:3::46]:8080 > [fd00:10:244:3::5]:40000 => [fd00:10:110::db]:80 > [fd00:10:244:3::5]:40000, backend 1, service 1, addresses, peer ingress []
                 service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +60",
                "~ flow egress tcp [fd00:10:244:3::46]:8080 > [fd00:10:244:3::5]:40000 [replied]
                 ~ flow ingress tcp [fd00:10:244:3::5]:40000 > [fd00:10:110::db]:80 [replied]
                 service 1: packets_to_client +1, bytes_to_client +60",
                "service 1: packets_to_backend +1, bytes_to_backend +78",
            ],
        ),
        known_connection("direct: the next hop is asked for again after a second")
            .meanwhile(vec![Change::Advance(2), through_the_stack(POD_1), through_the_stack(CLIENT)])
            .at(PodIngress, tcp(CLIENT, NGINX).ack(101, 501))
            .becomes(tcp(CLIENT, POD_1).ack(101, 501))
            .changes(
                "~ flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 seen
                 ~ flow egress tcp 10.244.3.46:8080 > 10.244.3.5:40000 seen
                 service 1: packets_to_backend +1, bytes_to_backend +40",
            )
            // What the stack forwards is not translated before it leaves the stack.
            .at(PodIngress, tcp(POD_1, CLIENT).ack(501, 101))
            .at(PodEgress, tcp(POD_1, CLIENT).ack(501, 101))
            .becomes(tcp(NGINX, CLIENT).ack(501, 101))
            .changes(
                "~ flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 [replied]
                 ~ flow egress tcp 10.244.3.46:8080 > 10.244.3.5:40000 [replied]
                 service 1: packets_to_client +1, bytes_to_client +40",
            ),
        known_connection("direct: a packet at the end of its hops is the stack's, which says so")
            .at(PodIngress, tcp(CLIENT, NGINX).ack(101, 501).ttl(1))
            .becomes(tcp(CLIENT, POD_1).ack(101, 501).ttl(1))
            .changes("service 1: packets_to_backend +1, bytes_to_backend +40"),
        known_connection("direct: a packet beyond the MTU is the stack's, an aggregate of good segments is not")
            .at(PodIngress, tcp(CLIENT, NGINX).ack(101, 501).payload(&[b'x'; 1461]))
            .becomes(tcp(CLIENT, POD_1).ack(101, 501).payload(&[b'x'; 1461]))
            .changes("service 1: packets_to_backend +1, bytes_to_backend +1501")
            .at(PodIngress, tcp(CLIENT, NGINX).ack(101, 501).payload(&[b'x'; 1460]))
            .is_redirected_as(tcp(CLIENT, POD_1).ack(101, 501).payload(&[b'x'; 1460]).ttl(63))
            .changes("service 1: packets_to_backend +1, bytes_to_backend +1500")
            .at(PodIngress, tcp(CLIENT, NGINX).ack(101, 501).payload(&[b'x'; 4000]).gso())
            .is_redirected_as(tcp(CLIENT, POD_1).ack(101, 501).payload(&[b'x'; 4000]).gso().ttl(63))
            .changes("service 1: packets_to_backend +1, bytes_to_backend +4040"),
        case("direct: straight to a pod, too", &World::new().forward(Protocol::UDP, DNS, &[DNS_POD]))
            .native_only(REASON)
            .meanwhile(vec![peer(DNS_POD, 7), peer(CLIENT, 8)])
            .at(PodIngress, udp(CLIENT, DNS_POD).payload(b"query"))
            .is_redirected_as(udp(CLIENT, DNS_POD).payload(b"query").ttl(63))
            .changes(
                "+ flow ingress udp 10.244.3.5:40000 > 10.244.3.2:53 => 10.244.3.5:40000 > 10.244.3.2:53, no backend, no service, to_backend direct, peer egress []
                 + flow egress udp 10.244.3.2:53 > 10.244.3.5:40000 => 10.244.3.2:53 > 10.244.3.5:40000, no backend, no service, direct, peer ingress []",
            ),
        case("direct: a pod that reaches itself turns back", &World::new().forward(Protocol::TCP, NGINX, &[POD_1]))
            .native_only(REASON)
            .random(&[dice(0, 1), 0])
            .meanwhile(vec![peer(POD_1, 7)])
            .at(PodIngress, tcp(POD_1, NGINX).syn(1))
            .is_redirected_as(tcp("10.0.0.1:61000", POD_1).syn(1).turned())
            .changes(
                "+ flow ingress tcp 10.244.3.46:8080 > 10.110.110.219:80 => 10.0.0.1:61000 > 10.244.3.46:8080, backend 1, service 1, to_backend turn_back addresses, peer ingress []
                 + flow ingress tcp 10.244.3.46:8080 > 10.0.0.1:61000 => 10.110.110.219:80 > 10.244.3.46:8080, backend 1, service 1, turn_back addresses, peer ingress []
                 service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +40",
            ),
        case("direct: clients outside go through the stack, which masquerades", &{
            World::new().forward(Protocol::TCP, NGINX, &[POD_1])
        })
        .native_only(REASON)
        .random(&[dice(0, 1), 0])
        .meanwhile(vec![peer(POD_1, 7)])
        .at(UplinkIngress, tcp(OUTSIDE, NGINX).syn(1))
        .becomes(tcp("192.0.2.9:61000", POD_1).syn(1))
        .changes(
            "+ flow ingress tcp 192.0.2.9:40000 > 10.110.110.219:80 => 192.0.2.9:61000 > 10.244.3.46:8080, backend 1, service 1, to_backend addresses, peer egress []
             + flow egress tcp 10.244.3.46:8080 > 192.0.2.9:61000 => 10.110.110.219:80 > 192.0.2.9:40000, backend 1, service 1, addresses, peer ingress []
             + flow egress tcp 192.0.2.9:61000 > 10.244.3.46:8080 => 10.0.0.1:61000 > 10.244.3.46:8080, backend 1, no service, to_backend addresses, peer ingress []
             + flow ingress tcp 10.244.3.46:8080 > 10.0.0.1:61000 => 10.244.3.46:8080 > 192.0.2.9:61000, backend 1, no service, addresses, peer egress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +40",
        ),
    ]
}
