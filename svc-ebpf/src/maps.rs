//! The maps of the dataplane. Names, key and value layouts are the contract of `svc-common`; capacities are defaults
//! that the agent may change at load time. Nothing but declarations.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, ProgramArray, RingBuf};
use svc_common::{
    ADDRESS_FILTER_WORDS, AddrV6, AffinityKey, AffinityValue, BackendEntry, BackendRef, Config, DropReason,
    FlowEntryV4, FlowEntryV6, FlowKeyV4, FlowKeyV6, FragmentKey, FragmentPorts, FrontendKeyV4, FrontendKeyV6,
    HeldFragment, HeldKey, ServiceCounters, ServiceEntry, ServiceName, SocketKey, SocketValue, Uplink, capacity,
    tail_call,
};
use svc_datapath::Scratch;

#[map]
pub static CONFIG: Array<Config> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
pub static ADDRESS_FILTER: Array<u64> = Array::with_max_entries(ADDRESS_FILTER_WORDS, BPF_F_MMAPABLE);
#[map]
pub static FRONTENDS_V4: HashMap<FrontendKeyV4, u32> =
    HashMap::with_max_entries(capacity::FRONTENDS, BPF_F_NO_PREALLOC);
#[map]
pub static FRONTENDS_V6: HashMap<FrontendKeyV6, u32> =
    HashMap::with_max_entries(capacity::FRONTENDS, BPF_F_NO_PREALLOC);
#[map]
pub static SERVICES: Array<ServiceEntry> = Array::with_max_entries(capacity::SERVICES, BPF_F_MMAPABLE);
#[map]
pub static SERVICE_NAMES: HashMap<u32, ServiceName> = HashMap::with_max_entries(capacity::SERVICES, BPF_F_NO_PREALLOC);
#[map]
pub static SLOTS: Array<BackendRef> = Array::with_max_entries(capacity::SLOTS, BPF_F_MMAPABLE);
#[map]
pub static BACKENDS: Array<BackendEntry> = Array::with_max_entries(capacity::BACKENDS, BPF_F_MMAPABLE);
#[map]
pub static FLOWS_V4: LruHashMap<FlowKeyV4, FlowEntryV4> = LruHashMap::with_max_entries(capacity::FLOWS, 0);
#[map]
pub static FLOWS_V6: LruHashMap<FlowKeyV6, FlowEntryV6> = LruHashMap::with_max_entries(capacity::FLOWS, 0);
#[map]
pub static AFFINITY: LruHashMap<AffinityKey, AffinityValue> = LruHashMap::with_max_entries(capacity::AFFINITY, 0);
#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts> = LruHashMap::with_max_entries(capacity::FRAGMENTS, 0);
#[map]
pub static HELD_FRAGMENTS: LruHashMap<HeldKey, HeldFragment> =
    LruHashMap::with_max_entries(capacity::HELD_FRAGMENTS, 0);
/// Where a fragment is put together before it is held: it has no room on the stack.
#[map]
pub static FRAGMENT_SCRATCH: PerCpuArray<HeldFragment> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub static SOCKETS: LruHashMap<SocketKey, SocketValue> = LruHashMap::with_max_entries(capacity::SOCKETS, 0);
#[map]
pub static SERVICE_COUNTERS: PerCpuHashMap<u32, ServiceCounters> =
    PerCpuHashMap::with_max_entries(capacity::SERVICES, BPF_F_NO_PREALLOC);
/// Counters of the services with the lowest indexes; SERVICE_COUNTERS has the others. The agent sets the size.
#[map]
pub static SERVICE_COUNTERS_FIRST: PerCpuArray<ServiceCounters> = PerCpuArray::with_max_entries(4_096, 0);
#[map]
pub static DROP_COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(DropReason::COUNT, 0);
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);
#[map]
pub static CLUSTER_RANGES: LpmTrie<AddrV6, u32> = LpmTrie::with_max_entries(256, BPF_F_NO_PREALLOC);
/// What the fast programs continue with; pinned, because a program array is emptied with its last user space reference.
#[map]
pub static PROGRAMS: ProgramArray = ProgramArray::with_max_entries(tail_call::MAX, 0);
/// Interfaces with programs, by index: bits of `interface_flag`.
#[map]
pub static INTERFACES: HashMap<u32, u32> = HashMap::with_max_entries(4_096, BPF_F_NO_PREALLOC);
/// Programs do not interrupt each other on a CPU.
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);
/// Uplinks with an XDP program, by index.
#[map]
pub static UPLINKS: HashMap<u32, Uplink> = HashMap::with_max_entries(capacity::UPLINKS, BPF_F_NO_PREALLOC);
/// Packets that XDP sent on past the stack.
#[map]
pub static EXPRESS_COUNTER: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
