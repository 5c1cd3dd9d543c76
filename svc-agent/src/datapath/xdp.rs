//! The XDP program on uplinks (`--xdp`): one pinned link each, native or generic, and what the programs know of the
//! interfaces (UPLINKS). The datapath is complete without it: what fails is said once and counted, and the packets go on
//! through TC. Neighbours: `attach` says which interfaces are uplinks, `xdp_features` what drivers can do.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use aya::maps::MapError;
use svc_common::{Uplink, map, program, uplink_flag};

use super::interfaces::{Interface, XdpState};
use super::load::Programs;
use super::mirror::Mirror;
use super::pin::{LinkName, PinDir, PinError};
use super::sys::{self, LinkTarget};
use super::xdp_features::sends_frames;

/// As in linux/if_link.h.
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// Whether uplinks get the XDP program, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Xdp {
    #[default]
    Off,
    /// In the driver where it can, else in generic mode
    Auto,
    /// In the driver, or not at all
    Native,
    /// In the kernel's stack, whatever the driver
    Generic,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XdpMode {
    Native,
    Generic,
}

impl XdpMode {
    const fn flags(self) -> u32 {
        match self {
            Self::Native => XDP_FLAGS_DRV_MODE,
            Self::Generic => XDP_FLAGS_SKB_MODE,
        }
    }

    pub const fn label(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

impl Xdp {
    /// In the order they are tried.
    const fn modes(self) -> &'static [XdpMode] {
        match self {
            Self::Off => &[],
            Self::Auto => &[XdpMode::Native, XdpMode::Generic],
            Self::Native => &[XdpMode::Native],
            Self::Generic => &[XdpMode::Generic],
        }
    }
}

/// Why an uplink goes without the program.
#[derive(thiserror::Error, Debug)]
pub enum XdpError {
    #[error("another program's XDP is on the interface: remove that, or exclude the interface with --uplinks")]
    Occupied,
    #[error("its driver does not take it ({0}): use --xdp=generic, or --xdp=auto")]
    Driver(io::Error),
    #[error("the kernel does not take it: {0}")]
    Refused(io::Error),
    #[error(transparent)]
    Pin(#[from] PinError),
}

#[derive(thiserror::Error, Debug)]
#[error("cannot write map UPLINKS: {0}")]
pub struct UplinksError(#[from] MapError);

/// Numbers for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct XdpCounts {
    pub native: usize,
    pub generic: usize,
    /// Uplinks that should carry the program and do not.
    pub without: usize,
}

pub struct Express {
    wanted: Xdp,
    pins: PinDir,
    map: Mirror<Uplink>,
    attached: BTreeMap<u32, XdpMode>,
    /// As the interface was when it failed: tried again when that changes.
    failed: BTreeMap<u32, Interface>,
    without: usize,
    /// Links and drivers have been looked through since an uplink came or went.
    settled: bool,
    /// Whether a driver sends frames of other interfaces, where that is known.
    sends: BTreeMap<u32, bool>,
}

impl Express {
    /// Takes over what an earlier agent left; changes nothing yet.
    pub fn open(wanted: Xdp, pins: PinDir) -> Result<Self, UplinksError> {
        Ok(Self {
            wanted,
            map: Mirror::open(&pins, map::UPLINKS)?,
            pins,
            attached: BTreeMap::new(),
            failed: BTreeMap::new(),
            without: 0,
            settled: false,
            sends: BTreeMap::new(),
        })
    }

    /// The interface is gone; its index may be used again.
    pub fn forget(&mut self, index: u32) {
        self.settled &= self.attached.remove(&index).is_none();
        self.failed.remove(&index);
    }

    /// Everything is looked at again, as by a new agent.
    pub fn forget_all(&mut self) {
        self.attached.clear();
        self.failed.clear();
        self.settled = false;
    }

    pub fn counts(&self) -> XdpCounts {
        let with = |mode| self.attached.values().filter(|attached| **attached == mode).count();
        XdpCounts { native: with(XdpMode::Native), generic: with(XdpMode::Generic), without: self.without }
    }

    /// Makes these interfaces, and no others, carry the program.
    pub fn reconcile(&mut self, programs: &Programs, uplinks: &BTreeMap<u32, &Interface>) -> Result<(), UplinksError> {
        let program = programs.express().and_then(Result::ok);
        let before = self.attached.len();
        self.attached.retain(|index, _| uplinks.contains_key(index));
        self.settled &= self.attached.len() == before;
        self.failed.retain(|index, before| uplinks.get(index).is_some_and(|interface| **interface == *before));
        for (&index, &interface) in uplinks {
            if self.attached.contains_key(&index) || self.failed.contains_key(&index) {
                continue;
            }
            let Some(program) = program else { continue };
            match self.attach(program, index, interface) {
                Ok(mode) => {
                    tracing::info!(interface = interface.name, index, mode = mode.label(), "XDP attached");
                    self.attached.insert(index, mode);
                    self.settled = false;
                }
                Err(error) => {
                    tracing::warn!(interface = interface.name, index, %error, "no XDP: its packets go through TC only");
                    self.failed.insert(index, interface.clone());
                }
            }
        }
        self.without = if self.wanted == Xdp::Off { 0 } else { uplinks.len() - self.attached.len() };
        if !self.settled {
            self.sends = self.ask_drivers();
        }
        self.map.set(&self.entries(uplinks))?;
        if !self.settled {
            self.settled = self.remove_strays();
        }
        Ok(())
    }

    fn attach(&self, program: BorrowedFd<'_>, index: u32, interface: &Interface) -> Result<XdpMode, XdpError> {
        let pin = LinkName::on_interface(program::UPLINK_XDP, index);
        let modes = self.wanted.modes();
        if let Some(state) = interface.xdp {
            match self.adopt(program, &pin, index, state).map_err(XdpError::Refused)? {
                Some(mode) if modes.contains(&mode) => return Ok(mode),
                // Both modes at once is what the kernel does not allow.
                Some(_) => {
                    let link = sys::open_pin(&self.pins.link(&pin)).map_err(XdpError::Refused)?;
                    sys::detach_link(link.as_fd()).map_err(XdpError::Refused)?;
                }
                None => {}
            }
        }
        let mut refused = XdpError::Occupied;
        for &mode in modes {
            match sys::link_to_xdp(program, index, mode.flags()) {
                Ok(link) => {
                    self.pins.pin_link(link.as_fd(), &pin)?;
                    return Ok(mode);
                }
                Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)) => {
                    return Err(XdpError::Occupied);
                }
                Err(error) if mode == XdpMode::Native => {
                    if self.wanted == Xdp::Auto {
                        tracing::info!(interface = interface.name, index, %error, "no native XDP: trying generic mode");
                    }
                    refused = XdpError::Driver(error);
                }
                Err(error) => refused = XdpError::Refused(error),
            }
        }
        Err(refused)
    }

    /// Puts the program into the pinned link, if that is what is on the interface; answers with its mode.
    fn adopt(
        &self,
        program: BorrowedFd<'_>,
        pin: &LinkName,
        index: u32,
        state: XdpState,
    ) -> io::Result<Option<XdpMode>> {
        let link = match sys::open_pin(&self.pins.link(pin)) {
            Ok(link) => link,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let info = sys::link_info(link.as_fd())?;
        if info.target != LinkTarget::Interface(index) || info.program_id != state.program_id {
            return Ok(None);
        }
        sys::update_link(link.as_fd(), program)?;
        Ok(Some(if state.generic { XdpMode::Generic } else { XdpMode::Native }))
    }

    /// Which drivers send frames of others. Only matters where there are others.
    fn ask_drivers(&self) -> BTreeMap<u32, bool> {
        if self.attached.len() < 2 {
            return BTreeMap::new();
        }
        let native = self.attached.iter().filter(|(_, mode)| **mode == XdpMode::Native).map(|(index, _)| *index);
        let known = sends_frames(native).unwrap_or_else(|error| {
            tracing::debug!(%error, "drivers do not say what they can do: no frame goes from one to another");
            Vec::new()
        });
        known.into_iter().collect()
    }

    /// What the programs may know: interfaces that carry them, and no others.
    fn entries(&self, uplinks: &BTreeMap<u32, &Interface>) -> BTreeMap<u32, Uplink> {
        let entry = |(&index, &mode): (&u32, &XdpMode)| {
            let [a, b, c, d, e, f] = uplinks.get(&index)?.address?;
            let address = [[a, b], [c, d], [e, f]].map(u16::from_ne_bytes);
            let generic = if mode == XdpMode::Generic { uplink_flag::GENERIC } else { 0 };
            let sends = if self.sends.get(&index).copied().unwrap_or(false) { uplink_flag::SENDS } else { 0 };
            Some((index, Uplink { address, flags: generic | sends }))
        };
        self.attached.iter().filter_map(entry).collect()
    }

    /// Links of interfaces that should not have them, ours or an earlier agent's. False: some may still be there.
    fn remove_strays(&self) -> bool {
        let ours = |link: &LinkName| link.program == program::UPLINK_XDP;
        let wanted = |link: &LinkName| link.interface.is_some_and(|index| self.attached.contains_key(&index));
        let links = match self.pins.list_links() {
            Ok(links) => links,
            Err(error) => {
                tracing::warn!(%error, "cannot look for XDP links that are not wanted any more");
                return false;
            }
        };
        let mut removed = true;
        for link in links.into_iter().filter(|link| ours(link) && !wanted(link)) {
            match self.pins.unpin_link(&link) {
                Ok(_) => tracing::info!(index = link.interface, "XDP detached"),
                Err(error) => {
                    tracing::warn!(index = link.interface, %error, "cannot detach XDP");
                    removed = false;
                }
            }
        }
        removed
    }
}
