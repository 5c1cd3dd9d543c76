//! SCTP: addresses are translated, ports and the checksum, which covers them, stay.

use svc_common::{DropReason, Protocol};

use super::cast::*;
use crate::packets::case::Hook::*;
use crate::packets::case::{Case, case, dice};
use crate::packets::frame::{Checksums, Frame, at, icmp, raw};
use crate::packets::world::World;

const SERVICE: &str = "10.96.0.40:3868";
const POD: &str = "10.244.3.60:3868";
const POD_ELSEWHERE: &str = "10.244.4.60:3868";
const SERVICE_V6: &str = "[fd00:10:96::40]:3868";
const POD_IN_V6: &str = "[fd00:10:244:3::60]:3868";

const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN_COMPLETE: u8 = 14;

/// A packet of one chunk. Nobody computes its checksum anew, so any number serves as one.
fn sctp(from: &str, to: &str, chunk: u8) -> Frame {
    let mut packet = at(from).port().to_be_bytes().to_vec();
    packet.extend_from_slice(&at(to).port().to_be_bytes());
    packet.extend_from_slice(&if chunk == INIT { [0; 4] } else { [0xa1, 0xb2, 0xc3, 0xd4] });
    packet.extend_from_slice(b"CRC!");
    packet.extend_from_slice(&[chunk, 0, 0, 20]);
    packet.extend_from_slice(b"tag and the rest");
    raw(Protocol::SCTP.0, from, to, &packet)
}

fn unreachable(refused: &Frame) -> Frame {
    let v4 = refused.source.is_ipv4();
    let (from, to) = (refused.destination.ip().to_string(), refused.source.ip().to_string());
    let quote = refused.ip_bytes(Checksums::Complete)[..if v4 { 40 } else { 60 }].to_vec();
    let (kind, code) = if v4 { (3, 3) } else { (1, 4) };
    Frame { flow_label: 0, ..icmp(&from, &to, kind, code, [0; 4], &quote).id(0).ttl(64) }.turned()
}

fn world() -> World {
    World::new().forward(Protocol::SCTP, SERVICE, &[POD, POD_ELSEWHERE])
}

const OPENED: &str = "
    + flow ingress sctp 10.244.3.5:40000 > 10.96.0.40:3868 => 10.244.3.5:40000 > 10.244.3.60:3868, backend 1, service 1, to_backend addresses, peer egress []
    + flow egress sctp 10.244.3.60:3868 > 10.244.3.5:40000 => 10.96.0.40:3868 > 10.244.3.5:40000, backend 1, service 1, addresses, peer ingress []
    service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +52";
const REPLIED: &str = "
    ~ flow ingress sctp 10.244.3.5:40000 > 10.96.0.40:3868 [replied]
    ~ flow egress sctp 10.244.3.60:3868 > 10.244.3.5:40000 [replied]
    service 1: packets_to_client +1, bytes_to_client +52";
const TO_BACKEND: &str = "service 1: packets_to_backend +1, bytes_to_backend +52";

fn associated(name: &'static str, world: &World) -> Case {
    case(name, world)
        .random(&[dice(0, 2)])
        .at(PodIngress, sctp(CLIENT, SERVICE, INIT))
        .becomes(sctp(CLIENT, POD, INIT))
        .changes(OPENED)
        .at(PodEgress, sctp(POD, CLIENT, INIT_ACK))
        .becomes(sctp(SERVICE, CLIENT, INIT_ACK))
        .changes(REPLIED)
}

pub fn cases() -> Vec<Case> {
    vec![
        associated("sctp: there and back", &world())
            .at(PodIngress, sctp(CLIENT, SERVICE, DATA))
            .becomes(sctp(CLIENT, POD, DATA))
            .changes(TO_BACKEND),
        there_and_back_v6(),
        outlives_its_endpoint(),
        ends(),
        unknown(),
        refused(),
        other_target_port(),
        from_outside(),
        port_taken(),
        hairpin(),
        fragments(),
        errors(),
    ]
}

fn there_and_back_v6() -> Case {
    let world = World::new().forward(Protocol::SCTP, SERVICE_V6, &[POD_IN_V6]);
    case("sctp: there and back, IPv6", &world)
        .at(PodIngress, sctp(CLIENT_V6, SERVICE_V6, INIT))
        .becomes(sctp(CLIENT_V6, POD_IN_V6, INIT))
        .changes(
            "+ flow ingress sctp [fd00:10:244:3::5]:40000 > [fd00:10:96::40]:3868 => [fd00:10:244:3::5]:40000 > [fd00:10:244:3::60]:3868, backend 1, service 1, to_backend addresses, peer egress []
             + flow egress sctp [fd00:10:244:3::60]:3868 > [fd00:10:244:3::5]:40000 => [fd00:10:96::40]:3868 > [fd00:10:244:3::5]:40000, backend 1, service 1, addresses, peer ingress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +72",
        )
        .at(PodEgress, sctp(POD_IN_V6, CLIENT_V6, INIT_ACK))
        .becomes(sctp(SERVICE_V6, CLIENT_V6, INIT_ACK))
        .changes(
            "~ flow ingress sctp [fd00:10:244:3::5]:40000 > [fd00:10:96::40]:3868 [replied]
             ~ flow egress sctp [fd00:10:244:3::60]:3868 > [fd00:10:244:3::5]:40000 [replied]
             service 1: packets_to_client +1, bytes_to_client +72",
        )
}

fn outlives_its_endpoint() -> Case {
    let mut world = world();
    let mut gone = world.publish(1, &[2]);
    gone.extend(world.end_backend(1));
    // Its state is the endpoint's alone: another one could only abort it.
    associated("sctp: an association outlives its endpoint", &self::world())
        .meanwhile(gone)
        .at(PodIngress, sctp(CLIENT, SERVICE, DATA))
        .becomes(sctp(CLIENT, POD, DATA))
        .changes(TO_BACKEND)
}

fn ends() -> Case {
    associated("sctp: after its end an association begins anew, wherever", &world())
        .random(&[dice(0, 2), dice(1, 2)])
        .at(PodIngress, sctp(CLIENT, SERVICE, SHUTDOWN_COMPLETE))
        .becomes(sctp(CLIENT, POD, SHUTDOWN_COMPLETE))
        .changes(TO_BACKEND)
        .changes(
            "~ flow ingress sctp 10.244.3.5:40000 > 10.96.0.40:3868 [replied closed]
             ~ flow egress sctp 10.244.3.60:3868 > 10.244.3.5:40000 [replied closed]",
        )
        .at(PodIngress, sctp(CLIENT, SERVICE, INIT))
        .becomes(sctp(CLIENT, POD_ELSEWHERE, INIT))
        .changes(
            "~ flow ingress sctp 10.244.3.5:40000 > 10.96.0.40:3868 => 10.244.3.5:40000 > 10.244.4.60:3868, backend 2, service 1, to_backend addresses, peer egress []
             + flow egress sctp 10.244.4.60:3868 > 10.244.3.5:40000 => 10.96.0.40:3868 > 10.244.3.5:40000, backend 2, service 1, addresses, peer ingress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +52",
        )
        .leaves_half("replies of the old endpoint may still pass")
}

fn unknown() -> Case {
    case("sctp: of an association that is not known nothing is touched", &world())
        .at(PodIngress, sctp(CLIENT, SERVICE, DATA))
        .at(PodIngress, sctp(CLIENT, SERVICE, ABORT))
}

fn refused() -> Case {
    let world = World::new().reject(Protocol::SCTP, SERVICE).reject(Protocol::SCTP, SERVICE_V6);
    let init = sctp(CLIENT, SERVICE, INIT);
    let other_port = sctp(CLIENT, "10.96.0.40:3869", INIT);
    let init_v6 = sctp(CLIENT_V6, SERVICE_V6, INIT);
    case("sctp: refused without endpoint, with so much of the INIT that its sender believes it", &world)
        .at(PodIngress, init.clone())
        .is_answered_with(|_| unreachable(&init))
        .changes(
            "service 1: rejected +1
             drops: no_endpoint +1",
        )
        .at(PodIngress, init_v6.clone())
        .is_answered_with(|_| unreachable(&init_v6))
        .changes(
            "service 2: rejected +1
             drops: no_endpoint +1",
        )
        .at(PodIngress, other_port.clone())
        .is_answered_with(|_| unreachable(&other_port))
        .changes("drops: no_such_port +1")
}

fn other_target_port() -> Case {
    let world = World::new().forward(Protocol::SCTP, SERVICE, &["10.244.3.60:13868"]).listening();
    let init = sctp(CLIENT, SERVICE, INIT);
    case("sctp: refused where the target port is another one", &world)
        .at(PodIngress, init.clone())
        .is_answered_with(|_| unreachable(&init))
        .changes(
            "service 1: rejected +1
             drops: sctp_port +1
             event refused tc sctp 10.244.3.5:40000 > 10.96.0.40:3868 > 0.0.0.0:0 service 1 sctp_port",
        )
}

fn from_outside() -> Case {
    let (client, node) = ("192.0.2.9:5000", "10.0.0.1:5000");
    case("sctp: from outside, as the node, with the client's port", &World::new().forward(Protocol::SCTP, SERVICE, &[POD]))
        .at(UplinkIngress, sctp(client, SERVICE, INIT))
        .becomes(sctp(client, POD, INIT))
        .changes(
            "+ flow ingress sctp 192.0.2.9:5000 > 10.96.0.40:3868 => 192.0.2.9:5000 > 10.244.3.60:3868, backend 1, service 1, to_backend addresses, peer egress []
             + flow egress sctp 10.244.3.60:3868 > 192.0.2.9:5000 => 10.96.0.40:3868 > 192.0.2.9:5000, backend 1, service 1, addresses, peer ingress []
             + flow egress sctp 192.0.2.9:5000 > 10.244.3.60:3868 => 10.0.0.1:5000 > 10.244.3.60:3868, backend 1, no service, to_backend addresses, peer ingress []
             + flow ingress sctp 10.244.3.60:3868 > 10.0.0.1:5000 => 10.244.3.60:3868 > 192.0.2.9:5000, backend 1, no service, addresses, peer egress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +52",
        )
        .then_at(PodEgress)
        .becomes(sctp(node, POD, INIT))
        .at(PodIngress, sctp(POD, node, INIT_ACK))
        .becomes(sctp(POD, client, INIT_ACK))
        .changes(
            "~ flow egress sctp 192.0.2.9:5000 > 10.244.3.60:3868 [replied]
             ~ flow ingress sctp 10.244.3.60:3868 > 10.0.0.1:5000 [replied]",
        )
}

fn port_taken() -> Case {
    let world = World::new().forward(Protocol::SCTP, SERVICE, &[POD]);
    case("sctp: a port that is taken cannot be replaced", &world)
        .at(PodIngress, sctp(CLIENT, POD, INIT))
        .changes(
            "+ flow ingress sctp 10.244.3.5:40000 > 10.244.3.60:3868 => 10.244.3.5:40000 > 10.244.3.60:3868, no backend, no service, to_backend direct, peer egress []
             + flow egress sctp 10.244.3.60:3868 > 10.244.3.5:40000 => 10.244.3.60:3868 > 10.244.3.5:40000, no backend, no service, direct, peer ingress []",
        )
        .at(PodIngress, sctp(CLIENT, SERVICE, INIT))
        .is_dropped(DropReason::SourcePortsExhausted)
        .changes(
            "service 1: rejected +1
             drops: source_ports_exhausted +1",
        )
}

fn hairpin() -> Case {
    let world = World::new().forward(Protocol::SCTP, SERVICE, &[POD]);
    case("sctp: a pod reaches itself, seen as the node with its own port", &world)
        .at(PodIngress, sctp("10.244.3.60:40000", SERVICE, INIT))
        .is_redirected_as(sctp("10.0.0.1:40000", POD, INIT).turned())
        .changes(
            "+ flow ingress sctp 10.244.3.60:40000 > 10.96.0.40:3868 => 10.0.0.1:40000 > 10.244.3.60:3868, backend 1, service 1, to_backend turn_back addresses, peer ingress []
             + flow ingress sctp 10.244.3.60:3868 > 10.0.0.1:40000 => 10.96.0.40:3868 > 10.244.3.60:40000, backend 1, service 1, turn_back addresses, peer ingress []
             service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +52",
        )
}

fn fragments() -> Case {
    let world = World::new().forward(Protocol::SCTP, SERVICE, &[POD]);
    let first = |to: &str| sctp(CLIENT, to, INIT).fragment(7, 0, true);
    let last = |to: &str| raw(Protocol::SCTP.0, CLIENT, to, b"the last piece").fragment(7, 4, false);
    case("sctp: fragments", &world)
        .at(PodIngress, first(SERVICE))
        .becomes(first(POD))
        .changes(OPENED)
        .at(PodIngress, last(SERVICE))
        .becomes(last(POD))
        .changes("service 1: packets_to_backend +1, bytes_to_backend +34")
}

fn errors() -> Case {
    let world = World::new().forward(Protocol::SCTP, SERVICE, &[POD]);
    let quote = |to: &str| sctp(CLIENT, to, INIT).ip_bytes(Checksums::Complete)[..40].to_vec();
    let opened = case("sctp: ICMP errors", &world)
        .at(PodIngress, sctp(CLIENT, SERVICE, INIT))
        .becomes(sctp(CLIENT, POD, INIT))
        .changes(OPENED);
    opened.at(PodEgress, icmp("10.244.3.60", "10.244.3.5", 3, 2, [0; 4], &quote(POD))).becomes(icmp(
        "10.96.0.40",
        "10.244.3.5",
        3,
        2,
        [0; 4],
        &quote(SERVICE),
    ))
}
