//! Keeps the programs on the interfaces that should have them: everything at the start, then whatever netlink reports.
//! One interface that fails is logged, counted and tried again; it never stops the others.
//! Neighbours: `interfaces` decides, `netlink` reports, `tc` attaches one program.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rtnetlink::Handle;
use svc_common::program;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::forward::{PeerError, Peers};
use super::interfaces::{Interface, OwnAddresses, Role, Selection, View};
use super::load::Programs;
use super::netlink::{self, Change, Changes, NetlinkError};
use super::pin::{PinDir, PinError};
use super::tc::{AttachError, AttachMode, Attacher};
use super::xdp::{Express, UplinksError, Xdp, XdpCounts};

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(10);

#[derive(thiserror::Error, Debug)]
pub enum FollowError {
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error(transparent)]
    Uplinks(#[from] UplinksError),
}

/// Numbers for metrics and health.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct InterfaceCounts {
    /// Interfaces that carry the programs of their role.
    pub pods: usize,
    pub uplinks: usize,
    /// Interfaces that should carry programs and do not.
    pub pending: usize,
    /// Failed attempts since the start.
    pub failures: u64,
    pub xdp: XdpCounts,
}

/// Follows the interfaces of this process's network namespace.
pub struct Follower {
    changes: Changes,
    netlink: Handle,
    attacher: Attacher,
    peers: Peers,
    express: Express,
    pins: PinDir,
    programs: Programs,
    selection: Selection,
    view: View,
    attached: BTreeMap<u32, Role>,
    counts: watch::Sender<InterfaceCounts>,
    addresses: watch::Sender<OwnAddresses>,
    retry: Option<Instant>,
    retry_delay: Duration,
}

impl Follower {
    /// Attaches to everything that is there, and removes what an earlier agent left elsewhere.
    pub async fn start(
        mode: AttachMode,
        pins: PinDir,
        programs: Programs,
        selection: Selection,
        xdp: Xdp,
    ) -> Result<Self, FollowError> {
        // Subscribed before listing: nothing falls between.
        let changes = Changes::subscribe()?;
        let netlink = netlink::connect()?;
        let mut follower = Self {
            changes,
            attacher: Attacher::new(mode, pins.clone(), netlink.clone()),
            netlink,
            peers: Peers::open(&pins)?,
            express: Express::open(xdp, pins.clone())?,
            pins,
            programs,
            selection,
            view: View::default(),
            attached: BTreeMap::new(),
            counts: watch::Sender::new(InterfaceCounts::default()),
            addresses: watch::Sender::new(OwnAddresses::default()),
            retry: None,
            retry_delay: FIRST_RETRY,
        };
        follower.refresh_interfaces().await?;
        follower.refresh_routes().await?;
        follower.reconcile().await;
        follower.remove_strays(mode).await?;
        Ok(follower)
    }

    pub fn counts(&self) -> watch::Receiver<InterfaceCounts> {
        self.counts.subscribe()
    }

    pub fn addresses(&self) -> watch::Receiver<OwnAddresses> {
        self.addresses.subscribe()
    }

    /// Runs until netlink fails for good; dropping it leaves everything attached.
    pub async fn run(mut self) -> Result<(), FollowError> {
        loop {
            let retry = self.retry;
            let changes = tokio::select! {
                changes = self.changes.next() => changes,
                () = async { if let Some(at) = retry { sleep_until(at).await } else { std::future::pending().await } } => Vec::new(),
            };
            if !self.apply(changes).await {
                self.changes = Changes::subscribe()?;
                self.netlink = netlink::connect()?;
                self.apply(vec![Change::Overrun]).await;
            }
        }
    }

    /// Answers false when the netlink socket is closed.
    async fn apply(&mut self, changes: Vec<Change>) -> bool {
        let (mut all, mut routes, mut open) = (false, false, true);
        for change in changes {
            match change {
                Change::Interface(index, interface) => {
                    // The kernel drops IPv4 routes of an interface that goes down without a word.
                    routes |= self.view.is_uplink(index);
                    self.view.interfaces.insert(index, interface);
                }
                Change::Gone(index) => {
                    routes |= self.view.is_uplink(index);
                    self.view.interfaces.remove(&index);
                    // At once: a new interface may have this index in the same batch of changes.
                    self.express.forget(index);
                    if let Some(role) = self.attached.remove(&index) {
                        self.detach(index, role).await;
                    }
                }
                Change::Routes => routes = true,
                Change::Addresses(index) => {
                    let uplink = self.view.is_uplink(index) || self.has_role(index, Role::Uplink);
                    routes |= uplink || self.view.is_loopback(index);
                }
                Change::Overrun => all = true,
                Change::End => open = false,
            }
        }
        if all {
            tracing::warn!("interface events were lost: listing and checking all interfaces again");
            // What seems unchanged may be a new interface under an old index: every link is checked again.
            self.attached.clear();
            self.express.forget_all();
            if let Err(error) = self.refresh_interfaces().await {
                self.postpone(&error);
            }
        }
        // Interfaces first: a new pod waits for nothing.
        self.reconcile().await;
        if all || routes {
            match self.refresh_routes().await {
                Ok(()) => self.reconcile().await,
                Err(error) => self.postpone(&error),
            }
        }
        open
    }

    fn has_role(&self, index: u32, role: Role) -> bool {
        self.attached.get(&index) == Some(&role)
    }

    fn postpone(&mut self, error: &NetlinkError) {
        tracing::warn!(%error, "cannot ask the kernel for its interfaces; trying again");
        self.schedule_retry();
    }

    async fn refresh_interfaces(&mut self) -> Result<(), NetlinkError> {
        self.view.interfaces = netlink::list_interfaces(&self.netlink).await?.into_iter().collect();
        Ok(())
    }

    async fn refresh_routes(&mut self) -> Result<(), NetlinkError> {
        let routes = netlink::list_default_routes(&self.netlink).await?;
        let addresses = netlink::list_addresses(&self.netlink).await?;
        self.view.set_routes(routes, addresses);
        let addresses = self.view.own_addresses(&self.selection);
        self.addresses.send_if_modified(|known| {
            let changed = *known != addresses;
            *known = addresses;
            changed
        });
        Ok(())
    }

    /// Makes what is attached what should be.
    async fn reconcile(&mut self) {
        let wanted = self.view.roles(&self.selection);
        let mut failed = 0;
        if let Err(error) = self.peers.set(&self.view.peers(&self.selection)) {
            tracing::warn!(%error, "some pods are not reached directly; trying again");
            failed += 1;
        }
        for (&index, &role) in &wanted {
            if self.has_role(index, role) {
                continue;
            }
            let name = self.view.interfaces.get(&index).map_or("", |interface: &Interface| interface.name.as_str());
            match self.attach(index, role).await {
                Ok(()) => {
                    tracing::info!(interface = name, index, %role, "attached");
                    // The new programs are there before the old ones go.
                    if let Some(before) = self.attached.insert(index, role) {
                        self.detach(index, before).await;
                    }
                }
                Err(AttachError::Gone) => {}
                Err(error) => {
                    tracing::warn!(interface = name, index, %role, %error, "cannot attach; trying again");
                    failed += 1;
                }
            }
        }
        let unwanted: Vec<_> =
            self.attached.iter().filter(|(index, _)| !wanted.contains_key(index)).map(|(i, r)| (*i, *r)).collect();
        for (index, role) in unwanted {
            self.attached.remove(&index);
            self.detach(index, role).await;
        }
        let uplinks = wanted.iter().filter(|(_, role)| **role == Role::Uplink);
        let uplinks = uplinks.filter_map(|(index, _)| Some((*index, self.view.interfaces.get(index)?))).collect();
        if let Err(error) = self.express.reconcile(&self.programs, &uplinks) {
            tracing::warn!(%error, "XDP does not know all uplinks; trying again");
            failed += 1;
        }
        self.count(wanted.len(), failed);
        if failed > 0 {
            self.schedule_retry();
        } else {
            self.retry = None;
            self.retry_delay = FIRST_RETRY;
        }
    }

    fn schedule_retry(&mut self) {
        self.retry = Some(Instant::now() + self.retry_delay);
        self.retry_delay = (self.retry_delay * 2).min(LAST_RETRY);
    }

    fn count(&self, wanted: usize, failed: u64) {
        let with = |role| self.attached.values().filter(|attached| **attached == role).count();
        let (pods, uplinks) = (with(Role::Pod), with(Role::Uplink));
        self.counts.send_if_modified(|counts| {
            let before = *counts;
            let pending = wanted.saturating_sub(self.attached.len());
            let xdp = self.express.counts();
            *counts = InterfaceCounts { pods, uplinks, pending, failures: before.failures + failed, xdp };
            *counts != before
        });
    }

    async fn attach(&self, index: u32, role: Role) -> Result<(), AttachError> {
        for &(name, direction) in role.programs() {
            let program = self.programs.get(name)?;
            self.attacher.attach(program, name, index, direction).await?;
        }
        Ok(())
    }

    async fn detach(&self, index: u32, role: Role) {
        let name = self.view.interfaces.get(&index).map_or("", |interface| interface.name.as_str());
        tracing::info!(interface = name, index, %role, "detached");
        for &(program, direction) in role.programs() {
            if let Err(error) = self.attacher.detach(program, index, direction).await {
                tracing::warn!(interface = name, index, program, %error, "cannot detach");
            }
        }
    }

    /// Removes programs of ours from interfaces that should not have them, and pins of interfaces that are gone.
    async fn remove_strays(&self, mode: AttachMode) -> Result<(), FollowError> {
        self.pins.remove_unfinished()?;
        let wanted: BTreeSet<(u32, &str)> = self
            .view
            .roles(&self.selection)
            .into_iter()
            .flat_map(|(index, role)| role.programs().iter().map(move |(program, _)| (index, *program)))
            .collect();
        match mode {
            AttachMode::Tcx => {
                for link in self.pins.list_links()? {
                    if let Some(index) = link.interface
                        && link.program != program::UPLINK_XDP
                        && !wanted.contains(&(index, link.program.as_str()))
                    {
                        tracing::info!(index, program = link.program, "removing a link an earlier agent left");
                        self.pins.unpin_link(&link)?;
                    }
                }
            }
            AttachMode::Clsact => {
                for &index in self.view.interfaces.keys() {
                    for &(program, direction) in Role::ALL.into_iter().flat_map(Role::programs) {
                        if !wanted.contains(&(index, program))
                            && let Err(error) = self.attacher.detach(program, index, direction).await
                        {
                            tracing::warn!(index, program, %error, "cannot remove a filter an earlier agent left");
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
