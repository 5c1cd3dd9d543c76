//! The packets whose way through the programs is measured, and what must be in the flow tables before.

use anyhow::{Result, bail, ensure};
use svc_common::Protocol;

use super::world::{CLIENT_V4, CLIENT_V6, Chain, DROPPED, ELSEWHERE_V4, ELSEWHERE_V6, PAIRS, POD, Pair};
use crate::packets::{
    case::Hook,
    frame::{Checksums, Frame, tcp, udp},
    kernel::Kernel,
    testrun,
};

const PORT: u16 = 40_000;
pub const FEW: u32 = 200;
/// Established flows, packets that are none of our business, first packets: what DESIGN asks of the stack path.
const ESTABLISHED: f64 = 60.0;
const NOT_OURS: f64 = 25.0;
const FIRST: f64 = 600.0;
const STRAIGHT: f64 = 80.0;
/// TC_ACT_SHOT and TC_ACT_REDIRECT
const DROPPED_VERDICT: u32 = 2;
const REDIRECTED_VERDICT: u32 = 7;

pub struct Case {
    pub group: &'static str,
    pub subject: String,
    pub hook: Hook,
    pub kind: Kind,
    /// Packets that must have been there before.
    before: Vec<(Hook, Vec<u8>)>,
    /// Whether the program changes the packet.
    translates: bool,
    pub bar: Option<f64>,
}

pub enum Kind {
    /// Any number of runs on one packet.
    Same(Vec<u8>),
    /// No more than [`FEW`] runs on one packet: each takes one from its hop limit.
    Few(Vec<u8>),
    /// Each run begins a connection to the next service.
    First(Chain),
}

impl Case {
    /// Brings the flow tables into the state the case is about.
    pub fn prepare(&self, kernel: &Kernel) -> Result<()> {
        for (hook, bytes) in &self.before {
            let (verdict, _) = testrun::repeat(kernel.program(*hook), bytes, 2)?;
            ensure!(verdict != DROPPED_VERDICT, "a packet to begin with was dropped");
        }
        Ok(())
    }

    /// A wrong number is worse than none: the packet must take the way the case is about.
    pub fn check(&self, kernel: &Kernel) -> Result<()> {
        let (bytes, straight) = match &self.kind {
            Kind::Same(bytes) => (bytes, false),
            Kind::Few(bytes) => (bytes, true),
            Kind::First(_) => return Ok(()),
        };
        let (verdict, left) = testrun::run(kernel.program(self.hook), bytes, 0)?;
        ensure!(straight == (verdict == REDIRECTED_VERDICT), "the program returned {verdict}");
        match (self.translates, left == *bytes) {
            (true, true) => bail!("the program did not change the packet"),
            (false, false) => bail!("the program changed the packet"),
            _ => Ok(()),
        }
    }
}

/// Nanoseconds for each of `steps` first packets, from one source port to as many services in a row.
pub fn first_packets(kernel: &Kernel, chain: Chain, start: u32, port: u16, steps: u32) -> Result<f64> {
    let (client, service) = (format!("{}:{port}", chain.client()), chain.frontend(start).to_string());
    let frame = if chain.protocol() == Protocol::TCP { tcp(&client, &service).syn(1) } else { udp(&client, &service) };
    let (verdict, nanoseconds) =
        testrun::repeat(kernel.program(Hook::PodIngress), &frame.bytes(Checksums::Complete), steps)?;
    ensure!(verdict != DROPPED_VERDICT, "a first packet was dropped");
    Ok(f64::from(nanoseconds))
}

pub fn all() -> Vec<Case> {
    let mut cases: Vec<Case> = PAIRS.iter().flat_map(established).collect();
    cases.extend(straight_to_pods());
    cases.extend(none_of_our_business());
    cases.extend([("TCP, IPv4", Chain::TcpV4), ("UDP, IPv4", Chain::UdpV4), ("UDP, IPv6", Chain::UdpV6)].map(
        |(subject, chain)| Case {
            group: "first packet of a connection",
            subject: subject.to_owned(),
            hook: Hook::PodIngress,
            kind: Kind::First(chain),
            before: Vec::new(),
            translates: true,
            bar: Some(FIRST),
        },
    ));
    let refused = tcp(&client(CLIENT_V4), DROPPED).syn(1);
    cases.push(Case {
        bar: None,
        ..same("service lookup without a flow", "TCP, IPv4, dropped by policy", Hook::PodIngress, refused)
    });
    cases
}

fn client(address: &str) -> String {
    format!("{address}:{PORT}")
}

fn same(group: &'static str, subject: &str, hook: Hook, frame: Frame) -> Case {
    let bytes = frame.bytes(Checksums::Complete);
    Case {
        group,
        subject: subject.to_owned(),
        hook,
        kind: Kind::Same(bytes),
        before: Vec::new(),
        translates: false,
        bar: Some(NOT_OURS),
    }
}

fn established(pair: &Pair) -> [Case; 2] {
    let client = client(pair.client);
    let is_tcp = pair.protocol == Protocol::TCP;
    let [there, back] = ends(pair);
    let first = if is_tcp { tcp(&client, pair.one).syn(1) } else { udp(&client, pair.one) };
    let answer = if is_tcp { tcp(pair.two, &client).syn_ack(1, 2) } else { udp(pair.two, &client) };
    let before: Vec<(Hook, Vec<u8>)> = [(Hook::PodIngress, first), (Hook::PodEgress, answer)]
        .map(|(hook, frame)| (hook, frame.bytes(Checksums::Complete)))
        .into();
    let name =
        format!("{}, {}", if is_tcp { "TCP" } else { "UDP" }, if pair.client == CLIENT_V4 { "IPv4" } else { "IPv6" });
    let case = |subject: String, hook, frame| Case {
        before: before.clone(),
        translates: true,
        bar: Some(ESTABLISHED),
        ..same("established, to a service", &subject, hook, frame)
    };
    [
        case(format!("{name}, request (pod_ingress)"), Hook::PodIngress, there),
        case(format!("{name}, reply (pod_egress)"), Hook::PodEgress, back),
    ]
}

/// The same past the stack: replies are met where they enter by the backend's interface.
pub fn straight() -> Vec<Case> {
    let of_pair = |pair: &Pair| {
        let [request, reply] = established(pair);
        let name = request.subject.split(" request").next().unwrap_or_default().to_owned();
        let [there, back] = ends(pair).map(|frame| frame.ttl(u8::MAX).bytes(Checksums::Complete));
        let case = |case: Case, what: &str, bytes| Case {
            group: "established, to a service, straight to the next hop",
            subject: format!("{name} {what} (pod_ingress)"),
            hook: Hook::PodIngress,
            kind: Kind::Few(bytes),
            bar: Some(STRAIGHT),
            ..case
        };
        [case(request, "request", there), case(reply, "reply", back)]
    };
    PAIRS.iter().flat_map(of_pair).collect()
}

/// A packet of an established connection in either direction.
fn ends(pair: &Pair) -> [Frame; 2] {
    let client = client(pair.client);
    [(client.as_str(), pair.one), (pair.two, client.as_str())].map(|(from, to)| match pair.protocol {
        Protocol::TCP => tcp(from, to).ack(2, 2).payload(b"datagram"),
        _ => udp(from, to),
    })
}

/// A pod that talks to a backend's own address: its tuple is remembered, its packets stay as they are.
fn straight_to_pods() -> Vec<Case> {
    let from = format!("{CLIENT_V4}:{}", PORT + 1);
    let [tcp_pod, udp_pod] = [8080, 5353].map(|port| format!("{POD}:{port}"));
    let (tcp_pod, udp_pod) = (tcp_pod.as_str(), udp_pod.as_str());
    let group = "established, straight to a backend's address";
    let before = |frame: Frame| vec![(Hook::PodIngress, frame.bytes(Checksums::Complete))];
    let case = |subject, hook, first: Frame, frame| Case {
        before: before(first),
        bar: None,
        ..same(group, subject, hook, frame)
    };
    let (syn, datagram) = (tcp(&from, tcp_pod).syn(1), udp(&from, udp_pod));
    vec![
        case("TCP, IPv4, request (pod_ingress)", Hook::PodIngress, syn.clone(), tcp(&from, tcp_pod).ack(2, 2)),
        case("TCP, IPv4, reply (pod_egress)", Hook::PodEgress, syn, tcp(tcp_pod, &from).ack(2, 2)),
        case("UDP, IPv4, request (pod_ingress)", Hook::PodIngress, datagram.clone(), udp(&from, udp_pod)),
        case("UDP, IPv4, reply (pod_egress)", Hook::PodEgress, datagram, udp(udp_pod, &from)),
    ]
}

fn none_of_our_business() -> Vec<Case> {
    let [v4, v6] = [client(CLIENT_V4), client(CLIENT_V6)];
    let group = "none of our business";
    let mut arp = vec![0xff; 6];
    arp.extend([2, 0, 0, 0, 0, 10, 8, 6]);
    arp.extend([0; 46]);
    let out = |frame: Frame, from: &str, to: &str| frame.clone().from(from).to(to);
    let data = tcp(&v4, ELSEWHERE_V4).ack(2, 2).payload(b"datagram");
    let data6 = tcp(&v6, ELSEWHERE_V6).ack(2, 2).payload(b"datagram");
    let mut cases = vec![
        same(group, "TCP, IPv4, pod_ingress", Hook::PodIngress, data.clone()),
        same(group, "TCP, IPv4, pod_egress", Hook::PodEgress, out(data.clone(), ELSEWHERE_V4, &v4)),
        same(group, "TCP, IPv6, pod_ingress", Hook::PodIngress, data6.clone()),
        same(group, "TCP, IPv6, pod_egress", Hook::PodEgress, out(data6, ELSEWHERE_V6, &v6)),
        same(group, "UDP, IPv4, pod_ingress", Hook::PodIngress, udp(&v4, ELSEWHERE_V4)),
        same(group, "TCP, IPv4, uplink_ingress", Hook::UplinkIngress, out(data.clone(), ELSEWHERE_V4, &v4)),
        same(group, "TCP, IPv4, uplink_egress", Hook::UplinkEgress, data),
    ];
    let arp =
        Case { kind: Kind::Same(arp), ..same(group, "ARP, pod_ingress", Hook::PodIngress, udp(&v4, ELSEWHERE_V4)) };
    cases.push(arp);
    cases
}
