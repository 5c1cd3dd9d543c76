//! The maps as `svc_datapath::Tables`. Every method is one map access or helper call; rules are in `svc-datapath`.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use aya_ebpf::helpers::generated::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_prandom_u32, bpf_jiffies64, bpf_ktime_get_coarse_ns,
    bpf_ktime_get_ns,
};
use aya_ebpf::maps::lpm_trie::Key;
use svc_common::{
    AddrV4, AddrV6, AffinityKey, AffinityValue, BackendEntry, BackendRef, Config, DropReason, Event, FlowEntry,
    FlowKeyV4, FlowKeyV6, FlowV4, FlowV6, FragmentKey, FragmentPorts, FrontendKeyV4, FrontendKeyV6, Hop, Publication,
    ServiceCounters, ServiceEntry, SocketKey, SocketValue, event_path,
};
use svc_datapath::{Address as _, Counted, FamilyTables, InsertError, Tables};

use crate::maps;
use crate::variant::{FORWARD_DIRECT, HAVE_COARSE_CLOCK, TICK_SHIFT};

const NANOSECONDS: u64 = 1_000_000_000;

static NO_COUNTS: ServiceCounters = ServiceCounters {
    connections_tc: 0,
    connections_socket: 0,
    packets_to_backend: 0,
    bytes_to_backend: 0,
    packets_to_client: 0,
    bytes_to_client: 0,
    rejected: 0,
};

/// All maps of the dataplane.
pub struct KernelTables;

/// Reads the only entry of CONFIG. The agent writes its fields one at a time.
#[inline(always)]
fn config() -> Option<*const Config> {
    maps::CONFIG.get_ptr(0)
}

impl KernelTables {
    /// The node's IPv4 address, and the interface by way of which packets are delivered to it, if any.
    #[inline(always)]
    pub fn node_v4(&self) -> (AddrV4, u32) {
        // SAFETY: a valid map element.
        config().map_or_else(Default::default, |config| unsafe { ((*config).node_v4, (*config).node_v4_interface) })
    }
}

#[inline(always)]
fn address_class(slot: u32) -> u8 {
    match maps::ADDRESS_FILTER.get_ptr(slot / 8) {
        // SAFETY: a valid map element.
        Some(word) => unsafe { *word.cast::<u8>().add((slot % 8) as usize) },
        None => 0,
    }
}

/// This CPU's counters of a service.
#[inline(always)]
fn service_counters(service: u32, what: &Counted) -> Option<*mut ServiceCounters> {
    if let Some(counters) = maps::SERVICE_COUNTERS_FIRST.get_ptr_mut(service) {
        return Some(counters);
    }
    let begins = matches!(what, Counted::ConnectionTc | Counted::ConnectionSocket | Counted::Rejected);
    if begins && maps::SERVICE_COUNTERS.get_ptr(service).is_none() {
        // The first use of a service on this node; a race for it has one winner, and that is enough.
        #[expect(clippy::needless_borrows_for_generic_args, reason = "a copy would lie on the stack of 512 bytes")]
        let _ = maps::SERVICE_COUNTERS.insert(service, &NO_COUNTS, BPF_NOEXIST as u64);
    }
    maps::SERVICE_COUNTERS.get_ptr_mut(service)
}

#[inline(always)]
fn insert_result(result: Result<(), i32>) -> Result<(), InsertError> {
    const EEXIST: i32 = -17;
    match result {
        Ok(()) => Ok(()),
        Err(EEXIST) => Err(InsertError::Exists),
        Err(_) => Err(InsertError::Full),
    }
}

/// IPv4 ranges are kept IPv4-mapped, so that one trie serves both families.
#[inline(always)]
fn in_cluster(address: AddrV6) -> bool {
    maps::CLUSTER_RANGES.get(Key::new(128, address)).is_some()
}

/// The two families differ in their maps and in where CONFIG has their address.
macro_rules! family_tables {
    ($address:ty, $flow_key:ty, $flow:ty, $frontend_key:ty, $frontends:ident, $flows:ident, $node:ident, $mapped:expr) => {
        impl FamilyTables<$address> for KernelTables {
            type Place = *mut FlowEntry<$address>;

            #[inline(always)]
            fn address_class(&self, address: $address) -> u8 {
                address_class(address.filter_slot())
            }

            #[inline(always)]
            fn frontend(&self, key: &$frontend_key) -> Option<u32> {
                // SAFETY: a valid map element; the service repeats the key, which the caller compares.
                maps::$frontends.get_ptr(key).map(|index| unsafe { *index })
            }

            #[inline(always)]
            fn find_flow(&self, key: &$flow_key) -> Option<Self::Place> {
                maps::$flows.get_ptr_mut(key)
            }

            #[inline(always)]
            fn flow_at(&self, place: Self::Place) -> $flow {
                // SAFETY: a valid map element.
                unsafe { (*place).flow }
            }

            #[inline(always)]
            fn hop_at(&self, place: Self::Place) -> Hop {
                // SAFETY: a valid map element.
                unsafe { (*place).hop }
            }

            #[inline(always)]
            fn set_hop_at(&self, place: Self::Place, hop: &Hop) {
                // SAFETY: a valid map element; what another CPU's race mixes up is asked for again within a second.
                unsafe { (*place).hop = *hop };
            }

            #[inline(always)]
            fn insert_flow(
                &self,
                key: &$flow_key,
                entry: &FlowEntry<$address>,
                replace: bool,
            ) -> Result<(), InsertError> {
                let flags = if replace { BPF_ANY } else { BPF_NOEXIST };
                insert_result(maps::$flows.insert(key, entry, flags as u64))
            }

            #[inline(always)]
            fn mark_flow_at(&self, place: Self::Place, state: u8, now: u32) {
                // SAFETY: a valid map element; a lost race with another CPU's mark is repeated by a later packet.
                unsafe {
                    (*place).flow.state |= state;
                    (*place).flow.last_seen = now;
                    (*place).flow.tick = self.tick();
                }
            }

            #[inline(always)]
            fn node_address(&self) -> $address {
                match config() {
                    // SAFETY: a valid map element.
                    Some(config) => unsafe { (*config).$node },
                    None => Default::default(),
                }
            }

            #[inline(always)]
            fn in_cluster(&self, address: $address) -> bool {
                let mapped: fn($address) -> AddrV6 = $mapped;
                in_cluster(mapped(address))
            }
        }
    };
}

family_tables!(AddrV4, FlowKeyV4, FlowV4, FrontendKeyV4, FRONTENDS_V4, FLOWS_V4, node_v4, |address| AddrV6([
    0,
    0,
    0xffff_u32.to_be(),
    address.0
]));
family_tables!(AddrV6, FlowKeyV6, FlowV6, FrontendKeyV6, FRONTENDS_V6, FLOWS_V6, node_v6, |address| address);

impl Tables for KernelTables {
    #[inline(always)]
    fn features(&self) -> u32 {
        // SAFETY: a valid map element.
        config().map_or(0, |config| unsafe { (*config).features })
    }

    #[inline(always)]
    fn forwards_directly(&self) -> bool {
        FORWARD_DIRECT.load() != 0
    }

    #[inline(always)]
    fn service(&self, index: u32) -> Option<ServiceEntry> {
        let entry = maps::SERVICES.get_ptr(index)?;
        // SAFETY: a valid map element. The publication word is read once, whole, and before the rest.
        unsafe {
            let publication: Publication = core::ptr::read_volatile(&raw const (*entry).publication);
            Some(ServiceEntry { publication, ..*entry })
        }
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<BackendRef> {
        // SAFETY: a valid map element.
        maps::SLOTS.get_ptr(index).map(|slot| unsafe { core::ptr::read_volatile(slot) })
    }

    #[inline(always)]
    fn backend(&self, index: u32) -> Option<BackendEntry> {
        let entry = maps::BACKENDS.get_ptr(index)?;
        // SAFETY: a valid map element. The index is not reused while a program that saw its generation still runs.
        unsafe {
            let generation = core::ptr::read_volatile(&raw const (*entry).generation);
            Some(BackendEntry { generation, ..*entry })
        }
    }

    #[inline(always)]
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue> {
        // SAFETY: a valid map element.
        maps::AFFINITY.get_ptr(key).map(|value| unsafe { *value })
    }

    #[inline(always)]
    fn set_affinity(&self, key: &AffinityKey, value: &AffinityValue) {
        // A full LRU map evicts; a client without an entry only loses its preference.
        let _ = maps::AFFINITY.insert(key, value, BPF_ANY as u64);
    }

    #[inline(always)]
    fn socket(&self, key: &SocketKey) -> Option<SocketValue> {
        // SAFETY: a valid map element.
        maps::SOCKETS.get_ptr(key).map(|value| unsafe { *value })
    }

    #[inline(always)]
    fn set_socket(&self, key: &SocketKey, value: &SocketValue) {
        // As for affinity: without an entry the socket sees the backend's address.
        let _ = maps::SOCKETS.insert(key, value, BPF_ANY as u64);
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts> {
        // SAFETY: a valid map element.
        maps::FRAGMENTS.get_ptr(key).map(|ports| unsafe { *ports })
    }

    #[inline(always)]
    fn set_fragment(&self, key: &FragmentKey, ports: &FragmentPorts) {
        // As for affinity: without an entry the later fragments are lost, and the datagram with them.
        let _ = maps::FRAGMENTS.insert(key, ports, BPF_ANY as u64);
    }

    #[inline(always)]
    fn count(&self, service: u32, what: Counted) {
        let Some(counters) = service_counters(service, &what) else { return };
        // SAFETY: a valid map element of this CPU.
        unsafe {
            match what {
                Counted::ConnectionTc => (*counters).connections_tc += 1,
                Counted::ConnectionSocket => (*counters).connections_socket += 1,
                Counted::ToBackend(bytes) => {
                    (*counters).packets_to_backend += 1;
                    (*counters).bytes_to_backend += bytes as u64;
                }
                Counted::ToClient(bytes) => {
                    (*counters).packets_to_client += 1;
                    (*counters).bytes_to_client += bytes as u64;
                }
                Counted::Rejected => (*counters).rejected += 1,
            }
        }
    }

    #[inline(always)]
    fn count_drop(&self, reason: DropReason) {
        if let Some(counter) = maps::DROP_COUNTERS.get_ptr_mut(reason as u32) {
            // SAFETY: a valid map element of this CPU.
            unsafe { *counter += 1 };
        }
    }

    #[inline(always)]
    fn events_wanted(&self, now: u32) -> bool {
        // SAFETY: a valid map element.
        config().is_some_and(|config| unsafe { (*config).events_until } > now)
    }

    #[inline(always)]
    fn emit(&self, event: &Event) {
        // A full ring loses the record; the listener sees the gap in its own pace, packets are not held up.
        let Some(mut record) = maps::EVENTS.reserve::<Event>(0) else { return };
        let record_at = record.as_mut_ptr();
        // SAFETY: the reserved record is valid for writes until it is submitted; the helpers write their own results.
        unsafe {
            record_at.write(*event);
            (*record_at).time = bpf_ktime_get_ns();
            if event.path == event_path::SOCKET {
                (*record_at).process = (bpf_get_current_pid_tgid() >> 32) as u32;
                bpf_get_current_comm((&raw mut (*record_at).command).cast(), 16);
            }
        }
        record.submit(0);
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        // SAFETY: helpers without arguments.
        let nanoseconds =
            unsafe { if HAVE_COARSE_CLOCK.load() != 0 { bpf_ktime_get_coarse_ns() } else { bpf_ktime_get_ns() } };
        (nanoseconds / NANOSECONDS) as u32
    }

    #[inline(always)]
    fn tick(&self) -> u8 {
        // SAFETY: a helper without arguments, which the kernel replaces by a load.
        (unsafe { bpf_jiffies64() } >> (TICK_SHIFT.load() & 63)) as u8
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_get_prandom_u32() }
    }
}
