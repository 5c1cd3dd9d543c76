//! The way past the stack as ordinary code: which packets it takes, and that it makes of them what TC and the stack
//! would make, counters and flows included.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use proptest::prelude::*;
use svc_common::DropReason;
use svc_datapath::express::Express;
use svc_testbed::packets::case::Step;
use svc_testbed::packets::cases;
use svc_testbed::packets::express::{
    self, GENERIC, HERE, OTHER_UPLINK_MAC, Route, SENDS, TALKS, THERE, Talk, by_way_of_the_stack, from_wire, uplink,
};
use svc_testbed::packets::frame::{Checksums, Frame, NODE_MAC};
use svc_testbed::packets::native;
use svc_testbed::packets::oracle;
use svc_testbed::packets::packet::MemoryPacket;
use svc_testbed::packets::show;
use svc_testbed::packets::tables::MemoryTables;
use svc_testbed::packets::world::Change;

/// Tables with an established connection at a time when packets of both directions take the way past the stack.
fn settled(talk: &Talk) -> (MemoryTables, u16) {
    let (mut tables, port) = talk.established();
    let frames = [talk.frame(talk.client, talk.service), talk.frame(talk.pod, &talk.masqueraded(port))];
    Talk::settle(&mut tables, |tables| {
        frames
            .iter()
            .all(|frame| express::run(&mut frame.packet(Checksums::Complete), tables, Route::Back) == Express::Back)
    });
    (tables, port)
}

/// XDP does nothing to a packet, or what TC and the stack do.
fn compare(packet: &MemoryPacket, tables: &MemoryTables, route: Route) -> Result<Express, String> {
    let (short, whole) = (tables.clone(), tables.clone());
    let before = tables.clone().state();
    let (mut one, mut other) = (packet.clone(), packet.clone());
    let done = express::run(&mut one, &short, route);
    if done == Express::Pass {
        let untouched = one.bytes() == packet.bytes() && before.changes(&short.state()).is_empty();
        return if untouched { Ok(done) } else { Err("a packet left to TC was changed".to_owned()) };
    }
    let passed = by_way_of_the_stack(&mut other, &whole, route);
    let changes = [short, whole].map(|tables| before.changes(&tables.state()));
    if passed.is_none() || one.bytes() != other.bytes() || changes[0] != changes[1] {
        let difference = show::difference(other.bytes(), one.bytes());
        return Err(format!("{done:?} (by the stack: {passed:?})\n{difference}\nchanges: {changes:#?}"));
    }
    if oracle::verify(packet.bytes()).is_ok() {
        oracle::verify(one.bytes())?;
    }
    Ok(done)
}

fn check(talk: &Talk, name: &str, frame: &Frame, tables: &MemoryTables, expected: Express) {
    let packet = frame.packet(Checksums::Complete);
    let done = compare(&packet, tables, Route::Back).unwrap_or_else(|error| panic!("{talk:?}, {name}: {error}"));
    assert_eq!(done, expected, "{talk:?}, {name}");
}

#[test]
fn ordinary_packets_are_taken_and_unusual_ones_left() {
    for talk in TALKS {
        let (tables, port) = settled(&talk);
        for (name, frame) in talk.ordinary(port) {
            check(&talk, name, &frame, &tables, Express::Back);
        }
        for (name, frame) in talk.unusual(port) {
            check(&talk, name, &frame, &tables, Express::Pass);
        }
        // Nobody but hardware could complete these.
        let offloaded = talk.frame(talk.client, talk.service).packet(Checksums::Offloaded);
        let offloaded = from_wire(offloaded.bytes());
        assert_eq!(compare(&offloaded, &tables, Route::Back), Ok(Express::Pass), "{talk:?}");
    }
}

#[test]
fn connections_that_are_not_settled_are_left() {
    for talk in TALKS {
        let (settled, port) = settled(&talk);
        let request = talk.frame(talk.client, talk.service);
        let reply = talk.frame(talk.pod, &talk.masqueraded(port));
        // Nobody has answered yet.
        let mut fresh = MemoryTables::new(talk.world().changes(), &[]);
        fresh.set_uplink(HERE, uplink(NODE_MAC, 0));
        check(&talk, "no flow", &request, &fresh, Express::Pass);
        let mut first = talk.opening(talk.client, talk.service, true).packet(Checksums::Complete);
        by_way_of_the_stack(&mut first, &fresh, Route::Back).unwrap();
        check(&talk, "no answer", &request, &fresh, Express::Pass);
        // One of its flows gave way to others.
        for (stage, from, to) in
            [(0, talk.client.to_owned(), talk.service.to_owned()), (1, talk.between(port), talk.pod.to_owned())]
        {
            let mut tables = settled.clone();
            let [source, destination] = [from, to].map(|end| end.parse().unwrap());
            tables.apply(&Change::ForgetFlow { stage, protocol: talk.protocol, source, destination });
            check(&talk, "half a pair", &request, &tables, Express::Pass);
        }
        // Datagrams move when their endpoint is gone; TCP stays.
        let mut tables = settled.clone();
        talk.world().end_backend(1).iter().for_each(|change| tables.apply(change));
        let stays = talk.protocol == svc_common::Protocol::TCP;
        check(&talk, "ended endpoint", &request, &tables, if stays { Express::Back } else { Express::Pass });
        check(&talk, "late reply", &reply, &tables, Express::Back);
        // Unless the service wants its connections reset.
        if stays {
            let mut world = talk.world().reset_when_gone();
            let tables = {
                let mut tables = MemoryTables::new(world.changes(), &[]);
                tables.set_uplink(HERE, uplink(NODE_MAC, 0));
                let mut packet = talk.opening(talk.client, talk.service, true).packet(Checksums::Complete);
                by_way_of_the_stack(&mut packet, &tables, Route::Back).unwrap();
                let port = svc_testbed::packets::runner::source_port(packet.bytes()).unwrap();
                let answer = talk.opening(talk.pod, &talk.masqueraded(port), false);
                by_way_of_the_stack(&mut answer.packet(Checksums::Complete), &tables, Route::Back).unwrap();
                let taken = |tables: &MemoryTables| {
                    express::run(&mut request.packet(Checksums::Complete), tables, Route::Back) == Express::Back
                };
                Talk::settle(&mut tables, taken);
                world.end_backend(1).iter().for_each(|change| tables.apply(change));
                tables
            };
            check(&talk, "to be reset", &request, &tables, Express::Pass);
        } else {
            let mut tables = settled.clone();
            tables.apply(&Change::Advance(svc_datapath::UDP_IDLE_SECONDS + 1));
            check(&talk, "idle for long", &request, &tables, Express::Pass);
        }
    }
}

#[test]
fn the_way_out_decides_too() {
    for talk in TALKS {
        let (tables, _) = settled(&talk);
        let packet = talk.frame(talk.client, talk.service).packet(Checksums::Complete);
        let run = |tables: &MemoryTables, route| compare(&packet, tables, route).unwrap();
        assert_eq!(run(&tables, Route::None), Express::Pass, "no route, no neighbour, or to this node itself");
        assert_eq!(run(&tables, Route::Other), Express::Pass, "an interface without our program");
        let mut both = tables.clone();
        both.set_uplink(THERE, uplink(OTHER_UPLINK_MAC, 0));
        assert_eq!(run(&both, Route::Other), Express::Pass, "a driver that would lose it");
        both.set_uplink(THERE, uplink(OTHER_UPLINK_MAC, SENDS));
        assert_eq!(run(&both, Route::Other), Express::Out(THERE));
        both.set_uplink(THERE, uplink(OTHER_UPLINK_MAC, 0));
        both.set_uplink(HERE, uplink(NODE_MAC, GENERIC));
        assert_eq!(run(&both, Route::Other), Express::Out(THERE));
        let mut stranger = tables.clone();
        stranger.set_uplink(HERE, uplink(OTHER_UPLINK_MAC, 0));
        assert_eq!(run(&stranger, Route::Back), Express::Pass, "the frame is for another address");
    }
}

/// One second in 32, and not all connections in the same one.
#[test]
fn now_and_then_packets_go_through_the_stack() {
    let taken = |tables: &MemoryTables, frame: &Frame| {
        express::run(&mut frame.packet(Checksums::Complete), &tables.clone(), Route::Back) == Express::Back
    };
    for talk in TALKS {
        let (mut tables, port) = settled(&talk);
        let frames = [talk.frame(talk.client, talk.service), talk.frame(talk.pod, &talk.masqueraded(port))];
        let mut left = [0, 0];
        for _ in 0..64 {
            tables.apply(&Change::Advance(1));
            for (count, frame) in left.iter_mut().zip(&frames) {
                *count += usize::from(!taken(&tables, frame));
            }
        }
        assert_eq!(left, [2, 2], "{talk:?}");
    }
}

#[test]
fn packets_that_were_taken_are_counted() {
    let (tables, port) = settled(&TALKS[0]);
    let before = tables.express_packets();
    for (_, frame) in TALKS[0].ordinary(port).into_iter().chain(TALKS[0].unusual(port)) {
        express::run(&mut frame.packet(Checksums::Complete), &tables, Route::Back);
    }
    assert_eq!(tables.express_packets() - before, TALKS[0].ordinary(port).len() as u64);
}

#[test]
fn a_change_that_is_refused_loses_the_packet() {
    for talk in TALKS {
        let (tables, _) = settled(&talk);
        let packet = talk.frame(talk.client, talk.service).packet(Checksums::Complete);
        let mut whole = packet.clone();
        express::run(&mut whole, &tables.clone(), Route::Back);
        for change in 1..=whole.changes() - packet.changes() {
            let mut packet = packet.clone();
            packet.fail_from(change);
            let done = express::run(&mut packet, &tables.clone(), Route::Back);
            assert_eq!(done, Express::Drop(DropReason::RewriteFailed), "{talk:?}, change {change}");
        }
    }
}

/// Packets of all other cases, at all their moments.
#[test]
fn nothing_is_decided_otherwise_in_any_case() {
    for case in cases::all() {
        let mut tables = MemoryTables::new(&case.world, &case.random);
        tables.set_uplink(HERE, uplink(NODE_MAC, 0));
        let mut before = None;
        for step in &case.steps {
            match step {
                Step::World(changes) => changes.iter().for_each(|change| tables.apply(change)),
                Step::Packet(step) => {
                    let mut packet = step.packet(Checksums::Complete, None, before.as_ref());
                    // Hands out the events of the packets before.
                    tables.state();
                    let compared = compare(&packet, &tables, Route::Back);
                    compared.unwrap_or_else(|error| panic!("case '{}' at {:?}: {error}", case.name, step.hook));
                    native::run(step.hook, &mut packet, &tables);
                    before = Some(packet);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// Damaged, cut off, lengthened: whatever XDP takes, TC and the stack would send on likewise.
    #[test]
    fn damaged_packets_are_left_or_treated_alike(
        talk in 0..TALKS.len(),
        reply: bool,
        payload in proptest::collection::vec(any::<u8>(), 0..80),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), 0..8_u8), 0..3),
        cut in 0..200_usize,
    ) {
        let talk = TALKS[talk];
        let (tables, port) = settled(&talk);
        let frame = match reply {
            false => talk.frame(talk.client, talk.service),
            true => talk.frame(talk.pod, &talk.masqueraded(port)),
        };
        let mut bytes = frame.payload(&payload).bytes(Checksums::Complete);
        for (at, bit) in damage {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        if cut < 100 {
            bytes.truncate(cut.max(14));
        }
        if let Err(error) = compare(&from_wire(&bytes), &tables, Route::Back) {
            return Err(TestCaseError::fail(error));
        }
    }
}
