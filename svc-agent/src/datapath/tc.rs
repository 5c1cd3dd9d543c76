//! One program on one side of one interface: as a pinned TCX link, or as a clsact filter where the kernel has no TCX.
//! Attaching is idempotent and replaces in place. Which interfaces, and when, is `attach`'s business.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use futures::StreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};

use super::interfaces::Direction;
use super::load::LoadError;
use super::pin::{LinkName, PinDir, PinError};
use super::sys::{self, AttachType, LinkTarget};

#[derive(thiserror::Error, Debug)]
pub enum AttachError {
    /// Nothing to do: its removal is reported, or was.
    #[error("the interface is gone")]
    Gone,
    #[error("cannot attach {program}: {error}")]
    Attach { program: &'static str, error: io::Error },
    #[error("cannot detach {program}: {error}")]
    Detach { program: &'static str, error: io::Error },
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// How programs hang on interfaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttachMode {
    /// Pinned links (6.6 and newer).
    Tcx,
    /// Filters of the clsact qdisc: no links, they stay until removed, and go with the interface.
    Clsact,
}

/// Attaches programs to interfaces of this process's network namespace.
#[derive(Clone, Debug)]
pub struct Attacher {
    mode: AttachMode,
    pins: PinDir,
    netlink: Handle,
}

// Others on the same hook (network policy, accounting) see pods' addresses, not Services': we run first on the way in and
// last on the way out.
const fn link_order(direction: Direction) -> u32 {
    const BPF_F_BEFORE: u32 = 1 << 3;
    const BPF_F_AFTER: u32 = 1 << 4;
    match direction {
        Direction::Ingress => BPF_F_BEFORE,
        Direction::Egress => BPF_F_AFTER,
    }
}

/// Lower runs first. The kernel numbers filters without a priority from 49152 downwards.
const fn filter_priority(direction: Direction) -> u32 {
    match direction {
        Direction::Ingress => 2,
        Direction::Egress => 0xfffe,
    }
}

const fn attach_type(direction: Direction) -> AttachType {
    match direction {
        Direction::Ingress => AttachType::BPF_TCX_INGRESS,
        Direction::Egress => AttachType::BPF_TCX_EGRESS,
    }
}

impl Attacher {
    pub fn new(mode: AttachMode, pins: PinDir, netlink: Handle) -> Self {
        Self { mode, pins, netlink }
    }

    pub async fn attach(
        &self,
        program: BorrowedFd<'_>,
        name: &'static str,
        index: u32,
        direction: Direction,
    ) -> Result<(), AttachError> {
        match self.mode {
            AttachMode::Tcx => self.attach_link(program, name, index, direction),
            AttachMode::Clsact => {
                let replaced = self.replace_filter(program, name, index, direction).await;
                replaced.map_err(|error| failure(error, |error| AttachError::Attach { program: name, error }))
            }
        }
    }

    /// Answers whether the program was attached.
    pub async fn detach(&self, name: &'static str, index: u32, direction: Direction) -> Result<bool, AttachError> {
        match self.mode {
            AttachMode::Tcx => Ok(self.pins.unpin_link(&LinkName::on_interface(name, index))?),
            AttachMode::Clsact => self.detach_filter(name, index, direction).await,
        }
    }

    fn attach_link(
        &self,
        program: BorrowedFd<'_>,
        name: &'static str,
        index: u32,
        direction: Direction,
    ) -> Result<(), AttachError> {
        let failed = |error| failure(error, |error| AttachError::Attach { program: name, error });
        let pin = LinkName::on_interface(name, index);
        let at = attach_type(direction);
        if self.update_link(program, &pin, index, at).map_err(failed)? {
            return Ok(());
        }
        let link = sys::link_to_interface(program, index, at, link_order(direction)).map_err(failed)?;
        Ok(self.pins.pin_link(link.as_fd(), &pin)?)
    }

    /// Puts the program into the pinned link, if that really hangs on this interface: an index may be used again, and an
    /// interface may have left for another namespace with its link.
    fn update_link(&self, program: BorrowedFd<'_>, pin: &LinkName, index: u32, at: AttachType) -> io::Result<bool> {
        let link = match sys::open_pin(&self.pins.link(pin)) {
            Ok(link) => link,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let info = sys::link_info(link.as_fd())?;
        if info.target != LinkTarget::Interface(index) || !interface_links(index, at)?.contains(&info.id) {
            return Ok(false);
        }
        match sys::update_link(link.as_fd(), program) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn replace_filter(
        &self,
        program: BorrowedFd<'_>,
        name: &str,
        index: u32,
        direction: Direction,
    ) -> io::Result<()> {
        let mut qdisc = TcMessage::with_index(index as i32);
        qdisc.header.parent = TcHandle::CLSACT;
        qdisc.header.handle = TcHandle { major: u16::MAX, minor: 0 };
        qdisc.attributes.push(TcAttribute::Kind("clsact".to_owned()));
        let created = self.request(RouteNetlinkMessage::NewQueueDiscipline(qdisc), NLM_F_CREATE | NLM_F_EXCL).await;
        created.or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })?;
        let mut filter = self.filter_message(name, index, direction);
        filter.attributes.push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
        filter.attributes.push(TcAttribute::Options(vec![
            TcOption::Bpf(TcFilterBpfOption::ProgFd(program.as_raw_fd() as u32)),
            TcOption::Bpf(TcFilterBpfOption::ProgName(name.to_owned())),
            TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
        ]));
        // Without NLM_F_EXCL the kernel exchanges the program of an existing filter with this handle.
        self.request(RouteNetlinkMessage::NewTrafficFilter(filter), NLM_F_CREATE).await
    }

    async fn detach_filter(&self, name: &'static str, index: u32, direction: Direction) -> Result<bool, AttachError> {
        let filter = self.filter_message(name, index, direction);
        match self.request(RouteNetlinkMessage::DelTrafficFilter(filter), 0).await {
            Ok(()) => Ok(true),
            // EINVAL: there is no clsact qdisc.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EINVAL)) => Ok(false),
            Err(error) => Err(AttachError::Detach { program: name, error }),
        }
    }

    fn filter_message(&self, name: &str, index: u32, direction: Direction) -> TcMessage {
        const ETH_P_ALL: u16 = 3;
        let mut message = TcMessage::with_index(index as i32);
        message.header.handle = filter_handle(self.pins.base(), name);
        message.header.parent = TcHandle {
            major: u16::MAX,
            minor: match direction {
                Direction::Ingress => TcHandle::MIN_INGRESS,
                Direction::Egress => TcHandle::MIN_EGRESS,
            },
        };
        message.header.info = filter_priority(direction) << 16 | u32::from(ETH_P_ALL.to_be());
        message
    }

    async fn request(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut answers = self.netlink.clone().request(request).map_err(io::Error::other)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
            {
                return Err(error.to_io());
            }
        }
        Ok(())
    }
}

/// As [`sys::interface_links`]; no program at all is reported as ENOENT.
fn interface_links(index: u32, at: AttachType) -> io::Result<Vec<u32>> {
    match sys::interface_links(index, at) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Vec::new()),
        other => other,
    }
}

fn failure(error: io::Error, wrap: impl FnOnce(io::Error) -> AttachError) -> AttachError {
    if error.raw_os_error() == Some(libc::ENODEV) { AttachError::Gone } else { wrap(error) }
}

/// Names a filter: the same for every start of one agent, another for each program and for an agent with another root.
/// FNV-1a of the pin directory and the program's name.
fn filter_handle(base: &Path, name: &str) -> TcHandle {
    let bytes = base.as_os_str().as_bytes().iter().chain(name.as_bytes());
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    // Zero would let the kernel choose.
    TcHandle::from(hash | 1)
}
