//! The only part that knows aya: load, pin, attach, map access.
//! [`Loaded::load`] adopts or creates the maps and loads the programs; [`Loaded::attach`] puts them in place of the old
//! ones. Between the two the caller may read the maps; the old programs are at work until the second.

mod attach;
mod capacity;
mod cgroup;
mod cleanup;
pub mod events;
mod features;
mod forward;
mod interfaces;
mod load;
pub mod maps;
mod mirror;
mod mmap;
pub mod netfilter;
mod netlink;
mod pin;
mod preflight;
mod ranges;
mod sys;
mod tc;
mod trace;
mod xdp;
mod xdp_features;

use std::io;
use std::path::PathBuf;

use aya::Ebpf;
use ipnet::IpNet;

pub use attach::{FollowError, Follower, InterfaceCounts};
pub use cgroup::{HookError, SocketLb};
pub use cleanup::{CleanupError, Removed, remove};
pub use features::Features;
pub use forward::{Forwarding, PeerError};
pub use interfaces::{
    DEFAULT_POD_INTERFACES, NodeAddresses, OwnAddresses, Pattern, PatternError, Role, Selection, Uplinks,
};
pub use load::{CLASSIFIERS, Capacities, HOOKS, LoadError, Programs, Variant, load};
pub use pin::{PinDir, PinError, PinLock};
pub use preflight::PreflightError;
pub use ranges::{ClusterRanges, RangeError};
pub use tc::AttachMode;
pub use xdp::{UplinksError, Xdp, XdpCounts, XdpError, XdpMode};

#[derive(Clone, Debug)]
pub struct Options {
    pub bpf_root: PathBuf,
    /// `None`: the first cgroup v2 hierarchy that is mounted.
    pub cgroup_root: Option<PathBuf>,
    pub socket_lb: SocketLb,
    pub forwarding: Forwarding,
    pub xdp: Xdp,
    pub selection: Selection,
    /// Networks whose clients keep their address, whatever side they come from. `None`: the caller will write them.
    pub cluster_ranges: Option<Vec<IpNet>>,
    pub capacities: Capacities,
    pub trace_packets: bool,
    /// `None`: links where the kernel has them.
    pub attach_mode: Option<AttachMode>,
}

/// Why the datapath cannot be set up.
#[derive(thiserror::Error, Debug)]
pub enum StartError {
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    #[error("cannot find out what the kernel offers: {0}")]
    Features(io::Error),
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Ranges(#[from] RangeError),
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error(transparent)]
    Follow(#[from] FollowError),
    #[error("cannot switch the programs to --socket-lb: {0}")]
    Configure(String),
}

/// Maps in place, programs accepted by the kernel, nothing of the old attachment changed yet.
pub struct Loaded {
    options: Options,
    pins: PinDir,
    lock: PinLock,
    features: Features,
    cgroup_root: Option<PathBuf>,
    programs: Programs,
    ebpf: Ebpf,
}

impl Loaded {
    /// Checks what must be there, takes the lock, adopts or creates the maps, loads the programs.
    pub fn load(options: Options) -> Result<Self, StartError> {
        preflight::check(&options.bpf_root)?;
        preflight::raise_memory_lock_limit();
        let cgroup_root = match options.socket_lb {
            SocketLb::Off => None,
            SocketLb::All | SocketLb::Host => Some(preflight::cgroup_root(options.cgroup_root.as_deref())?),
        };
        let pins = PinDir::new(&options.bpf_root);
        pins.create()?;
        let lock = pins.lock()?;
        let features = Features::probe().map_err(StartError::Features)?;
        if options.socket_lb == SocketLb::Host && features.netns_cookie.is_none() {
            return Err(PreflightError::NoNetnsCookie.into());
        }
        let variant = Variant {
            trace: options.trace_packets,
            coarse_clock: features.coarse_clock,
            tick_shift: load::tick_shift(),
            set_retval: features.set_retval,
            ipv6_csum_flag: features.ipv6_csum_flag,
            forward_direct: options.forwarding == Forwarding::Direct,
            host_netns_cookie: features.netns_cookie.unwrap_or(0),
            express: options.xdp != Xdp::Off,
        };
        let (ebpf, programs) = load(Some(&pins), &variant, capacity::choose(options.capacities, &pins)?)?;
        if let Some(networks) = &options.cluster_ranges {
            ClusterRanges::open(&pins)?.write(networks)?;
        }
        tracing::info!(?features, "programs loaded");
        if let Some(Err(error)) = programs.express() {
            tracing::error!(%error, "no XDP: packets of uplinks go through TC only");
        }
        say_what_is_bypassed(options.forwarding);
        Ok(Self { options, pins, lock, features, cgroup_root, programs, ebpf })
    }

    pub fn pins(&self) -> &PinDir {
        &self.pins
    }

    pub fn features(&self) -> Features {
        self.features
    }

    /// Replaces the programs on every interface and hook. `set_features` writes [`svc_common::Config::features`]: it is
    /// called when the hooks that the bits speak of are there, and before they go.
    pub async fn attach<E: std::fmt::Display>(
        mut self,
        mut set_features: impl FnMut(u32) -> Result<(), E>,
    ) -> Result<(Follower, PinLock), StartError> {
        let mode = match self.options.attach_mode {
            Some(mode) => mode,
            None if self.features.tcx => AttachMode::Tcx,
            None => AttachMode::Clsact,
        };
        let mut configure = || {
            set_features(self.options.socket_lb.features()).map_err(|error| StartError::Configure(error.to_string()))
        };
        match &self.cgroup_root {
            Some(root) => {
                cgroup::attach_hooks(&self.programs, &self.pins, root)?;
                configure()?;
            }
            None => {
                configure()?;
                let detached = cgroup::detach_hooks(&self.pins)?;
                if detached > 0 {
                    tracing::info!(detached, "socket hooks detached");
                }
            }
        }
        if self.options.trace_packets {
            trace::forward(&mut self.ebpf);
        }
        let follower =
            Follower::start(mode, self.pins, self.programs, self.options.selection, self.options.xdp).await?;
        Ok((follower, self.lock))
    }
}

/// Packets that leave past the stack do not pass the node's FORWARD rules. Which way is right is the operator's decision.
fn say_what_is_bypassed(forwarding: Forwarding) {
    let chains = match netfilter::forward_chains() {
        Ok(chains) => chains,
        Err(error) => {
            tracing::info!(%error, "cannot list netfilter chains: whether direct forwarding would bypass any is unknown");
            return;
        }
    };
    let listed: Vec<String> = chains.iter().map(ToString::to_string).collect();
    match (forwarding, listed.is_empty()) {
        (Forwarding::Direct, true) => tracing::info!("direct forwarding; no netfilter chain on FORWARD is bypassed"),
        (Forwarding::Direct, false) => tracing::warn!(
            chains = ?listed,
            "direct forwarding: packets of Services do not pass these netfilter chains; if they enforce policy, use \
             --forwarding=stack"
        ),
        (Forwarding::Stack, true) => {
            tracing::info!("no netfilter chain on FORWARD: --forwarding=direct would bypass nothing there");
        }
        (Forwarding::Stack, false) => {
            tracing::info!(chains = ?listed, "packets of Services pass the netfilter chains on FORWARD");
        }
    }
}
