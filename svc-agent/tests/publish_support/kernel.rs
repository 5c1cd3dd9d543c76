//! Real maps for tests: made by hand and pinned in a bpffs of their own, gone when dropped.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use aya::maps::{Array, HashMap, MapData, PerCpuArray, PerCpuHashMap};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use svc_agent::datapath::maps::{Access, KernelMaps};
use svc_agent::publish::Capacities;
use svc_common::{
    ADDRESS_FILTER_WORDS, BackendEntry, BackendRef, Config, FrontendKeyV4, FrontendKeyV6, ServiceCounters,
    ServiceEntry, ServiceName, map,
};

const BPF_F_NO_PREALLOC: u32 = 1;
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// A directory with pinned maps.
pub struct PinnedMaps {
    directory: PathBuf,
}

impl PinnedMaps {
    /// `None`, with the reason printed, where the machine does not let us.
    pub fn create(capacities: Capacities) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("svc-publish-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        if let Err(error) = mount("bpffs", &directory, "bpf", MountFlags::empty(), None) {
            eprintln!("SKIPPED: no bpffs can be mounted ({error}); needs root");
            std::fs::remove_dir(&directory).unwrap();
            return None;
        }
        let maps = Self { directory };
        maps.fill(capacities);
        Some(maps)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn open(&self, access: Access) -> KernelMaps {
        KernelMaps::open_pinned(&self.directory, access).unwrap()
    }

    fn fill(&self, c: Capacities) {
        let pin = |name: &str| self.directory.join(name);
        let array = BPF_F_MMAPABLE;
        let hash = BPF_F_NO_PREALLOC;
        Array::<MapData, Config>::create(1, array).unwrap().pin(pin(map::CONFIG)).unwrap();
        Array::<MapData, u64>::create(ADDRESS_FILTER_WORDS, array).unwrap().pin(pin(map::ADDRESS_FILTER)).unwrap();
        Array::<MapData, ServiceEntry>::create(c.services, array).unwrap().pin(pin(map::SERVICES)).unwrap();
        Array::<MapData, BackendRef>::create(c.slots, array).unwrap().pin(pin(map::SLOTS)).unwrap();
        Array::<MapData, BackendEntry>::create(c.backends, array).unwrap().pin(pin(map::BACKENDS)).unwrap();
        HashMap::<MapData, FrontendKeyV4, u32>::create(c.frontends_v4, hash)
            .unwrap()
            .pin(pin(map::FRONTENDS_V4))
            .unwrap();
        HashMap::<MapData, FrontendKeyV6, u32>::create(c.frontends_v6, hash)
            .unwrap()
            .pin(pin(map::FRONTENDS_V6))
            .unwrap();
        HashMap::<MapData, u32, ServiceName>::create(c.services, hash).unwrap().pin(pin(map::SERVICE_NAMES)).unwrap();
        PerCpuHashMap::<MapData, u32, ServiceCounters>::create(c.services, hash)
            .unwrap()
            .pin(pin(map::SERVICE_COUNTERS))
            .unwrap();
        PerCpuArray::<MapData, ServiceCounters>::create(4, 0).unwrap().pin(pin(map::SERVICE_COUNTERS_FIRST)).unwrap();
    }
}

impl Drop for PinnedMaps {
    fn drop(&mut self) {
        let _ = unmount(&self.directory, UnmountFlags::DETACH);
        let _ = std::fs::remove_dir(&self.directory);
    }
}
