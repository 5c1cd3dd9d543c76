//! All packet cases on the packet logic as ordinary code: with complete and with offloaded checksums, cut off at every
//! byte, and with a kernel that refuses every single change.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::VecDeque;
use std::fmt::Write as _;

use svc_common::{DropReason, Protocol};
use svc_datapath::Action;
use svc_datapath::fast::Fast;
use svc_testbed::packets::case::{Case, Hook, Outcome, Output, Step, case, resolve};
use svc_testbed::packets::cases;
use svc_testbed::packets::frame::{Checksums, Frame, raw, tcp, udp};
use svc_testbed::packets::native::{self, Done};
use svc_testbed::packets::oracle;
use svc_testbed::packets::packet::{MemoryPacket, Offload};
use svc_testbed::packets::show;
use svc_testbed::packets::tables::MemoryTables;
use svc_testbed::packets::world::{Change, World};

#[test]
fn every_case() {
    let failures: Vec<String> = cases::all().iter().filter_map(|case| native::check(case).err()).collect();
    assert!(failures.is_empty(), "{} cases fail\n\n{}", failures.len(), failures.join("\n"));
}

/// Calls `visit` with the tables as they are just before each packet of each case.
fn before_each_packet(checksums: Checksums, mut visit: impl FnMut(&Case, Hook, &MemoryPacket, &Output, &MemoryTables)) {
    for case in cases::all().into_iter().filter(|case| case.plays_with(checksums)) {
        let mut tables = MemoryTables::new(&case.world, &case.random);
        let mut before = None;
        let mut chosen = None;
        for step in &case.steps {
            match step {
                Step::World(changes) => changes.iter().for_each(|change| tables.apply(change)),
                Step::Packet(step) => {
                    let mut packet = step.packet(checksums, chosen, before.as_ref());
                    visit(&case, step.hook, &packet, &step.output, &tables.clone());
                    native::run(step.hook, &mut packet, &tables);
                    if let Output::Frame(frame) = &step.output
                        && resolve(frame, None) == **frame
                    {
                        chosen = chosen.or_else(|| chosen_port(frame, &packet));
                    }
                    before = Some(packet);
                }
            }
        }
    }
}

/// What the shortcut decides by itself the complete path decides likewise, packet and maps included. Only with next hops
/// it may do more: send a packet past the stack.
#[test]
fn the_shortcut_decides_nothing_otherwise() {
    let mut wrong = String::new();
    let mut translated = 0;
    for checksums in [Checksums::Complete, Checksums::Offloaded] {
        before_each_packet(checksums, |case, hook, packet, _, tables| {
            if !tables.hops().is_empty() {
                return;
            }
            let (short, whole) = (tables.clone(), tables.clone());
            let (mut one, mut other) = (packet.clone(), packet.clone());
            let before = tables.clone().state();
            let Fast::Done(action) = native::run_fast(hook, &mut one, &short) else { return };
            let expected = native::run_slow(hook, &mut other, &whole);
            let changes = [short, whole].map(|tables| before.changes(&tables.state()));
            if action != expected || one.bytes() != other.bytes() || changes[0] != changes[1] {
                let _ = writeln!(wrong, "case '{}' at {hook:?}: {action:?}, not {expected:?}: {changes:#?}", case.name);
            }
            translated += usize::from(one.bytes() != packet.bytes());
        });
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(translated > 50, "only {translated} packets took the shortcut");
}

fn chosen_port(expected: &Frame, packet: &MemoryPacket) -> Option<u16> {
    use svc_testbed::packets::case::CHOSEN;
    (expected.source.port() == CHOSEN).then(|| svc_testbed::packets::runner::source_port(&packet.finish())).flatten()
}

/// Whether a packet that lost its end is left alone or dropped for that reason.
fn holds_when_cut(hook: Hook, cut: &[u8], tables: &MemoryTables) -> bool {
    if oracle::verify(cut).is_ok() {
        // Only padding is missing, or nothing behind the Ethernet header is left to be wrong.
        return true;
    }
    let tables = tables.clone();
    let before = tables.state();
    let mut packet = MemoryPacket::new(cut.to_vec(), Offload::Complete, false);
    let action = native::run(hook, &mut packet, &tables);
    let changes = before.changes(&tables.state());
    match action {
        Done::Action(Action::Pass) => packet.bytes() == cut && changes.is_empty(),
        Done::Action(Action::Drop(DropReason::Malformed)) => changes == ["drops: malformed +1"],
        Done::Action(Action::Drop(DropReason::FragmentUnknown)) => changes == ["drops: fragment_unknown +1"],
        _ => false,
    }
}

#[test]
fn cut_off_at_every_byte() {
    let mut wrong = String::new();
    before_each_packet(Checksums::Complete, |case, hook, packet, _, tables| {
        let lengths =
            (0..packet.bytes().len()).filter(|length| !holds_when_cut(hook, &packet.bytes()[..*length], tables));
        let lengths: Vec<usize> = lengths.collect();
        if let (Some(first), Some(last)) = (lengths.first(), lengths.last()) {
            let count = lengths.len();
            let _ = writeln!(wrong, "case '{}' at {hook:?}: {count} lengths, {first} to {last} bytes", case.name);
        }
    });
    assert!(wrong.is_empty(), "{} packets\n{wrong}", wrong.lines().count());
}

fn is_icmp(packet: &MemoryPacket) -> bool {
    let bytes = packet.bytes();
    let next = if bytes.get(12..14) == Some(&[0x08, 0x00]) { bytes.get(23) } else { bytes.get(20) };
    matches!(next, Some(1 | 58))
}

#[test]
fn every_change_refused_by_the_kernel() {
    let mut wrong = String::new();
    for checksums in [Checksums::Complete, Checksums::Offloaded] {
        before_each_packet(checksums, |case, hook, packet, output, tables| {
            if matches!(output, Output::Unchanged | Output::Gone) || is_icmp(packet) {
                // An ICMP error that cannot be translated harms nobody: it passes, and at worst its checksum is wrong.
                return;
            }
            let mut whole = packet.clone();
            native::run(hook, &mut whole, &tables.clone());
            for change in 1..=whole.changes() - packet.changes() {
                let mut packet = packet.clone();
                packet.fail_from(change);
                let action = native::run(hook, &mut packet, &tables.clone());
                if action != Action::Drop(DropReason::RewriteFailed) {
                    let _ = writeln!(wrong, "case '{}' at {hook:?}: change {change} refused: {action:?}", case.name);
                }
            }
        });
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn ports_that_stand_for_the_node_are_not_those_of_its_sockets() {
    let world = World::new().forward(Protocol::TCP, "10.96.0.20:80", &["10.244.3.46:80"]);
    let tables = MemoryTables::new(world.changes(), &[]);
    for port in 1025..1525 {
        let mut packet = tcp(&format!("10.244.3.46:{port}"), "10.96.0.20:80").syn(1).packet(Checksums::Complete);
        assert_eq!(native::run(Hook::PodIngress, &mut packet, &tables), Action::TurnBack);
        let shown = svc_testbed::packets::runner::source_port(packet.bytes()).unwrap();
        // net.ipv4.ip_local_port_range ends at 60999.
        assert!(shown >= 61_000, "port {shown} may belong to a socket of the node");
    }
}

/// Sends a packet, and whatever comes again because of it, through a hook; what passes is appended to `arrived`.
fn deliver(hook: Hook, frame: &Frame, tables: &MemoryTables, arrived: &mut Vec<Vec<u8>>) {
    let mut queue = VecDeque::from([frame.bytes(Checksums::Complete)]);
    while let Some(bytes) = queue.pop_front() {
        let mut packet = MemoryPacket::new(bytes, Offload::Complete, false);
        match native::run(hook, &mut packet, tables) {
            Done::Action(Action::Pass) => arrived.push(packet.finish()),
            Done::Gone => queue.extend(tables.take_sent_again().into_iter().map(|(_, bytes)| bytes)),
            other => panic!("{other:?}: {}", show::summary(packet.bytes())),
        }
    }
}

/// All orders of so many things.
fn permutations(count: usize) -> Vec<Vec<usize>> {
    match count {
        0 => vec![Vec::new()],
        _ => permutations(count - 1)
            .into_iter()
            .flat_map(|order| {
                (0..count).map(move |at| {
                    let mut order = order.clone();
                    order.insert(at, count - 1);
                    order
                })
            })
            .collect(),
    }
}

#[test]
fn fragments_arrive_whatever_their_order() {
    let v4 = ("10.244.3.5:40000", "10.96.0.10:53", "10.244.3.2:53");
    let v6 = ("[fd00:10:244:3::5]:40000", "[fd00:10:96::a]:53", "[fd00:10:244:3::2]:53");
    for (client, service, pod) in [v4, v6] {
        let pieces = |from: &str, to: &str| {
            let first = udp(from, to).payload(&[1; 16]).fragment(7, 0, true);
            let rest =
                (1..4).map(|number| raw(17, from, to, &[number; 24]).fragment(7, u16::from(number) * 3, number < 3));
            [first].into_iter().chain(rest).collect::<Vec<_>>()
        };
        for order in permutations(4) {
            let tables = MemoryTables::new(World::new().forward(Protocol::UDP, service, &[pod]).changes(), &[]);
            for (hook, (from, to), (as_from, as_to)) in [
                (Hook::PodIngress, (client, service), (client, pod)),
                (Hook::PodEgress, (pod, client), (service, client)),
            ] {
                let sent = pieces(from, to);
                let mut expected: Vec<_> =
                    pieces(as_from, as_to).iter().map(|piece| piece.bytes(Checksums::Complete)).collect();
                let mut arrived = Vec::new();
                for piece in &order {
                    deliver(hook, &sent[*piece], &tables, &mut arrived);
                }
                assert_eq!(arrived.first(), expected.first(), "{order:?} at {hook:?}: the first piece comes first");
                arrived.sort();
                expected.sort();
                assert_eq!(arrived, expected, "{order:?} at {hook:?}");
            }
        }
    }
}

/// The kit must be able to fail: a case with one wrong expectation each.
#[test]
fn wrong_expectations_are_noticed() {
    let world = World::new().forward(Protocol::TCP, "10.96.0.20:80", &["10.244.3.46:80"]);
    let (client, service, pod) = ("10.244.3.5:40000", "10.96.0.20:80", "10.244.3.46:80");
    let opened = "
        + flow ingress tcp 10.244.3.5:40000 > 10.96.0.20:80 => 10.244.3.5:40000 > 10.244.3.46:80, backend 1, service 1, to_backend addresses, peer egress []
        + flow egress tcp 10.244.3.46:80 > 10.244.3.5:40000 => 10.96.0.20:80 > 10.244.3.5:40000, backend 1, service 1, addresses, peer ingress []
        service 1: connections_tc +1, packets_to_backend +1, bytes_to_backend +40";
    let start = || case("self-test", &world).at(Hook::PodIngress, tcp(client, service).syn(1));
    let report = |case: Case| native::check(&case).err().unwrap_or_default();

    assert_eq!(report(start().becomes(tcp(client, pod).syn(1)).changes(opened)), "");
    assert!(report(start().becomes(tcp(client, pod).syn(2)).changes(opened)).contains("expected"));
    assert!(report(start().becomes(tcp(client, pod).syn(1))).contains("extra:   + flow"));
    assert!(
        report(start().becomes(tcp(client, pod).syn(1)).changes(opened).changes("drops: x +1")).contains("missing")
    );
    assert!(report(start().changes(opened)).contains("packet:"));
    assert!(report(start().is_dropped(DropReason::NoEndpoint).changes(opened)).contains("outcome"));
    let forgotten = Change::ForgetFlow {
        stage: 1,
        protocol: Protocol::TCP,
        source: pod.parse().unwrap(),
        destination: client.parse().unwrap(),
    };
    let half = start()
        .becomes(tcp(client, pod).syn(1))
        .changes(opened)
        .at(Hook::PodIngress, tcp(client, service).ack(2, 3))
        .becomes(tcp(client, pod).ack(2, 3))
        .changes("service 1: packets_to_backend +1, bytes_to_backend +40")
        .leaves_half("it does not");
    assert!(report(half).contains("without its other half"));
    let mut tables = MemoryTables::new(world.changes(), &[]);
    let mut packet = tcp(client, service).syn(1).packet(Checksums::Complete);
    native::run(Hook::PodIngress, &mut packet, &tables);
    tables.apply(&forgotten);
    assert_eq!(tables.state().halves().len(), 1);
    assert_ne!(Outcome::Drop(Some(DropReason::NoEndpoint)), Outcome::Drop(Some(DropReason::Malformed)));
}

/// The model of hardware offload agrees with software: a frame that hardware finishes is the complete frame.
#[test]
fn offload_model_agrees_with_the_oracle() {
    for case in cases::all() {
        for (_, frame) in case.inputs().filter(|(_, frame)| frame.can_offload()) {
            let finished = frame.packet(Checksums::Offloaded).finish();
            assert_eq!(finished, frame.bytes(Checksums::Complete), "{}", show::summary(&finished));
            oracle::verify(&finished).unwrap();
        }
    }
}
