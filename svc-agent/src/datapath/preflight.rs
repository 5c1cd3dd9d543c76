//! Everything that must be there before the first program is loaded, each with a message that names the thing and the
//! remedy. Only looks; mounting and granting is the operator's (or the DaemonSet's) business. Neighbour: `mod` calls it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::util::KernelVersion;

/// Ring buffers, TC and cgroup links, LRU and mmapable maps: all there in 5.10, the oldest kernel we test.
const OLDEST: KernelVersion = KernelVersion::new(5, 10, 0);
/// From here on maps count against the memory cgroup, not RLIMIT_MEMLOCK.
const MEMCG_ACCOUNTING: KernelVersion = KernelVersion::new(5, 11, 0);
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;

#[derive(thiserror::Error, Debug)]
pub enum PreflightError {
    #[error("Linux {found} is too old: svc-agent needs 5.10 or newer")]
    Kernel { found: String },
    #[error(
        "missing {missing}: run svc-agent as root, or grant it CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON \
         (DaemonSet: securityContext.capabilities.add: [BPF, NET_ADMIN, PERFMON])"
    )]
    Capability { missing: String },
    #[error(
        "{} is not a BPF file system: mount one with `mount -t bpf bpf {}`, or name another with --bpf-root \
         (DaemonSet: mount the host's /sys/fs/bpf as a hostPath volume)", .root.display(), .root.display()
    )]
    NoBpfFs { root: PathBuf },
    #[error(
        "no cgroup v2 hierarchy is mounted: mount one with `mount -t cgroup2 none /sys/fs/cgroup`, \
         name another with --cgroup-root, or do without the socket hooks: --socket-lb=off"
    )]
    NoCgroup2,
    #[error("{} is not in a cgroup v2 hierarchy: name one that is with --cgroup-root, or use --socket-lb=off", .root.display())]
    NotCgroup2 { root: PathBuf },
    #[error("--socket-lb=host needs Linux 5.14 or newer (SO_NETNS_COOKIE): use --socket-lb=all or off")]
    NoNetnsCookie,
    #[error("cannot read {path}: {error}")]
    Read { path: &'static str, error: io::Error },
}

/// Kernel, capabilities and bpffs. The kernel's own type information (BTF) is not asked for: no program uses it.
pub fn check(bpf_root: &Path) -> Result<(), PreflightError> {
    check_kernel()?;
    check_capabilities(&read("/proc/self/status")?)?;
    if file_system(bpf_root) != Some(BPF_FS_MAGIC) {
        return Err(PreflightError::NoBpfFs { root: bpf_root.to_path_buf() });
    }
    Ok(())
}

fn check_kernel() -> Result<(), PreflightError> {
    if KernelVersion::current().is_ok_and(|version| version >= OLDEST) {
        return Ok(());
    }
    let found = rustix::system::uname().release().to_string_lossy().into_owned();
    Err(PreflightError::Kernel { found })
}

/// The root of the cgroup v2 hierarchy: the one asked for, else the first one mounted (unified, or beside v1).
pub fn cgroup_root(asked: Option<&Path>) -> Result<PathBuf, PreflightError> {
    let root = match asked {
        Some(root) => root.to_path_buf(),
        None => first_cgroup2(&read("/proc/mounts")?).ok_or(PreflightError::NoCgroup2)?,
    };
    // A node that still uses cgroup v1 has the v2 hierarchy one level below the usual place.
    [root.clone(), root.join("unified")]
        .into_iter()
        .find(|root| file_system(root) == Some(CGROUP2_SUPER_MAGIC))
        .ok_or(PreflightError::NotCgroup2 { root })
}

fn read(path: &'static str) -> Result<String, PreflightError> {
    fs::read_to_string(path).map_err(|error| PreflightError::Read { path, error })
}

fn file_system(path: &Path) -> Option<u64> {
    rustix::fs::statfs(path).ok().map(|status| status.f_type as u64)
}

fn first_cgroup2(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
        // The kernel writes blanks in paths as octal escapes.
        (kind == "cgroup2").then(|| PathBuf::from(path.replace("\\040", " ")))
    })
}

/// CAP_PERFMON lets the verifier trust packet pointers without speculation barriers; without it programs of this size
/// are refused. Before 5.8 there was only CAP_SYS_ADMIN, which still implies all but CAP_NET_ADMIN.
fn check_capabilities(status: &str) -> Result<(), PreflightError> {
    const NET_ADMIN: u64 = 1 << 12;
    const SYS_ADMIN: u64 = 1 << 21;
    const PERFMON: u64 = 1 << 38;
    const BPF: u64 = 1 << 39;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|value| u64::from_str_radix(value.trim(), 16).ok())
        .unwrap_or(0);
    let missing: Vec<&str> = [
        (NET_ADMIN, "CAP_NET_ADMIN (attach to interfaces and cgroups)"),
        (BPF | SYS_ADMIN, "CAP_BPF (load programs and maps)"),
        (PERFMON | SYS_ADMIN, "CAP_PERFMON (the verifier accepts the programs as they are)"),
    ]
    .into_iter()
    .filter_map(|(any_of, name)| (effective & any_of == 0).then_some(name))
    .collect();
    if missing.is_empty() { Ok(()) } else { Err(PreflightError::Capability { missing: missing.join(", ") }) }
}

/// RLIMIT_MEMLOCK is 8 MiB or less by default: too little for the maps.
pub fn raise_memory_lock_limit() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    if KernelVersion::current().is_ok_and(|version| version >= MEMCG_ACCOUNTING) {
        return;
    }
    if let Err(error) = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }) {
        tracing::warn!(
            %error,
            "cannot raise the limit of locked memory, which this kernel counts maps against: \
             grant CAP_SYS_RESOURCE if creating maps fails"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_cgroup2_beside_v1_and_alone() {
        let hybrid = "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(first_cgroup2(hybrid), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(first_cgroup2("none /a\\040b cgroup2 rw 0 0"), Some(PathBuf::from("/a b")));
        assert_eq!(first_cgroup2("proc /proc proc rw 0 0"), None);
    }

    #[test]
    fn names_each_missing_capability() {
        assert!(check_capabilities("CapEff:\t000001ffffffffff\n").is_ok());
        // NET_ADMIN, PERFMON and BPF alone are enough.
        assert!(check_capabilities("CapEff:\t000000c000001000\n").is_ok());
        // SYS_ADMIN stands for PERFMON and BPF, not for NET_ADMIN.
        assert!(check_capabilities("CapEff:\t0000000000201000\n").is_ok());
        let message = check_capabilities("CapEff:\t0000000000200000\n").unwrap_err().to_string();
        assert!(message.contains("CAP_NET_ADMIN") && !message.contains("missing CAP_BPF"), "{message}");
        let message = check_capabilities("CapEff:\t0000000000000000\n").unwrap_err().to_string();
        assert!(message.contains("CAP_BPF (") && message.contains("CAP_PERFMON ("), "{message}");
    }

    #[test]
    fn a_plain_directory_is_no_bpf_file_system() {
        let directory = tempfile::tempdir().unwrap();
        assert_ne!(file_system(directory.path()), Some(BPF_FS_MAGIC));
        assert!(matches!(cgroup_root(Some(directory.path())), Err(PreflightError::NotCgroup2 { .. })));
    }
}
