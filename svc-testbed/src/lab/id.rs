//! What a lab is called, and so everything it leaves on the machine: namespaces, cgroups, pins, files. Removing a lab needs
//! nothing but its id, so the janitor and the next run can do it when the owner died.

use std::{
    collections::BTreeSet,
    fmt, fs, io,
    path::{Path, PathBuf},
    process::{self, Command},
    str::FromStr,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result};

use crate::{cgroup::Cgroup, netns::Namespace, resolver};

const STATE_DIR: &str = "/run/svc-testbed";
const BPFFS: &str = "/sys/fs/bpf";
const KEPT: &str = "kept";

static NEXT: AtomicU32 = AtomicU32::new(1);

/// The process that owns the lab, and a number among its labs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabId {
    pub owner: u32,
    pub number: u32,
}

impl LabId {
    pub fn next() -> Self {
        Self { owner: process::id(), number: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    pub fn namespace(self, machine: &str) -> String {
        format!("svc-{self}-{machine}")
    }

    pub fn state_dir(self) -> PathBuf {
        Path::new(STATE_DIR).join(self.to_string())
    }

    pub fn cgroup(self) -> Result<PathBuf> {
        Ok(Cgroup::mount_point()?.join(format!("svc-testbed-{self}")))
    }

    pub fn bpf_root(self) -> PathBuf {
        Path::new(BPFFS).join(format!("svc-testbed-{self}"))
    }

    /// Marks the lab as left running on purpose: only [`LabId::remove`] ends it from now on.
    pub fn keep(self) -> Result<()> {
        fs::write(self.state_dir().join(KEPT), "").context("cannot mark the lab as kept")
    }

    pub fn is_kept(self) -> bool {
        self.state_dir().join(KEPT).exists()
    }

    pub fn owner_is_alive(self) -> bool {
        Path::new("/proc").join(self.owner.to_string()).exists()
    }

    /// Every lab of which something is left on this machine.
    pub fn all() -> BTreeSet<Self> {
        let namespaces = Namespace::list("svc-");
        let mut found: BTreeSet<Self> =
            namespaces.iter().filter_map(|name| Self::parse(name.strip_prefix("svc-")?)).collect();
        let cgroups = Cgroup::mount_point().unwrap_or_default();
        for (directory, prefix) in
            [(Path::new(STATE_DIR), ""), (Path::new(BPFFS), "svc-testbed-"), (cgroups.as_path(), "svc-testbed-")]
        {
            let names = fs::read_dir(directory).into_iter().flatten().flatten();
            let names = names.filter_map(|entry| entry.file_name().into_string().ok());
            found.extend(names.filter_map(|name| Self::parse(name.strip_prefix(prefix)?)));
        }
        found
    }

    /// What the lab still has on this machine; empty once it is gone.
    pub fn remains(self) -> Result<Vec<String>> {
        let mut remains: Vec<String> = Namespace::list(&self.namespace("")).into_iter().collect();
        for path in [self.state_dir(), self.cgroup()?, self.bpf_root()] {
            if path.exists() {
                remains.push(path.display().to_string());
            }
        }
        Ok(remains)
    }

    /// Ends the lab's processes and removes all it has. Does every part even if one fails, and reports the first failure.
    pub fn remove(self) -> Result<()> {
        let cgroup = self.cgroup().and_then(|path| Cgroup::remove(&path));
        let pins = remove_pins(&self.bpf_root());
        for name in Namespace::list(&self.namespace("")) {
            Namespace::delete(&name);
        }
        let state = remove_directory(&self.state_dir());
        // The parent goes with the last lab and stays while another one uses it.
        let _ = fs::remove_dir(STATE_DIR);
        cgroup.and(pins).and(state)
    }

    /// A command on one of the lab's machines, from a process that did not build the lab.
    pub fn command(self, machine: &str, program: &str) -> Result<Command> {
        let namespace = Namespace::open(&self.namespace(machine))?;
        let mut command = Command::new(program);
        // Pods are below their node, a node's own processes in `host`.
        let cgroups =
            fs::read_dir(self.cgroup()?).into_iter().flatten().flatten().map(|entry| entry.path().join(machine));
        let host = self.cgroup()?.join(machine).join("host");
        let cgroup = cgroups.chain([host]).find(|path| path.is_dir());
        let cgroup = cgroup.with_context(|| format!("lab {self} has no cgroup for {machine}"))?;
        Cgroup::create(cgroup)?.place(&mut command)?;
        namespace.place(&mut command);
        let resolv_conf = self.resolv_conf(machine);
        if resolv_conf.exists() {
            resolver::place(&mut command, &resolv_conf)?;
        }
        Ok(command)
    }

    pub(super) fn resolv_conf(self, machine: &str) -> PathBuf {
        self.state_dir().join(format!("{machine}.resolv.conf"))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        Some(Self { owner: parts.next()?.parse().ok()?, number: parts.next()?.parse().ok()? })
    }
}

impl FromStr for LabId {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text).with_context(|| format!("{text} is not a lab: two numbers, as in 4711-1"))
    }
}

impl fmt::Display for LabId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.owner, self.number)
    }
}

/// Mounts the BPF file system where everybody expects it, if nobody has.
pub(super) fn mount_bpffs() -> Result<()> {
    let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    if mounts.lines().any(|line| line.split(' ').nth(1) == Some(BPFFS)) {
        return Ok(());
    }
    rustix::mount::mount("bpf", BPFFS, "bpf", rustix::mount::MountFlags::empty(), None)
        .with_context(|| format!("cannot mount bpffs on {BPFFS}"))
}

fn remove_directory(path: &Path) -> Result<()> {
    gone(fs::remove_dir_all(path)).with_context(|| format!("cannot remove {}", path.display()))
}

// bpffs refuses to open pinned objects as files, so the walk only ever unlinks and never opens anything but directories.
fn remove_pins(path: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(path) else { return Ok(()) };
    for entry in entries.flatten() {
        let child = entry.path();
        if entry.file_type()?.is_dir() {
            remove_pins(&child)?;
        } else {
            gone(fs::remove_file(&child)).with_context(|| format!("cannot unpin {}", child.display()))?;
        }
    }
    gone(fs::remove_dir(path)).with_context(|| format!("cannot remove {}", path.display()))
}

/// A janitor may be at it as well: what is gone already is as good as removed.
fn gone(removal: io::Result<()>) -> io::Result<()> {
    match removal {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
