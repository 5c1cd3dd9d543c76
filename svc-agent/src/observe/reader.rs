//! The seam to the kernel for everything that looks and does not write: what can be asked of the maps.
//! [`super::pinned`] answers from pinned maps, tests from plain memory. Rows and metrics are computed from it.

use std::path::PathBuf;

use svc_common::{
    BackendEntry, BackendRef, DropReason, FlowKeyV4, FlowKeyV6, FlowV4, FlowV6, Publication, ServiceCounters,
    ServiceEntry, ServiceName,
};

use super::occupancy::Fill;
use crate::datapath::maps::OpenError;
use crate::publish::MapsError;

/// Why the maps could not be read.
#[derive(thiserror::Error, Debug)]
pub enum ReadError {
    #[error(
        "no maps below {}: no agent ran with this bpf root, or `svc-agent cleanup` removed them. \
         Start `svc-agent run`, or name the root of the running one with --bpf-root", .directory.display()
    )]
    NoMaps { directory: PathBuf },
    #[error(
        "the maps below {} have version {found}, this program reads version {expected}: \
         use the svc-agent that is running on this node", .directory.display()
    )]
    OtherVersion { directory: PathBuf, found: String, expected: u32 },
    #[error(
        "{} is not on a BPF file system, so no agent keeps maps there. Mount it (mount -t bpf bpf /sys/fs/bpf), name \
         another --bpf-root, and mind that `ip netns exec` hides it: enter namespaces with `nsenter --net=...`",
        .root.display()
    )]
    NoBpffs { root: PathBuf },
    #[error(
        "no permission to read the maps below {}: run as root with the capabilities BPF and NET_ADMIN, or inside the \
         agent's container (kubectl exec)", .directory.display()
    )]
    NoPermission { directory: PathBuf },
    #[error(transparent)]
    Open(OpenError),
    #[error(transparent)]
    Access(#[from] MapsError),
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
    /// Sums over all CPUs, by service index. Services without traffic on this node have no entry.
    fn service_counters(&self) -> Result<Vec<(u32, ServiceCounters)>, ReadError>;
    /// Sums over all CPUs, of every reason.
    fn drop_counters(&self) -> Result<Vec<(DropReason, u64)>, ReadError>;
    /// Packets that XDP sent on past the stack.
    fn express_packets(&self) -> Result<u64, ReadError>;
    fn flows_v4(&self) -> Result<Vec<(FlowKeyV4, FlowV4)>, ReadError>;
    fn flows_v6(&self) -> Result<Vec<(FlowKeyV6, FlowV6)>, ReadError>;
    /// Entries and capacity of the maps that only the kernel can count. Large ones are estimated.
    fn counted(&self) -> Result<Vec<Fill>, ReadError>;
    /// Maximum number of entries of the other maps, by name.
    fn capacities(&self) -> Vec<(&'static str, u32)>;
    /// Seconds of CLOCK_MONOTONIC.
    fn now(&self) -> u32;
}

/// All entries in use, for callers that need them at once.
pub(super) fn all_services(reader: &dyn MapReader) -> Result<Vec<(u32, ServiceEntry)>, ReadError> {
    let mut services = Vec::new();
    reader.services(&mut |index, entry| services.push((index, *entry)))?;
    Ok(services)
}
