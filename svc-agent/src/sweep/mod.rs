//! The sweep: takes away what programs remember and nothing needs any more, a slice of a map at a time, so that full tables
//! forget nothing that lives. [`rule`] decides; must not touch what the agent publishes.
//! What a packet of a connection that was silent for that long can lose, if it comes within the microsecond between the last
//! look and the removal: its new pair of flows. The next datagram or repeated SYN begins anew.

pub mod rule;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use svc_common::{FlowEntry, FlowKey, flow_op, map};
use svc_datapath::peer_key;

use self::rule::{Life, first_pair, is_forgotten};
use crate::datapath::maps::{Element, Forgettable, OpenError, Table};
use crate::observe::{Shared, monotonic_seconds};
use crate::publish::MapsError;

pub use self::rule::Timeouts;

/// Between the passes over all maps.
const EVERY: Duration = Duration::from_secs(30);
/// Between two slices of a pass. A million entries take 25 s.
const PAUSE: Duration = Duration::from_millis(100);
const SLICE: usize = 4096;

/// The maps, in the order of a pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    FlowsV4,
    FlowsV6,
    Affinity,
    Counters,
}

/// What one turn has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turn {
    pub map: &'static str,
    pub removed: u64,
    /// All maps have been gone through.
    pub pass_ends: bool,
}

pub struct Sweeper {
    maps: Forgettable,
    timeouts: Timeouts,
    stage: Stage,
    /// Where the next slice of the stage's map begins.
    next: Option<u32>,
    /// Affinity ids with their time, as they were when somebody last looked.
    affinities: Option<HashMap<u32, u32>>,
}

impl Sweeper {
    /// For the maps pinned in `directory`.
    pub fn open(directory: &Path, timeouts: Timeouts) -> Result<Self, OpenError> {
        let maps = Forgettable::open_pinned(directory)?;
        Ok(Self { maps, timeouts, stage: Stage::FlowsV4, next: None, affinities: None })
    }

    /// Goes on until the process ends, on a thread of its own: it waits for the kernel, and nobody waits for it.
    pub fn start(mut self, shared: Arc<Shared>) -> io::Result<()> {
        let run = move || {
            loop {
                thread::sleep(EVERY);
                while !self.report(&shared) {
                    thread::sleep(PAUSE);
                }
            }
        };
        thread::Builder::new().name("sweep".to_owned()).spawn(run).map(drop)
    }

    /// One turn; true at the end of a pass.
    fn report(&mut self, shared: &Shared) -> bool {
        match self.turn(monotonic_seconds()) {
            Ok(turn) => {
                shared.swept(turn.map, turn.removed);
                turn.pass_ends
            }
            Err(error) => {
                tracing::warn!(%error, "cannot remove what is not needed any more; trying again later");
                self.stage == Stage::FlowsV4
            }
        }
    }

    /// Goes through the next slice. `now` must have been read before. After an error the next map is next.
    pub fn turn(&mut self, now: u32) -> Result<Turn, MapsError> {
        let (stage, start) = (self.stage, self.next.take());
        let (map, following) = match stage {
            Stage::FlowsV4 => (map::FLOWS_V4, Stage::FlowsV6),
            Stage::FlowsV6 => (map::FLOWS_V6, Stage::Affinity),
            Stage::Affinity => (map::AFFINITY, Stage::Counters),
            Stage::Counters => (map::SERVICE_COUNTERS, Stage::FlowsV4),
        };
        self.stage = following;
        let (removed, next) = match stage {
            Stage::FlowsV4 => sweep_flows(&mut self.maps.flows_v4, start, &self.timeouts, now)?,
            Stage::FlowsV6 => sweep_flows(&mut self.maps.flows_v6, start, &self.timeouts, now)?,
            Stage::Affinity => self.sweep_affinity(start, now)?,
            Stage::Counters => (self.sweep_counters()?, None),
        };
        if next.is_some() {
            (self.stage, self.next) = (stage, next);
        }
        Ok(Turn { map, removed, pass_ends: self.stage == Stage::FlowsV4 && self.next.is_none() })
    }

    fn sweep_affinity(&mut self, start: Option<u32>, now: u32) -> Result<(u64, Option<u32>), MapsError> {
        let slice = self.maps.affinity.slice(start, SLICE)?;
        if slice.entries.is_empty() {
            return Ok((0, slice.next));
        }
        // After the entries: whoever made one is among the services, or gone. A service that moves to another index while
        // they are read may be missed, but not twice.
        let mut known: HashMap<u32, u32> = HashMap::new();
        self.maps.services(|_, entry| {
            if entry.affinity_timeout != 0 {
                let timeout = known.entry(entry.affinity_id).or_default();
                *timeout = entry.affinity_timeout.max(*timeout);
            }
        })?;
        let before = self.affinities.take();
        let mut removed = 0;
        for (key, value) in slice.entries {
            let timeout = known.get(&key.affinity_id).copied();
            let doubtful =
                timeout.is_none() && before.as_ref().is_none_or(|before| before.contains_key(&key.affinity_id));
            if !doubtful && is_forgotten(value.last_seen, timeout, now) && self.maps.affinity.get(&key)? == Some(value)
            {
                self.maps.affinity.remove(&key)?;
                removed += 1;
            }
        }
        self.affinities = Some(known);
        Ok((removed, slice.next))
    }

    /// Old connections of a service that is gone still count.
    fn sweep_counters(&mut self) -> Result<u64, MapsError> {
        let mut removed = 0;
        for index in self.maps.counted()? {
            if !self.maps.is_service(index)? {
                self.maps.remove_counters(index)?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

type Flows<A> = Table<FlowKey<A>, FlowEntry<A>>;

fn sweep_flows<A: Copy + Eq>(
    flows: &mut Flows<A>,
    start: Option<u32>,
    timeouts: &Timeouts,
    now: u32,
) -> Result<(u64, Option<u32>), MapsError>
where
    FlowKey<A>: Element,
    FlowEntry<A>: Element,
{
    let slice = flows.slice(start, SLICE)?;
    let mut removed = 0;
    for (key, entry) in slice.entries {
        let life = Life::of(&key, &entry.flow);
        let may_be_over = match first_pair(&key, &entry.flow) {
            Some(_) => life.is_left_over(now),
            None => life.is_over(timeouts, now),
        };
        if may_be_over {
            removed += remove_if_over(flows, &key, timeouts, now)?;
        }
    }
    Ok((removed, slice.next))
}

/// Looks at a flow once more, together with those it depends on, and removes it with its other direction. Answers how many.
fn remove_if_over<A: Copy + Eq>(
    flows: &mut Flows<A>,
    key: &FlowKey<A>,
    timeouts: &Timeouts,
    now: u32,
) -> Result<u64, MapsError>
where
    FlowKey<A>: Element,
    FlowEntry<A>: Element,
{
    let first = match flows.get(key)? {
        Some(entry) => first_pair(key, &entry.flow),
        None => return Ok(0),
    };
    let first_lives = first.map(|first| flows.get(&first)).transpose()?.flatten().is_some();
    let Some(FlowEntry { flow, .. }) = flows.get(key)? else { return Ok(0) };
    let other = peer_key(key, &flow);
    // A flow whose tuple was used again stands alone: its other direction belongs to another connection.
    let peer = flows.get(&other)?.map(|peer| peer.flow).filter(|peer| peer_key(&other, peer) == *key);
    let own = Life::of(key, &flow);
    let life = peer.map_or(own, |peer| own.and(&peer, now));
    let over = match (first, peer) {
        (Some(_), _) if !first_lives && life.is_left_over(now) => true,
        (Some(_), Some(_)) => false,
        _ => life.is_over(timeouts, now),
    };
    match (over, peer) {
        (false, _) => Ok(0),
        (true, None) => flows.remove(key).map(|()| 1),
        (true, Some(_)) => {
            let to_backend = flow.ops & flow_op::TO_BACKEND != 0;
            let (forward, reply) = if to_backend { (*key, other) } else { (other, *key) };
            // In this order: a client's packet that comes in between, or meets only its half afterwards, begins anew. Without
            // the reply it would be sent to a backend whose answers nobody translates.
            flows.remove(&reply)?;
            flows.remove(&forward)?;
            if flows.get(&forward)?.is_some() && flows.get(&reply)?.is_none() {
                flows.remove(&forward)?;
            }
            Ok(2)
        }
    }
}
