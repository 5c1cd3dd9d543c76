//! The maps of one agent in the kernel, small, pinned in a bpffs of their own, with a [`MemoryReader`] written to them.
//! Everything goes away with the fixture. Needs root.

use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuHashMap, PerCpuValues};
use aya::util::nr_cpus;
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_map_type, bpf_prog_type};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use svc_common::{
    ABI_VERSION, ADDRESS_FILTER_WORDS, BackendEntry, BackendRef, Config, DropReason, Event, Flow, FlowEntry,
    FlowEntryV4, FlowEntryV6, FlowKeyV4, FlowKeyV6, FrontendKeyV4, FrontendKeyV6, Hop, ServiceCounters, ServiceEntry,
    ServiceName, map,
};

use svc_agent::observe::MapReader as _;

use super::MemoryReader;

const BPF_F_NO_PREALLOC: u32 = 1;
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// A bpffs of our own, unmounted at the end.
pub struct BpfRoot {
    directory: tempfile::TempDir,
}

impl BpfRoot {
    pub fn mount() -> Self {
        let directory = tempfile::Builder::new().prefix("svc-observe-").tempdir().unwrap();
        mount("bpf", directory.path(), "bpf", MountFlags::empty(), None)
            .expect("tests mount a bpffs: run them as root");
        Self { directory }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn maps(&self) -> PathBuf {
        self.path().join("svc-agent").join(format!("v{ABI_VERSION}")).join("maps")
    }

    /// Makes all maps and pins them where an agent would.
    pub fn with_maps(reader: &MemoryReader) -> Self {
        let root = Self::mount();
        std::fs::create_dir_all(root.maps()).unwrap();
        root.fill(reader);
        root
    }

    fn pin(&self, name: &str, kind: bpf_map_type, sizes: (usize, usize), entries: u32, flags: u32) -> MapData {
        let (key, value) = (sizes.0 as u32, sizes.1 as u32);
        let definition = aya_obj::Map::new_from_params(kind as u32, key, value, entries, flags);
        let data = MapData::create(definition, name, None).unwrap();
        data.pin(self.maps().join(name)).unwrap();
        data
    }

    fn array<V: aya::Pod>(&self, name: &str, entries: u32) -> Array<MapData, V> {
        let kind = bpf_map_type::BPF_MAP_TYPE_ARRAY;
        let data = self.pin(name, kind, (4, size_of::<V>()), entries, BPF_F_MMAPABLE);
        Map::Array(data).try_into().unwrap()
    }

    fn hash<K: aya::Pod, V: aya::Pod>(&self, name: &str) -> HashMap<MapData, K, V> {
        let sizes = (size_of::<K>(), size_of::<V>());
        let data = self.pin(name, bpf_map_type::BPF_MAP_TYPE_HASH, sizes, 64, BPF_F_NO_PREALLOC);
        Map::HashMap(data).try_into().unwrap()
    }

    fn lru<K: aya::Pod, V: aya::Pod>(&self, name: &str, entries: &[(K, V)]) {
        let sizes = (size_of::<K>(), size_of::<V>());
        // LRU lists are per CPU: a map that is hardly larger than its content would evict some of it.
        let data = self.pin(name, bpf_map_type::BPF_MAP_TYPE_LRU_HASH, sizes, 4096, 0);
        let mut lru: HashMap<MapData, K, V> = Map::LruHashMap(data).try_into().unwrap();
        for (key, value) in entries {
            lru.insert(key, value, 0).unwrap();
        }
    }

    fn fill(&self, reader: &MemoryReader) {
        self.array::<Config>(map::CONFIG, 1);
        self.array::<u64>(map::ADDRESS_FILTER, ADDRESS_FILTER_WORDS);
        self.hash::<FrontendKeyV4, u32>(map::FRONTENDS_V4);
        self.hash::<FrontendKeyV6, u32>(map::FRONTENDS_V6);
        let mut services = self.array::<ServiceEntry>(map::SERVICES, 64);
        for (index, entry) in &reader.services {
            services.set(*index, entry, 0).unwrap();
        }
        let mut slots = self.array::<BackendRef>(map::SLOTS, 128);
        for (index, slot) in (0..).zip(&reader.slots) {
            slots.set(index, slot, 0).unwrap();
        }
        let mut backends = self.array::<BackendEntry>(map::BACKENDS, 64);
        for (index, entry) in &reader.backends {
            backends.set(*index, entry, 0).unwrap();
        }
        let mut names = self.hash::<u32, ServiceName>(map::SERVICE_NAMES);
        for (index, name) in &reader.names {
            names.insert(index, name, 0).unwrap();
        }
        self.lru::<FlowKeyV4, FlowEntryV4>(map::FLOWS_V4, &entries(&reader.flows_v4));
        self.lru::<FlowKeyV6, FlowEntryV6>(map::FLOWS_V6, &entries(&reader.flows_v6));
        self.lru::<svc_common::AffinityKey, svc_common::AffinityValue>(map::AFFINITY, &[]);
        self.lru::<svc_common::SocketKey, svc_common::SocketValue>(map::SOCKETS, &[]);
        self.lru::<svc_common::FragmentKey, svc_common::FragmentPorts>(map::FRAGMENTS, &[]);
        self.lru::<svc_common::HeldKey, svc_common::HeldFragment>(map::HELD_FRAGMENTS, &[]);
        self.fill_counters(reader);
        let sizes = (size_of::<svc_common::RangeKey>(), 4);
        self.pin(map::CLUSTER_RANGES, bpf_map_type::BPF_MAP_TYPE_LPM_TRIE, sizes, 16, BPF_F_NO_PREALLOC);
        self.pin(map::EVENTS, bpf_map_type::BPF_MAP_TYPE_RINGBUF, (0, 0), 256 * 1024, 0);
    }

    /// Puts a larger FLOWS_V4 with so many entries in place of the other.
    pub fn fill_flows(&self, capacity: u32, flows: u32) {
        std::fs::remove_file(self.maps().join(map::FLOWS_V4)).unwrap();
        let sizes = (size_of::<FlowKeyV4>(), size_of::<FlowEntryV4>());
        let data = self.pin(map::FLOWS_V4, bpf_map_type::BPF_MAP_TYPE_LRU_HASH, sizes, capacity, 0);
        let mut lru: HashMap<MapData, FlowKeyV4, FlowEntryV4> = Map::LruHashMap(data).try_into().unwrap();
        for number in 0..flows {
            let key = FlowKeyV4 { source: svc_common::AddrV4(number), ..FlowKeyV4::default() };
            lru.insert(key, FlowEntryV4::default(), 0).unwrap();
        }
    }

    /// The first CPU has one of everything, the last the rest.
    fn fill_counters(&self, reader: &MemoryReader) {
        let cpus = nr_cpus().unwrap();
        let spread = |total: u64| {
            let mut values = vec![0; cpus];
            values[0] = total.min(1);
            values[cpus - 1] += total - total.min(1);
            PerCpuValues::try_from(values).unwrap()
        };
        let sizes = (4, size_of::<ServiceCounters>());
        let kind = bpf_map_type::BPF_MAP_TYPE_PERCPU_HASH;
        self.pin(map::SERVICE_COUNTERS_FIRST, bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY, sizes, 1, 0);
        let data = self.pin(map::SERVICE_COUNTERS, kind, sizes, 64, BPF_F_NO_PREALLOC);
        let mut counters: PerCpuHashMap<MapData, u32, ServiceCounters> = Map::PerCpuHashMap(data).try_into().unwrap();
        for (index, total) in &reader.counters {
            let mut values = vec![ServiceCounters::default(); cpus];
            values[cpus - 1] = *total;
            if cpus > 1 {
                values[0].rejected = total.rejected.min(1);
                values[cpus - 1].rejected -= values[0].rejected;
            }
            counters.insert(index, PerCpuValues::try_from(values).unwrap(), 0).unwrap();
        }
        let kind = bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY;
        let data = self.pin(map::DROP_COUNTERS, kind, (4, 8), DropReason::COUNT, 0);
        let mut drops: PerCpuArray<MapData, u64> = Map::PerCpuArray(data).try_into().unwrap();
        for (reason, total) in &reader.drops {
            drops.set(*reason as u32, spread(*total), 0).unwrap();
        }
        let data = self.pin(map::EXPRESS_COUNTER, kind, (4, 8), 1, 0);
        let mut express: PerCpuArray<MapData, u64> = Map::PerCpuArray(data).try_into().unwrap();
        express.set(0, spread(reader.express_packets().unwrap()), 0).unwrap();
    }

    /// Sets what the first CPU counted for a service in the array.
    pub fn count_first(&self, index: u32, counted: ServiceCounters) {
        let data = MapData::from_pin(self.maps().join(map::SERVICE_COUNTERS_FIRST)).unwrap();
        let mut counters: PerCpuArray<MapData, ServiceCounters> = Map::PerCpuArray(data).try_into().unwrap();
        let mut values = vec![ServiceCounters::default(); nr_cpus().unwrap()];
        values[0] = counted;
        counters.set(index, PerCpuValues::try_from(values).unwrap(), 0).unwrap();
    }

    pub fn config(&self) -> Config {
        let data = MapData::from_pin(self.maps().join(map::CONFIG)).unwrap();
        let config: Array<MapData, Config> = Map::Array(data).try_into().unwrap();
        config.get(&0, 0).unwrap()
    }

    /// Renames a service while others look.
    pub fn rename(&self, index: u32, name: &ServiceName) {
        let data = MapData::from_pin(self.maps().join(map::SERVICE_NAMES)).unwrap();
        let mut names: HashMap<MapData, u32, ServiceName> = Map::HashMap(data).try_into().unwrap();
        names.insert(index, name, 0).unwrap();
    }
}

impl Drop for BpfRoot {
    fn drop(&mut self) {
        let _ = unmount(self.directory.path(), UnmountFlags::DETACH);
    }
}

/// A classifier that writes the packet it gets to EVENTS: only programs can write to a ring buffer.
pub struct Emitter {
    program: std::os::fd::OwnedFd,
}

impl Emitter {
    pub fn load(root: &BpfRoot) -> Self {
        use std::os::fd::FromRawFd;
        const SKB_LOAD_BYTES: i32 = 26;
        const RINGBUF_OUTPUT: i32 = 130;
        const SIZE: i32 = size_of::<Event>() as i32;
        let ring = MapData::from_pin(root.maps().join(map::EVENTS)).unwrap();
        // Opcode, registers (source, destination), offset, immediate.
        let instruction = |opcode: u8, source: u8, destination: u8, immediate: i32| -> u64 {
            u64::from(opcode) | u64::from(source << 4 | destination) << 8 | (immediate as u32 as u64) << 32
        };
        let (mov, mov_register, add, call, exit) = (0xb7, 0xbf, 0x07, 0x85, 0x95);
        let program = [
            // skb_load_bytes(context, 0, stack, SIZE)
            instruction(mov, 0, 2, 0),
            instruction(mov_register, 10, 3, 0),
            instruction(add, 0, 3, -SIZE),
            instruction(mov, 0, 4, SIZE),
            instruction(call, 0, 0, SKB_LOAD_BYTES),
            // ringbuf_output(EVENTS, stack, SIZE, 0)
            instruction(0x18, 1, 1, ring.fd().as_fd().as_raw_fd()),
            0,
            instruction(mov_register, 10, 2, 0),
            instruction(add, 0, 2, -SIZE),
            instruction(mov, 0, 3, SIZE),
            instruction(mov, 0, 4, 0),
            instruction(call, 0, 0, RINGBUF_OUTPUT),
            instruction(exit, 0, 0, 0),
        ];
        // SAFETY: a union of integers.
        let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
        attr.__bindgen_anon_3.prog_type = bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32;
        attr.__bindgen_anon_3.insns = program.as_ptr() as u64;
        attr.__bindgen_anon_3.insn_cnt = program.len() as u32;
        attr.__bindgen_anon_3.license = c"GPL".as_ptr() as u64;
        let fd = bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr);
        // SAFETY: the kernel just made this descriptor for us.
        Self { program: unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) } }
    }

    /// Answers whether there was room.
    pub fn emit(&self, event: &Event) -> bool {
        let bytes = bytemuck::bytes_of(event);
        // SAFETY: a union of integers.
        let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
        attr.test.prog_fd = self.program.as_raw_fd() as u32;
        attr.test.data_in = bytes.as_ptr() as u64;
        attr.test.data_size_in = bytes.len() as u32;
        bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr);
        // SAFETY: the kernel filled it in.
        unsafe { attr.test.retval == 0 }
    }
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> i32 {
    // SAFETY: the pointers in `attr` live in the callers.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, attr, size_of::<bpf_attr>()) };
    assert!(result >= 0, "{command:?}: {}", std::io::Error::last_os_error());
    result as i32
}

/// Flows as the map has them, with no next hop yet.
fn entries<K: Copy, A: Copy>(flows: &[(K, Flow<A>)]) -> Vec<(K, FlowEntry<A>)> {
    flows.iter().map(|(key, flow)| (*key, FlowEntry { flow: *flow, hop: Hop::default() })).collect()
}
