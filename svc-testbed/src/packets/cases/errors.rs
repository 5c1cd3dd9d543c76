//! ICMP errors about translated packets: the client sees the address it used inside.

use svc_common::Protocol;

use super::cast::*;
use crate::packets::case::Hook::*;
use crate::packets::case::{Case, case};
use crate::packets::frame::{Checksums, Frame, icmp, tcp, udp};
use crate::packets::world::World;

const CLIENT_IP: &str = "10.244.3.5";
const CLIENT_IP_V6: &str = "fd00:10:244:3::5";
const ROUTER: &str = "192.0.2.254";
const ROUTER_V6: &str = "2001:db8::fe";
/// Next-hop MTU 1400, in the second word of the header.
const MTU: [u8; 4] = [0, 0, 0x05, 0x78];

/// The beginning of a packet, as an error quotes it.
fn quote(frame: &Frame, length: usize) -> Vec<u8> {
    frame.ip_bytes(Checksums::Complete)[..length].to_vec()
}

/// The quote as the client's own packet, but with the transport checksum of the packet that was quoted: nobody
/// verifies it there.
fn quote_with_checksum_of(frame: &Frame, quoted: &Frame, length: usize) -> Vec<u8> {
    let mut bytes = quote(frame, length);
    bytes[length - 2..].copy_from_slice(&quote(quoted, length)[length - 2..]);
    bytes
}

pub fn cases() -> Vec<Case> {
    vec![
        port_unreachable(),
        port_unreachable_v6(),
        path_mtu(),
        path_mtu_v6(),
        time_exceeded(),
        time_exceeded_v6(),
        about_replies(),
        outside(),
        none_of_ours(),
    ]
}

/// A connection to a service, with its first packet as the client sent it, and as it went on.
fn opened(name: &'static str) -> (Case, Frame, Frame) {
    let world = World::new().forward(Protocol::TCP, NGINX, &[POD_1]);
    let (asked, sent) = (tcp(CLIENT, NGINX).syn(100), tcp(CLIENT, POD_1).syn(100));
    let begun = case(name, &world).at(PodIngress, asked.clone()).becomes(sent.clone()).changes(
            "+ flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 => 10.244.3.5:40000 > 10.244.3.46:8080, backend 1, service 1, to_backend addresses, peer egress []
             + flow egress tcp 10.244.3.46:8080 > 10.244.3.5:40000 => 10.110.110.219:80 > 10.244.3.5:40000, backend 1, service 1, addresses, peer ingress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +40",
        );
    (begun, asked, sent)
}

/// As [`opened`], IPv6.
fn opened_v6(name: &'static str) -> (Case, Frame, Frame) {
    let world = World::new().forward(Protocol::TCP, NGINX_V6, &[POD_V6]);
    let (asked, sent) = (tcp(CLIENT_V6, NGINX_V6).syn(100), tcp(CLIENT_V6, POD_V6).syn(100));
    let begun = case(name, &world).at(PodIngress, asked.clone()).becomes(sent.clone()).changes(
            "+ flow ingress tcp [fd00:10:244:3::5]:40000 > [fd00:10:110::db]:80 => [fd00:10:244:3::5]:40000 > [fd00:10:244:3::46]:8080, backend 1, service 1, to_backend addresses, peer egress []
             + flow egress tcp [fd00:10:244:3::46]:8080 > [fd00:10:244:3::5]:40000 => [fd00:10:110::db]:80 > [fd00:10:244:3::5]:40000, backend 1, service 1, addresses, peer ingress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +60",
        );
    (begun, asked, sent)
}

/// As [`opened`], UDP.
fn opened_udp(name: &'static str) -> (Case, Frame, Frame) {
    let world = World::new().forward(Protocol::UDP, DNS, &["10.244.3.2:5353"]);
    let (asked, sent) = (udp(CLIENT, DNS), udp(CLIENT, "10.244.3.2:5353"));
    let begun = case(name, &world).at(PodIngress, asked.clone()).becomes(sent.clone()).changes(
            "+ flow ingress udp 10.244.3.5:40000 > 10.96.0.10:53 => 10.244.3.5:40000 > 10.244.3.2:5353, backend 1, service 1, to_backend addresses, peer egress []
             + flow egress udp 10.244.3.2:5353 > 10.244.3.5:40000 => 10.96.0.10:53 > 10.244.3.5:40000, backend 1, service 1, addresses, peer ingress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +36",
        );
    (begun, asked, sent)
}

fn port_unreachable() -> Case {
    let (begun, asked, sent) = opened_udp("errors: the backend's port unreachable comes from the service");
    let error = |from, quoted: Vec<u8>| icmp(from, CLIENT_IP, 3, 3, [0; 4], &quoted);
    begun
        .at(PodEgress, error("10.244.3.2", quote(&sent, 28)))
        .becomes(error("10.96.0.10", quote_with_checksum_of(&asked, &sent, 28)))
}

fn path_mtu() -> Case {
    let (begun, asked, sent) = opened("errors: a router's fragmentation needed stays the router's");
    let error = |quoted: Vec<u8>| icmp(ROUTER, CLIENT_IP, 3, 4, MTU, &quoted);
    begun.at(PodEgress, error(quote(&sent, 28))).becomes(error(quote(&asked, 28)))
}

fn path_mtu_v6() -> Case {
    let (begun, asked, sent) = opened_v6("errors: a router's packet too big stays the router's");
    begun
        .at(PodEgress, icmp(ROUTER_V6, CLIENT_IP_V6, 2, 0, MTU, &quote(&sent, 48)))
        .becomes(icmp(ROUTER_V6, CLIENT_IP_V6, 2, 0, MTU, &quote(&asked, 48)))
        .at(PodEgress, icmp("fd00:10:244:3::46", CLIENT_IP_V6, 1, 4, [0; 4], &quote(&sent, 48)))
        .becomes(icmp("fd00:10:110::db", CLIENT_IP_V6, 1, 4, [0; 4], &quote(&asked, 48)))
}

fn port_unreachable_v6() -> Case {
    let (service, pod) = ("[fd00:10:96::a]:53", "[fd00:10:244:3::2]:5353");
    let world = World::new().forward(Protocol::UDP, service, &[pod]);
    let (asked, sent) = (udp(CLIENT_V6, service), udp(CLIENT_V6, pod));
    case("errors: the backend's port unreachable comes from the service, IPv6", &world)
        .at(PodIngress, asked.clone())
        .becomes(sent.clone())
        .changes(
            "+ flow ingress udp [fd00:10:244:3::5]:40000 > [fd00:10:96::a]:53 => [fd00:10:244:3::5]:40000 > [fd00:10:244:3::2]:5353, backend 1, service 1, to_backend addresses, peer egress []
             + flow egress udp [fd00:10:244:3::2]:5353 > [fd00:10:244:3::5]:40000 => [fd00:10:96::a]:53 > [fd00:10:244:3::5]:40000, backend 1, service 1, addresses, peer ingress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +56",
        )
        .at(PodEgress, icmp("fd00:10:244:3::2", CLIENT_IP_V6, 1, 4, [0; 4], &quote(&sent, 48)))
        .becomes(icmp("fd00:10:96::a", CLIENT_IP_V6, 1, 4, [0; 4], &quote_with_checksum_of(&asked, &sent, 48)))
}

/// traceroute shows the routers on the way to the endpoint.
fn time_exceeded() -> Case {
    let (begun, asked, sent) = opened("errors: a router's time exceeded, with and without options in the quote");
    begun
        .at(PodEgress, icmp(ROUTER, CLIENT_IP, 11, 0, [0; 4], &quote(&sent, 28)))
        .becomes(icmp(ROUTER, CLIENT_IP, 11, 0, [0; 4], &quote(&asked, 28)))
        .at(PodEgress, icmp(ROUTER, CLIENT_IP, 11, 0, [0; 4], &quote(&sent.ip_options(&[1; 8]), 36)))
        .becomes(icmp(ROUTER, CLIENT_IP, 11, 0, [0; 4], &quote(&asked.ip_options(&[1; 8]), 36)))
}

fn time_exceeded_v6() -> Case {
    let (begun, asked, sent) = opened_v6("errors: a router's time exceeded, IPv6");
    let error = |quoted: Vec<u8>| icmp(ROUTER_V6, CLIENT_IP_V6, 3, 0, [0; 4], &quoted);
    begun.at(PodEgress, error(quote(&sent, 48))).becomes(error(quote(&asked, 48)))
}

/// A client that closed its socket says so to the service; the endpoint must hear of its own datagram.
fn about_replies() -> Case {
    let (begun, ..) = opened_udp("errors: the client's about a reply reach the endpoint");
    let (answered, received) = (udp("10.244.3.2:5353", CLIENT), udp(DNS, CLIENT));
    begun
        .at(PodEgress, answered.clone())
        .becomes(received.clone())
        .changes(
            "~ flow ingress udp 10.244.3.5:40000 > 10.96.0.10:53 [replied]
             ~ flow egress udp 10.244.3.2:5353 > 10.244.3.5:40000 [replied]
             service 1: packets_to_client +1, bytes_to_client +36",
        )
        .at(PodIngress, icmp(CLIENT_IP, "10.96.0.10", 3, 3, [0; 4], &quote(&received, 28)))
        .becomes(icmp(CLIENT_IP, "10.244.3.2", 3, 3, [0; 4], &quote_with_checksum_of(&answered, &received, 28)))
}

/// Sent to the node, in whose name the packet went on: it takes both steps back.
fn outside() -> Case {
    const OUTSIDE: &str = "192.0.2.9:5000";
    const REMOTE: &str = "10.244.7.9:8080";
    const NODE: &str = "10.0.0.1";
    // Dice that choose port 61000.
    let world = World::new().forward(Protocol::TCP, NGINX, &[REMOTE]);
    let (asked, sent) = (tcp(OUTSIDE, NGINX).syn(100), tcp("192.0.2.9:61000", REMOTE).syn(100));
    let masqueraded = tcp("10.0.0.1:61000", REMOTE).syn(100);
    case("errors: about a packet of a client outside", &world)
        .native_only("the quote needs to know the port that the node chose")
        .random(&[0, 0])
        .at(UplinkIngress, asked.clone())
        .becomes(sent.clone())
        .changes(
            "+ flow ingress tcp 192.0.2.9:5000 > 10.110.110.219:80 => 192.0.2.9:61000 > 10.244.7.9:8080, backend 1, service 1, to_backend addresses, peer egress []
             + flow egress tcp 10.244.7.9:8080 > 192.0.2.9:61000 => 10.110.110.219:80 > 192.0.2.9:5000, backend 1, service 1, addresses, peer ingress []
             + flow egress tcp 192.0.2.9:61000 > 10.244.7.9:8080 => 10.0.0.1:61000 > 10.244.7.9:8080, backend 1, no service, to_backend addresses, peer ingress []
             + flow ingress tcp 10.244.7.9:8080 > 10.0.0.1:61000 => 10.244.7.9:8080 > 192.0.2.9:61000, backend 1, no service, addresses, peer egress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +40",
        )
        .then_at(UplinkEgress)
        .becomes(masqueraded.clone())
        .at(UplinkIngress, icmp(ROUTER, NODE, 3, 4, MTU, &quote(&masqueraded, 28)))
        .becomes(icmp(ROUTER, "192.0.2.9", 3, 4, MTU, &quote(&sent, 28)))
        .then_at(UplinkEgress)
        .becomes(icmp(ROUTER, "192.0.2.9", 3, 4, MTU, &quote(&asked, 28)))
}

fn none_of_ours() -> Case {
    let world = World::new().forward(Protocol::TCP, NGINX, &[POD_1]);
    let direct = tcp(CLIENT, POD_1).syn(100);
    case("errors: about other packets, or unreadable, they pass", &world)
        .at(PodEgress, icmp(ROUTER, CLIENT_IP, 3, 4, MTU, &quote(&direct, 28)))
        .at(PodEgress, icmp(ROUTER, CLIENT_IP, 3, 4, MTU, &quote(&direct, 21)))
        .at(PodEgress, icmp(ROUTER, CLIENT_IP, 3, 4, MTU, b""))
        .at(PodEgress, icmp("10.244.3.46", CLIENT_IP, 0, 0, [0, 1, 0, 1], &quote(&direct, 28)))
        .at(PodIngress, icmp("10.244.3.46", CLIENT_IP, 3, 3, [0; 4], &quote(&direct, 28)))
}
