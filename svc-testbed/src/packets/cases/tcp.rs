//! The life of TCP connections to a service.

use svc_common::{Protocol, flow_stage};

use super::cast::*;
use crate::packets::case::Hook::*;
use crate::packets::case::{Case, case, dice};
use crate::packets::frame::tcp;
use crate::packets::world::{Change, World};

/// The options of an ordinary SYN: MSS, SACK permitted, timestamps, window scale.
const SYN_OPTIONS: [u8; 20] = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];

fn lifecycle(name: &'static str, client: &str, service: &str, pod: &str, lines: [&str; 7]) -> Case {
    let [opened, answered, request, response, client_fin, pod_fin, last] = lines;
    let world = World::new().forward(Protocol::TCP, service, &[pod]);
    case(name, &world)
        .at(PodIngress, tcp(client, service).syn(100).tcp_options(&SYN_OPTIONS))
        .becomes(tcp(client, pod).syn(100).tcp_options(&SYN_OPTIONS))
        .changes(opened)
        .then_at(PodEgress)
        .at(PodIngress, tcp(pod, client).syn_ack(500, 101))
        .then_at(PodEgress)
        .becomes(tcp(service, client).syn_ack(500, 101))
        .changes(answered)
        .at(PodIngress, tcp(client, service).ack(101, 501).payload(b"GET / HTTP/1.1\r\n\r\n"))
        .becomes(tcp(client, pod).ack(101, 501).payload(b"GET / HTTP/1.1\r\n\r\n"))
        .changes(request)
        .then_at(PodEgress)
        .at(PodEgress, tcp(pod, client).ack(501, 119).payload(&[b'x'; 2500]).gso())
        .becomes(tcp(service, client).ack(501, 119).payload(&[b'x'; 2500]).gso())
        .changes(response)
        .at(PodIngress, tcp(client, service).fin(119, 3001))
        .becomes(tcp(client, pod).fin(119, 3001))
        .changes(client_fin)
        .at(PodEgress, tcp(pod, client).fin(3001, 120))
        .becomes(tcp(service, client).fin(3001, 120))
        .changes(pod_fin)
        .at(PodIngress, tcp(client, service).ack(120, 3002))
        .becomes(tcp(client, pod).ack(120, 3002))
        .changes(last)
}

pub fn cases() -> Vec<Case> {
    vec![
        lifecycle(
            "tcp: a connection's life, IPv4",
            CLIENT,
            NGINX,
            POD_1,
            [
                "+ flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 => 10.244.3.5:40000 > 10.244.3.46:8080, backend 1, service 1, to_backend addresses, peer egress []
                 + flow egress tcp 10.244.3.46:8080 > 10.244.3.5:40000 => 10.110.110.219:80 > 10.244.3.5:40000, backend 1, service 1, addresses, peer ingress []
                 service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +60",
                "~ flow egress tcp 10.244.3.46:8080 > 10.244.3.5:40000 [replied]
                 ~ flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 [replied]
                 service 1: packets_to_client +1, bytes_to_client +40",
                "service 1: packets_to_backend +1, bytes_to_backend +58",
                "service 1: packets_to_client +1, bytes_to_client +2540",
                "~ flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 [replied fin_client]
                 ~ flow egress tcp 10.244.3.46:8080 > 10.244.3.5:40000 [replied fin_client]
                 service 1: packets_to_backend +1, bytes_to_backend +40",
                "~ flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 [replied fin_client fin_backend]
                 ~ flow egress tcp 10.244.3.46:8080 > 10.244.3.5:40000 [replied fin_client fin_backend]
                 service 1: packets_to_client +1, bytes_to_client +40",
                "service 1: packets_to_backend +1, bytes_to_backend +40",
            ],
        ),
        lifecycle(
            "tcp: a connection's life, IPv6",
            CLIENT_V6,
            NGINX_V6,
            POD_V6,
            [
                "+ flow ingress tcp [fd00:10:244:3::5]:40000 > [fd00:10:110::db]:80 => [fd00:10:244:3::5]:40000 > [fd00:10:244:3::46]:8080, backend 1, service 1, to_backend addresses, peer egress []
                 + flow egress tcp [fd00:10:244:3::46]:8080 > [fd00:10:244:3::5]:40000 => [fd00:10:110::db]:80 > [fd00:10:244:3::5]:40000, backend 1, service 1, addresses, peer ingress []
                 service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +80",
                "~ flow egress tcp [fd00:10:244:3::46]:8080 > [fd00:10:244:3::5]:40000 [replied]
                 ~ flow ingress tcp [fd00:10:244:3::5]:40000 > [fd00:10:110::db]:80 [replied]
                 service 1: packets_to_client +1, bytes_to_client +60",
                "service 1: packets_to_backend +1, bytes_to_backend +78",
                "service 1: packets_to_client +1, bytes_to_client +2560",
                "~ flow ingress tcp [fd00:10:244:3::5]:40000 > [fd00:10:110::db]:80 [replied fin_client]
                 ~ flow egress tcp [fd00:10:244:3::46]:8080 > [fd00:10:244:3::5]:40000 [replied fin_client]
                 service 1: packets_to_backend +1, bytes_to_backend +60",
                "~ flow ingress tcp [fd00:10:244:3::5]:40000 > [fd00:10:110::db]:80 [replied fin_client fin_backend]
                 ~ flow egress tcp [fd00:10:244:3::46]:8080 > [fd00:10:244:3::5]:40000 [replied fin_client fin_backend]
                 service 1: packets_to_client +1, bytes_to_client +60",
                "service 1: packets_to_backend +1, bytes_to_backend +60",
            ],
        ),
        same_port_as_service(),
        reset(),
        retransmission(),
        unanswered_moves(),
        established_is_never_cut(),
        reused_port(),
        reboot(),
        forgotten(),
        remote_backend(),
    ]
}

const OPENED_1: &str = "
    + flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 => 10.244.3.5:40000 > 10.244.3.46:8080, backend 1, service 1, to_backend addresses, peer egress []
    + flow egress tcp 10.244.3.46:8080 > 10.244.3.5:40000 => 10.110.110.219:80 > 10.244.3.5:40000, backend 1, service 1, addresses, peer ingress []
    service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +40";
const REPLIED_1: &str = "
    ~ flow egress tcp 10.244.3.46:8080 > 10.244.3.5:40000 [replied]
    ~ flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 [replied]
    service 1: packets_to_client +1, bytes_to_client +40";
const TO_BACKEND_40: &str = "service 1: packets_to_backend +1, bytes_to_backend +40";
const TO_CLIENT_40: &str = "service 1: packets_to_client +1, bytes_to_client +40";

fn two_pods() -> World {
    World::new().forward(Protocol::TCP, NGINX, &[POD_1, POD_2])
}

/// Opened to the first pod, answered.
fn established(name: &'static str, world: &World) -> Case {
    case(name, world)
        .at(PodIngress, tcp(CLIENT, NGINX).syn(100))
        .becomes(tcp(CLIENT, POD_1).syn(100))
        .changes(OPENED_1)
        .at(PodEgress, tcp(POD_1, CLIENT).syn_ack(500, 101))
        .becomes(tcp(NGINX, CLIENT).syn_ack(500, 101))
        .changes(REPLIED_1)
}

fn same_port_as_service() -> Case {
    let world = World::new().forward(Protocol::TCP, NGINX, &["10.244.3.46:80"]);
    case("tcp: the pod listens on the service's port: only addresses change", &world)
        .at(PodIngress, tcp(CLIENT, NGINX).syn(100))
        .becomes(tcp(CLIENT, "10.244.3.46:80").syn(100))
        .changes(
            "+ flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 => 10.244.3.5:40000 > 10.244.3.46:80, backend 1, service 1, to_backend addresses, peer egress []
             + flow egress tcp 10.244.3.46:80 > 10.244.3.5:40000 => 10.110.110.219:80 > 10.244.3.5:40000, backend 1, service 1, addresses, peer ingress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +40",
        )
}

fn reset() -> Case {
    established("tcp: a reset ends the flow, the next SYN chooses anew", &two_pods())
        .random(&[dice(0, 2), dice(1, 2)])
        .at(PodEgress, tcp(POD_1, CLIENT).rst(501))
        .becomes(tcp(NGINX, CLIENT).rst(501))
        .changes(
            "~ flow egress tcp 10.244.3.46:8080 > 10.244.3.5:40000 [replied closed]
             ~ flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 [replied closed]
             service 1: packets_to_client +1, bytes_to_client +40",
        )
        .at(PodIngress, tcp(CLIENT, NGINX).syn(9000))
        .becomes(tcp(CLIENT, POD_2).syn(9000))
        .changes(
            "~ flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 => 10.244.3.5:40000 > 10.244.3.47:8080, backend 2, service 1, to_backend addresses, peer egress []
             + flow egress tcp 10.244.3.47:8080 > 10.244.3.5:40000 => 10.110.110.219:80 > 10.244.3.5:40000, backend 2, service 1, addresses, peer ingress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +40",
        )
        .leaves_half("the reply flow of the connection that was reset stays until the LRU map needs its place")
}

fn retransmission() -> Case {
    case("tcp: a SYN sent again keeps its backend", &two_pods())
        .random(&[dice(0, 2), dice(1, 2), dice(1, 2)])
        .at(PodIngress, tcp(CLIENT, NGINX).syn(100))
        .becomes(tcp(CLIENT, POD_1).syn(100))
        .changes(OPENED_1)
        .at(PodIngress, tcp(CLIENT, NGINX).syn(100))
        .becomes(tcp(CLIENT, POD_1).syn(100))
        .changes(TO_BACKEND_40)
        .at(PodIngress, tcp(CLIENT, NGINX).syn(100))
        .becomes(tcp(CLIENT, POD_1).syn(100))
        .changes(TO_BACKEND_40)
}

fn unanswered_moves() -> Case {
    let mut world = two_pods();
    let opened = case("tcp: a SYN sent again leaves a backend that is gone and never answered", &world);
    let removed = [world.publish(1, &[2]), world.end_backend(1)].concat();
    opened
        .random(&[dice(0, 2), dice(0, 1)])
        .at(PodIngress, tcp(CLIENT, NGINX).syn(100))
        .becomes(tcp(CLIENT, POD_1).syn(100))
        .changes(OPENED_1)
        .meanwhile(removed)
        .at(PodIngress, tcp(CLIENT, NGINX).syn(100))
        .becomes(tcp(CLIENT, POD_2).syn(100))
        .changes(
            "~ flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 => 10.244.3.5:40000 > 10.244.3.47:8080, backend 2, service 1, to_backend addresses, peer egress []
             + flow egress tcp 10.244.3.47:8080 > 10.244.3.5:40000 => 10.110.110.219:80 > 10.244.3.5:40000, backend 2, service 1, addresses, peer ingress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +40",
        )
        .leaves_half("a late answer of the old backend may still pass")
}

fn established_is_never_cut() -> Case {
    let mut world = World::new().forward(Protocol::TCP, NGINX, &[POD_1]);
    let opened = established("tcp: an established connection outlives its backend and its service", &world);
    let emptied = [world.publish(1, &[]), world.end_backend(1)].concat();
    let deleted = world.delete_service(1);
    opened
        .meanwhile(emptied)
        .at(PodIngress, tcp(CLIENT, NGINX).ack(101, 501))
        .becomes(tcp(CLIENT, POD_1).ack(101, 501))
        .changes(TO_BACKEND_40)
        .at(PodEgress, tcp(POD_1, CLIENT).ack(501, 101))
        .becomes(tcp(NGINX, CLIENT).ack(501, 101))
        .changes(TO_CLIENT_40)
        .meanwhile(deleted)
        .at(PodIngress, tcp(CLIENT, NGINX).ack(101, 501))
        .becomes(tcp(CLIENT, POD_1).ack(101, 501))
        .changes(TO_BACKEND_40)
        .at(PodEgress, tcp(POD_1, CLIENT).ack(501, 101))
        .becomes(tcp(NGINX, CLIENT).ack(501, 101))
        .changes(TO_CLIENT_40)
}

fn reused_port() -> Case {
    established("tcp: the client's port is used again after both sides closed", &two_pods())
        .random(&[dice(0, 2), dice(0, 2)])
        .at(PodEgress, tcp(POD_1, CLIENT).fin(501, 101))
        .becomes(tcp(NGINX, CLIENT).fin(501, 101))
        .changes(
            "~ flow egress tcp 10.244.3.46:8080 > 10.244.3.5:40000 [replied fin_backend]
             ~ flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 [replied fin_backend]
             service 1: packets_to_client +1, bytes_to_client +40",
        )
        .at(PodIngress, tcp(CLIENT, NGINX).fin(101, 502))
        .becomes(tcp(CLIENT, POD_1).fin(101, 502))
        .changes(
            "~ flow egress tcp 10.244.3.46:8080 > 10.244.3.5:40000 [replied fin_client fin_backend]
             ~ flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 [replied fin_client fin_backend]
             service 1: packets_to_backend +1, bytes_to_backend +40",
        )
        .at(PodEgress, tcp(POD_1, CLIENT).ack(502, 102))
        .becomes(tcp(NGINX, CLIENT).ack(502, 102))
        .changes(TO_CLIENT_40)
        .at(PodIngress, tcp(CLIENT, NGINX).syn(77_000))
        .becomes(tcp(CLIENT, POD_1).syn(77_000))
        .changes(
            "~ flow egress tcp 10.244.3.46:8080 > 10.244.3.5:40000 []
             ~ flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +40",
        )
}

fn reboot() -> Case {
    established("tcp: a SYN in the middle of a connection goes to its backend, which answers for itself", &two_pods())
        .random(&[dice(0, 2), dice(1, 2)])
        .at(PodIngress, tcp(CLIENT, NGINX).syn(55_000))
        .becomes(tcp(CLIENT, POD_1).syn(55_000))
        .changes(TO_BACKEND_40)
}

fn forgotten() -> Case {
    use crate::packets::frame::at;
    let forget = Change::ForgetFlow {
        stage: flow_stage::INGRESS,
        protocol: Protocol::TCP,
        source: at(CLIENT),
        destination: at(NGINX),
    };
    let world = World::new().forward(Protocol::TCP, NGINX, &[POD_1]);
    established("tcp: a connection whose flow the map threw out passes untouched; a new one begins afresh", &world)
        .meanwhile(vec![forget])
        .at(PodIngress, tcp(CLIENT, NGINX).ack(101, 501))
        .at(PodIngress, tcp(CLIENT, NGINX).syn(9000))
        .becomes(tcp(CLIENT, POD_1).syn(9000))
        .changes(
            "+ flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 => 10.244.3.5:40000 > 10.244.3.46:8080, backend 1, service 1, to_backend addresses, peer egress []
             ~ flow egress tcp 10.244.3.46:8080 > 10.244.3.5:40000 []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +40",
        )
}

fn remote_backend() -> Case {
    let world = World::new().forward(Protocol::TCP, NGINX, &["10.244.7.9:8080"]);
    case("tcp: a backend on another node answers through the uplink", &world)
        .at(PodIngress, tcp(CLIENT, NGINX).syn(100))
        .becomes(tcp(CLIENT, "10.244.7.9:8080").syn(100))
        .changes(
            "+ flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 => 10.244.3.5:40000 > 10.244.7.9:8080, backend 1, service 1, to_backend addresses, peer egress []
             + flow egress tcp 10.244.7.9:8080 > 10.244.3.5:40000 => 10.110.110.219:80 > 10.244.3.5:40000, backend 1, service 1, addresses, peer ingress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +40",
        )
        .then_at(UplinkEgress)
        .at(UplinkIngress, tcp("10.244.7.9:8080", CLIENT).syn_ack(500, 101))
        .then_at(PodEgress)
        .becomes(tcp(NGINX, CLIENT).syn_ack(500, 101))
        .changes(
            "~ flow egress tcp 10.244.7.9:8080 > 10.244.3.5:40000 [replied]
             ~ flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 [replied]
             service 1: packets_to_client +1, bytes_to_client +40",
        )
}
