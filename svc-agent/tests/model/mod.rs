//! Builders of model objects for tests.
#![allow(dead_code, clippy::unwrap_used, reason = "tests; not every test file uses every builder")]

use std::net::IpAddr;
use std::sync::Arc;

use svc_agent::model::{
    Endpoint, EndpointPort, EndpointSlice, Hints, IpFamily, Node, ObjectName, Service, ServicePort, TrafficPolicy,
    Transport, Weight,
};

pub fn name(name: &str) -> ObjectName {
    ObjectName { namespace: "default".into(), name: name.into() }
}

pub fn node(zone: Option<&str>) -> Node {
    Node { name: "n1".into(), zone: zone.map(Into::into), ..Node::default() }
}

/// A Service with one TCP port `http` 80.
pub fn service(service: &str, cluster_ips: &[&str]) -> Service {
    Service {
        name: name(service),
        cluster_ips: cluster_ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        ports: vec![ServicePort { name: "http".into(), transport: Transport::Tcp, port: 80 }],
        internal_traffic_policy: TrafficPolicy::Cluster,
        affinity_timeout_seconds: None,
        load_balancing: None,
        reset_when_gone: false,
    }
}

/// A slice with one TCP port `http` 8080, of the family of its first endpoint.
pub fn slice(slice: &str, service: &str, endpoints: &[Endpoint]) -> EndpointSlice {
    EndpointSlice {
        name: name(slice),
        service: service.into(),
        family: endpoints.first().map_or(IpFamily::V4, |endpoint| endpoint.address.into()),
        ports: vec![endpoint_port("http", Transport::Tcp, 8080)],
        endpoints: endpoints.to_vec(),
        last_change_trigger: None,
        weight: Weight::default(),
    }
}

pub fn service_port(name: &str, transport: Transport, port: u16) -> ServicePort {
    ServicePort { name: name.into(), transport, port }
}

pub fn endpoint_port(name: &str, transport: Transport, port: u16) -> EndpointPort {
    EndpointPort { name: name.into(), transport, port }
}

/// Conditions of an endpoint.
#[derive(Clone, Copy)]
pub enum Is {
    Ready,
    NotReady,
    /// Serving and terminating.
    Ending,
    /// Terminating, no longer serving.
    Ended,
    /// Ready although it does not serve.
    ReadyNotServing,
}

pub fn endpoint(address: &str, is: Is) -> Endpoint {
    let (ready, serving, terminating) = match is {
        Is::Ready => (true, true, false),
        Is::NotReady => (false, false, false),
        Is::Ending => (false, true, true),
        Is::Ended => (false, false, true),
        Is::ReadyNotServing => (true, false, false),
    };
    let address: IpAddr = address.parse().unwrap();
    Endpoint { address, ready, serving, terminating, node: None, hints: None }
}

pub trait EndpointExt {
    fn on(self, node: &str) -> Self;
    fn hint(self, zones: &[&str], nodes: &[&str]) -> Self;
}

impl EndpointExt for Endpoint {
    fn on(mut self, node: &str) -> Self {
        self.node = Some(node.into());
        self
    }

    fn hint(mut self, zones: &[&str], nodes: &[&str]) -> Self {
        let shared = |names: &[&str]| names.iter().map(|&name| Arc::from(name)).collect();
        self.hints = Some(Arc::new(Hints { zones: shared(zones), nodes: shared(nodes) }));
        self
    }
}
