//! Unusual headers, and packets that are not what they claim to be.

use svc_common::{DropReason, Protocol};

use super::cast::*;
use crate::packets::case::Hook::*;
use crate::packets::case::{Case, case};
use crate::packets::frame::{Checksums, Frame, tcp, udp};
use crate::packets::world::World;

const OPENED: &str = "
    + flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 => 10.244.3.5:40000 > 10.244.3.46:8080, backend 1, service 1, to_backend addresses, peer egress []
    + flow egress tcp 10.244.3.46:8080 > 10.244.3.5:40000 => 10.110.110.219:80 > 10.244.3.5:40000, backend 1, service 1, addresses, peer ingress []";
const OPENED_V6: &str = "
    + flow ingress tcp [fd00:10:244:3::5]:40000 > [fd00:10:110::db]:80 => [fd00:10:244:3::5]:40000 > [fd00:10:244:3::46]:8080, backend 1, service 1, to_backend addresses, peer egress []
    + flow egress tcp [fd00:10:244:3::46]:8080 > [fd00:10:244:3::5]:40000 => [fd00:10:110::db]:80 > [fd00:10:244:3::5]:40000, backend 1, service 1, addresses, peer ingress []";
const REPLIED: &str = "
    ~ flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 [replied]
    ~ flow egress tcp 10.244.3.46:8080 > 10.244.3.5:40000 [replied]";

fn world() -> World {
    World::new().forward(Protocol::TCP, NGINX, &[POD_1]).forward(Protocol::TCP, NGINX_V6, &[POD_V6]).forward(
        Protocol::UDP,
        DNS,
        &[DNS_POD],
    )
}

fn counted(service: u32, bytes: u32) -> String {
    format!("service {service}: connections_tc +1, packets_to_backend +1, bytes_to_backend +{bytes}")
}

pub fn cases() -> Vec<Case> {
    vec![
        ip_options(),
        extensions(),
        padding(),
        checksum_stays_wrong(),
        cut_off(),
        claims_too_much(),
        too_many_extensions(),
    ]
}

fn ip_options() -> Case {
    let options = [7, 7, 4, 0, 0, 0, 0, 1];
    case("headers: IPv4 options stay where they are, in both directions", &world())
        .at(PodIngress, tcp(CLIENT, NGINX).syn(100).ip_options(&options))
        .becomes(tcp(CLIENT, POD_1).syn(100).ip_options(&options))
        .changes(OPENED)
        .changes(&counted(1, 48))
        .at(PodEgress, tcp(POD_1, CLIENT).syn_ack(500, 101).ip_options(&[1; 40]))
        .becomes(tcp(NGINX, CLIENT).syn_ack(500, 101).ip_options(&[1; 40]))
        .changes(REPLIED)
        .changes("service 1: packets_to_client +1, bytes_to_client +80")
        .at(PodIngress, udp(CLIENT, DNS).ip_options(&options))
        .becomes(udp(CLIENT, DNS_POD).ip_options(&options))
        .changes(
            "+ flow ingress udp 10.244.3.5:40000 > 10.96.0.10:53 => 10.244.3.5:40000 > 10.244.3.2:53, backend 3, service 3, to_backend addresses, peer egress []
             + flow egress udp 10.244.3.2:53 > 10.244.3.5:40000 => 10.96.0.10:53 > 10.244.3.5:40000, backend 3, service 3, addresses, peer ingress []",
        )
        .changes(&counted(3, 44))
}

fn extensions() -> Case {
    // Destination options of two units, with padding.
    let options = [1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let with = |frame: Frame| frame.extension(60, &options);
    case("headers: an IPv6 extension header stays where it is", &world())
        .at(PodIngress, with(tcp(CLIENT_V6, NGINX_V6).syn(100)))
        .becomes(with(tcp(CLIENT_V6, POD_V6).syn(100)))
        .changes(&OPENED_V6.replace("backend 1, service 1", "backend 2, service 2"))
        .changes(&counted(2, 76))
}

fn padding() -> Case {
    case("headers: Ethernet padding is kept, and is not counted as bytes of IP", &world())
        .at(UplinkIngress, tcp("10.244.7.20:40000", NGINX).syn(100).trailer(&[0; 6]))
        .becomes(tcp("10.244.7.20:40000", POD_1).syn(100).trailer(&[0; 6]))
        .changes(&OPENED.replace("10.244.3.5:40000", "10.244.7.20:40000"))
        .changes(&counted(1, 40))
}

fn checksum_stays_wrong() -> Case {
    let wrong = |destination: &str, checksum: [u8; 2]| {
        let mut bytes = tcp(CLIENT, destination).syn(100).bytes(Checksums::Complete);
        let found = u16::from_be_bytes([bytes[50], bytes[51]]);
        let spoiled = found ^ u16::from_be_bytes(checksum);
        bytes[50..52].copy_from_slice(&spoiled.to_be_bytes());
        bytes
    };
    // Only that the packet passes: its receiver must still be able to see that it is broken.
    let spoiled = wrong("192.0.2.10:80", [0x0f, 0xf0]);
    case("headers: a wrong checksum is not our business", &world()).bytes_at(PodIngress, &spoiled)
}

fn cut_off() -> Case {
    let whole = tcp(CLIENT, NGINX).syn(100).bytes(Checksums::Complete);
    let case = case("headers: a packet to a service that ends within its transport header", &world());
    [34, 37, 38, 47, 53].iter().fold(case, |case, length| {
        case.bytes_at(PodIngress, &whole[..*length]).is_dropped(DropReason::Malformed).changes("drops: malformed +1")
    })
}

fn claims_too_much() -> Case {
    let whole = tcp(CLIENT, NGINX).syn(100).payload(b"data that got lost").bytes(Checksums::Complete);
    let whole_v6 = tcp(CLIENT_V6, NGINX_V6).syn(100).payload(b"data that got lost").bytes(Checksums::Complete);
    case("headers: a packet to a service that is shorter than its IP header says", &world())
        .bytes_at(PodIngress, &whole[..whole.len() - 1])
        .is_dropped(DropReason::Malformed)
        .changes("drops: malformed +1")
        .bytes_at(PodIngress, &whole_v6[..whole_v6.len() - 1])
        .is_dropped(DropReason::Malformed)
        .changes("drops: malformed +1")
}

fn too_many_extensions() -> Case {
    let padding = [1, 4, 0, 0, 0, 0];
    let frame = (0..6).fold(tcp(CLIENT_V6, NGINX_V6).syn(100), |frame, _| frame.extension(60, &padding));
    case("headers: more extension headers than anybody sends", &world()).at(PodIngress, frame)
}
