//! Metrics of the source, read when somebody scrapes: what it saw of each kind of objects, and how the API server answered it.
//! Neighbours: `shared` attaches what is read here, `collect` does the same for maps.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};

use super::collect::{counters_of, gauges_of};
use super::shared::SourceProbe;
use crate::source::{ApiRequests, Kind, SourceStats};

/// What a source saw of one kind of objects.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SourceState {
    /// "Service", "EndpointSlice" or "Node".
    pub kind: &'static str,
    pub applied: u64,
    pub deleted: u64,
    /// Complete lists: one, and one more after each interruption that could not be resumed.
    pub lists: u64,
    pub errors: u64,
    pub connected: bool,
    /// Objects or parts of them that were left out, by reason.
    pub unusable: BTreeMap<&'static str, u64>,
}

impl SourceState {
    /// One for each kind.
    pub fn all(stats: &SourceStats) -> Vec<Self> {
        let state = |kind: Kind| {
            let of_kind = stats.kind(kind);
            Self {
                kind: match kind {
                    Kind::Service => "Service",
                    Kind::EndpointSlice => "EndpointSlice",
                    Kind::Node => "Node",
                },
                applied: of_kind.applied(),
                deleted: of_kind.deleted(),
                lists: of_kind.lists(),
                errors: of_kind.errors(),
                connected: of_kind.connected(),
                unusable: of_kind.unusable(),
            }
        };
        Kind::ALL.into_iter().map(state).collect()
    }
}

pub(super) struct SourceCollector(pub Arc<OnceLock<SourceProbe>>);

impl fmt::Debug for SourceCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceCollector").finish_non_exhaustive()
    }
}

impl Collector for SourceCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let Some(probe) = self.0.get() else { return Ok(()) };
        let states = probe();
        let encoder = &mut encoder;
        let each = |pick: fn(&SourceState) -> u64| -> Vec<_> {
            states.iter().map(|state| ([("kind", state.kind)], pick(state))).collect()
        };
        let name = "svc_agent_source_connected";
        gauges_of(encoder, name, "1 if the source answered the last time it was asked", each(|s| s.connected.into()))?;
        counters_of(encoder, "svc_agent_source_applied", "Objects taken over, new or changed", each(|s| s.applied))?;
        counters_of(encoder, "svc_agent_source_deleted", "Objects that went away", each(|s| s.deleted))?;
        counters_of(encoder, "svc_agent_source_lists", "Complete lists", each(|s| s.lists))?;
        counters_of(encoder, "svc_agent_source_errors", "Failed requests, broken watches", each(|s| s.errors))?;
        let unusable = states.iter().flat_map(|state| {
            state.unusable.iter().map(|(reason, count)| ([("kind", state.kind), ("reason", *reason)], *count))
        });
        counters_of(encoder, "svc_agent_source_unusable", "Objects or parts of objects left out", unusable)
    }
}

/// client-go's names, labels and buckets: what dashboards show of any component that talks to the API server.
pub(super) struct RequestCollector(pub Arc<OnceLock<ApiRequests>>);

impl fmt::Debug for RequestCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestCollector").finish_non_exhaustive()
    }
}

impl Collector for RequestCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let Some(requests) = self.0.get() else { return Ok(()) };
        let (counts, durations) = (&requests.counts, &requests.durations);
        let help = "Number of HTTP requests, partitioned by status code, method, and host";
        counts.encode(encoder.encode_descriptor("rest_client_requests", help, None, counts.metric_type())?)?;
        let (name, help) = ("rest_client_request_duration_seconds", "Request latency in seconds, by verb and host");
        durations.encode(encoder.encode_descriptor(name, help, None, durations.metric_type())?)
    }
}
