//! Random and damaged packets through all hooks: no panic, nothing half-done. What is translated has correct
//! checksums, what is not translated is byte for byte what it was.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::sync::LazyLock;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use svc_common::Protocol;
use svc_datapath::Action;
use svc_testbed::packets::case::{Case, Hook};
use svc_testbed::packets::cases;
use svc_testbed::packets::frame::{Checksums, Frame, tcp, udp};
use svc_testbed::packets::native::{self, Done};
use svc_testbed::packets::oracle;
use svc_testbed::packets::packet::{MemoryPacket, Offload};
use svc_testbed::packets::show;
use svc_testbed::packets::tables::MemoryTables;
use svc_testbed::packets::world::World;

static CASES: LazyLock<Vec<Case>> = LazyLock::new(cases::all);

/// Every kind of service in one world.
fn world() -> World {
    World::new()
        .forward(Protocol::TCP, "10.110.110.219:80", &["10.244.3.46:8080", "10.244.3.47:8080"])
        .forward(Protocol::UDP, "10.96.0.10:53", &["10.244.3.2:53"])
        .affinity(10_800)
        .forward(Protocol::TCP, "[fd00:10:110::db]:80", &["[fd00:10:244:3::46]:8080"])
        .forward(Protocol::UDP, "[fd00:10:96::a]:53", &["[fd00:10:244:3::2]:5353"])
        .reject(Protocol::TCP, "10.96.1.1:80")
        .reject(Protocol::UDP, "10.96.1.1:53")
        .reject(Protocol::TCP, "[fd00:10:96::1]:80")
        .reject(Protocol::UDP, "[fd00:10:96::1]:53")
        .local_drop(Protocol::TCP, "10.96.2.2:80")
        .listening()
}

const V4: [&str; 9] = [
    "10.244.3.5:40000",
    "10.244.3.46:8080",
    "10.244.3.2:53",
    "10.110.110.219:80",
    "10.96.0.10:53",
    "10.96.1.1:80",
    "10.96.1.1:53",
    "10.96.2.2:80",
    "192.0.2.9:5000",
];
const V6: [&str; 8] = [
    "[fd00:10:244:3::5]:40000",
    "[fd00:10:244:3::46]:8080",
    "[fd00:10:244:3::2]:5353",
    "[fd00:10:110::db]:80",
    "[fd00:10:96::a]:53",
    "[fd00:10:96::1]:80",
    "[fd00:10:96::1]:53",
    "[2001:db8::9]:5000",
];

fn hooks() -> impl Strategy<Value = Hook> {
    select(&Hook::ALL[..])
}

fn ends() -> impl Strategy<Value = (&'static str, &'static str)> {
    prop_oneof![(select(&V4[..]), select(&V4[..])), (select(&V6[..]), select(&V6[..]))]
}

/// Valid frames between the addresses of the world.
fn frames() -> impl Strategy<Value = Frame> {
    let shape = (any::<bool>(), 0_u8..16, vec(any::<u8>(), 0..64), 0_usize..3, any::<[u32; 2]>());
    (ends(), shape).prop_map(|((from, to), (is_tcp, flags, payload, options, [sequence, acknowledged]))| {
        let mut frame = if is_tcp {
            let mut frame = tcp(from, to);
            if flags & 1 != 0 {
                frame = frame.ack(sequence, acknowledged);
            }
            if flags & 2 != 0 || flags == 0 {
                frame = frame.syn(sequence);
            }
            if flags & 4 != 0 {
                frame = frame.fin(sequence, acknowledged);
            }
            if flags & 8 != 0 && flags & 1 != 0 {
                frame = frame.rst(sequence);
            }
            frame
        } else if flags == 0 && from.contains('.') {
            udp(from, to).without_checksum()
        } else {
            udp(from, to)
        };
        frame = frame.payload(&payload);
        match (from.contains('.'), options) {
            (_, 0) => frame,
            (true, words) => frame.ip_options(&[1; 8][..words * 4]),
            (false, count) => (0..count).fold(frame, |frame, _| frame.extension(60, &[1, 4, 0, 0, 0, 0])),
        }
    })
}

/// One packet through one hook; whatever it was, the outcome must hold together.
fn run(hook: Hook, packet: &mut MemoryPacket, tables: &MemoryTables) -> Done {
    let entered = packet.clone();
    let valid = oracle::verify(&entered.finish()).is_ok();
    let action = native::run(hook, packet, tables);
    let (before, after) = (entered.finish(), packet.finish());
    if valid && !matches!(action, Done::Gone | Done::Action(Action::Drop(_))) {
        let judgement = oracle::verify(&after);
        assert!(judgement.is_ok(), "{hook:?}: {action:?}\n{}", show::difference(&before, &after));
    }
    if !show::is_ip(&before) && action == Action::Pass {
        assert_eq!(before, after, "{hook:?} changed what is no IP packet");
    }
    assert!(action != Done::Action(Action::TurnBack) || before != after, "{hook:?}: a packet turned back as it was");
    action
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(packets in vec((hooks(), vec(any::<u8>(), 0..200)), 1..20)) {
        let tables = MemoryTables::new(world().changes(), &[]);
        for (hook, bytes) in packets {
            run(hook, &mut MemoryPacket::new(bytes, Offload::Complete, false), &tables);
        }
    }

    /// Bytes that start like IP, so that more than the first check is reached.
    #[test]
    fn random_headers(packets in vec((hooks(), any::<bool>(), vec(any::<u8>(), 40..200), ends()), 1..20)) {
        let tables = MemoryTables::new(world().changes(), &[]);
        for (hook, is_tcp, noise, (from, to)) in packets {
            let frame = if is_tcp { tcp(from, to) } else { udp(from, to) };
            let mut bytes = frame.bytes(Checksums::Complete);
            let addresses = if from.contains('.') { 26..34 } else { 22..54 };
            for at in (14..bytes.len()).filter(|at| !addresses.contains(at)) {
                bytes[at] = noise[at % noise.len()];
            }
            bytes[14] = if from.contains('.') { 0x40 | noise[0] & 0x0f } else { 0x60 };
            run(hook, &mut MemoryPacket::new(bytes, Offload::Complete, false), &tables);
        }
    }

    #[test]
    fn valid_frames_stay_valid(
        packets in vec((hooks(), frames(), any::<bool>()), 1..40),
    ) {
        let tables = MemoryTables::new(world().changes(), &[]);
        for (hook, frame, offloaded) in packets {
            let checksums = if offloaded { Checksums::Offloaded } else { Checksums::Complete };
            run(hook, &mut frame.packet(checksums), &tables);
        }
    }

    #[test]
    fn damaged_cases(
        which in any::<Index>(),
        damage in vec((any::<Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<Index>()),
    ) {
        let case = which.get(&CASES);
        let tables = MemoryTables::new(&case.world, &case.random);
        for (hook, frame) in case.inputs() {
            let mut bytes = frame.bytes(Checksums::Complete);
            for (at, value) in &damage {
                let at = at.index(bytes.len());
                bytes[at] ^= value;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            run(hook, &mut MemoryPacket::new(bytes, Offload::Complete, false), &tables);
        }
    }

    /// A wrong checksum must stay wrong: translation may not repair what was damaged on its way.
    #[test]
    fn damaged_payload_stays_detectable(hook in hooks(), frame in frames(), at in any::<Index>(), flip in 1..=255_u8) {
        let tables = MemoryTables::new(world().changes(), &[]);
        let whole = frame.bytes(Checksums::Complete);
        prop_assume!(!frame.payload.is_empty() && frame.can_offload());
        let mut damaged = whole.clone();
        let place = whole.len() - frame.payload.len() + at.index(frame.payload.len());
        damaged[place] ^= flip;
        prop_assume!(oracle::verify(&damaged).is_err());
        let mut packet = MemoryPacket::new(damaged, Offload::Complete, false);
        if native::run(hook, &mut packet, &tables) == Action::Pass {
            prop_assert!(oracle::verify(packet.bytes()).is_err(), "{}", show::summary(packet.bytes()));
        }
    }
}
