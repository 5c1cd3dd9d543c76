//! Finds maps and checks that they are what `svc-common` says: pinned maps may stem from another build.
//! Must not create, pin or remove anything; the loader does.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use aya::maps::{Map, MapData, MapError, MapType, PerCpuArray};
use svc_common::{
    ADDRESS_FILTER_WORDS, AffinityKey, AffinityValue, BackendEntry, BackendRef, Config, DropReason, FlowEntryV4,
    FlowEntryV6, FlowKeyV4, FlowKeyV6, FragmentKey, FragmentPorts, FrontendKeyV4, FrontendKeyV6, HeldFragment, HeldKey,
    ServiceCounters, ServiceEntry, ServiceName, SocketKey, SocketValue, map,
};

use super::table::{Element, Table};
use crate::datapath::mmap::{Access, ArrayMapping};

const BPF_F_MMAPABLE: u32 = 1 << 10;

/// A map cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("map {map} is not pinned at {path}: no agent with this --bpf-root has run here, or it was cleaned up")]
    Missing { map: &'static str, path: PathBuf },
    #[error("map {map} cannot be opened: {source}; opening maps takes the capabilities BPF and NET_ADMIN")]
    Refused { map: &'static str, source: io::Error },
    #[error(
        "map {map} has {what} {found} where this version has {expected}: it was made by another build. \
         Run `svc-agent cleanup` with that build, or give another --bpf-root"
    )]
    Foreign { map: &'static str, what: &'static str, found: u32, expected: u32 },
}

impl OpenError {
    pub(in crate::datapath) fn refused(map: &'static str) -> impl FnOnce(MapError) -> Self {
        move |error| {
            let source = match error {
                MapError::SyscallError(error) => error.io_error,
                MapError::IoError(error) => error,
                other => io::Error::other(other),
            };
            Self::Refused { map, source }
        }
    }
}

/// What the object file says of one map.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub name: &'static str,
    pub kind: MapType,
    pub key_size: u32,
    pub value_size: u32,
    /// `None`: the agent may choose another capacity.
    pub max_entries: Option<u32>,
    pub mmapable: bool,
}

const fn array<V>(name: &'static str, max_entries: Option<u32>) -> Shape {
    Shape { name, kind: MapType::Array, key_size: 4, value_size: size_of::<V>() as u32, max_entries, mmapable: true }
}

const fn per_cpu_array<V>(name: &'static str, max_entries: Option<u32>) -> Shape {
    Shape { kind: MapType::PerCpuArray, mmapable: false, ..array::<V>(name, max_entries) }
}

const fn hash<K, V>(name: &'static str, kind: MapType) -> Shape {
    let (key_size, value_size) = (size_of::<K>() as u32, size_of::<V>() as u32);
    Shape { name, kind, key_size, value_size, max_entries: None, mmapable: false }
}

/// Every map that this crate opens by name. EVENTS is opened as a ring buffer only where it is listened to.
pub const SHAPES: [Shape; 18] = [
    array::<Config>(map::CONFIG, Some(1)),
    array::<u64>(map::ADDRESS_FILTER, Some(ADDRESS_FILTER_WORDS)),
    array::<ServiceEntry>(map::SERVICES, None),
    array::<BackendRef>(map::SLOTS, None),
    array::<BackendEntry>(map::BACKENDS, None),
    hash::<FrontendKeyV4, u32>(map::FRONTENDS_V4, MapType::Hash),
    hash::<FrontendKeyV6, u32>(map::FRONTENDS_V6, MapType::Hash),
    hash::<u32, ServiceName>(map::SERVICE_NAMES, MapType::Hash),
    hash::<u32, ServiceCounters>(map::SERVICE_COUNTERS, MapType::PerCpuHash),
    per_cpu_array::<ServiceCounters>(map::SERVICE_COUNTERS_FIRST, None),
    hash::<FlowKeyV4, FlowEntryV4>(map::FLOWS_V4, MapType::LruHash),
    hash::<FlowKeyV6, FlowEntryV6>(map::FLOWS_V6, MapType::LruHash),
    hash::<AffinityKey, AffinityValue>(map::AFFINITY, MapType::LruHash),
    hash::<SocketKey, SocketValue>(map::SOCKETS, MapType::LruHash),
    hash::<FragmentKey, FragmentPorts>(map::FRAGMENTS, MapType::LruHash),
    hash::<HeldKey, HeldFragment>(map::HELD_FRAGMENTS, MapType::LruHash),
    per_cpu_array::<u64>(map::DROP_COUNTERS, Some(DropReason::COUNT)),
    per_cpu_array::<u64>(map::EXPRESS_COUNTER, Some(1)),
];

/// Refuses a map that is not what this build expects.
pub fn check_shape(shape: &Shape, data: &MapData) -> Result<(), OpenError> {
    let refused = OpenError::refused(shape.name);
    let info = match data.info() {
        Ok(info) => info,
        Err(error) => return Err(refused(error)),
    };
    let kind = info.map_type().map_err(OpenError::refused(shape.name))?;
    let facts = [
        ("type", kind as u32, shape.kind as u32),
        ("key size", info.key_size(), shape.key_size),
        ("value size", info.value_size(), shape.value_size),
        ("max_entries", info.max_entries(), shape.max_entries.unwrap_or(info.max_entries())),
        ("BPF_F_MMAPABLE", info.map_flags() & BPF_F_MMAPABLE, if shape.mmapable { BPF_F_MMAPABLE } else { 0 }),
    ];
    match facts.into_iter().find(|(_, found, expected)| found != expected) {
        Some((what, found, expected)) => Err(OpenError::Foreign { map: shape.name, what, found, expected }),
        None => Ok(()),
    }
}

/// Where maps come from: the pin directory, or maps that were just loaded.
pub(super) struct Opener<F>(pub F);

impl<F: FnMut(&'static str) -> Result<MapData, OpenError>> Opener<F> {
    pub fn data(&mut self, name: &'static str) -> Result<MapData, OpenError> {
        let data = (self.0)(name)?;
        if let Some(shape) = SHAPES.iter().find(|shape| shape.name == name) {
            check_shape(shape, &data)?;
        }
        Ok(data)
    }

    pub fn lru<K: Element, V: Element>(&mut self, name: &'static str) -> Result<Table<K, V>, OpenError> {
        Table::new(name, self.data(name)?, true).map_err(OpenError::refused(name))
    }

    pub fn per_cpu<V: aya::Pod>(&mut self, name: &'static str) -> Result<PerCpuArray<MapData, V>, OpenError> {
        Map::PerCpuArray(self.data(name)?).try_into().map_err(OpenError::refused(name))
    }

    pub fn mapping(&mut self, name: &'static str, access: Access) -> Result<ArrayMapping, OpenError> {
        let data = self.data(name)?;
        let info = data.info().map_err(OpenError::refused(name))?;
        ArrayMapping::new(data.fd().as_fd(), info.value_size() as usize, info.max_entries(), access)
            .map_err(|source| OpenError::Refused { map: name, source })
    }
}

/// Opens maps by their pins in `directory`.
pub(super) fn from_directory(directory: &Path) -> impl FnMut(&'static str) -> Result<MapData, OpenError> + '_ {
    |map| {
        let path = directory.join(map);
        match path.try_exists() {
            Ok(false) => return Err(OpenError::Missing { map, path }),
            Err(source) => return Err(OpenError::Refused { map, source }),
            Ok(true) => {}
        }
        MapData::from_pin(path).map_err(OpenError::refused(map))
    }
}
