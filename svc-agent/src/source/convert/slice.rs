//! EndpointSlices. Rules: kube-proxy 1.36 `pkg/proxy/endpointslicecache.go` and the API's defaults.

use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{
    Ignored, ParseError, Parsed, RejectReason, Rejection, annotation, bad_annotation, label, parse_address,
    parse_object_name, parse_port, parse_transport,
};
use crate::model::{Endpoint, EndpointPort, EndpointSlice, Hints, IpFamily, Weight};
use crate::source::intern::Interner;

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
const WEIGHT: &str = "weight";
const LAST_CHANGE_TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";

pub fn parse_endpoint_slice(
    interner: &mut Interner,
    slice: &discovery::EndpointSlice,
) -> Result<Parsed<EndpointSlice>, ParseError> {
    if label(&slice.metadata, HEADLESS_LABEL).is_some() {
        return Err(Ignored::HeadlessSlice.into());
    }
    let service = label(&slice.metadata, SERVICE_NAME_LABEL).filter(|service| !service.is_empty());
    let service = service.ok_or(Ignored::NoServiceName)?;
    let family = match slice.address_type.as_str() {
        "IPv4" => IpFamily::V4,
        "IPv6" => IpFamily::V6,
        "FQDN" => return Err(Ignored::FqdnSlice.into()),
        other => {
            let detail = format!("addressType {other:?} is not IPv4, IPv6 or FQDN");
            return Err(Rejection::new(RejectReason::AddressType, detail).into());
        }
    };
    let name = parse_object_name(interner, &slice.metadata)?;
    let mut rejected = Vec::new();
    let mut ports = Vec::with_capacity(slice.ports.as_ref().map_or(0, Vec::len));
    for port in slice.ports.iter().flatten() {
        match parse_endpoint_port(interner, port) {
            Ok(port) => ports.extend(port),
            Err(rejection) => rejected.push(rejection),
        }
    }
    let mut endpoints = Vec::with_capacity(slice.endpoints.as_ref().map_or(0, Vec::len));
    for endpoint in slice.endpoints.iter().flatten() {
        match parse_endpoint(interner, endpoint, family) {
            Ok(endpoint) => endpoints.push(endpoint),
            Err(rejection) => rejected.push(rejection),
        }
    }
    let weight = parse_weight(&slice.metadata).unwrap_or_else(|rejection| {
        rejected.push(rejection);
        Weight::default()
    });
    ports.shrink_to_fit();
    endpoints.shrink_to_fit();
    Ok(Parsed {
        object: EndpointSlice {
            name,
            service: service.into(),
            family,
            ports,
            endpoints,
            last_change_trigger: read_last_change_trigger(&slice.metadata),
            weight,
        },
        rejected,
    })
}

/// A port without number stands for "all ports" and gives no endpoints. A missing name is the empty one: the API's
/// default, so kube-proxy never sees it missing.
fn parse_endpoint_port(
    interner: &mut Interner,
    port: &discovery::EndpointPort,
) -> Result<Option<EndpointPort>, Rejection> {
    let Some(number) = port.port.filter(|&number| number != 0) else {
        return Ok(None);
    };
    Ok(Some(EndpointPort {
        name: interner.string(port.name.as_deref().unwrap_or_default()),
        transport: parse_transport(port.protocol.as_deref())?,
        port: parse_port(number)?,
    }))
}

/// Only the first address counts. Absent conditions: ready, serving, not terminating, each on its own.
fn parse_endpoint(
    interner: &mut Interner,
    endpoint: &discovery::Endpoint,
    family: IpFamily,
) -> Result<Endpoint, Rejection> {
    let first = endpoint.addresses.first();
    let first = first.ok_or_else(|| Rejection::new(RejectReason::Address, "an endpoint has no address"))?;
    let address = parse_address(first)?;
    if IpFamily::from(address) != family {
        let detail = format!("{first} is not of the slice's addressType");
        return Err(Rejection::new(RejectReason::Family, detail));
    }
    let conditions = endpoint.conditions.as_ref();
    Ok(Endpoint {
        address,
        ready: conditions.and_then(|conditions| conditions.ready).unwrap_or(true),
        serving: conditions.and_then(|conditions| conditions.serving).unwrap_or(true),
        terminating: conditions.and_then(|conditions| conditions.terminating).unwrap_or(false),
        node: endpoint.node_name.as_deref().map(|node| interner.string(node)),
        hints: endpoint.hints.as_ref().and_then(|hints| intern_hints(interner, hints)),
    })
}

fn intern_hints(interner: &mut Interner, hints: &discovery::EndpointHints) -> Option<Arc<Hints>> {
    let zones = hints.for_zones.iter().flatten().map(|zone| interner.string(&zone.name)).collect();
    let nodes = hints.for_nodes.iter().flatten().map(|node| interner.string(&node.name)).collect();
    let mut hints = Hints { zones, nodes };
    if hints == Hints::default() {
        return None;
    }
    for names in [&mut hints.zones, &mut hints.nodes] {
        names.sort_unstable();
        names.dedup();
    }
    Some(interner.hints(hints))
}

/// One number for all endpoints of a slice: endpoints of other weights go into another slice of the Service.
fn parse_weight(metadata: &ObjectMeta) -> Result<Weight, Rejection> {
    let Some(text) = annotation(metadata, WEIGHT) else { return Ok(Weight::default()) };
    let weight = text.trim().parse().ok().and_then(Weight::new);
    weight.ok_or_else(|| bad_annotation(WEIGHT, text, "a whole number in 1-1000"))
}

/// Only measures latency, so anything unreadable is as good as absent.
fn read_last_change_trigger(metadata: &ObjectMeta) -> Option<SystemTime> {
    let text = metadata.annotations.as_ref()?.get(LAST_CHANGE_TRIGGER)?;
    text.parse::<jiff::Timestamp>().ok().map(SystemTime::from)
}
