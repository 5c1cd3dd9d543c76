//! What packets cost in accesses to maps, case by case, against `cost/packets.table`: a regression that no clock would show.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod cost_table;

use std::path::Path;

use cost_table::{Costs, check, costs_of};
use svc_testbed::packets::case::{CHOSEN, Output, Step, resolve};
use svc_testbed::packets::cases;
use svc_testbed::packets::frame::Checksums;
use svc_testbed::packets::native;
use svc_testbed::packets::runner::source_port;
use svc_testbed::packets::tables::MemoryTables;

const ABOUT: &str = "\
# Accesses to maps by each packet of each packet case: reads by map, writes as write-MAP, counters as count and count-drop.
# `cargo xtask cost --write` writes this file; a commit that makes a number larger says why.
";

#[test]
fn accesses_of_every_packet_case() {
    let mut costs = Costs::new();
    for case in cases::all().into_iter().filter(|case| case.plays_with(Checksums::Complete)) {
        let mut tables = MemoryTables::new(&case.world, &case.random);
        let (mut before, mut chosen) = (None, None);
        for (number, step) in case.steps.iter().enumerate() {
            match step {
                Step::World(changes) => changes.iter().for_each(|change| tables.apply(change)),
                Step::Packet(step) => {
                    let mut packet = step.packet(Checksums::Complete, chosen, before.as_ref());
                    tables.take_accesses();
                    native::run(step.hook, &mut packet, &tables);
                    let what = format!("{}, step {} at {:?}", case.name, number + 1, step.hook);
                    let known = costs.insert(what, costs_of(&tables.take_accesses()));
                    assert_eq!(known, None, "two cases have the name {}", case.name);
                    if let Output::Frame(frame) = &step.output
                        && frame.source.port() == CHOSEN
                        && resolve(frame, None) == **frame
                    {
                        chosen = chosen.or_else(|| source_port(&packet.finish()));
                    }
                    before = Some(packet);
                }
            }
        }
    }
    check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cost/packets.table"), ABOUT, &costs, 0);
}
