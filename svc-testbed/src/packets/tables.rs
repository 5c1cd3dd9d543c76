//! The maps in plain memory, with a clock that stands still, dice that fall as told and tables that can be full.
//! Neighbours: `svc_datapath::Tables` is what it implements, [`super::world`] what it is filled from.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::IpAddr;

use svc_common::{
    AddrV4, AddrV6, AffinityKey, AffinityValue, BackendEntry, BackendRef, Config, DropReason, Event, Flow, FlowEntry,
    FlowKey, FragmentKey, FragmentPorts, FrontendKey, HeldFragment, HeldKey, Hop, ServiceCounters, ServiceEntry,
    SocketKey, SocketValue, Uplink,
};
use svc_datapath::{Counted, ETHERNET_LENGTH, FamilyTables, Fragments, InsertError, Tables};

use super::accesses::Accesses;
use super::packet::MemoryPacket;
use super::state::State;
use super::world::{Change, Narrow, flow_key, frontend_key};

/// Far from zero, so that no age underflows by accident.
const START: u32 = 1_000_000;

/// Capacity of SERVICES: an array has an entry of zeroes at every index below.
const SERVICES_MAX: u32 = 65_536;

#[derive(Clone)]
struct Family<A> {
    classes: HashMap<A, u8>,
    frontends: HashMap<FrontendKey<A>, u32>,
    flows: RefCell<HashMap<FlowKey<A>, FlowEntry<A>>>,
}

impl<A> Default for Family<A> {
    fn default() -> Self {
        Self { classes: HashMap::new(), frontends: HashMap::new(), flows: RefCell::default() }
    }
}

#[derive(Clone)]
pub struct MemoryTables {
    v4: Family<AddrV4>,
    v6: Family<AddrV6>,
    ranges: Vec<(IpAddr, u8)>,
    services: HashMap<u32, ServiceEntry>,
    slots: HashMap<u32, BackendRef>,
    backends: HashMap<u32, BackendEntry>,
    config: Config,
    affinities: RefCell<HashMap<AffinityKey, AffinityValue>>,
    sockets: RefCell<HashMap<SocketKey, SocketValue>>,
    fragments: RefCell<HashMap<FragmentKey, FragmentPorts>>,
    held: RefCell<HashMap<HeldKey, (u32, Vec<u8>)>>,
    sent_again: RefCell<Vec<(u8, Vec<u8>)>>,
    counters: RefCell<HashMap<u32, ServiceCounters>>,
    drops: RefCell<HashMap<DropReason, u64>>,
    events: RefCell<Vec<Event>>,
    random: RefCell<VecDeque<u32>>,
    seed: Cell<u32>,
    now: u32,
    flow_capacity: usize,
    hops: Vec<(IpAddr, Hop)>,
    pub(super) uplinks: HashMap<u32, Uplink>,
    pub(super) express: Cell<u64>,
    accesses: Accesses,
}

impl MemoryTables {
    /// `random` is what the first calls of `Tables::random` return.
    pub fn new(changes: &[Change], random: &[u32]) -> Self {
        let mut tables = Self {
            v4: Family::default(),
            v6: Family::default(),
            ranges: Vec::new(),
            services: HashMap::new(),
            slots: HashMap::new(),
            backends: HashMap::new(),
            config: Config::default(),
            affinities: RefCell::default(),
            sockets: RefCell::default(),
            fragments: RefCell::default(),
            held: RefCell::default(),
            sent_again: RefCell::default(),
            counters: RefCell::default(),
            drops: RefCell::default(),
            events: RefCell::default(),
            random: RefCell::new(random.iter().copied().collect()),
            seed: Cell::new(0x9e37_79b9),
            now: START,
            flow_capacity: usize::MAX,
            hops: Vec::new(),
            uplinks: HashMap::new(),
            express: Cell::new(0),
            accesses: Accesses::default(),
        };
        for change in changes {
            tables.apply(change);
        }
        tables
    }

    pub fn apply(&mut self, change: &Change) {
        match *change {
            Change::Frontend { address, protocol, service } => {
                self.v4.set_frontend(frontend_key(address, protocol), service);
                self.v6.set_frontend(frontend_key(address, protocol), service);
            }
            Change::Service { index, entry } => {
                self.services.insert(index, entry);
            }
            Change::Slot { index, backend } => {
                self.slots.insert(index, backend);
            }
            Change::Backend { index, entry } => {
                self.backends.insert(index, entry);
            }
            Change::Config(config) => self.config = config,
            Change::Class { address, bits } => {
                self.v4.add_class(address, bits);
                self.v6.add_class(address, bits);
            }
            Change::Range { address, prefix } => self.ranges.push((address, prefix)),
            Change::ForgetFlow { stage, protocol, source, destination } => {
                self.v4.forget(flow_key(stage, protocol, source, destination));
                self.v6.forget(flow_key(stage, protocol, source, destination));
            }
            Change::Advance(seconds) => self.now += seconds,
            Change::FlowCapacity(capacity) => self.flow_capacity = capacity,
            Change::Hop { destination, hop } => {
                self.hops.retain(|(known, _)| *known != destination);
                self.hops.push((destination, hop));
            }
        }
    }

    /// Packets that come to the hook of a stage once more, in their order.
    pub fn take_sent_again(&self) -> Vec<(u8, Vec<u8>)> {
        self.sent_again.take()
    }

    /// What was asked of the maps, and written to them, since the last call.
    pub fn take_accesses(&self) -> String {
        self.accesses.take()
    }

    /// What the routing table says of destinations; if it says anything, packets are forwarded directly.
    pub fn hops(&self) -> &[(IpAddr, Hop)] {
        &self.hops
    }

    /// What the maps hold; events are handed out once.
    pub fn state(&self) -> State {
        let mut state = State::default();
        let age = |last_seen: u32| self.now.wrapping_sub(last_seen);
        state.add_flows(&self.v4.all_flows(), age);
        state.add_flows(&self.v6.all_flows(), age);
        for (key, value) in self.affinities.borrow().iter() {
            state.add_affinity(key, value, age(value.last_seen));
        }
        for (key, (since, packet)) in self.held.borrow().iter() {
            state.add_held(key, packet.len(), age(*since));
        }
        for (service, counters) in self.counters.borrow().iter() {
            state.add_counters(*service, counters);
        }
        for (reason, count) in self.drops.borrow().iter() {
            state.add_drops(*reason, *count);
        }
        for event in self.events.borrow_mut().drain(..) {
            state.add_event(&event);
        }
        state
    }
}

impl<A: Narrow> Family<A> {
    fn set_frontend(&mut self, key: Option<FrontendKey<A>>, service: Option<u32>) {
        match (key, service) {
            (Some(key), Some(service)) => drop(self.frontends.insert(key, service)),
            (Some(key), None) => drop(self.frontends.remove(&key)),
            (None, _) => {}
        }
    }

    fn add_class(&mut self, address: IpAddr, bits: u8) {
        if let Some(address) = A::narrow(address) {
            *self.classes.entry(address).or_default() |= bits;
        }
    }

    fn forget(&mut self, key: Option<FlowKey<A>>) {
        if let Some(key) = key {
            self.flows.get_mut().remove(&key).expect("case: the flow to forget is not there");
        }
    }

    fn all_flows(&self) -> Vec<(FlowKey<A>, Flow<A>)>
    where
        A: Hash,
    {
        self.flows.borrow().iter().map(|(key, entry)| (*key, entry.flow)).collect()
    }

    fn insert_flow(
        &self,
        key: &FlowKey<A>,
        entry: &FlowEntry<A>,
        replace: bool,
        free: usize,
    ) -> Result<(), InsertError> {
        let mut flows = self.flows.borrow_mut();
        match flows.contains_key(key) {
            true if !replace => return Err(InsertError::Exists),
            false if free == 0 => return Err(InsertError::Full),
            _ => {}
        }
        flows.insert(*key, *entry);
        Ok(())
    }

    fn mark(&self, key: &FlowKey<A>, state: u8, now: u32) {
        if let Some(entry) = self.flows.borrow_mut().get_mut(key) {
            entry.flow.state |= state;
            entry.flow.last_seen = now;
            entry.flow.tick = tick(now);
        }
    }
}

fn tick(now: u32) -> u8 {
    now as u8
}

fn in_range(address: IpAddr, (range, prefix): &(IpAddr, u8)) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 4),
        IpAddr::V6(v6) => (v6.to_bits(), 6),
    };
    let ((address, family), (range, range_family)) = (bits(address), bits(*range));
    family == range_family && (address ^ range).leading_zeros() >= u32::from(*prefix)
}

macro_rules! family_tables {
    ($address:ty, $family:ident, $node:ident) => {
        impl FamilyTables<$address> for MemoryTables {
            type Place = FlowKey<$address>;

            fn address_class(&self, address: $address) -> u8 {
                self.accesses.note("filter");
                self.$family.classes.get(&address).copied().unwrap_or_default()
            }

            fn frontend(&self, key: &FrontendKey<$address>) -> Option<u32> {
                self.accesses.note("frontend");
                self.$family.frontends.get(key).copied()
            }

            fn find_flow(&self, key: &FlowKey<$address>) -> Option<Self::Place> {
                self.accesses.note("flow");
                self.$family.flows.borrow().contains_key(key).then_some(*key)
            }

            fn flow_at(&self, place: Self::Place) -> Flow<$address> {
                self.$family.flows.borrow()[&place].flow
            }

            fn hop_at(&self, place: Self::Place) -> Hop {
                self.$family.flows.borrow()[&place].hop
            }

            fn set_hop_at(&self, place: Self::Place, hop: &Hop) {
                if let Some(entry) = self.$family.flows.borrow_mut().get_mut(&place) {
                    entry.hop = *hop;
                }
            }

            fn insert_flow(
                &self,
                key: &FlowKey<$address>,
                entry: &FlowEntry<$address>,
                replace: bool,
            ) -> Result<(), InsertError> {
                self.accesses.note("write-flow");
                let free = self.flow_capacity.saturating_sub(self.$family.flows.borrow().len());
                self.$family.insert_flow(key, entry, replace, free)
            }

            fn mark_flow_at(&self, place: Self::Place, state: u8, now: u32) {
                self.$family.mark(&place, state, now);
            }

            fn node_address(&self) -> $address {
                self.config.$node
            }

            fn in_cluster(&self, address: $address) -> bool {
                self.accesses.note("range");
                self.ranges.iter().any(|range| in_range(address.widen(), range))
            }
        }
    };
}
family_tables!(AddrV4, v4, node_v4);
family_tables!(AddrV6, v6, node_v6);

impl Tables for MemoryTables {
    fn features(&self) -> u32 {
        self.config.features
    }

    fn forwards_directly(&self) -> bool {
        !self.hops.is_empty()
    }

    fn service(&self, index: u32) -> Option<ServiceEntry> {
        self.accesses.note("service");
        (index < SERVICES_MAX).then(|| self.services.get(&index).copied().unwrap_or_default())
    }

    fn slot(&self, index: u32) -> Option<BackendRef> {
        self.accesses.note("slot");
        Some(self.slots.get(&index).copied().unwrap_or_default())
    }

    fn backend(&self, index: u32) -> Option<BackendEntry> {
        self.accesses.note("backend");
        Some(self.backends.get(&index).copied().unwrap_or_default())
    }

    fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue> {
        self.accesses.note("affinity");
        self.affinities.borrow().get(key).copied()
    }

    fn set_affinity(&self, key: &AffinityKey, value: &AffinityValue) {
        self.accesses.note("write-affinity");
        self.affinities.borrow_mut().insert(*key, *value);
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts> {
        self.accesses.note("fragment");
        self.fragments.borrow().get(key).copied()
    }

    fn set_fragment(&self, key: &FragmentKey, ports: &FragmentPorts) {
        self.accesses.note("write-fragment");
        self.fragments.borrow_mut().insert(*key, *ports);
    }

    fn socket(&self, key: &SocketKey) -> Option<SocketValue> {
        self.accesses.note("socket");
        self.sockets.borrow().get(key).copied()
    }

    fn set_socket(&self, key: &SocketKey, value: &SocketValue) {
        self.accesses.note("write-socket");
        self.sockets.borrow_mut().insert(*key, *value);
    }

    fn count(&self, service: u32, what: Counted) {
        self.accesses.note("count");
        let mut counters = self.counters.borrow_mut();
        let entry = counters.entry(service).or_default();
        match what {
            Counted::ConnectionTc => entry.connections_tc += 1,
            Counted::ConnectionSocket => entry.connections_socket += 1,
            Counted::ToBackend(bytes) => {
                entry.packets_to_backend += 1;
                entry.bytes_to_backend += u64::from(bytes);
            }
            Counted::ToClient(bytes) => {
                entry.packets_to_client += 1;
                entry.bytes_to_client += u64::from(bytes);
            }
            Counted::Rejected => entry.rejected += 1,
        }
    }

    fn count_drop(&self, reason: DropReason) {
        self.accesses.note("count-drop");
        *self.drops.borrow_mut().entry(reason).or_default() += 1;
    }

    fn events_wanted(&self, now: u32) -> bool {
        now < self.config.events_until
    }

    fn emit(&self, event: &Event) {
        self.events.borrow_mut().push(*event);
    }

    fn now(&self) -> u32 {
        self.now
    }

    fn tick(&self) -> u8 {
        tick(self.now)
    }

    fn random(&self) -> u32 {
        self.random.borrow_mut().pop_front().unwrap_or_else(|| {
            let mut x = self.seed.get();
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            self.seed.set(x);
            x
        })
    }
}

impl Fragments<MemoryPacket> for MemoryTables {
    fn forget_fragment(&self, key: &FragmentKey) {
        self.accesses.note("write-fragment");
        self.fragments.borrow_mut().remove(key);
    }

    fn hold(&self, packet: &MemoryPacket, key: &HeldKey, now: u32) -> bool {
        self.accesses.note("write-held");
        let packet = &packet.bytes()[ETHERNET_LENGTH..];
        let mut held = self.held.borrow_mut();
        // As the programs, which can copy no more.
        if packet.len() > HeldFragment::CAPACITY - 5 || held.contains_key(key) {
            return false;
        }
        held.insert(*key, (now, packet.to_vec()));
        true
    }

    fn held_since(&self, key: &HeldKey) -> Option<u32> {
        self.accesses.note("held");
        self.held.borrow().get(key).map(|(since, _)| *since)
    }

    fn take_held(&self, packet: &mut MemoryPacket, key: &HeldKey) -> bool {
        self.accesses.note("write-held");
        let taken = self.held.borrow_mut().remove(key);
        taken.map(|(_, held)| packet.replace_network(&held)).is_some()
    }

    fn forget_held(&self, key: &HeldKey) -> bool {
        self.accesses.note("write-held");
        self.held.borrow_mut().remove(key).is_some()
    }

    fn send_again(&self, packet: &MemoryPacket, stage: u8) {
        self.sent_again.borrow_mut().push((stage, packet.bytes().to_vec()));
    }
}
