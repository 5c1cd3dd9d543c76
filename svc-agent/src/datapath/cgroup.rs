//! The socket hooks on the cgroup root: attached as pinned links beside the programs of others, replaced in place,
//! detached when not wanted. Neighbours: `load` has the programs, `preflight` finds the root.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use svc_common::{feature, program};

use super::load::{LoadError, Programs};
use super::pin::{LinkName, PinDir, PinError};
use super::sys::{self, AttachType, LinkTarget};

#[derive(thiserror::Error, Debug)]
pub enum HookError {
    #[error("cannot open the cgroup {}: {error}", .root.display())]
    Open { root: PathBuf, error: io::Error },
    #[error("cannot attach {program} to the cgroup {}: {error}", .root.display())]
    Attach { program: &'static str, root: PathBuf, error: io::Error },
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// Whose connections the socket hooks translate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SocketLb {
    /// Every socket on the node.
    #[default]
    All,
    /// Only sockets of the node's own network namespace: for sidecar meshes and pods that are virtual machines.
    Host,
    /// None: packets are translated at the interfaces only.
    Off,
}

impl SocketLb {
    /// Bits of [`svc_common::feature`].
    pub const fn features(self) -> u32 {
        match self {
            Self::All => feature::SOCKET_LB_ALL,
            Self::Host => feature::SOCKET_LB_HOST,
            Self::Off => 0,
        }
    }
}

/// In the order of attaching: what undoes a translation is there before anything translates. Detaching goes backwards.
const HOOKS: [(&str, AttachType); 6] = [
    (program::GETPEERNAME4, AttachType::BPF_CGROUP_INET4_GETPEERNAME),
    (program::GETPEERNAME6, AttachType::BPF_CGROUP_INET6_GETPEERNAME),
    (program::BIND4, AttachType::BPF_CGROUP_INET4_BIND),
    (program::BIND6, AttachType::BPF_CGROUP_INET6_BIND),
    (program::CONNECT4, AttachType::BPF_CGROUP_INET4_CONNECT),
    (program::CONNECT6, AttachType::BPF_CGROUP_INET6_CONNECT),
];

/// Attaches all hooks below `root`, or puts the new programs into the links that are there.
pub fn attach_hooks(programs: &Programs, pins: &PinDir, root: &Path) -> Result<(), HookError> {
    let opened = File::open(root).and_then(|cgroup| Ok((cgroup.metadata()?.ino(), cgroup)));
    let (id, cgroup) = opened.map_err(|error| HookError::Open { root: root.to_path_buf(), error })?;
    for (name, at) in HOOKS {
        let failed = |error| HookError::Attach { program: name, root: root.to_path_buf(), error };
        let program = programs.get(name)?;
        let pin = LinkName::hook(name);
        if !update_hook(program, &pins.link(&pin), id).map_err(failed)? {
            // A link on another cgroup (--cgroup-root changed) goes when its pin is replaced.
            let link = sys::link_to_cgroup(program, cgroup.as_fd(), at).map_err(failed)?;
            pins.pin_link(link.as_fd(), &pin)?;
        }
    }
    Ok(())
}

/// Detaches all hooks; answers how many there were.
pub fn detach_hooks(pins: &PinDir) -> Result<usize, HookError> {
    let mut detached = 0;
    for (name, _) in HOOKS.iter().rev() {
        detached += usize::from(pins.unpin_link(&LinkName::hook(name))?);
    }
    Ok(detached)
}

/// A cgroup's identifier is its inode number.
fn update_hook(program: BorrowedFd<'_>, pin: &Path, cgroup: u64) -> io::Result<bool> {
    let link = match sys::open_pin(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if sys::link_info(link.as_fd())?.target != LinkTarget::Cgroup(cgroup) {
        return Ok(false);
    }
    match sys::update_link(link.as_fd(), program) {
        Ok(()) => Ok(true),
        // The cgroup is gone, and another has its identifier.
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(false),
        Err(error) => Err(error),
    }
}
