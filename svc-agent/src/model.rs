//! Validated domain types: what the agent knows of the cluster. Built in `source`, read by everything behind it.
//! Only the fields we use; no Kubernetes, no kernel types.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use clap::ValueEnum;
use ipnet::IpNet;
use serde::Deserialize;

/// `namespace/name` of an object.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ObjectName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Transport protocols a Service port can have.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Transport {
    Tcp,
    Udp,
    Sctp,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum IpFamily {
    V4,
    V6,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

impl From<IpAddr> for IpFamily {
    fn from(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TrafficPolicy {
    Cluster,
    Local,
}

/// How a new connection gets its endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LoadBalancing {
    /// Any of them, by their weights.
    #[default]
    Random,
    /// By a hash of the client: the same one on every node, and with few exceptions after endpoints came and went.
    Maglev,
}

/// How many times more new connections an endpoint gets than one of weight 1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Weight(u16);

impl Weight {
    pub const MAX: u16 = 1000;

    /// `None` unless the weight is in 1–1000.
    pub fn new(weight: u16) -> Option<Self> {
        (1..=Self::MAX).contains(&weight).then_some(Self(weight))
    }

    pub fn get(self) -> u16 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self(1)
    }
}

/// A Service that this agent implements (headless, ExternalName and foreign ones never get here).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    pub name: ObjectName,
    /// At most one of each family.
    pub cluster_ips: Vec<IpAddr>,
    /// No two with one (name, transport) or one (port, transport).
    pub ports: Vec<ServicePort>,
    pub internal_traffic_policy: TrafficPolicy,
    /// sessionAffinity ClientIP: timeoutSeconds.
    pub affinity_timeout_seconds: Option<u32>,
    /// Annotation svc-ebpf.io/load-balancing; `None`: as the agent was told.
    pub load_balancing: Option<LoadBalancing>,
    /// Annotation svc-ebpf.io/reset-on-endpoint-removal: established TCP connections to an endpoint that is gone are reset.
    pub reset_when_gone: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServicePort {
    /// Empty for an unnamed port.
    pub name: Arc<str>,
    pub transport: Transport,
    pub port: u16,
}

/// What a client sends to: belongs to at most one Service port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Frontend {
    pub address: SocketAddr,
    pub transport: Transport,
}

impl Service {
    /// Every frontend this Service claims.
    pub fn frontends(&self) -> impl Iterator<Item = Frontend> + '_ {
        self.cluster_ips.iter().flat_map(|&address| {
            self.ports
                .iter()
                .map(move |port| Frontend { address: SocketAddr::new(address, port.port), transport: port.transport })
        })
    }
}

/// One EndpointSlice that belongs to some service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointSlice {
    pub name: ObjectName,
    /// Name of the Service in the same namespace (label kubernetes.io/service-name).
    pub service: Arc<str>,
    pub family: IpFamily,
    pub ports: Vec<EndpointPort>,
    pub endpoints: Vec<Endpoint>,
    /// Annotation endpoints.kubernetes.io/last-change-trigger-time.
    pub last_change_trigger: Option<SystemTime>,
    /// Of each of the endpoints: annotation svc-ebpf.io/weight.
    pub weight: Weight,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointPort {
    pub name: Arc<str>,
    pub transport: Transport,
    pub port: u16,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    pub address: IpAddr,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub node: Option<Arc<str>>,
    /// Shared by all endpoints with equal hints; `None` without hints.
    pub hints: Option<Arc<Hints>>,
}

/// Where an endpoint should preferably be used. Both lists are sorted and free of duplicates.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Hints {
    pub zones: Vec<Arc<str>>,
    pub nodes: Vec<Arc<str>>,
}

impl Endpoint {
    pub fn zone_hints(&self) -> &[Arc<str>] {
        self.hints.as_ref().map_or(&[], |hints| &hints.zones)
    }

    pub fn node_hints(&self) -> &[Arc<str>] {
        self.hints.as_ref().map_or(&[], |hints| &hints.nodes)
    }
}

/// This node, as far as Services care.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Node {
    pub name: Arc<str>,
    /// Label topology.kubernetes.io/zone.
    pub zone: Option<Arc<str>>,
    /// InternalIP addresses of the status.
    pub addresses: Vec<IpAddr>,
    /// Where the addresses of this node's pods come from.
    pub pod_cidrs: Vec<IpNet>,
    /// The cluster autoscaler is about to delete the node (taint ToBeDeletedByClusterAutoscaler), or it is being deleted.
    pub leaving: bool,
}
