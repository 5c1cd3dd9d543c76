//! The dataplane as ordinary code: `svc_datapath` on memory. Neighbours: [`super::runner`] plays cases on it.

use svc_common::Hop;
use svc_datapath::fast::{self, Fast};
use svc_datapath::hold::{self, Step};
use svc_datapath::{Action, Scratch, Side, tc};

use super::case::{Case, Hook, Outcome};
use super::frame::Checksums;
use super::packet::MemoryPacket;
use super::runner::{Dataplane, play};
use super::state::State;
use super::tables::MemoryTables;
use super::world::Change;

/// What a hook did with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Done {
    Action(Action),
    Forward(Hop),
    /// It is held, or was sent again (see [`MemoryTables::take_sent_again`]).
    Gone,
}

impl PartialEq<Action> for Done {
    fn eq(&self, action: &Action) -> bool {
        *self == Self::Action(*action)
    }
}

/// Sends one packet through the logic of a hook.
pub fn run(hook: Hook, packet: &mut MemoryPacket, tables: &MemoryTables) -> Done {
    packet.set_hops(tables.hops());
    let mut entered = false;
    loop {
        return match run_fast(hook, packet, tables) {
            Fast::Done(action) => Done::Action(action),
            Fast::Forward(hop) => Done::Forward(hop),
            Fast::Slow if hold(hook, packet, tables) == Step::Gone => Done::Gone,
            Fast::Slow => match run_slow(hook, packet, tables) {
                Action::Again => {
                    assert!(!std::mem::replace(&mut entered, true), "a flow was entered twice for one packet");
                    continue;
                }
                action => Done::Action(action),
            },
        };
    }
}

/// Fragments wait for the first of their datagram.
fn hold(hook: Hook, packet: &mut MemoryPacket, tables: &MemoryTables) -> Step {
    match hook {
        _ if !hold::is_fragment(packet) => Step::Proceed,
        Hook::PodIngress | Hook::UplinkIngress => hold::ingress(packet, tables),
        Hook::PodEgress | Hook::UplinkEgress => hold::egress(packet, tables),
    }
}

/// The shortcut alone.
pub fn run_fast(hook: Hook, packet: &mut MemoryPacket, tables: &MemoryTables) -> Fast {
    let egress = |packet: &mut _, side| fast::egress(packet, tables, side).map_or(Fast::Slow, Fast::Done);
    match hook {
        Hook::PodIngress => fast::ingress(packet, tables, Side::Pod),
        Hook::UplinkIngress => fast::ingress(packet, tables, Side::Uplink),
        Hook::PodEgress => egress(packet, Side::Pod),
        Hook::UplinkEgress => egress(packet, Side::Uplink),
    }
}

/// The complete path, without its shortcut.
pub fn run_slow(hook: Hook, packet: &mut MemoryPacket, tables: &MemoryTables) -> Action {
    let scratch = &mut Scratch::default();
    match hook {
        Hook::PodIngress => tc::ingress(packet, tables, Side::Pod, scratch),
        Hook::UplinkIngress => tc::ingress(packet, tables, Side::Uplink, scratch),
        Hook::PodEgress => tc::egress(packet, tables, Side::Pod, scratch),
        Hook::UplinkEgress => tc::egress(packet, tables, Side::Uplink, scratch),
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
            Done::Action(Action::Pass) => Outcome::Pass,
            Done::Action(Action::Drop(reason)) => Outcome::Drop(Some(reason)),
            Done::Action(Action::TurnBack | Action::Reroute | Action::Again) | Done::Forward(_) => Outcome::Redirect,
            Done::Gone => Outcome::Drop(None),
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
