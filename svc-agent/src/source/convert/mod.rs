//! From the API's types to the model: what is ours, what is ignored, what is rejected, and the API's defaults for fields
//! that a manifest leaves out. Pure; never panics on cluster data. Neighbours: both sources call it, nothing else does.

mod reason;
mod service;
mod slice;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::intern::Interner;
use super::{Kind, SourceEvent};
use crate::model::{Node, ObjectName, Transport};

pub use reason::{Ignored, ParseError, RejectReason, Rejection};
pub use service::parse_service;
pub use slice::parse_endpoint_slice;

/// What every annotation of this project begins with.
const ANNOTATION_PREFIX: &str = "svc-ebpf.io/";

/// Node label with the zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// Taint of a node that the cluster autoscaler is about to delete.
const LEAVING_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// A usable object, and the parts of it that had to be left out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parsed<T> {
    pub object: T,
    pub rejected: Vec<Rejection>,
}

impl<T> Parsed<T> {
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Parsed<U> {
        Parsed { object: f(self.object), rejected: self.rejected }
    }
}

/// An API type that a source follows.
pub(super) trait Followed: kube::Resource<DynamicType = ()> {
    const KIND: Kind;

    /// The event that takes the object over.
    fn parse(&self, interner: &mut Interner) -> Result<Parsed<SourceEvent>, ParseError>;
}

impl Followed for core::Service {
    const KIND: Kind = Kind::Service;

    fn parse(&self, interner: &mut Interner) -> Result<Parsed<SourceEvent>, ParseError> {
        Ok(parse_service(interner, self)?.map(|service| SourceEvent::ServiceApplied(Arc::new(service))))
    }
}

impl Followed for discovery::EndpointSlice {
    const KIND: Kind = Kind::EndpointSlice;

    fn parse(&self, interner: &mut Interner) -> Result<Parsed<SourceEvent>, ParseError> {
        Ok(parse_endpoint_slice(interner, self)?.map(|slice| SourceEvent::SliceApplied(Arc::new(slice))))
    }
}

impl Followed for core::Node {
    const KIND: Kind = Kind::Node;

    fn parse(&self, interner: &mut Interner) -> Result<Parsed<SourceEvent>, ParseError> {
        Ok(parse_node(interner, self)?.map(|node| SourceEvent::NodeApplied(Arc::new(node))))
    }
}

/// Name of a namespaced object. Manifests may leave the namespace out.
pub fn parse_object_name(interner: &mut Interner, metadata: &ObjectMeta) -> Result<ObjectName, Rejection> {
    let name = metadata.name.as_deref().filter(|name| !name.is_empty());
    let namespace = metadata.namespace.as_deref().filter(|namespace| !namespace.is_empty());
    Ok(ObjectName {
        namespace: interner.string(namespace.unwrap_or("default")),
        name: name.ok_or_else(|| Rejection::new(RejectReason::Name, "metadata.name is missing"))?.into(),
    })
}

pub fn parse_node(interner: &mut Interner, node: &core::Node) -> Result<Parsed<Node>, ParseError> {
    let name = node.metadata.name.as_deref().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| Rejection::new(RejectReason::Name, "metadata.name is missing"))?;
    let zone = label(&node.metadata, ZONE_LABEL).filter(|zone| !zone.is_empty());
    let mut rejected = Vec::new();
    let mut addresses = Vec::new();
    let reported = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    for reported in reported.filter(|address| address.type_ == "InternalIP") {
        match parse_address(&reported.address) {
            Ok(address) => addresses.push(address),
            Err(rejection) => rejected.push(rejection),
        }
    }
    let (mut pod_cidrs, spec) = (Vec::new(), node.spec.as_ref());
    let listed = spec.and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default();
    // The old field repeats the first of the list.
    let single = spec.and_then(|spec| spec.pod_cidr.as_ref()).filter(|_| listed.is_empty());
    for text in listed.iter().chain(single).filter(|text| !text.is_empty()) {
        match text.parse() {
            Ok(network) => pod_cidrs.push(network),
            Err(_) => {
                rejected.push(Rejection::new(RejectReason::Address, format!("podCIDR {text:?} is not a network")));
            }
        }
    }
    let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    Ok(Parsed {
        object: Node {
            name: interner.string(name),
            zone: zone.map(|zone| interner.string(zone)),
            addresses,
            pod_cidrs,
            leaving: node.metadata.deletion_timestamp.is_some() || taints.any(|taint| taint.key == LEAVING_TAINT),
        },
        rejected,
    })
}

fn label<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.labels.as_ref()?.get(key).map(String::as_str)
}

/// The text of an annotation of ours: `name` without [`ANNOTATION_PREFIX`].
fn annotation<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    let annotations = metadata.annotations.as_ref()?;
    annotations.iter().find_map(|(key, text)| (key.strip_prefix(ANNOTATION_PREFIX)? == name).then_some(text.as_str()))
}

fn bad_annotation(name: &str, text: &str, expected: &str) -> Rejection {
    let detail = format!("annotation {ANNOTATION_PREFIX}{name} is {text:?}, not {expected}; it is ignored");
    Rejection::new(RejectReason::Annotation, detail)
}

/// An address a packet can be sent to.
fn parse_address(text: &str) -> Result<IpAddr, Rejection> {
    let address = text.parse().ok().or_else(|| parse_padded_v4(text)).map(|address: IpAddr| address.to_canonical());
    match address {
        Some(address) if !address.is_unspecified() && !address.is_multicast() => Ok(address),
        _ => Err(Rejection::new(RejectReason::Address, format!("{text:?} is not an address of a host"))),
    }
}

/// Objects from before Kubernetes 1.36 may hold octets with leading zeros; they are decimal.
fn parse_padded_v4(text: &str) -> Option<IpAddr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        let plain = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        *octet = if plain { part.parse().ok()? } else { return None };
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets).into())
}

fn parse_port(number: i32) -> Result<u16, Rejection> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(Rejection::new(RejectReason::Port, format!("port {number} is not in 1-65535"))),
    }
}

fn parse_transport(protocol: Option<&str>) -> Result<Transport, Rejection> {
    match protocol {
        None | Some("" | "TCP") => Ok(Transport::Tcp),
        Some("UDP") => Ok(Transport::Udp),
        Some("SCTP") => Ok(Transport::Sctp),
        Some(other) => {
            Err(Rejection::new(RejectReason::Protocol, format!("protocol {other:?} is not TCP, UDP or SCTP")))
        }
    }
}

#[cfg(test)]
mod tests;
