//! The one task that owns cluster state and maps: source events → index → plan → publish. What is queued is taken
//! together and at once; nothing waits for more to come, nothing is written before the first lists are complete.
//! Neighbour: `run` sets it up.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use svc_common::{AddrV4, AddrV6, map};
use tokio::sync::mpsc::Receiver;
use tokio::sync::watch;
use tokio::time::sleep_until;

use crate::datapath::maps::KernelMaps;
use crate::datapath::{ClusterRanges, InterfaceCounts, NodeAddresses, OwnAddresses};
use crate::index::{Changes, Index};
use crate::model::ObjectName;
use crate::observe::{Scope, Shared};
use crate::plan::{ServiceId, ServicePlan, plan_affected};
use crate::publish::{ConfigField, MapsError, PublishError, Publisher};
use crate::source::SourceEvent;

/// Events taken from the queue at once.
const BATCH: usize = 1024;
/// Services planned and published between two looks at other tasks.
const CHUNK: usize = 512;

pub struct Owner {
    pub index: Index,
    pub publisher: Publisher<KernelMaps>,
    pub shared: Arc<Shared>,
    pub events: Receiver<SourceEvent>,
    /// What the node's interfaces say; the Node object's own addresses come first.
    pub own_addresses: watch::Receiver<OwnAddresses>,
    pub interfaces: watch::Receiver<InterfaceCounts>,
    /// Cgroup hooks attached.
    pub hooks: usize,
    /// Everything that existed at the start is in the maps.
    pub ready: bool,
    /// The node's addresses and the interface of the first, as in CONFIG.
    pub written: Option<(NodeAddresses, Option<u32>)>,
    /// For the networks of the Node object (--detect-local-mode=NodeCIDR).
    pub cluster_ranges: Option<ClusterRanges>,
    /// Those in the maps.
    pub pod_cidrs: Option<Vec<IpNet>>,
    /// Ports of SCTP Services that were reported as refusing all connections.
    pub untranslatable: BTreeSet<ServiceId>,
}

impl Owner {
    /// Runs until the source ends. Dropping the future between two events leaves the maps in order.
    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        self.report_interfaces();
        loop {
            let deadline = self.publisher.deadline();
            tokio::select! {
                count = self.events.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    self.take(&mut batch).await;
                }
                () = at(deadline) => self.tick(),
                Ok(()) = self.own_addresses.changed() => self.write_node_addresses(),
                Ok(()) = self.interfaces.changed() => self.report_interfaces(),
            }
        }
    }

    async fn take(&mut self, batch: &mut Vec<SourceEvent>) {
        let received = Instant::now();
        self.shared.update_queued();
        for event in batch.drain(..) {
            self.note(&event);
            self.index.apply(event);
        }
        if !self.index.is_synced() {
            return;
        }
        let changes = self.index.take_changes();
        self.publish(&changes, received).await;
        let scope = if self.ready { Scope::Partial } else { Scope::Full };
        if !std::mem::replace(&mut self.ready, true) {
            self.finish_first_sync();
            tracing::info!("ready");
        }
        self.shared.update_tried(scope, received.elapsed());
        self.finish_update();
    }

    /// What could not be written is still queued: an update that stays so makes the agent unhealthy.
    fn finish_update(&self) {
        if self.publisher.pending() == 0 {
            self.shared.update_done();
        }
    }

    fn note(&self, event: &SourceEvent) {
        self.shared.source_event();
        match event {
            SourceEvent::ServiceApplied(_) | SourceEvent::ServiceDeleted(_) => self.shared.service_changed(),
            SourceEvent::SliceApplied(_) | SourceEvent::SliceDeleted(_) => self.shared.endpoints_changed(),
            SourceEvent::NodeApplied(node) => self.shared.node_changed(node),
            SourceEvent::NodeDeleted => self.shared.node_deleted(),
            SourceEvent::ListStarted(_) | SourceEvent::ListCompleted(_) | SourceEvent::Kept(..) => {}
        }
    }

    async fn publish(&mut self, changes: &Changes, received: Instant) {
        // Before the services: their first packet may already need it.
        if changes.node || !self.ready {
            self.write_node_addresses();
            self.write_pod_cidrs();
        }
        for chunk in changes.services.chunks(CHUNK) {
            self.publish_chunk(chunk);
            self.shared.change_visible(received);
            if changes.services.len() > CHUNK {
                tokio::task::yield_now().await;
            }
        }
        for (family, trigger) in &changes.triggers {
            self.shared.trigger_visible(*family, *trigger);
        }
    }

    fn publish_chunk(&mut self, services: &[ObjectName]) {
        let plans: Vec<_> = services.iter().map(|name| (name, plan_affected(&self.index, name))).collect();
        for (name, plans) in &plans {
            self.report_untranslatable(name, plans);
        }
        let plans = plans.iter().map(|(name, plans)| (*name, plans.as_slice()));
        let published = self.publisher.publish_services(Instant::now(), plans);
        for failure in &published.failures {
            tracing::error!("{failure}");
            self.count_failure(failure);
        }
    }

    /// Once for each time that it begins: these refuse connections although kube-proxy would serve them.
    fn report_untranslatable(&mut self, name: &ObjectName, plans: &[ServicePlan]) {
        let refusing = || plans.iter().filter(|plan| plan.is_untranslatable());
        self.untranslatable.retain(|id| id.service != *name || refusing().any(|plan| plan.id == *id));
        for plan in refusing() {
            if self.untranslatable.insert(plan.id.clone()) {
                tracing::warn!(
                    service = %plan.id,
                    frontend = %plan.frontend,
                    "SCTP ports cannot be translated: connections are refused until the target port is the Service's own"
                );
            }
        }
    }

    fn tick(&mut self) {
        let waiting = self.publisher.pending() > 0;
        // What fails again was reported when it failed first.
        for failure in &self.publisher.tick(Instant::now()).failures {
            tracing::debug!("{failure}");
            self.count_failure(failure);
        }
        if waiting {
            self.finish_update();
        }
    }

    fn count_failure(&self, failure: &PublishError) {
        match failure {
            PublishError::Full { map, .. } => self.shared.publish_failed(map),
            PublishError::Reduced { .. } => self.shared.publish_failed(map::SLOTS),
            PublishError::Refused { source, .. } => self.shared.publish_failed(source.map()),
            PublishError::FrontendTaken { .. } => {}
        }
    }

    fn finish_first_sync(&mut self) {
        let removed = self.publisher.prune(Instant::now());
        self.shared.source_synced();
        let stats = self.publisher.stats();
        tracing::info!(
            services = stats.services,
            backends = stats.backends,
            pending = stats.pending,
            removed,
            "everything in the cluster is in the maps"
        );
    }

    fn write_node_addresses(&mut self) {
        if !self.index.is_synced() {
            return;
        }
        let own = NodeAddresses::of(&self.index.node().addresses);
        let known = self.own_addresses.borrow_and_update().clone();
        let wanted = NodeAddresses { v4: own.v4.or(known.uplink.v4), v6: own.v6.or(known.uplink.v6) };
        let interface = wanted.v4.and_then(|v4| known.interface_of(v4));
        if self.written == Some((wanted, interface)) {
            return;
        }
        match self.try_write(wanted, interface) {
            Ok(()) => {
                tracing::info!(v4 = ?wanted.v4, v6 = ?wanted.v6, "node addresses");
                self.written = Some((wanted, interface));
            }
            Err(error) => {
                self.shared.publish_failed(map::CONFIG);
                tracing::error!(%error, "cannot write the node's addresses");
            }
        }
    }

    fn try_write(&mut self, wanted: NodeAddresses, interface: Option<u32>) -> Result<(), MapsError> {
        // No address is ever seen beside the interface of another one.
        self.publisher.write_config(ConfigField::NodeV4Interface(0))?;
        match wanted.v4 {
            Some(address) => self.publisher.write_node_address(address.into())?,
            None => self.publisher.write_config(ConfigField::NodeV4(AddrV4::default()))?,
        }
        self.publisher.write_config(ConfigField::NodeV4Interface(interface.unwrap_or(0)))?;
        match wanted.v6 {
            Some(address) => self.publisher.write_node_address(address.into()),
            None => self.publisher.write_config(ConfigField::NodeV6(AddrV6::default())),
        }
    }

    fn write_pod_cidrs(&mut self) {
        let wanted = &self.index.node().pod_cidrs;
        let Some(ranges) = self.cluster_ranges.as_mut().filter(|_| self.pod_cidrs.as_ref() != Some(wanted)) else {
            return;
        };
        match ranges.write(wanted) {
            Ok(()) => {
                tracing::info!(networks = ?wanted, "networks of this node's pods");
                self.pod_cidrs = Some(wanted.clone());
            }
            Err(error) => {
                self.shared.publish_failed(map::CLUSTER_RANGES);
                tracing::error!(%error, "cannot write the networks of this node's pods");
            }
        }
    }

    fn report_interfaces(&mut self) {
        let counts = *self.interfaces.borrow_and_update();
        self.shared.set_interfaces(counts.pods + counts.uplinks + self.hooks, counts.pending);
        self.shared.set_xdp(counts.xdp.native, counts.xdp.generic, counts.xdp.without);
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        // Never in a loop without pause, whatever the publisher says.
        Some(deadline) => sleep_until(deadline.max(Instant::now() + Duration::from_millis(1)).into()).await,
        None => std::future::pending().await,
    }
}
