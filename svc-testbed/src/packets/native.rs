//! The dataplane as ordinary code: `svc_datapath` on memory. Neighbours: [`super::runner`] plays cases on it.

use svc_datapath::{Action, Side, tc};

use super::case::{Case, Hook, Outcome};
use super::frame::Checksums;
use super::packet::MemoryPacket;
use super::runner::{Dataplane, play};
use super::state::State;
use super::tables::MemoryTables;
use super::world::Change;

/// Sends one packet through the logic of a hook.
pub fn run(hook: Hook, packet: &mut MemoryPacket, tables: &MemoryTables) -> Action {
    match hook {
        Hook::PodIngress => tc::ingress(packet, tables, Side::Pod),
        Hook::UplinkIngress => tc::ingress(packet, tables, Side::Uplink),
        Hook::PodEgress | Hook::UplinkEgress => tc::egress(packet, tables),
    }
}

impl Dataplane for MemoryTables {
    fn apply(&mut self, change: &Change) {
        MemoryTables::apply(self, change);
    }

    fn state(&mut self) -> State {
        MemoryTables::state(self)
    }

    fn run(&mut self, hook: Hook, packet: &mut MemoryPacket, _unsummed: bool) -> Result<Outcome, String> {
        Ok(match run(hook, packet, self) {
            Action::Pass => Outcome::Pass,
            Action::Drop(reason) => Outcome::Drop(Some(reason)),
            Action::TurnBack => Outcome::TurnBack,
        })
    }
}

/// Plays a case in all ways checksums can be computed.
pub fn check(case: &Case) -> Result<(), String> {
    let ways = [Checksums::Complete, Checksums::Offloaded].into_iter().filter(|checksums| case.plays_with(*checksums));
    for checksums in ways {
        play(case, checksums, &mut MemoryTables::new(&case.world, &case.random))?;
    }
    Ok(())
}
