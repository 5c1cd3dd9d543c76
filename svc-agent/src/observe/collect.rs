//! Metrics that are read when somebody scrapes: what the maps hold. Nothing is counted along, so nothing drifts.
//! A map that cannot be read leaves its series out; the rest of the answer stands.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use svc_common::{DropReason, ServiceCounters, Verdict};

use super::label::Labels;
use super::occupancy::{Counts, Fill, Occupancy};
use super::reader::{MapReader, ReadError};
use super::services::verdict_label;

pub(super) struct MapCollector {
    maps: Arc<OnceLock<Box<dyn MapReader>>>,
    counts: Arc<Counts>,
    service_metrics: bool,
}

impl fmt::Debug for MapCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapCollector").finish_non_exhaustive()
    }
}

impl Collector for MapCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let Some(reader) = self.maps.get() else { return Ok(()) };
        let reader = reader.as_ref();
        report(reader.drop_counters(), |counters| encode_drops(&mut encoder, counters))?;
        report(reader.express_packets(), |packets| encode_express(&mut encoder, packets))?;
        report(Occupancy::read(reader, &self.counts), |occupancy| encode_occupancy(&mut encoder, &occupancy))?;
        if self.service_metrics {
            report(service_samples(reader), |samples| encode_services(&mut encoder, &samples))?;
        }
        Ok(())
    }
}

fn report<T>(read: Result<T, ReadError>, encode: impl FnOnce(T) -> fmt::Result) -> fmt::Result {
    match read {
        Ok(value) => encode(value),
        Err(error) => {
            tracing::warn!(%error, "metrics are incomplete: a map could not be read");
            Ok(())
        }
    }
}

impl MapCollector {
    pub fn new(maps: Arc<OnceLock<Box<dyn MapReader>>>, counts: Arc<Counts>, service_metrics: bool) -> Self {
        Self { maps, counts, service_metrics }
    }
}

fn encode_drops(encoder: &mut DescriptorEncoder, counters: Vec<(DropReason, u64)>) -> fmt::Result {
    let samples = counters.into_iter().map(|(reason, count)| ([("reason", reason.label())], count));
    counters_of(encoder, "svc_agent_drops", "Packets and connections refused or dropped, by reason", samples)
}

fn encode_express(encoder: &mut DescriptorEncoder, packets: u64) -> fmt::Result {
    let help = "Packets that XDP sent from uplink to uplink past the stack";
    let metric = encoder.encode_descriptor("svc_agent_xdp_packets", help, None, MetricType::Counter)?;
    ConstCounter::new(packets).encode(metric)
}

fn encode_occupancy(encoder: &mut DescriptorEncoder, occupancy: &Occupancy) -> fmt::Result {
    let of_maps = |pick: fn(&Fill) -> u64| occupancy.maps.iter().map(move |fill| ([("map", fill.map)], pick(fill)));
    let entries = of_maps(|fill| fill.entries);
    let help = "Entries in use; of maps that programs fill an estimate, at most 30 s old";
    gauges_of(encoder, "svc_agent_map_entries", help, entries)?;
    let capacities = of_maps(|fill| fill.capacity);
    gauges_of(encoder, "svc_agent_map_capacity", "Entries a map can hold", capacities)?;
    let services = occupancy
        .services
        .iter()
        .map(|((family, verdict), count)| ([("ip_family", *family), ("verdict", *verdict)], *count));
    gauges_of(encoder, "svc_agent_services", "Frontends, by what happens to a new connection", services)?;
    let no_local = occupancy
        .services
        .iter()
        .filter(|((_, verdict), _)| *verdict == verdict_label(Verdict::DROP))
        .map(|((family, _), count)| ([("ip_family", *family), ("traffic_policy", "internal")], *count));
    gauges_of(
        encoder,
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
        "Number of services with a Local traffic policy and no endpoints",
        no_local,
    )
}

type ServiceSample = (Vec<(&'static str, String)>, ServiceCounters);

/// Frontends of one Service port are added up.
fn service_samples(reader: &dyn MapReader) -> Result<Vec<ServiceSample>, ReadError> {
    let mut labels = Labels::new(reader);
    let mut sums: BTreeMap<Vec<(&'static str, String)>, ServiceCounters> = BTreeMap::new();
    for (index, counters) in reader.service_counters()? {
        let label = labels.get(index)?.clone();
        let names = vec![
            ("namespace", label.namespace.unwrap_or_default()),
            ("service", label.name.unwrap_or(label.service)),
            ("port", label.port_name.unwrap_or_default()),
        ];
        *sums.entry(names).or_default() += counters;
    }
    Ok(sums.into_iter().collect())
}

fn encode_services(encoder: &mut DescriptorEncoder, samples: &[ServiceSample]) -> fmt::Result {
    type Pick = (&'static str, fn(&ServiceCounters) -> u64);
    let series: [(&str, &str, &str, &[Pick]); 4] = [
        (
            "svc_agent_service_connections",
            "New connections translated",
            "path",
            &[("tc", |counters| counters.connections_tc), ("socket", |counters| counters.connections_socket)],
        ),
        (
            "svc_agent_service_packets",
            "Packets translated by TC",
            "direction",
            &[
                ("to_backend", |counters| counters.packets_to_backend),
                ("to_client", |counters| counters.packets_to_client),
            ],
        ),
        (
            "svc_agent_service_bytes",
            "Bytes translated by TC, IP header and payload",
            "direction",
            &[("to_backend", |counters| counters.bytes_to_backend), ("to_client", |counters| counters.bytes_to_client)],
        ),
        ("svc_agent_service_rejected", "New connections refused or dropped", "", &[("", |counters| counters.rejected)]),
    ];
    for (name, help, dimension, picks) in series {
        let values = samples.iter().flat_map(|(names, counters)| {
            picks.iter().map(move |(value, pick)| {
                let mut labels = names.clone();
                if !dimension.is_empty() {
                    labels.push((dimension, (*value).to_owned()));
                }
                (labels, pick(counters))
            })
        });
        counters_of(encoder, name, help, values)?;
    }
    Ok(())
}

pub(super) fn counters_of<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in samples {
        ConstCounter::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

pub(super) fn gauges_of<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in samples {
        ConstGauge::new(value as i64).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}
