//! The dataplane as the kernel runs it: the real object, loaded without pins and without attaching anything, its own
//! maps, each packet by BPF_PROG_TEST_RUN. Neighbours: [`super::runner`] plays cases on it.

use std::collections::{BTreeSet, HashMap as StdHashMap};
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues, ProgramArray, RingBuf};
use aya::programs::{ProgramFd, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader, Pod};
use svc_common::{
    ADDRESS_FILTER_SLOTS, AddrV4, AddrV6, AffinityKey, AffinityValue, BackendEntry, BackendRef, Config, DropReason,
    Event, Flow, FlowEntry, FlowEntryV4, FlowEntryV6, FlowKey, FlowKeyV4, FlowKeyV6, FragmentKey, FragmentPorts,
    FrontendKeyV4, FrontendKeyV6, HeldFragment, HeldKey, ServiceCounters, ServiceEntry, Uplink, interface_flag, map,
    program, tail_call,
};
use svc_datapath::filter;

use super::case::{Case, Hook, Outcome};
use super::frame::Checksums;
use super::packet::{MemoryPacket, Offload};
use super::runner::{Dataplane, play};
use super::state::State;
use super::testrun;
use super::world::{Change, flow_key, frontend_key};

/// Repetitions of a case that depends on dice the kernel throws by itself.
const THROWS: usize = 200;
/// Ages are compared in steps of so many seconds: the kernel's clock goes on while a case is played.
const AGE_STEP: u32 = 10;
/// Any number of ticks that a test does not take.
const ANOTHER_TICK: u8 = 128;

/// The object under test: SVC_EBPF_OBJECT, or where `cargo xtask build-ebpf` puts it.
pub fn object_path() -> PathBuf {
    match std::env::var_os("SVC_EBPF_OBJECT") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/svc-ebpf"),
    }
}

pub struct Kernel {
    config: Array<MapData, Config>,
    filter: Array<MapData, u64>,
    ranges: LpmTrie<MapData, AddrV6, u32>,
    services: Array<MapData, ServiceEntry>,
    slots: Array<MapData, BackendRef>,
    backends: Array<MapData, BackendEntry>,
    frontends_v4: HashMap<MapData, FrontendKeyV4, u32>,
    frontends_v6: HashMap<MapData, FrontendKeyV6, u32>,
    flows_v4: HashMap<MapData, FlowKeyV4, FlowEntryV4>,
    flows_v6: HashMap<MapData, FlowKeyV6, FlowEntryV6>,
    affinity: HashMap<MapData, AffinityKey, AffinityValue>,
    fragments: HashMap<MapData, FragmentKey, FragmentPorts>,
    held: HashMap<MapData, HeldKey, HeldFragment>,
    counters: PerCpuHashMap<MapData, u32, ServiceCounters>,
    first_counters: PerCpuArray<MapData, ServiceCounters>,
    drops: PerCpuArray<MapData, u64>,
    events: RingBuf<MapData>,
    programs: StdHashMap<Hook, ProgramFd>,
    express: ProgramFd,
    /// Array elements that are no longer zero, by map.
    used: [BTreeSet<u32>; 4],
    verify_complete: bool,
    /// Keeps the programs loaded.
    _ebpf: Ebpf,
}

impl Kernel {
    /// Loads the object; needs root.
    pub fn load(object: &Path) -> Result<Self> {
        Self::load_as(object, &[], false)
    }

    /// Loads the object with other capacities of some maps, and with `direct` to forward past the stack.
    pub fn load_as(object: &Path, capacities: &[(&str, u32)], direct: bool) -> Result<Self> {
        let direct = u8::from(direct);
        let mut loader = EbpfLoader::new();
        loader.override_global("FORWARD_DIRECT", &direct, true);
        for (map, entries) in capacities {
            loader.map_max_entries(map, *entries);
        }
        let mut ebpf = loader
            .load_file(object)
            .with_context(|| format!("loading {}: build it with `cargo xtask build-ebpf`", object.display()))?;
        let mut programs = StdHashMap::new();
        for hook in Hook::ALL {
            let name = match hook {
                Hook::PodIngress => program::POD_INGRESS,
                Hook::PodEgress => program::POD_EGRESS,
                Hook::UplinkIngress => program::UPLINK_INGRESS,
                Hook::UplinkEgress => program::UPLINK_EGRESS,
            };
            let classifier: &mut SchedClassifier =
                ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?.try_into()?;
            classifier.load().with_context(|| format!("loading program {name}"))?;
            programs.insert(hook, classifier.fd()?.try_clone()?);
        }
        connect_programs(&mut ebpf)?;
        let express: &mut Xdp = ebpf.program_mut(program::UPLINK_XDP).context("the object has no XDP")?.try_into()?;
        express.load().context("loading the XDP program")?;
        let express = express.fd()?.try_clone()?;
        let mut take = |name: &str| ebpf.take_map(name).with_context(|| format!("the object has no map {name}"));
        Ok(Self {
            config: take(map::CONFIG)?.try_into()?,
            filter: take(map::ADDRESS_FILTER)?.try_into()?,
            ranges: take(map::CLUSTER_RANGES)?.try_into()?,
            services: take(map::SERVICES)?.try_into()?,
            slots: take(map::SLOTS)?.try_into()?,
            backends: take(map::BACKENDS)?.try_into()?,
            frontends_v4: take(map::FRONTENDS_V4)?.try_into()?,
            frontends_v6: take(map::FRONTENDS_V6)?.try_into()?,
            flows_v4: take(map::FLOWS_V4)?.try_into()?,
            flows_v6: take(map::FLOWS_V6)?.try_into()?,
            affinity: take(map::AFFINITY)?.try_into()?,
            fragments: take(map::FRAGMENTS)?.try_into()?,
            held: take(map::HELD_FRAGMENTS)?.try_into()?,
            counters: take(map::SERVICE_COUNTERS)?.try_into()?,
            first_counters: take(map::SERVICE_COUNTERS_FIRST)?.try_into()?,
            drops: take(map::DROP_COUNTERS)?.try_into()?,
            events: take(map::EVENTS)?.try_into()?,
            programs,
            express,
            used: Default::default(),
            verify_complete: false,
            _ebpf: ebpf,
        })
    }

    /// Empties all maps.
    pub fn reset(&mut self) -> Result<()> {
        clear(&mut self.frontends_v4)?;
        clear(&mut self.frontends_v6)?;
        clear(&mut self.flows_v4)?;
        clear(&mut self.flows_v6)?;
        clear(&mut self.affinity)?;
        clear(&mut self.fragments)?;
        clear(&mut self.held)?;
        for key in self.counters.keys().collect::<Result<Vec<_>, _>>()? {
            self.counters.remove(&key)?;
        }
        for key in self.ranges.keys().collect::<Result<Vec<_>, _>>()? {
            self.ranges.remove(&key)?;
        }
        let cpus = aya::util::nr_cpus().map_err(|(file, error)| anyhow::anyhow!("{file}: {error}"))?;
        for reason in DropReason::ALL {
            self.drops.set(*reason as u32, PerCpuValues::try_from(vec![0_u64; cpus])?, 0)?;
        }
        while self.events.next().is_some() {}
        self.config.set(0, Config::default(), 0)?;
        let [filter, services, slots, backends] = std::mem::take(&mut self.used);
        filter.iter().try_for_each(|index| self.filter.set(*index, 0, 0))?;
        for index in &services {
            let zeros = PerCpuValues::try_from(vec![ServiceCounters::default(); cpus])?;
            self.first_counters.set(*index, zeros, 0)?;
        }
        services.iter().try_for_each(|index| self.services.set(*index, ServiceEntry::default(), 0))?;
        slots.iter().try_for_each(|index| self.slots.set(*index, BackendRef::NONE, 0))?;
        backends.iter().try_for_each(|index| self.backends.set(*index, BackendEntry::default(), 0))?;
        Ok(())
    }

    /// Forgets all connections.
    pub fn clear_flows(&mut self) -> Result<()> {
        clear(&mut self.flows_v4)?;
        clear(&mut self.flows_v6)
    }

    /// The interface leads straight into a pod.
    pub fn add_pod_interface(&mut self, index: u32) -> Result<()> {
        let map = self._ebpf.map_mut(map::INTERFACES).context("the object has no map of interfaces")?;
        let mut interfaces = HashMap::<_, u32, u32>::try_from(map)?;
        Ok(interfaces.insert(index, interface_flag::PEER, 0)?)
    }

    /// The interface carries the XDP program.
    pub fn add_uplink(&mut self, index: u32, uplink: Uplink) -> Result<()> {
        let map = self._ebpf.map_mut(map::UPLINKS).context("the object has no map of uplinks")?;
        let mut uplinks = HashMap::<_, u32, Uplink>::try_from(map)?;
        Ok(uplinks.insert(index, uplink, 0)?)
    }

    pub fn express_packets(&mut self) -> Result<u64> {
        let map = self._ebpf.map(map::EXPRESS_COUNTER).context("the object has no counter of XDP")?;
        Ok(PerCpuArray::<_, u64>::try_from(map)?.get(&0, 0)?.iter().sum())
    }

    /// Sends a frame through XDP that came by an interface of the caller's network namespace; answers with the XDP action.
    pub fn run_express(&self, frame: &[u8], interface: u32) -> Result<(u32, Vec<u8>)> {
        testrun::run_xdp(self.express.as_fd(), frame, interface).context("BPF_PROG_TEST_RUN of the XDP program")
    }

    pub fn program(&self, hook: Hook) -> BorrowedFd<'_> {
        self.programs[&hook].as_fd()
    }

    pub fn write(&mut self, change: &Change) -> Result<()> {
        match *change {
            Change::Frontend { address, protocol, service } => {
                let v4: Option<FrontendKeyV4> = frontend_key(address, protocol);
                let v6: Option<FrontendKeyV6> = frontend_key(address, protocol);
                match (v4, v6, service) {
                    (Some(key), _, Some(service)) => self.frontends_v4.insert(key, service, 0)?,
                    (Some(key), _, None) => remove(&mut self.frontends_v4, &key)?,
                    (_, Some(key), Some(service)) => self.frontends_v6.insert(key, service, 0)?,
                    (_, Some(key), None) => remove(&mut self.frontends_v6, &key)?,
                    (None, None, _) => {}
                }
            }
            Change::Service { index, entry } => {
                self.used[1].insert(index);
                self.services.set(index, entry, 0)?;
            }
            Change::Slot { index, backend } => {
                self.used[2].insert(index);
                self.slots.set(index, backend, 0)?;
            }
            Change::Backend { index, entry } => {
                self.used[3].insert(index);
                self.backends.set(index, entry, 0)?;
            }
            Change::Config(config) => self.config.set(0, config, 0)?,
            Change::Class { address, bits } => {
                let slot = match address {
                    IpAddr::V4(v4) => filter::slot_v4(AddrV4::from_octets(v4.octets())),
                    IpAddr::V6(v6) => filter::slot_v6(AddrV6::from_octets(v6.octets())),
                };
                assert!(slot < ADDRESS_FILTER_SLOTS, "slot {slot} of {address} is outside of the filter");
                self.used[0].insert(slot / 8);
                let word = self.filter.get(&(slot / 8), 0)? | u64::from(bits) << (slot % 8 * 8);
                self.filter.set(slot / 8, word, 0)?;
            }
            Change::Range { address, prefix } => {
                let (octets, prefix) = match address {
                    IpAddr::V4(v4) => (v4.to_ipv6_mapped().octets(), u32::from(prefix) + 96),
                    IpAddr::V6(v6) => (v6.octets(), u32::from(prefix)),
                };
                self.ranges.insert(&Key::new(prefix, AddrV6::from_octets(octets)), 1, 0)?;
            }
            Change::ForgetFlow { stage, protocol, source, destination } => {
                if let Some(key) = flow_key(stage, protocol, source, destination) {
                    self.flows_v4.remove(&key).context("case: the flow to forget is not there")?;
                }
                if let Some(key) = flow_key(stage, protocol, source, destination) {
                    self.flows_v6.remove(&key).context("case: the flow to forget is not there")?;
                }
            }
            Change::Advance(seconds) => self.grow_older(seconds)?,
            Change::Hop { .. } => {
                anyhow::bail!("the machine has a routing table of its own: mark the case native_only")
            }
            Change::FlowCapacity(_) => anyhow::bail!("the kernel's LRU maps are never full: mark the case native_only"),
        }
        Ok(())
    }

    /// The clock cannot be put forward, but everything can have happened earlier.
    fn grow_older(&mut self, seconds: u32) -> Result<()> {
        for (key, mut entry) in self.flows_v4.iter().collect::<Result<Vec<_>, _>>()? {
            entry.flow.last_seen = entry.flow.last_seen.wrapping_sub(seconds);
            entry.flow.tick = entry.flow.tick.wrapping_sub(ANOTHER_TICK);
            self.flows_v4.insert(key, entry, 0)?;
        }
        for (key, mut entry) in self.flows_v6.iter().collect::<Result<Vec<_>, _>>()? {
            entry.flow.last_seen = entry.flow.last_seen.wrapping_sub(seconds);
            entry.flow.tick = entry.flow.tick.wrapping_sub(ANOTHER_TICK);
            self.flows_v6.insert(key, entry, 0)?;
        }
        for (key, mut value) in self.affinity.iter().collect::<Result<Vec<_>, _>>()? {
            value.last_seen = value.last_seen.wrapping_sub(seconds);
            self.affinity.insert(key, value, 0)?;
        }
        for (key, mut value) in self.held.iter().collect::<Result<Vec<_>, _>>()? {
            value.since = value.since.wrapping_sub(seconds);
            self.held.insert(key, value, 0)?;
        }
        Ok(())
    }

    fn read(&mut self) -> Result<State> {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_sec as u32;
        let age = |last_seen: u32| now.wrapping_sub(last_seen).wrapping_add(AGE_STEP / 2) / AGE_STEP * AGE_STEP;
        let mut state = State::default();
        state.add_flows(&flows(&self.flows_v4)?, age);
        state.add_flows(&flows(&self.flows_v6)?, age);
        for (key, value) in self.affinity.iter().collect::<Result<Vec<_>, _>>()? {
            state.add_affinity(&key, &value, age(value.last_seen));
        }
        for (key, held) in self.held.iter().collect::<Result<Vec<_>, _>>()? {
            state.add_held(&key, held.length as usize, age(held.since));
        }
        let mut counters = self.counters.iter().collect::<Result<Vec<_>, _>>()?;
        for service in &self.used[1] {
            counters.push((*service, self.first_counters.get(service, 0)?));
        }
        for (service, cpus) in counters {
            let counting = cpus.iter().filter(|counters| **counters != ServiceCounters::default());
            counting.for_each(|counters| state.add_counters(service, counters));
        }
        for reason in DropReason::ALL {
            let count: u64 = self.drops.get(&(*reason as u32), 0)?.iter().sum();
            if count != 0 {
                state.add_drops(*reason, count);
            }
        }
        while let Some(item) = self.events.next() {
            let event: Event = bytemuck::pod_read_unaligned(&item);
            anyhow::ensure!(event.time != 0, "an event has no time: {event:?}");
            state.add_event(&event);
        }
        Ok(state)
    }
}

fn flows<A>(map: &HashMap<MapData, FlowKey<A>, FlowEntry<A>>) -> Result<Vec<(FlowKey<A>, Flow<A>)>>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    Ok(map.iter().map(|entry| entry.map(|(key, entry)| (key, entry.flow))).collect::<Result<_, _>>()?)
}

/// Fills in what the programs continue with. The array works while `ebpf` lives.
fn connect_programs(ebpf: &mut Ebpf) -> Result<()> {
    let mut targets = Vec::new();
    for (index, name) in tail_call::TARGETS {
        let classifier: &mut SchedClassifier =
            ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?.try_into()?;
        if classifier.fd().is_err() {
            classifier.load().with_context(|| format!("loading program {name}"))?;
        }
        targets.push((index, classifier.fd()?.try_clone()?));
    }
    let mut programs: ProgramArray<_> =
        ebpf.map_mut(map::PROGRAMS).context("the object has no PROGRAMS")?.try_into()?;
    for (index, program) in &targets {
        programs.set(*index, program, 0)?;
    }
    Ok(())
}

/// An element that is not there is as good as removed.
fn remove<K: Pod, V: Pod>(map: &mut HashMap<MapData, K, V>, key: &K) -> Result<()> {
    match map.remove(key) {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn clear<K: Pod, V: Pod>(map: &mut HashMap<MapData, K, V>) -> Result<()> {
    for key in map.keys().collect::<Result<Vec<_>, _>>()? {
        map.remove(&key)?;
    }
    Ok(())
}

impl Dataplane for Kernel {
    fn apply(&mut self, change: &Change) {
        self.write(change).expect("writing to the maps");
    }

    fn state(&mut self) -> State {
        self.read().expect("reading the maps")
    }

    fn run(&mut self, hook: Hook, packet: &mut MemoryPacket, unsummed: bool) -> Result<Outcome, String> {
        // A packet that is sent, or has no checksum, is not compared with the sum its receive hardware made.
        let flags = if self.verify_complete && !unsummed { testrun::SKB_CHECKSUM_COMPLETE } else { 0 };
        let (verdict, bytes) = testrun::run(self.programs[&hook].as_fd(), packet.bytes(), flags).map_err(|error| {
            match error.raw_os_error() {
                Some(libc::EBADMSG) => "the kernel's sum over the packet (CHECKSUM_COMPLETE) went wrong".to_owned(),
                _ => format!("BPF_PROG_TEST_RUN: {error}"),
            }
        })?;
        *packet = MemoryPacket::new(bytes, Offload::Complete, false);
        // TC_ACT_UNSPEC and TC_ACT_OK, TC_ACT_SHOT, TC_ACT_REDIRECT.
        match verdict.cast_signed() {
            -1 | 0 => Ok(Outcome::Pass),
            2 => Ok(Outcome::Drop(None)),
            7 => Ok(Outcome::Redirect),
            other => Err(format!("the program returned {other}")),
        }
    }
}

/// Whether the kernel can watch over CHECKSUM_COMPLETE in a test run.
pub fn can_verify_complete(kernel: &mut Kernel) -> bool {
    kernel.verify_complete = true;
    let mut packet = super::frame::udp("192.0.2.1:1", "192.0.2.2:1").packet(Checksums::Complete);
    let supported = kernel.run(Hook::PodIngress, &mut packet, false).is_ok();
    kernel.verify_complete = false;
    supported
}

/// Plays a case; with `complete` the kernel also checks its own sum over the packet, as for frames from a wire.
pub fn check(kernel: &mut Kernel, case: &Case, complete: bool) -> Result<(), String> {
    let throws = if case.random.is_empty() { 1 } else { THROWS };
    let mut result = String::new();
    for _ in 0..throws {
        kernel.reset().map_err(|error| format!("emptying the maps: {error:#}"))?;
        case.world.iter().for_each(|change| kernel.apply(change));
        kernel.verify_complete = complete;
        let throw = play(case, Checksums::Complete, kernel);
        kernel.verify_complete = false;
        match throw {
            Ok(()) => return Ok(()),
            // The throw that came closest to the script says most.
            Err(report) if result.is_empty() || report.len() < result.len() => result = report,
            Err(_) => {}
        }
    }
    Err(result)
}
