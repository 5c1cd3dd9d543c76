//! Services. Rules: kube-proxy 1.36 `pkg/proxy/serviceport.go`, `pkg/proxy/util/utils.go` and the API's defaults.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;

use super::{
    Ignored, ParseError, Parsed, RejectReason, Rejection, annotation, bad_annotation, label, parse_address,
    parse_object_name, parse_port, parse_transport,
};
use crate::model::{IpFamily, LoadBalancing, Service, ServicePort, TrafficPolicy};
use crate::source::intern::Interner;

const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
const LOAD_BALANCING: &str = "load-balancing";
const RESET: &str = "reset-on-endpoint-removal";
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;
const MAX_AFFINITY_SECONDS: u32 = 86_400;

pub fn parse_service(interner: &mut Interner, service: &core::Service) -> Result<Parsed<Service>, ParseError> {
    if label(&service.metadata, PROXY_NAME_LABEL).is_some() {
        return Err(Ignored::OtherProxy.into());
    }
    let Some(spec) = &service.spec else {
        return Err(Ignored::NoClusterIp.into());
    };
    if spec.type_.as_deref() == Some("ExternalName") {
        return Err(Ignored::ExternalName.into());
    }
    if matches!(spec.cluster_ip.as_deref(), None | Some("" | "None")) {
        return Err(Ignored::NoClusterIp.into());
    }
    let name = parse_object_name(interner, &service.metadata)?;
    let mut rejected = Vec::new();
    let cluster_ips = parse_cluster_ips(spec, &mut rejected)?;
    let ports = parse_ports(interner, spec, &mut rejected);
    let local = spec.internal_traffic_policy.as_deref() == Some("Local");
    let affinity_timeout_seconds = parse_affinity(spec, &mut rejected);
    let load_balancing = parse_load_balancing(service, &mut rejected);
    let reset_when_gone = parse_reset(service, &mut rejected);
    Ok(Parsed {
        object: Service {
            name,
            cluster_ips,
            ports,
            internal_traffic_policy: if local { TrafficPolicy::Local } else { TrafficPolicy::Cluster },
            affinity_timeout_seconds,
            load_balancing,
            reset_when_gone,
        },
        rejected,
    })
}

/// One per family, as the API guarantees. `clusterIPs` repeats `clusterIP`; manifests may have only the latter.
fn parse_cluster_ips(spec: &core::ServiceSpec, rejected: &mut Vec<Rejection>) -> Result<Vec<IpAddr>, ParseError> {
    let listed = spec.cluster_ips.as_deref().filter(|ips| !ips.is_empty());
    let texts = listed.unwrap_or(spec.cluster_ip.as_slice());
    let mut cluster_ips: Vec<IpAddr> = Vec::with_capacity(texts.len());
    for text in texts {
        match parse_address(text) {
            Ok(address) if cluster_ips.iter().any(|&known| IpFamily::from(known) == address.into()) => {
                let detail = format!("clusterIPs has a second address of one family: {text}");
                rejected.push(Rejection::new(RejectReason::Family, detail));
            }
            Ok(address) => cluster_ips.push(address),
            Err(rejection) => rejected.push(rejection),
        }
    }
    match rejected.pop() {
        Some(rejection) if cluster_ips.is_empty() => Err(rejection.into()),
        last => {
            rejected.extend(last);
            Ok(cluster_ips)
        }
    }
}

/// The API refuses duplicates; in manifests the first one counts.
fn parse_ports(interner: &mut Interner, spec: &core::ServiceSpec, rejected: &mut Vec<Rejection>) -> Vec<ServicePort> {
    let mut ports: Vec<ServicePort> = Vec::with_capacity(spec.ports.as_ref().map_or(0, Vec::len));
    for port in spec.ports.iter().flatten() {
        let name: Arc<str> = interner.string(port.name.as_deref().unwrap_or_default());
        let parsed = parse_port(port.port).and_then(|number| Ok((number, parse_transport(port.protocol.as_deref())?)));
        match parsed {
            Ok((number, transport)) => {
                let duplicate =
                    |known: &ServicePort| known.transport == transport && (known.port == number || known.name == name);
                if ports.iter().any(duplicate) {
                    let detail = format!("an earlier port has the name or number of {name:?} {number}/{transport}");
                    rejected.push(Rejection::new(RejectReason::DuplicatePort, detail));
                } else {
                    ports.push(ServicePort { name, transport, port: number });
                }
            }
            Err(rejection) => rejected.push(rejection),
        }
    }
    ports.shrink_to_fit();
    ports
}

fn parse_affinity(spec: &core::ServiceSpec, rejected: &mut Vec<Rejection>) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let Some(seconds) = config.and_then(|client_ip| client_ip.timeout_seconds) else {
        return Some(DEFAULT_AFFINITY_SECONDS);
    };
    match u32::try_from(seconds) {
        Ok(seconds) if (1..=MAX_AFFINITY_SECONDS).contains(&seconds) => Some(seconds),
        _ => {
            let detail = format!("timeoutSeconds {seconds} is not in 1-86400, {DEFAULT_AFFINITY_SECONDS} is used");
            rejected.push(Rejection::new(RejectReason::AffinityTimeout, detail));
            Some(DEFAULT_AFFINITY_SECONDS)
        }
    }
}

fn parse_load_balancing(service: &core::Service, rejected: &mut Vec<Rejection>) -> Option<LoadBalancing> {
    match annotation(&service.metadata, LOAD_BALANCING)? {
        "random" => Some(LoadBalancing::Random),
        "maglev" => Some(LoadBalancing::Maglev),
        other => {
            rejected.push(bad_annotation(LOAD_BALANCING, other, "random or maglev"));
            None
        }
    }
}

fn parse_reset(service: &core::Service, rejected: &mut Vec<Rejection>) -> bool {
    match annotation(&service.metadata, RESET) {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            rejected.push(bad_annotation(RESET, other, "true or false"));
            false
        }
    }
}
