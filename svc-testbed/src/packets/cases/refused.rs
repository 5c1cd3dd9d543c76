//! Nobody there: the client hears so at once. And the Local policy's silence.

use svc_common::{DropReason, Protocol};

use super::cast::*;
use crate::packets::case::Hook::*;
use crate::packets::case::{Case, case};
use crate::packets::frame::{Checksums, Frame, icmp, tcp, udp};
use crate::packets::world::World;

const DNS_V6: &str = "[fd00:10:96::a]:53";
/// A frame with a short TCP segment is filled up to 60 bytes.
const PADDING: [u8; 6] = [0; 6];
const UDP_HEADER: usize = 8;
const NO_ENDPOINT: &str = "
    service 1: rejected +1
    drops: no_endpoint +1";
const NO_SUCH_PORT: &str = "drops: no_such_port +1";

/// Port unreachable in answer to a datagram: RFC 792 (header and 64 bits), RFC 4443 3.1. The quote leaves out options
/// and extension headers, so that the ports are where every sender looks for them.
pub fn unreachable(refused: &Frame, checksums: Checksums) -> Frame {
    let original = refused.ip_bytes(checksums);
    let transport = original.len() - refused.payload.len() - UDP_HEADER;
    let mut quote = original[..if refused.source.is_ipv4() { 20 } else { 40 }].to_vec();
    quote.extend_from_slice(&original[transport..][..UDP_HEADER]);
    let (from, to) = (refused.destination.ip().to_string(), refused.source.ip().to_string());
    let answer = if refused.source.is_ipv4() {
        quote[0] = 0x45;
        icmp(&from, &to, 3, 3, [0; 4], &quote)
    } else {
        quote[6] = Protocol::UDP.0;
        icmp(&from, &to, 1, 4, [0; 4], &quote)
    };
    headers_of_refusal(answer).turned()
}

/// Network header fields the stack's own refusals have.
fn headers_of_refusal(frame: Frame) -> Frame {
    Frame { flow_label: 0, ..frame.id(0).ttl(64) }
}

/// The reset that answers a segment.
pub fn reset(service: &str, client: &str, sequence: u32, acknowledged: Option<u32>) -> Frame {
    let reset = tcp(service, client).rst(sequence).window(0);
    let reset = match acknowledged {
        Some(acknowledged) => reset.ack(sequence, acknowledged),
        None => reset,
    };
    headers_of_refusal(reset).turned()
}

fn tcp_world() -> World {
    World::new().reject(Protocol::TCP, NGINX)
}

pub fn cases() -> Vec<Case> {
    vec![
        case("refused: TCP, IPv4 (RFC 9293 3.10.7.1)", &tcp_world())
            .at(PodIngress, tcp(CLIENT, NGINX).syn(100))
            .is_answered_with(|_| reset(NGINX, CLIENT, 0, Some(101)))
            .changes(NO_ENDPOINT)
            .at(UplinkIngress, tcp("192.0.2.9:5000", NGINX).syn(u32::MAX))
            .is_answered_with(|_| reset(NGINX, "192.0.2.9:5000", 0, Some(0)))
            .changes(NO_ENDPOINT),
        case("refused: TCP, IPv6", &World::new().reject(Protocol::TCP, NGINX_V6))
            .at(PodIngress, tcp(CLIENT_V6, NGINX_V6).syn(100))
            .is_answered_with(|_| reset(NGINX_V6, CLIENT_V6, 0, Some(101)))
            .changes(NO_ENDPOINT),
        case("refused: a SYN with options and data (TCP Fast Open) is acknowledged as a whole", &tcp_world())
            .at(PodIngress, tcp(CLIENT, NGINX).syn(100).tcp_options(&[2, 4, 5, 180]).payload(b"early data"))
            .is_answered_with(|_| reset(NGINX, CLIENT, 0, Some(111)))
            .changes(NO_ENDPOINT),
        case("refused: Ethernet padding is not acknowledged as data", &tcp_world())
            .at(UplinkIngress, tcp("192.0.2.9:5000", NGINX).syn(100).trailer(&PADDING))
            .is_answered_with(|_| reset(NGINX, "192.0.2.9:5000", 0, Some(101)))
            .changes(NO_ENDPOINT),
        case("refused: TCP behind IPv4 options", &tcp_world())
            .at(PodIngress, tcp(CLIENT, NGINX).syn(100).ip_options(&[1; 40]))
            .is_answered_with(|_| reset(NGINX, CLIENT, 0, Some(101)))
            .changes(NO_ENDPOINT),
        case("refused: TCP behind IPv6 extension headers", &World::new().reject(Protocol::TCP, NGINX_V6))
            .at(
                PodIngress,
                tcp(CLIENT_V6, NGINX_V6)
                    .syn(100)
                    .extension(60, &[1, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            )
            .is_answered_with(|_| reset(NGINX_V6, CLIENT_V6, 0, Some(101)))
            .changes(NO_ENDPOINT),
        case("refused: TCP behind the shortest IPv4 options", &tcp_world())
            .at(PodIngress, tcp(CLIENT, NGINX).syn(100).ip_options(&[1; 4]))
            .is_answered_with(|_| reset(NGINX, CLIENT, 0, Some(101)))
            .changes(NO_ENDPOINT),
        udp_v4(),
        udp_v6(),
        behind("refused: a datagram behind IPv4 options", DNS, with_options()),
        behind("refused: a datagram behind IPv6 extension headers", DNS_V6, with_extension()),
        behind_offloaded("refused: an offloaded datagram behind IPv4 options", DNS, with_options()),
        behind_offloaded("refused: an offloaded datagram behind IPv6 extension headers", DNS_V6, with_extension()),
        case("refused: a datagram without checksum", &World::new().reject(Protocol::UDP, DNS))
            .at(PodIngress, udp(CLIENT, DNS).without_checksum())
            .is_answered_with(|checksums| unreachable(&udp(CLIENT, DNS).without_checksum(), checksums))
            .changes(NO_ENDPOINT),
        no_such_port(),
        case("refused: with an event for who listens", &tcp_world().listening())
            .at(PodIngress, tcp(CLIENT, NGINX).syn(100))
            .is_answered_with(|_| reset(NGINX, CLIENT, 0, Some(101)))
            .changes(NO_ENDPOINT)
            .changes("event refused tc tcp 10.244.3.5:40000 > 10.110.110.219:80 > 0.0.0.0:0 service 1 no_endpoint"),
        comes_back(),
        case(
            "local policy: silence, counted",
            &World::new().local_drop(Protocol::TCP, NGINX).local_drop(Protocol::UDP, DNS),
        )
        .at(PodIngress, tcp(CLIENT, NGINX).syn(100))
        .is_dropped(DropReason::NoLocalEndpoint)
        .changes(
            "service 1: rejected +1
                 drops: no_local_endpoint +1",
        )
        .at(UplinkIngress, udp("192.0.2.9:5000", DNS))
        .is_dropped(DropReason::NoLocalEndpoint)
        .changes(
            "service 2: rejected +1
                 drops: no_local_endpoint +1",
        ),
        case("local policy: with an event for who listens", &World::new().local_drop(Protocol::TCP, NGINX).listening())
            .at(PodIngress, tcp(CLIENT, NGINX).syn(100))
            .is_dropped(DropReason::NoLocalEndpoint)
            .changes(
                "service 1: rejected +1
                 drops: no_local_endpoint +1
                 event dropped tc tcp 10.244.3.5:40000 > 10.110.110.219:80 > 0.0.0.0:0 service 1 no_local_endpoint",
            ),
    ]
}

fn with_options() -> Frame {
    udp(CLIENT, DNS).ip_options(&[1; 8])
}

fn with_extension() -> Frame {
    udp(CLIENT_V6, DNS_V6).extension(60, &[1, 4, 0, 0, 0, 0])
}

fn behind(name: &'static str, service: &str, datagram: Frame) -> Case {
    case(name, &World::new().reject(Protocol::UDP, service))
        .only_with(Checksums::Complete)
        .at(PodIngress, datagram.clone())
        .is_answered_with(|checksums| unreachable(&datagram, checksums))
        .changes(NO_ENDPOINT)
}

/// The checksum that is still to be finished would be written into the midst of the answer.
fn behind_offloaded(name: &'static str, service: &str, datagram: Frame) -> Case {
    case(name, &World::new().reject(Protocol::UDP, service))
        .only_with(Checksums::Offloaded)
        .native_only("test runs have complete checksums")
        .at(PodIngress, datagram)
        .is_dropped(DropReason::RewriteFailed)
        .changes(
            "service 1: rejected +1
             drops: no_endpoint +1
             drops: rewrite_failed +1",
        )
}

fn udp_v4() -> Case {
    let long = udp(CLIENT, DNS).payload(&[b'q'; 512]);
    let short = udp(CLIENT, DNS).payload(b"");
    case("refused: UDP, IPv4 (RFC 792)", &World::new().reject(Protocol::UDP, DNS))
        .at(PodIngress, udp(CLIENT, DNS))
        .is_answered_with(|checksums| unreachable(&udp(CLIENT, DNS), checksums))
        .changes(NO_ENDPOINT)
        .at(PodIngress, long.clone())
        .is_answered_with(|checksums| unreachable(&long, checksums))
        .changes(NO_ENDPOINT)
        .at(PodIngress, short.clone())
        .is_answered_with(|checksums| unreachable(&short, checksums))
        .changes(NO_ENDPOINT)
}

fn udp_v6() -> Case {
    let long = udp(CLIENT_V6, DNS_V6).payload(&[b'q'; 512]);
    let short = udp(CLIENT_V6, DNS_V6).payload(b"");
    case("refused: UDP, IPv6 (RFC 4443 3.1)", &World::new().reject(Protocol::UDP, DNS_V6))
        .at(PodIngress, udp(CLIENT_V6, DNS_V6))
        .is_answered_with(|checksums| unreachable(&udp(CLIENT_V6, DNS_V6), checksums))
        .changes(NO_ENDPOINT)
        .at(PodIngress, long.clone())
        .is_answered_with(|checksums| unreachable(&long, checksums))
        .changes(NO_ENDPOINT)
        .at(PodIngress, short.clone())
        .is_answered_with(|checksums| unreachable(&short, checksums))
        .changes(NO_ENDPOINT)
}

fn no_such_port() -> Case {
    let world = World::new().forward(Protocol::TCP, NGINX, &[POD_1]);
    case("refused: a port the service does not have", &world)
        .at(PodIngress, tcp(CLIENT, "10.110.110.219:81").syn(100))
        .is_answered_with(|_| reset("10.110.110.219:81", CLIENT, 0, Some(101)))
        .changes(NO_SUCH_PORT)
        .at(PodIngress, udp(CLIENT, NGINX))
        .is_answered_with(|checksums| unreachable(&udp(CLIENT, NGINX), checksums))
        .changes(NO_SUCH_PORT)
        .at(PodIngress, tcp(CLIENT, "10.110.110.219:81").ack(1, 2))
}

fn comes_back() -> Case {
    let mut world = World::new().forward(Protocol::TCP, NGINX, &[POD_1]);
    let full = world.publish(1, &[1]);
    let empty = world.publish(1, &[]);
    case("refused: and translated as soon as there is an endpoint again", &world)
        .at(PodIngress, tcp(CLIENT, NGINX).syn(100))
        .is_answered_with(|_| reset(NGINX, CLIENT, 0, Some(101)))
        .changes(NO_ENDPOINT)
        .meanwhile(full)
        .at(PodIngress, tcp(CLIENT, NGINX).syn(200))
        .becomes(tcp(CLIENT, POD_1).syn(200))
        .changes(
            "+ flow ingress tcp 10.244.3.5:40000 > 10.110.110.219:80 => 10.244.3.5:40000 > 10.244.3.46:8080, backend 1, service 1, to_backend addresses, peer egress []
             + flow egress tcp 10.244.3.46:8080 > 10.244.3.5:40000 => 10.110.110.219:80 > 10.244.3.5:40000, backend 1, service 1, addresses, peer ingress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +40",
        )
        .meanwhile(empty)
        .at(PodIngress, tcp("10.244.3.5:40001", NGINX).syn(100))
        .is_answered_with(|_| reset(NGINX, "10.244.3.5:40001", 0, Some(101)))
        .changes(NO_ENDPOINT)
}
