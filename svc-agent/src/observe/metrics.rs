//! Counters and latencies of the run loop, registered under their two prefixes: `svc_agent_` (ours) and `kubeproxy_`
//! (names, labels, buckets and meaning of kube-proxy 1.36, for existing dashboards). Written through `Shared` only.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets, linear_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::shared::{Endpoint, Scope};
use crate::model::IpFamily;

type Seconds = Gauge<f64, AtomicU64>;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct FamilyLabel {
    ip_family: FamilyValue,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelValue)]
enum FamilyValue {
    IPv4,
    IPv6,
}

impl From<IpFamily> for FamilyLabel {
    fn from(family: IpFamily) -> Self {
        let ip_family = match family {
            IpFamily::V4 => FamilyValue::IPv4,
            IpFamily::V6 => FamilyValue::IPv6,
        };
        Self { ip_family }
    }
}

/// Both families are programmed in one step: what is true of the step stands under both, as dashboards select one.
const FAMILIES: [FamilyLabel; 2] =
    [FamilyLabel { ip_family: FamilyValue::IPv4 }, FamilyLabel { ip_family: FamilyValue::IPv6 }];

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Code {
    code: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct MapName {
    map: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct XdpLabel {
    mode: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Server {
    server: &'static str,
}

pub(super) struct Metrics {
    kubeproxy: KubeProxy,
    programming: Histogram,
    source_synced: Gauge,
    source_last_event: Seconds,
    interfaces: Family<State, Gauge>,
    xdp: Family<XdpLabel, Gauge>,
    publish_errors: Family<MapName, Counter>,
    bind_errors: Family<Server, Counter>,
    swept: Family<MapName, Counter>,
}

struct KubeProxy {
    sync_duration: Family<FamilyLabel, Histogram>,
    sync_full: Family<FamilyLabel, Histogram>,
    sync_partial: Family<FamilyLabel, Histogram>,
    sync_last: Family<FamilyLabel, Seconds>,
    sync_last_queued: Family<FamilyLabel, Seconds>,
    network_programming: Family<FamilyLabel, Histogram>,
    service_changes: Changes,
    endpoint_changes: Changes,
    healthz: Family<Code, Counter>,
    livez: Family<Code, Counter>,
}

#[derive(Default)]
struct Changes {
    pending: Gauge,
    total: Counter,
}

impl Changes {
    fn count(&self) {
        self.pending.inc();
        self.total.inc();
    }
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let kubeproxy = KubeProxy::register(registry.sub_registry_with_prefix("kubeproxy"));
        let ours = registry.sub_registry_with_prefix("svc_agent");
        let build = Info::new([
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("abi_version", svc_common::ABI_VERSION.to_string()),
        ]);
        ours.register("build", "Version of the agent and of the maps it keeps", build);

        let programming = Histogram::new(exponential_buckets(0.000_05, 2.0, 18));
        ours.register(
            "programming_duration_seconds",
            "From the arrival of a change to its being visible to the next packet",
            programming.clone(),
        );
        let interfaces = Family::default();
        ours.register("interfaces", "Interfaces that carry our programs, or should but do not", interfaces.clone());
        let xdp = Family::default();
        ours.register("xdp_interfaces", "Uplinks with the XDP program, by mode, or that should have it", xdp.clone());
        let publish_errors = Family::default();
        ours.register("publish_errors", "Writes to maps that failed; each is tried again", publish_errors.clone());
        let bind_errors = Family::default();
        ours.register("http_bind_errors", "Failed attempts to listen for HTTP requests", bind_errors.clone());

        let swept = Family::default();
        ours.register("swept", "Entries removed because nothing needs them any more", swept.clone());

        let source = ours.sub_registry_with_prefix("source");
        let source_synced = Gauge::default();
        source.register("synced", "1 once Services and EndpointSlices were complete", source_synced.clone());
        let source_last_event = Seconds::default();
        source.register(
            "last_event_timestamp_seconds",
            "When the last object or event arrived; 0 if none did",
            source_last_event.clone(),
        );
        Self {
            kubeproxy,
            programming,
            source_synced,
            source_last_event,
            interfaces,
            xdp,
            publish_errors,
            bind_errors,
            swept,
        }
    }

    pub fn update_queued(&self, now: SystemTime) {
        set_time(&self.kubeproxy.sync_last_queued, now);
    }

    pub fn update_tried(&self, scope: Scope, duration: Duration) {
        let of_scope = match scope {
            Scope::Full => &self.kubeproxy.sync_full,
            Scope::Partial => &self.kubeproxy.sync_partial,
        };
        for family in &FAMILIES {
            self.kubeproxy.sync_duration.get_or_create(family).observe(duration.as_secs_f64());
            of_scope.get_or_create(family).observe(duration.as_secs_f64());
        }
    }

    pub fn update_done(&self, now: SystemTime) {
        set_time(&self.kubeproxy.sync_last, now);
        self.kubeproxy.service_changes.pending.set(0);
        self.kubeproxy.endpoint_changes.pending.set(0);
    }

    pub fn service_changed(&self) {
        self.kubeproxy.service_changes.count();
    }

    pub fn endpoints_changed(&self) {
        self.kubeproxy.endpoint_changes.count();
    }

    pub fn change_visible(&self, latency: Duration) {
        self.programming.observe(latency.as_secs_f64());
    }

    pub fn trigger_visible(&self, family: IpFamily, latency: Duration) {
        let family = FamilyLabel::from(family);
        self.kubeproxy.network_programming.get_or_create(&family).observe(latency.as_secs_f64());
    }

    pub fn source_synced(&self) {
        self.source_synced.set(1);
    }

    pub fn source_event(&self, now: SystemTime) {
        self.source_last_event.set(unix_seconds(now));
    }

    pub fn set_interfaces(&self, attached: usize, failed: usize) {
        for (state, count) in [("attached", attached), ("failed", failed)] {
            self.interfaces.get_or_create(&State { state }).set(count as i64);
        }
    }

    pub fn set_xdp(&self, native: usize, generic: usize, without: usize) {
        for (mode, count) in [("native", native), ("generic", generic), ("none", without)] {
            self.xdp.get_or_create(&XdpLabel { mode }).set(count as i64);
        }
    }

    pub fn publish_failed(&self, map: &'static str) {
        self.publish_errors.get_or_create(&MapName { map }).inc();
    }

    pub fn swept(&self, map: &'static str, entries: u64) {
        self.swept.get_or_create(&MapName { map }).inc_by(entries);
    }

    pub fn bind_failed(&self, endpoint: Endpoint) {
        self.bind_errors.get_or_create(&Server { server: endpoint.label() }).inc();
    }

    pub fn healthz_answered(&self, code: u16) {
        self.kubeproxy.healthz.get_or_create(&Code { code }).inc();
    }

    pub fn livez_answered(&self, code: u16) {
        self.kubeproxy.livez.get_or_create(&Code { code }).inc();
    }
}

impl KubeProxy {
    fn register(registry: &mut Registry) -> Self {
        fn sync_buckets() -> Histogram {
            Histogram::new(exponential_buckets(0.001, 2.0, 15))
        }
        fn programming_buckets() -> Histogram {
            // kube-proxy has the 0 as well, from how it joins these.
            let buckets = linear_buckets(0.0, 0.25, 3)
                .chain(linear_buckets(1.0, 1.0, 59))
                .chain(linear_buckets(60.0, 5.0, 12))
                .chain(linear_buckets(120.0, 30.0, 7));
            Histogram::new(buckets)
        }
        let this = Self {
            sync_duration: Family::new_with_constructor(sync_buckets),
            sync_full: Family::new_with_constructor(sync_buckets),
            sync_partial: Family::new_with_constructor(sync_buckets),
            sync_last: Family::default(),
            sync_last_queued: Family::default(),
            network_programming: Family::new_with_constructor(programming_buckets),
            service_changes: Changes::default(),
            endpoint_changes: Changes::default(),
            healthz: Family::default(),
            livez: Family::default(),
        };
        registry.register(
            "network_programming_duration_seconds",
            "In Cluster Network Programming Latency in seconds",
            this.network_programming.clone(),
        );
        for (durations, scope) in [(&this.sync_full, "full"), (&this.sync_partial, "partial")] {
            registry.register(
                format!("sync_{scope}_proxy_rules_duration_seconds"),
                format!("SyncProxyRules latency in seconds for {scope} resyncs"),
                durations.clone(),
            );
        }
        registry.register("proxy_healthz", "Cumulative proxy healthz HTTP status", this.healthz.clone());
        registry.register("proxy_livez", "Cumulative proxy livez HTTP status", this.livez.clone());

        let sync = registry.sub_registry_with_prefix("sync_proxy_rules");
        sync.register("duration_seconds", "SyncProxyRules latency in seconds", this.sync_duration.clone());
        sync.register(
            "last_timestamp_seconds",
            "The last time proxy rules were successfully synced",
            this.sync_last.clone(),
        );
        sync.register(
            "last_queued_timestamp_seconds",
            "The last time a sync of proxy rules was queued",
            this.sync_last_queued.clone(),
        );
        for (changes, object) in [(&this.service_changes, "Service"), (&this.endpoint_changes, "Endpoint")] {
            let prefix = object.to_lowercase();
            sync.register(
                format!("{prefix}_changes_pending"),
                format!("Pending proxy rules {object} changes"),
                changes.pending.clone(),
            );
            sync.register(
                format!("{prefix}_changes"),
                format!("Cumulative proxy rules {object} changes"),
                changes.total.clone(),
            );
        }
        this
    }
}

fn set_time(gauge: &Family<FamilyLabel, Seconds>, time: SystemTime) {
    for family in &FAMILIES {
        gauge.get_or_create(family).set(unix_seconds(time));
    }
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
