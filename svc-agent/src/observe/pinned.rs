//! [`MapReader`] on the maps an agent pinned, whether it still runs or not. Read-only.
//! Neighbour: `datapath::maps` knows how each map is read.

use std::io;
use std::path::{Path, PathBuf};

use rustix::time::{ClockId, clock_gettime};
use svc_common::{
    ABI_VERSION, BackendEntry, BackendRef, DropReason, FlowKeyV4, FlowKeyV6, FlowV4, FlowV6, Publication,
    ServiceCounters, ServiceEntry, ServiceName, Verdict, map,
};

use super::occupancy::Fill;
use super::reader::{MapReader, ReadError};
use crate::audit::{Report, audit};
use crate::datapath::PinDir;
use crate::datapath::maps::{Access, KernelMaps, OpenError, Traffic};
use crate::publish::{Capacities, Maps};

/// As statfs(2) names a BPF file system.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

pub struct PinnedMaps {
    maps: KernelMaps,
    traffic: Traffic,
}

impl PinnedMaps {
    /// Opens the maps of the agent that works below `bpf_root`.
    pub fn open(bpf_root: &Path) -> Result<Self, ReadError> {
        let directory = find_maps(bpf_root)?;
        let explain = |error| explain(error, &directory);
        let maps = KernelMaps::open_pinned(&directory, Access::ReadOnly).map_err(explain)?;
        let traffic = Traffic::open_pinned(&directory).map_err(explain)?;
        Ok(Self { maps, traffic })
    }
}

impl PinnedMaps {
    /// Holds everything against the invariants. See [`crate::audit::Settled`] for maps that change meanwhile.
    pub fn audit(&self) -> Result<Report, ReadError> {
        Ok(audit(&self.maps, &self.traffic.entries()?)?)
    }
}

/// The directory of the pinned maps, or why there is none that this program can read.
pub fn find_maps(bpf_root: &Path) -> Result<PathBuf, ReadError> {
    let pins = PinDir::new(bpf_root);
    let directory = pins.base().to_path_buf();
    match pins.map(map::CONFIG).try_exists() {
        Ok(true) => return Ok(pins.maps()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(ReadError::NoPermission { directory });
        }
        _ => {}
    }
    let is_bpffs = rustix::fs::statfs(bpf_root).is_ok_and(|found| found.f_type == BPF_FS_MAGIC);
    if !is_bpffs {
        return Err(ReadError::NoBpffs { root: bpf_root.to_path_buf() });
    }
    match other_versions(&directory) {
        Some(found) => Err(ReadError::OtherVersion { directory, found, expected: ABI_VERSION }),
        None => Err(ReadError::NoMaps { directory }),
    }
}

/// Versions whose maps are pinned here, as in "2, 3".
fn other_versions(base: &Path) -> Option<String> {
    let mut versions: Vec<u32> = std::fs::read_dir(base)
        .ok()?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = entry.file_name().to_str()?.strip_prefix('v')?.parse().ok()?;
            entry.path().join("maps").join(map::CONFIG).exists().then_some(version)
        })
        .collect();
    versions.sort_unstable();
    let versions: Vec<String> = versions.iter().map(u32::to_string).collect();
    (!versions.is_empty()).then(|| versions.join(", "))
}

/// Puts what a person can do about it in place of the bare refusal.
fn explain(error: OpenError, directory: &Path) -> ReadError {
    match error {
        OpenError::Refused { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            ReadError::NoPermission { directory: directory.to_path_buf() }
        }
        error => ReadError::Open(error),
    }
}

impl MapReader for PinnedMaps {
    fn services(&self, visit: &mut dyn FnMut(u32, &ServiceEntry)) -> Result<(), ReadError> {
        let mut in_use = |index, entry: &ServiceEntry| {
            if entry.publication.verdict() != Verdict::NONE {
                visit(index, entry);
            }
        };
        Ok(self.maps.read_services(&mut in_use)?)
    }

    fn service_name(&self, index: u32) -> Result<Option<ServiceName>, ReadError> {
        Ok(self.maps.read_name(index)?)
    }

    fn slots(&self, publication: Publication) -> Result<Vec<BackendRef>, ReadError> {
        let first = publication.first_slot();
        let range = first..first.saturating_add(publication.slot_count());
        range.map(|slot| Ok(self.maps.read_slot(slot)?)).collect()
    }

    fn backends(&self, visit: &mut dyn FnMut(u32, &BackendEntry)) -> Result<(), ReadError> {
        let mut living = |index, entry: &BackendEntry| {
            if !entry.generation.is_multiple_of(2) {
                visit(index, entry);
            }
        };
        Ok(self.maps.read_backends(&mut living)?)
    }

    fn service_counters(&self) -> Result<Vec<(u32, ServiceCounters)>, ReadError> {
        Ok(self.traffic.service_counters()?)
    }

    fn drop_counters(&self) -> Result<Vec<(DropReason, u64)>, ReadError> {
        Ok(self.traffic.drop_counters()?)
    }

    fn express_packets(&self) -> Result<u64, ReadError> {
        Ok(self.traffic.express_packets()?)
    }

    fn flows_v4(&self) -> Result<Vec<(FlowKeyV4, FlowV4)>, ReadError> {
        Ok(self.traffic.flows_v4()?)
    }

    fn flows_v6(&self) -> Result<Vec<(FlowKeyV6, FlowV6)>, ReadError> {
        Ok(self.traffic.flows_v6()?)
    }

    fn counted(&self) -> Result<Vec<Fill>, ReadError> {
        let (names, names_capacity) = self.maps.name_fill()?;
        let mut counted = self.traffic.fill()?;
        counted.push((map::SERVICE_NAMES, names, names_capacity));
        let fill = |(map, entries, capacity): (_, _, u32)| Fill { map, entries, capacity: capacity.into() };
        Ok(counted.into_iter().map(fill).collect())
    }

    fn capacities(&self) -> Vec<(&'static str, u32)> {
        let Capacities { services, slots, backends, frontends_v4, frontends_v6 } = self.maps.capacities();
        vec![
            (map::SERVICES, services),
            (map::FRONTENDS_V4, frontends_v4),
            (map::FRONTENDS_V6, frontends_v6),
            (map::SLOTS, slots),
            (map::BACKENDS, backends),
        ]
    }

    fn now(&self) -> u32 {
        monotonic_seconds()
    }
}

/// The clock of flows and events.
pub fn monotonic_seconds() -> u32 {
    u32::try_from(clock_gettime(ClockId::Monotonic).tv_sec).unwrap_or(u32::MAX)
}
