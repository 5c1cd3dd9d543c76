//! What the run loop tells the outside world: one handle, cheap to call, that feeds health and metrics.
//! It counts what happened; sizes are never counted here but read at scrape time (`collect`).

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::collect::MapCollector;
use super::health::{Health, Moment};
use super::metrics::Metrics;
use super::occupancy::{Counts, FillWatch};
use super::process::ProcessCollector;
use super::reader::MapReader;
use super::source::{RequestCollector, SourceCollector, SourceState};
use crate::model::{IpFamily, Node};
use crate::source::ApiRequests;

/// Between looks at how full the maps are.
const FILL_EVERY: Duration = Duration::from_secs(60);

/// Choices of the operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// An update that waits longer makes the agent unhealthy. kube-proxy: twice its sync period of 30 s.
    pub health_timeout: Duration,
    /// Export traffic of every single service, one set of series each.
    pub service_metrics: bool,
    /// Between attempts to listen on an address that is taken.
    pub listen_again_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            health_timeout: Duration::from_secs(60),
            service_metrics: false,
            listen_again_after: Duration::from_secs(5),
        }
    }
}

/// The two HTTP servers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Endpoint {
    Metrics,
    Health,
}

impl Endpoint {
    pub fn label(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Health => "healthz",
        }
    }
}

/// How much one update had to look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// All there is: the first update after the start.
    Full,
    /// What changed.
    Partial,
}

pub(super) type SourceProbe = Box<dyn Fn() -> Vec<SourceState> + Send + Sync>;

pub struct Shared {
    pub(super) settings: Settings,
    pub(super) health: Health,
    pub(super) metrics: Metrics,
    pub(super) registry: Registry,
    maps: Arc<OnceLock<Box<dyn MapReader>>>,
    counts: Arc<Counts>,
    source: Arc<OnceLock<SourceProbe>>,
    requests: Arc<OnceLock<ApiRequests>>,
    metrics_address: watch::Sender<Option<SocketAddr>>,
    health_address: watch::Sender<Option<SocketAddr>>,
}

impl Shared {
    pub fn new(settings: Settings) -> Arc<Self> {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let maps = Arc::new(OnceLock::new());
        let counts = Arc::new(Counts::default());
        let source = Arc::new(OnceLock::new());
        let requests = Arc::new(OnceLock::new());
        registry.register_collector(Box::new(MapCollector::new(
            maps.clone(),
            counts.clone(),
            settings.service_metrics,
        )));
        registry.register_collector(Box::new(SourceCollector(source.clone())));
        registry.register_collector(Box::new(RequestCollector(requests.clone())));
        registry.register_collector(Box::new(ProcessCollector));
        Arc::new(Self {
            settings,
            health: Health::new(settings.health_timeout),
            metrics,
            registry,
            maps,
            counts,
            source,
            requests,
            metrics_address: watch::Sender::new(None),
            health_address: watch::Sender::new(None),
        })
    }

    /// The maps to read at each scrape. Only the first call counts.
    pub fn attach_maps(&self, reader: Box<dyn MapReader>) {
        let _ = self.maps.set(reader);
    }

    /// Says in the log which maps are filling up. Runs for ever.
    pub async fn watch_fill(self: Arc<Self>) {
        let mut watch = FillWatch::default();
        loop {
            tokio::time::sleep(FILL_EVERY).await;
            if let Some(reader) = self.maps.get() {
                watch.look(reader.as_ref(), &self.counts);
            }
        }
    }

    /// Asked at each scrape for the state of the sources, usually [`SourceState::all`]. Only the first call counts.
    pub fn attach_source(&self, probe: impl Fn() -> Vec<SourceState> + Send + Sync + 'static) {
        let _ = self.source.set(Box::new(probe));
    }

    /// The source's requests to the API server. Only the first call counts.
    pub fn attach_requests(&self, requests: ApiRequests) {
        let _ = self.requests.set(requests);
    }

    /// Something arrived that the maps do not show yet.
    pub fn update_queued(&self) {
        let now = Moment::now();
        self.health.queued(now);
        self.metrics.update_queued(now.wall);
    }

    /// Working on what was queued took `duration`, whether or not all of it succeeded.
    pub fn update_tried(&self, scope: Scope, duration: Duration) {
        self.metrics.update_tried(scope, duration);
    }

    /// Everything queued so far is visible to the kernel.
    pub fn update_done(&self) {
        let now = Moment::now();
        self.health.updated(now);
        self.metrics.update_done(now.wall);
    }

    /// A Service object appeared, changed or went away.
    pub fn service_changed(&self) {
        self.metrics.service_changed();
    }

    /// An EndpointSlice object appeared, changed or went away.
    pub fn endpoints_changed(&self) {
        self.metrics.endpoints_changed();
    }

    /// A change that arrived at `received` is visible to the next packet.
    pub fn change_visible(&self, received: Instant) {
        self.metrics.change_visible(received.elapsed());
    }

    /// As [`Self::change_visible`], measured from the moment the cluster noticed it (annotation
    /// endpoints.kubernetes.io/last-change-trigger-time) on a slice of this family.
    pub fn trigger_visible(&self, family: IpFamily, trigger: SystemTime) {
        // A trigger in the future is a clock that differs, not a latency.
        if let Ok(latency) = trigger.elapsed() {
            self.metrics.trigger_visible(family, latency);
        }
    }

    pub fn node_changed(&self, node: &Node) {
        self.health.set_node_eligible(!node.leaving);
    }

    pub fn node_deleted(&self) {
        self.health.set_node_eligible(false);
    }

    /// Services and slices are complete for the first time.
    pub fn source_synced(&self) {
        self.metrics.source_synced();
    }

    /// An object or event came from the source.
    pub fn source_event(&self) {
        self.metrics.source_event(SystemTime::now());
    }

    /// How many interfaces and cgroup hooks have their programs, and how many should but do not.
    pub fn set_interfaces(&self, attached: usize, failed: usize) {
        self.metrics.set_interfaces(attached, failed);
    }

    /// How many uplinks have the XDP program in either mode, and how many should but do not.
    pub fn set_xdp(&self, native: usize, generic: usize, without: usize) {
        self.metrics.set_xdp(native, generic, without);
    }

    /// A write to this map failed; see [`svc_common::map`].
    pub fn publish_failed(&self, map: &'static str) {
        self.metrics.publish_failed(map);
    }

    /// So many entries of this map were not needed any more.
    pub fn swept(&self, map: &'static str, entries: u64) {
        self.metrics.swept(map, entries);
    }

    /// Where a server listens; `None` until it does.
    pub fn address(&self, endpoint: Endpoint) -> watch::Receiver<Option<SocketAddr>> {
        self.bound(endpoint).subscribe()
    }

    pub(super) fn bound(&self, endpoint: Endpoint) -> &watch::Sender<Option<SocketAddr>> {
        match endpoint {
            Endpoint::Metrics => &self.metrics_address,
            Endpoint::Health => &self.health_address,
        }
    }
}
