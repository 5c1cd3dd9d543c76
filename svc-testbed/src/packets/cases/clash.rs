//! One client port used twice towards one backend: the second connection gets another port, both work.

use svc_common::{DropReason, Protocol};

use super::cast::*;
use crate::packets::case::Hook::*;
use crate::packets::case::{Case, case};
use crate::packets::frame::{Frame, tcp, udp};
use crate::packets::world::{Change, World};

/// What the second connection looks like to the backend.
const CLIENT_CHOSEN: &str = "10.244.3.5:CHOSEN";
const OTHER: &str = "10.96.7.7:80";
const THIRD: &str = "10.96.8.8:80";
const FOURTH: &str = "10.96.9.9:80";

const SERVICE_FIRST: &str = "
    + flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 => 10.244.3.5:40000 > 10.244.3.46:8080, backend 1, service 1, to_backend addresses, peer egress []
    + flow egress tcp 10.244.3.46:8080 > 10.244.3.5:40000 => 10.110.110.219:80 > 10.244.3.5:40000, backend 1, service 1, addresses, peer ingress []
    service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +40";
const DIRECT_SECOND: &str = "
    + flow ingress tcp 10.244.3.5:40000 > 10.244.3.46:8080 => 10.244.3.5:CHOSEN > 10.244.3.46:8080, no backend, no service, to_backend direct, peer egress []
    + flow egress tcp 10.244.3.46:8080 > 10.244.3.5:CHOSEN => 10.244.3.46:8080 > 10.244.3.5:40000, no backend, no service, direct, peer ingress []";
const DIRECT_FIRST: &str = "
    + flow ingress tcp 10.244.3.5:40000 > 10.244.3.46:8080 => 10.244.3.5:40000 > 10.244.3.46:8080, no backend, no service, to_backend direct, peer egress []
    + flow egress tcp 10.244.3.46:8080 > 10.244.3.5:40000 => 10.244.3.46:8080 > 10.244.3.5:40000, no backend, no service, direct, peer ingress []";
const SERVICE_SECOND: &str = "
    + flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 => 10.244.3.5:CHOSEN > 10.244.3.46:8080, backend 1, service 1, to_backend addresses, peer egress []
    + flow egress tcp 10.244.3.46:8080 > 10.244.3.5:CHOSEN => 10.110.110.219:80 > 10.244.3.5:40000, backend 1, service 1, addresses, peer ingress []
    service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +40";

fn replied(protocol: &str, key: &str, reply: &str) -> String {
    format!("~ flow ingress {protocol} {key} [replied]\n~ flow egress {protocol} {reply} [replied]\n")
}

fn answered(bytes: u32) -> String {
    format!("service 1: packets_to_client +1, bytes_to_client +{bytes}")
}

fn world() -> World {
    World::new().forward(Protocol::TCP, NGINX, &[POD_1])
}

pub fn cases() -> Vec<Case> {
    vec![service_then_direct(), direct_then_service(), two_services(), over(), datagrams(), v6(), exhausted()]
}

fn service_then_direct() -> Case {
    case("clash: first to the service, then straight to its backend", &world())
        .at(PodIngress, tcp(CLIENT, NGINX).syn(100))
        .becomes(tcp(CLIENT, POD_1).syn(100))
        .changes(SERVICE_FIRST)
        .at(PodIngress, tcp(CLIENT, POD_1).syn(900))
        .becomes(tcp(CLIENT_CHOSEN, POD_1).syn(900))
        .changes(DIRECT_SECOND)
        .at(PodEgress, tcp(POD_1, CLIENT).syn_ack(500, 101))
        .becomes(tcp(NGINX, CLIENT).syn_ack(500, 101))
        .changes(&replied("tcp", "10.244.3.5:40000 > 10.110.110.219:80", "10.244.3.46:8080 > 10.244.3.5:40000"))
        .changes(&answered(40))
        .at(PodEgress, tcp(POD_1, CLIENT_CHOSEN).syn_ack(700, 901))
        .becomes(tcp(POD_1, CLIENT).syn_ack(700, 901))
        .changes(&replied("tcp", "10.244.3.5:40000 > 10.244.3.46:8080", "10.244.3.46:8080 > 10.244.3.5:CHOSEN"))
        .at(PodIngress, tcp(CLIENT, POD_1).ack(901, 701).payload(b"direct"))
        .becomes(tcp(CLIENT_CHOSEN, POD_1).ack(901, 701).payload(b"direct"))
        .at(PodIngress, tcp(CLIENT, NGINX).ack(101, 501).payload(b"service"))
        .becomes(tcp(CLIENT, POD_1).ack(101, 501).payload(b"service"))
        .changes("service 1: packets_to_backend +1, bytes_to_backend +47")
}

fn direct_then_service() -> Case {
    case("clash: first straight to the backend, then to its service", &world())
        .at(PodIngress, tcp(CLIENT, POD_1).syn(900))
        .changes(DIRECT_FIRST)
        .at(PodEgress, tcp(POD_1, CLIENT).syn_ack(700, 901))
        .changes(&replied("tcp", "10.244.3.5:40000 > 10.244.3.46:8080", "10.244.3.46:8080 > 10.244.3.5:40000"))
        .at(PodIngress, tcp(CLIENT, NGINX).syn(100))
        .becomes(tcp(CLIENT_CHOSEN, POD_1).syn(100))
        .changes(SERVICE_SECOND)
        .at(PodEgress, tcp(POD_1, CLIENT_CHOSEN).syn_ack(500, 101))
        .becomes(tcp(NGINX, CLIENT).syn_ack(500, 101))
        .changes(&replied("tcp", "10.244.3.5:40000 > 10.110.110.219:80", "10.244.3.46:8080 > 10.244.3.5:CHOSEN"))
        .changes(&answered(40))
        .at(PodIngress, tcp(CLIENT, POD_1).ack(901, 701).payload(b"direct"))
        .at(PodIngress, tcp(CLIENT, NGINX).ack(101, 501).payload(b"service"))
        .becomes(tcp(CLIENT_CHOSEN, POD_1).ack(101, 501).payload(b"service"))
        .changes("service 1: packets_to_backend +1, bytes_to_backend +47")
}

fn two_services() -> Case {
    let world = world().forward(Protocol::TCP, OTHER, &[POD_1]);
    case("clash: two services with one backend", &world)
        .at(PodIngress, tcp(CLIENT, NGINX).syn(100))
        .becomes(tcp(CLIENT, POD_1).syn(100))
        .changes(SERVICE_FIRST)
        .at(PodIngress, tcp(CLIENT, OTHER).syn(300))
        .becomes(tcp(CLIENT_CHOSEN, POD_1).syn(300))
        .changes(
            "+ flow ingress tcp 10.244.3.5:40000 > 10.96.7.7:80 => 10.244.3.5:CHOSEN > 10.244.3.46:8080, backend 2, service 2, to_backend addresses, peer egress []
             + flow egress tcp 10.244.3.46:8080 > 10.244.3.5:CHOSEN => 10.96.7.7:80 > 10.244.3.5:40000, backend 2, service 2, addresses, peer ingress []
             service 2: connections_tc +1, packets_to_backend +1, bytes_to_backend +40",
        )
        .at(PodEgress, tcp(POD_1, CLIENT).syn_ack(500, 101))
        .becomes(tcp(NGINX, CLIENT).syn_ack(500, 101))
        .changes(&replied("tcp", "10.244.3.5:40000 > 10.110.110.219:80", "10.244.3.46:8080 > 10.244.3.5:40000"))
        .changes(&answered(40))
        .at(PodEgress, tcp(POD_1, CLIENT_CHOSEN).syn_ack(600, 301))
        .becomes(tcp(OTHER, CLIENT).syn_ack(600, 301))
        .changes(&replied("tcp", "10.244.3.5:40000 > 10.96.7.7:80", "10.244.3.46:8080 > 10.244.3.5:CHOSEN"))
        .changes("service 2: packets_to_client +1, bytes_to_client +40")
}

fn over() -> Case {
    case("clash: none with a connection that is over", &world())
        .at(PodIngress, tcp(CLIENT, NGINX).syn(100))
        .becomes(tcp(CLIENT, POD_1).syn(100))
        .changes(SERVICE_FIRST)
        .at(PodEgress, tcp(POD_1, CLIENT).rst(0))
        .becomes(tcp(NGINX, CLIENT).rst(0))
        .changes(
            "~ flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 [replied closed]
             ~ flow egress tcp 10.244.3.46:8080 > 10.244.3.5:40000 [replied closed]",
        )
        .changes(&answered(40))
        .at(PodIngress, tcp(CLIENT, POD_1).syn(900))
        .changes(
            "+ flow ingress tcp 10.244.3.5:40000 > 10.244.3.46:8080 => 10.244.3.5:40000 > 10.244.3.46:8080, no backend, no service, to_backend direct, peer egress []
             ~ flow egress tcp 10.244.3.46:8080 > 10.244.3.5:40000 => 10.244.3.46:8080 > 10.244.3.5:40000, no backend, no service, direct, peer ingress []",
        )
        .leaves_half("the flow that is over lost its reply flow to the new one")
        .at(PodEgress, tcp(POD_1, CLIENT).syn_ack(700, 901))
        .changes(&replied("tcp", "10.244.3.5:40000 > 10.244.3.46:8080", "10.244.3.46:8080 > 10.244.3.5:40000"))
}

fn datagrams() -> Case {
    let world = World::new().forward(Protocol::UDP, DNS, &[DNS_POD]);
    let both = |from: &str| (udp(from, DNS_POD), udp(DNS_POD, from));
    let (to_pod, _) = both(CLIENT);
    let (moved, moved_answer) = both(CLIENT_CHOSEN);
    case("clash: datagrams, and room again once the first flow is forgotten", &world)
        .at(PodIngress, udp(CLIENT, DNS))
        .becomes(to_pod.clone())
        .changes(
            "+ flow ingress udp 10.244.3.5:40000 > 10.96.0.10:53 => 10.244.3.5:40000 > 10.244.3.2:53, backend 1, service 1, to_backend addresses, peer egress []
             + flow egress udp 10.244.3.2:53 > 10.244.3.5:40000 => 10.96.0.10:53 > 10.244.3.5:40000, backend 1, service 1, addresses, peer ingress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +36",
        )
        .at(PodIngress, to_pod.clone())
        .becomes(moved)
        .changes(
            "+ flow ingress udp 10.244.3.5:40000 > 10.244.3.2:53 => 10.244.3.5:CHOSEN > 10.244.3.2:53, no backend, no service, to_backend direct, peer egress []
             + flow egress udp 10.244.3.2:53 > 10.244.3.5:CHOSEN => 10.244.3.2:53 > 10.244.3.5:40000, no backend, no service, direct, peer ingress []",
        )
        .at(PodEgress, moved_answer)
        .becomes(udp(DNS_POD, CLIENT))
        .changes(&replied("udp", "10.244.3.5:40000 > 10.244.3.2:53", "10.244.3.2:53 > 10.244.3.5:CHOSEN"))
        .meanwhile(vec![Change::Advance(200)])
        .at(PodIngress, to_pod)
        .changes(
            "~ flow ingress udp 10.244.3.5:40000 > 10.244.3.2:53 => 10.244.3.5:40000 > 10.244.3.2:53, no backend, no service, to_backend direct, peer egress []
             ~ flow egress udp 10.244.3.2:53 > 10.244.3.5:40000 => 10.244.3.2:53 > 10.244.3.5:40000, no backend, no service, direct, peer ingress []",
        )
        .leaves_half("two forgotten flows lost their other halves to the new one")
}

fn v6() -> Case {
    let chosen = "[fd00:10:244:3::5]:CHOSEN";
    let world = World::new().forward(Protocol::TCP, NGINX_V6, &[POD_V6]);
    case("clash: IPv6, first straight to the backend, then to its service", &world)
        .at(PodIngress, tcp(CLIENT_V6, POD_V6).syn(900))
        .changes(
            "+ flow ingress tcp [fd00:10:244:3::5]:40000 > [fd00:10:244:3::46]:8080 => [fd00:10:244:3::5]:40000 > [fd00:10:244:3::46]:8080, no backend, no service, to_backend direct, peer egress []
             + flow egress tcp [fd00:10:244:3::46]:8080 > [fd00:10:244:3::5]:40000 => [fd00:10:244:3::46]:8080 > [fd00:10:244:3::5]:40000, no backend, no service, direct, peer ingress []",
        )
        .at(PodIngress, tcp(CLIENT_V6, NGINX_V6).syn(100))
        .becomes(tcp(chosen, POD_V6).syn(100))
        .changes(
            "+ flow ingress tcp [fd00:10:244:3::5]:40000 > [fd00:10:110::db]:80 => [fd00:10:244:3::5]:CHOSEN > [fd00:10:244:3::46]:8080, backend 1, service 1, to_backend addresses, peer egress []
             + flow egress tcp [fd00:10:244:3::46]:8080 > [fd00:10:244:3::5]:CHOSEN => [fd00:10:110::db]:80 > [fd00:10:244:3::5]:40000, backend 1, service 1, addresses, peer ingress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +60",
        )
        .at(PodEgress, tcp(POD_V6, chosen).syn_ack(500, 101))
        .becomes(tcp(NGINX_V6, CLIENT_V6).syn_ack(500, 101))
        .changes(&replied(
            "tcp",
            "[fd00:10:244:3::5]:40000 > [fd00:10:110::db]:80",
            "[fd00:10:244:3::46]:8080 > [fd00:10:244:3::5]:CHOSEN",
        ))
        .changes(&answered(60))
}

fn exhausted() -> Case {
    const ALWAYS: u32 = 0x5555;
    let world = world().forward(Protocol::TCP, OTHER, &[POD_1]).forward(Protocol::TCP, THIRD, &[POD_1]);
    let world = world.forward(Protocol::TCP, FOURTH, &[POD_1]);
    let second: Frame = tcp(CLIENT_CHOSEN, POD_1).syn(300);
    case("clash: every port that was tried is taken, above the range of sockets and below", &world)
        .random(&[ALWAYS; 24])
        .native_only("the kernel's dice never fall alike so many times")
        .at(PodIngress, tcp(CLIENT, NGINX).syn(100))
        .becomes(tcp(CLIENT, POD_1).syn(100))
        .changes(SERVICE_FIRST)
        .at(PodIngress, tcp(CLIENT, OTHER).syn(300))
        .becomes(second)
        .changes(
            "+ flow ingress tcp 10.244.3.5:40000 > 10.96.7.7:80 => 10.244.3.5:CHOSEN > 10.244.3.46:8080, backend 2, service 2, to_backend addresses, peer egress []
             + flow egress tcp 10.244.3.46:8080 > 10.244.3.5:CHOSEN => 10.96.7.7:80 > 10.244.3.5:40000, backend 2, service 2, addresses, peer ingress []
             service 2: connections_tc +1, packets_to_backend +1, bytes_to_backend +40",
        )
        .at(PodIngress, tcp(CLIENT, THIRD).syn(600))
        .becomes(tcp("10.244.3.5:11605", POD_1).syn(600))
        .changes(
            "+ flow ingress tcp 10.244.3.5:40000 > 10.96.8.8:80 => 10.244.3.5:11605 > 10.244.3.46:8080, backend 3, service 3, to_backend addresses, peer egress []
             + flow egress tcp 10.244.3.46:8080 > 10.244.3.5:11605 => 10.96.8.8:80 > 10.244.3.5:40000, backend 3, service 3, addresses, peer ingress []
             service 3: connections_tc +1, packets_to_backend +1, bytes_to_backend +40",
        )
        .at(PodIngress, tcp(CLIENT, FOURTH).syn(600))
        .is_dropped(DropReason::SourcePortsExhausted)
        .changes(
            "service 4: rejected +1
             drops: source_ports_exhausted +1",
        )
}
