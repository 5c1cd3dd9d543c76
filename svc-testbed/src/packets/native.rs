//! The dataplane as ordinary code: `svc_datapath` on memory. Neighbours: [`super::runner`] plays cases on it.

use svc_datapath::{Action, Side, fast, tc};

use super::case::{Case, Hook, Outcome};
use super::frame::Checksums;
use super::packet::MemoryPacket;
use super::runner::{Dataplane, play};
use super::state::State;
use super::tables::MemoryTables;
use super::world::Change;

/// Sends one packet through the logic of a hook.
pub fn run(hook: Hook, packet: &mut MemoryPacket, tables: &MemoryTables) -> Action {
    let fast = match hook {
        Hook::PodIngress | Hook::UplinkIngress => fast::ingress(packet, tables),
        Hook::PodEgress => fast::egress(packet, tables, Side::Pod),
        Hook::UplinkEgress => fast::egress(packet, tables, Side::Uplink),
    };
    fast.unwrap_or_else(|| run_slow(hook, packet, tables))
}

/// The complete path, without its shortcut.
pub fn run_slow(hook: Hook, packet: &mut MemoryPacket, tables: &MemoryTables) -> Action {
    match hook {
        Hook::PodIngress => tc::ingress(packet, tables, Side::Pod),
        Hook::UplinkIngress => tc::ingress(packet, tables, Side::Uplink),
        Hook::PodEgress => tc::egress(packet, tables, Side::Pod),
        Hook::UplinkEgress => tc::egress(packet, tables, Side::Uplink),
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
            Action::TurnBack | Action::Reroute => Outcome::Redirect,
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
