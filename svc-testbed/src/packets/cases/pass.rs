//! Packets that are none of our business: untouched, uncounted, unremembered.

use svc_common::Protocol;

use super::cast::*;
use crate::packets::case::Hook::{self, *};
use crate::packets::case::{Case, case};
use crate::packets::frame::{Checksums, raw, tcp, udp};
use crate::packets::world::{NODE_V4, World};

fn world() -> World {
    World::new().forward(Protocol::TCP, NGINX, &[POD_1]).forward(Protocol::UDP, DNS, &[DNS_POD])
}

fn everywhere(name: &'static str, step: impl Fn(Case, Hook) -> Case) -> Case {
    Hook::ALL.into_iter().fold(case(name, &world()), step)
}

/// An ARP request for the pod's gateway.
const ARP: [u8; 42] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 0, 0, 0, 0x0a, 0x08, 0x06, // Ethernet
    0, 1, 0x08, 0, 6, 4, 0, 1, // request, Ethernet and IPv4
    0x02, 0, 0, 0, 0, 0x0a, 10, 244, 3, 5, // sender
    0, 0, 0, 0, 0, 0, 10, 110, 110, 219, // asks for the service's address
];

pub fn cases() -> Vec<Case> {
    vec![
        everywhere("pass: ARP", |case, hook| case.bytes_at(hook, &ARP)),
        everywhere("pass: frame of a local experimental ethertype", |case, hook| {
            case.bytes_at(hook, &[&ARP[..12], &[0x88, 0xb5], &[0x45; 60]].concat())
        }),
        everywhere("pass: VLAN tag, even in front of a service address", |case, hook| {
            case.at(hook, tcp(CLIENT, NGINX).syn(1).vlan(100))
        }),
        everywhere("pass: TCP and UDP between strangers", |case, hook| {
            case.at(hook, tcp(CLIENT, "192.0.2.10:80").syn(1))
                .at(hook, tcp(CLIENT, "192.0.2.10:80").ack(2, 9).payload(b"GET /"))
                .at(hook, udp(CLIENT, "192.0.2.10:53"))
                .at(hook, tcp(CLIENT_V6, "[2001:db8::10]:80").syn(1))
                .at(hook, udp(CLIENT_V6, "[2001:db8::10]:53"))
        }),
        everywhere("pass: DCCP and UDP-Lite to a service address", |case, hook| {
            let ports = [0x9c, 0x40, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0];
            case.at(hook, raw(33, CLIENT, NGINX, &ports)).at(hook, raw(136, CLIENT, NGINX, &ports))
        }),
        everywhere("pass: IGMP and IP in IP", |case, hook| {
            case.at(hook, raw(2, CLIENT, NGINX, &[0x16, 0, 0, 0, 224, 0, 0, 1]))
                .at(hook, raw(4, CLIENT, NGINX, &tcp(CLIENT, NGINX).syn(1).ip_bytes(Checksums::Complete)))
        }),
        everywhere("pass: fragments between strangers", |case, hook| {
            case.at(hook, udp(CLIENT, "192.0.2.10:53").fragment(7, 0, true))
                .at(hook, raw(17, CLIENT, "192.0.2.10", b"the rest").fragment(7, 185, false))
                .at(hook, udp(CLIENT_V6, "[2001:db8::10]:53").fragment(7, 0, true))
        }),
        everywhere("pass: packets of the node itself", |case, hook| {
            case.at(hook, tcp("10.0.0.9:41000", &format!("{NODE_V4}:10250")).syn(1))
                .at(hook, udp("10.0.0.9:41000", &format!("{NODE_V4}:8472")))
        }),
        case("pass: TCP in mid-stream to a service, without a flow, is left to whoever knows it", &world())
            .at(PodIngress, tcp(CLIENT, NGINX).ack(100, 200).payload(b"GET /"))
            .at(PodIngress, tcp(CLIENT, NGINX).syn_ack(100, 200))
            .at(PodIngress, tcp(CLIENT, NGINX).fin(100, 200))
            .at(PodIngress, tcp(CLIENT, NGINX).rst(100))
            .at(UplinkIngress, tcp("192.0.2.9:5000", NGINX).ack(100, 200)),
        case("pass: replies of a backend without a flow", &world())
            .at(PodIngress, tcp(POD_1, CLIENT).syn_ack(1, 2))
            .then_at(PodEgress)
            .at(UplinkEgress, tcp(POD_1, "192.0.2.9:5000").syn_ack(1, 2)),
        case("pass: service addresses mean nothing where packets leave", &world())
            .at(PodEgress, tcp(CLIENT, NGINX).syn(1))
            .at(UplinkEgress, tcp(CLIENT, NGINX).syn(1))
            .at(UplinkEgress, udp(CLIENT, DNS)),
        case("pass: the deleted service's address", &{
            let mut world = world();
            world.delete_service(1);
            world.delete_service(2);
            world
        })
        .at(PodIngress, tcp(CLIENT, NGINX).syn(1))
        .at(PodIngress, udp(CLIENT, DNS)),
        case("pass: direct connections from other machines are not remembered", &world())
            .at(UplinkIngress, tcp("192.0.2.9:5000", POD_1).syn(1)),
    ]
}
