//! Takes everything of one root off the machine: links, filters, maps, directories. Idempotent.
//! Neighbours: `pin` knows the files, `tc` the filters; `cli/cleanup.rs` reports.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::interfaces::Role;
use super::netlink::{self, NetlinkError};
use super::pin::{PinDir, PinError};
use super::sys;
use super::tc::{AttachError, AttachMode, Attacher};

#[derive(thiserror::Error, Debug)]
pub enum CleanupError {
    #[error("{0}; or remove everything under it with --force")]
    InUse(PinError),
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Detach(#[from] AttachError),
    #[error("cannot detach {}: {error}; the rest is as it was, run cleanup again", .path.display())]
    Link { path: PathBuf, error: io::Error },
}

/// What was removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Removed {
    pub pins: usize,
    pub filters: usize,
}

/// Removes all of one root, of every version. With `force` also while an agent runs: it keeps running and translates
/// nothing any more. The clsact qdisc stays: filters of others may hang on it.
pub async fn remove(bpf_root: &Path, force: bool) -> Result<Removed, CleanupError> {
    let pins = PinDir::new(bpf_root);
    let _lock = match pins.lock() {
        Ok(lock) => Some(lock),
        Err(PinError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error @ PinError::Locked { .. }) if !force => return Err(CleanupError::InUse(error)),
        Err(PinError::Locked { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let netlink = netlink::connect()?;
    let attacher = Attacher::new(AttachMode::Clsact, pins.clone(), netlink.clone());
    let mut removed = Removed::default();
    for (index, _) in netlink::list_interfaces(&netlink).await? {
        for &(program, direction) in Role::ALL.into_iter().flat_map(Role::programs) {
            removed.filters += usize::from(attacher.detach(program, index, direction).await?);
        }
    }
    for path in pins.link_pins()? {
        detach(&path).map_err(|error| CleanupError::Link { path, error })?;
    }
    removed.pins = pins.remove_all()?;
    Ok(removed)
}

/// Without this a link would come off some time after its last owner went, and the caller could not know when.
fn detach(pin: &Path) -> io::Result<()> {
    match sys::open_pin(pin).and_then(|link| sys::detach_link(link.as_fd())) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
