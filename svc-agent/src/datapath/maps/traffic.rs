//! What the programs write: flows, affinity, sockets, counters and events, for the commands and the metrics.
//! Must not write any of it, but for the time until which events are wanted.

use std::path::Path;

use aya::maps::{Map, MapData, PerCpuArray, RingBuf};
use svc_common::{
    AffinityKey, AffinityValue, DropReason, Flow, FlowEntry, FlowEntryV4, FlowEntryV6, FlowKeyV4, FlowKeyV6, FlowV4,
    FlowV6, FragmentKey, FragmentPorts, HeldFragment, HeldKey, ServiceCounters, SocketKey, SocketValue, map,
};

use super::counters::Counters;
use super::open::{OpenError, Opener, from_directory};
use super::table::{Table, maps_error};
use crate::audit::Entries;
use crate::publish::MapsError;

/// The flows of entries, without the way past the stack that the programs keep beside them.
fn flows<K, A>(entries: Vec<(K, FlowEntry<A>)>) -> Vec<(K, Flow<A>)> {
    entries.into_iter().map(|(key, entry)| (key, entry.flow)).collect()
}

/// The maps that only programs write.
pub struct Traffic {
    flows_v4: Table<FlowKeyV4, FlowEntryV4>,
    flows_v6: Table<FlowKeyV6, FlowEntryV6>,
    affinity: Table<AffinityKey, AffinityValue>,
    sockets: Table<SocketKey, SocketValue>,
    fragments: Table<FragmentKey, FragmentPorts>,
    held_fragments: Table<HeldKey, HeldFragment>,
    service_counters: Counters,
    drop_counters: PerCpuArray<MapData, u64>,
    express_counter: PerCpuArray<MapData, u64>,
}

impl Traffic {
    pub fn open_pinned(directory: &Path) -> Result<Self, OpenError> {
        let mut source = Opener(from_directory(directory));
        Ok(Self {
            flows_v4: source.lru(map::FLOWS_V4)?,
            flows_v6: source.lru(map::FLOWS_V6)?,
            affinity: source.lru(map::AFFINITY)?,
            sockets: source.lru(map::SOCKETS)?,
            fragments: source.lru(map::FRAGMENTS)?,
            held_fragments: source.lru(map::HELD_FRAGMENTS)?,
            service_counters: Counters::open(&mut source)?,
            drop_counters: source.per_cpu(map::DROP_COUNTERS)?,
            express_counter: source.per_cpu(map::EXPRESS_COUNTER)?,
        })
    }

    /// Entries may come and go while they are read.
    pub fn flows_v4(&self) -> Result<Vec<(FlowKeyV4, FlowV4)>, MapsError> {
        self.flows_v4.entries().map(flows)
    }

    pub fn flows_v6(&self) -> Result<Vec<(FlowKeyV6, FlowV6)>, MapsError> {
        self.flows_v6.entries().map(flows)
    }

    /// Entries (estimated in large maps) and capacity of each map that can fill up.
    pub fn fill(&self) -> Result<Vec<(&'static str, u64, u32)>, MapsError> {
        let (counters, counters_capacity) = self.service_counters.rest()?;
        Ok(vec![
            (map::FLOWS_V4, self.flows_v4.estimate()?, self.flows_v4.capacity()),
            (map::FLOWS_V6, self.flows_v6.estimate()?, self.flows_v6.capacity()),
            (map::AFFINITY, self.affinity.estimate()?, self.affinity.capacity()),
            (map::SOCKETS, self.sockets.estimate()?, self.sockets.capacity()),
            (map::FRAGMENTS, self.fragments.estimate()?, self.fragments.capacity()),
            (map::HELD_FRAGMENTS, self.held_fragments.estimate()?, self.held_fragments.capacity()),
            (map::SERVICE_COUNTERS, counters, counters_capacity),
        ])
    }

    /// Entries FLOWS_V4 and FLOWS_V6 can hold.
    pub fn flow_capacities(&self) -> [u32; 2] {
        [self.flows_v4.capacity(), self.flows_v6.capacity()]
    }

    pub fn affinity(&self) -> Result<Vec<(AffinityKey, AffinityValue)>, MapsError> {
        self.affinity.entries()
    }

    pub fn sockets(&self) -> Result<Vec<(SocketKey, SocketValue)>, MapsError> {
        self.sockets.entries()
    }

    /// Everything, for an audit.
    pub fn entries(&self) -> Result<Entries, MapsError> {
        Ok(Entries {
            flows_v4: self.flows_v4()?,
            flows_v6: self.flows_v6()?,
            flow_capacities: self.flow_capacities(),
            affinity: self.affinity()?,
            sockets: self.sockets()?,
            counters: self.service_counters()?.into_iter().map(|(index, _)| index).collect(),
        })
    }

    /// Sums over all CPUs, by service index. Services without traffic have no entry.
    pub fn service_counters(&self) -> Result<Vec<(u32, ServiceCounters)>, MapsError> {
        self.service_counters.sums()
    }

    /// Sums over all CPUs, of every reason.
    pub fn drop_counters(&self) -> Result<Vec<(DropReason, u64)>, MapsError> {
        let read =
            |reason: &DropReason| Ok((*reason, sum_at(&self.drop_counters, *reason as u32, map::DROP_COUNTERS)?));
        DropReason::ALL.iter().map(read).collect()
    }

    /// Packets that XDP sent on past the stack.
    pub fn express_packets(&self) -> Result<u64, MapsError> {
        sum_at(&self.express_counter, 0, map::EXPRESS_COUNTER)
    }

    /// The ring buffer of [`svc_common::Event`]. It has one reader; programs write to it only until
    /// `ConfigField::EventsUntil`.
    pub fn open_events(directory: &Path) -> Result<RingBuf<MapData>, OpenError> {
        let data = from_directory(directory)(map::EVENTS)?;
        Map::RingBuf(data).try_into().map_err(OpenError::refused(map::EVENTS))
    }
}

/// Over all CPUs.
fn sum_at(counters: &PerCpuArray<MapData, u64>, index: u32, map: &'static str) -> Result<u64, MapsError> {
    let cpus = counters.get(&index, 0).map_err(|error| maps_error(map, "read", error))?;
    Ok(cpus.iter().sum())
}
