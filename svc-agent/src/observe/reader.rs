//! The seam to the kernel for everything that looks and does not write: what can be asked of the maps.
//! `datapath::pinned` answers from pinned maps, tests from plain memory. Rows and metrics are computed from it.

use std::io;
use std::path::PathBuf;

use svc_common::{
    BackendEntry, BackendRef, FlowKeyV4, FlowKeyV6, FlowV4, FlowV6, Publication, ServiceCounters, ServiceEntry,
    ServiceName,
};

/// Why the maps could not be read.
#[derive(thiserror::Error, Debug)]
pub enum ReadError {
    #[error(
        "no maps below {directory}: no agent ran with this bpf root, or `svc-agent cleanup` removed them. \
         Start `svc-agent run`, or name the root of the running one with --bpf-root"
    )]
    NoMaps { directory: PathBuf },
    #[error(
        "the maps below {directory} have version {found}, this program reads version {expected}: \
         use the svc-agent that is running on this node"
    )]
    OtherVersion { directory: PathBuf, found: String, expected: u32 },
    #[error(
        "no permission to read {path}: run as root with CAP_BPF and CAP_NET_ADMIN, or inside the agent's container \
         (kubectl exec)"
    )]
    NoPermission { path: PathBuf },
    #[error("another monitor is already listening below {directory}: one at a time, end that one first")]
    Busy { directory: PathBuf },
    #[error("cannot {action} map {map}: {source}")]
    Map { map: &'static str, action: &'static str, source: io::Error },
}

/// What the maps hold. Each answer is consistent in itself, not with the others: the kernel and the agent go on.
pub trait MapReader: Send + Sync {
    /// Visits the entries in use, by service index, ascending.
    fn services(&self, visit: &mut dyn FnMut(u32, &ServiceEntry)) -> Result<(), ReadError>;
    fn service_name(&self, index: u32) -> Result<Option<ServiceName>, ReadError>;
    /// The slots a publication word names.
    fn slots(&self, publication: Publication) -> Result<Vec<BackendRef>, ReadError>;
    /// Visits the entries whose backend lives, by backend index, ascending.
    fn backends(&self, visit: &mut dyn FnMut(u32, &BackendEntry)) -> Result<(), ReadError>;
    /// Sums over all CPUs; `None` for a service without traffic on this node.
    fn service_counters(&self, index: u32) -> Result<Option<ServiceCounters>, ReadError>;
    /// Sums over all CPUs, by `DropReason`.
    fn drop_counters(&self) -> Result<Vec<u64>, ReadError>;
    fn flows_v4(&self, visit: &mut dyn FnMut(&FlowKeyV4, &FlowV4)) -> Result<(), ReadError>;
    fn flows_v6(&self, visit: &mut dyn FnMut(&FlowKeyV6, &FlowV6)) -> Result<(), ReadError>;
    /// Maximum number of entries of a map, by its name in [`svc_common::map`].
    fn capacity(&self, map: &'static str) -> Result<u32, ReadError>;
    /// Seconds of CLOCK_MONOTONIC.
    fn now(&self) -> u32;
}

/// All entries in use, for callers that need them at once.
pub(super) fn all_services(reader: &dyn MapReader) -> Result<Vec<(u32, ServiceEntry)>, ReadError> {
    let mut services = Vec::new();
    reader.services(&mut |index, entry| services.push((index, *entry)))?;
    Ok(services)
}
