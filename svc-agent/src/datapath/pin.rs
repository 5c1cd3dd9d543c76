//! The directory of pins: paths, what is pinned, the lock that keeps a second agent out, replacement of a pin in one
//! step. Knows names, not meanings: what hangs on a link is `tc`'s and `cgroup`'s business.

use std::fs::{self, File};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use svc_common::ABI_VERSION;

use super::sys;

/// Below the bpffs root. One agent per root and network namespace.
const DIRECTORY: &str = "svc-agent";
/// Suffix of a pin about to replace another; bpffs refuses names with a dot.
const NEXT: &str = "-next";

#[derive(thiserror::Error, Debug)]
pub enum PinError {
    #[error("another svc-agent uses {}: stop it first, or give this one another --bpf-root", .directory.display())]
    Locked { directory: PathBuf },
    #[error("cannot {action} {}: {error}", .path.display())]
    Io { action: &'static str, path: PathBuf, error: io::Error },
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PinError {
    let path = path.to_path_buf();
    move |error| PinError::Io { action, path, error }
}

/// Where the pins of one bpffs root are. Holds no file; see [`PinDir::lock`].
#[derive(Clone, Debug)]
pub struct PinDir {
    base: PathBuf,
}

/// Held while an agent works on a root; the kernel releases it however the process ends.
#[derive(Debug)]
pub struct PinLock {
    _directory: File,
}

/// A link as its pin names it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LinkName {
    pub program: String,
    /// `None` for a cgroup hook.
    pub interface: Option<u32>,
}

impl LinkName {
    pub fn hook(program: &str) -> Self {
        Self { program: program.to_owned(), interface: None }
    }

    pub fn on_interface(program: &str, index: u32) -> Self {
        Self { program: program.to_owned(), interface: Some(index) }
    }

    fn file_name(&self) -> String {
        match self.interface {
            Some(index) => format!("{}_{index}", self.program),
            None => self.program.clone(),
        }
    }

    fn parse(file_name: &str) -> Self {
        match file_name.rsplit_once('_').and_then(|(program, index)| Some((program, index.parse().ok()?))) {
            Some((program, index)) => Self::on_interface(program, index),
            None => Self::hook(file_name),
        }
    }
}

impl PinDir {
    pub fn new(bpf_root: &Path) -> Self {
        Self { base: bpf_root.join(DIRECTORY) }
    }

    /// The directory of all versions.
    pub fn base(&self) -> &Path {
        &self.base
    }

    pub fn maps(&self) -> PathBuf {
        self.version().join("maps")
    }

    pub fn links(&self) -> PathBuf {
        self.version().join("links")
    }

    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    pub fn link(&self, name: &LinkName) -> PathBuf {
        self.links().join(name.file_name())
    }

    fn version(&self) -> PathBuf {
        self.base.join(format!("v{ABI_VERSION}"))
    }

    pub fn create(&self) -> Result<(), PinError> {
        for directory in [self.maps(), self.links()] {
            fs::create_dir_all(&directory).map_err(failed("create", &directory))?;
        }
        Ok(())
    }

    /// Takes the lock of this root, whatever version the holder is.
    pub fn lock(&self) -> Result<PinLock, PinError> {
        let directory = File::open(&self.base).map_err(failed("open", &self.base))?;
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(PinLock { _directory: directory }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(PinError::Locked { directory: self.base.clone() }),
            Err(error) => Err(failed("lock", &self.base)(error.into())),
        }
    }

    /// All pinned links of this version, in order of their names.
    pub fn list_links(&self) -> Result<Vec<LinkName>, PinError> {
        let mut names: Vec<_> = list(&self.links())?.iter().map(|name| LinkName::parse(name)).collect();
        names.sort();
        Ok(names)
    }

    /// Pins a link at its name, in place of what is there; at no time is there neither. A link whose last pin goes this
    /// way detaches.
    pub fn pin_link(&self, link: BorrowedFd<'_>, name: &LinkName) -> Result<(), PinError> {
        let path = self.link(name);
        let next = self.links().join(format!("{}{NEXT}", name.file_name()));
        remove_if_there(&next)?;
        sys::pin(link, &next).map_err(failed("pin a link at", &next))?;
        fs::rename(&next, &path).map_err(failed("pin a link at", &path))
    }

    /// Removes the pin; without another owner the link detaches. Answers whether it was there.
    pub fn unpin_link(&self, name: &LinkName) -> Result<bool, PinError> {
        remove_if_there(&self.link(name))
    }

    /// Removes leftovers of a replacement that was cut short.
    pub fn remove_unfinished(&self) -> Result<(), PinError> {
        for name in list(&self.links())?.into_iter().filter(|name| name.ends_with(NEXT)) {
            remove_if_there(&self.links().join(name))?;
        }
        Ok(())
    }

    /// Pins of the links of all versions.
    pub fn link_pins(&self) -> Result<Vec<PathBuf>, PinError> {
        let mut pins = Vec::new();
        for version in list(&self.base)? {
            let directory = self.base.join(version).join("links");
            pins.extend(list(&directory)?.into_iter().map(|name| directory.join(name)));
        }
        Ok(pins)
    }

    /// Removes all pins of all versions and the directories. Links first: nothing translates with half the maps.
    pub fn remove_all(&self) -> Result<usize, PinError> {
        let mut removed = 0;
        for part in ["links", "maps"] {
            for version in list(&self.base)? {
                let directory = self.base.join(version).join(part);
                for name in list(&directory)? {
                    removed += usize::from(remove_if_there(&directory.join(name))?);
                }
                remove_directory(&directory)?;
            }
        }
        for version in list(&self.base)? {
            remove_directory(&self.base.join(version))?;
        }
        remove_directory(&self.base)?;
        Ok(removed)
    }
}

/// File names in a directory; none if there is no such directory.
fn list(directory: &Path) -> Result<Vec<String>, PinError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("read", directory)(error)),
    };
    entries
        .map(|entry| Ok(entry.map_err(failed("read", directory))?.file_name().to_string_lossy().into_owned()))
        .collect()
}

fn remove_if_there(path: &Path) -> Result<bool, PinError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("remove", path)(error)),
    }
}

fn remove_directory(path: &Path) -> Result<(), PinError> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_survive_the_way_to_a_file_name_and_back() {
        for name in [LinkName::on_interface("pod_ingress", 12), LinkName::hook("getpeername4")] {
            assert_eq!(LinkName::parse(&name.file_name()), name);
        }
        assert_eq!(LinkName::parse("pod_ingress_12-next").interface, None);
    }

    #[test]
    fn the_lock_keeps_a_second_holder_out_until_released() {
        let root = tempfile::tempdir().unwrap();
        let pins = PinDir::new(root.path());
        pins.create().unwrap();
        let first = pins.lock().unwrap();
        assert!(matches!(pins.lock(), Err(PinError::Locked { .. })));
        drop(first);
        pins.lock().unwrap();
    }

    #[test]
    fn removal_takes_every_version_and_repeats_quietly() {
        let root = tempfile::tempdir().unwrap();
        let pins = PinDir::new(root.path());
        pins.create().unwrap();
        fs::create_dir_all(pins.base().join("v0/maps")).unwrap();
        fs::write(pins.base().join("v0/maps/OLD"), "").unwrap();
        fs::write(pins.link(&LinkName::hook("connect4")), "").unwrap();
        assert_eq!(pins.remove_all().unwrap(), 2);
        assert!(!pins.base().exists());
        assert_eq!(pins.remove_all().unwrap(), 0);
    }
}
