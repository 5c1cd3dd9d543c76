//! What the maps should hold for one service: pure functions from model to plan. No I/O, clock or randomness.
//! One file per rule of kube-proxy 1.36: [`merge`] brings slices together, [`topology`] reads hints, [`eligible`] decides.
//! Beyond kube-proxy: [`spread`] shares slots by weight and algorithm, [`sctp`] knows what the programs cannot translate.
//! Neighbours: [`crate::index`] holds the input, [`crate::publish`] writes the result.

mod eligible;
mod merge;
mod sctp;
pub mod spread;
mod topology;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::index::Index;
use crate::model::{EndpointSlice, Frontend, IpFamily, LoadBalancing, Node, ObjectName, Service, Transport, Weight};

/// One Service port in one address family.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ServiceId {
    pub service: ObjectName,
    /// Empty for an unnamed port.
    pub port_name: Arc<str>,
    pub transport: Transport,
    pub family: IpFamily,
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.port_name.is_empty() {
            write!(f, "{}", self.service)
        } else {
            write!(f, "{}:{}", self.service, self.port_name)
        }
    }
}

/// What the maps should hold for one [`ServiceId`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServicePlan {
    pub id: ServiceId,
    /// Address and port clients use.
    pub frontend: SocketAddr,
    pub decision: Decision,
    /// Endpoints that get no new flows but still serve: their UDP flows stay. Sorted, disjoint from the slots.
    pub draining: Vec<PlannedBackend>,
    pub load_balancing: LoadBalancing,
    /// Established TCP connections to an endpoint that is gone are reset.
    pub reset_when_gone: bool,
    pub affinity_timeout_seconds: Option<u32>,
}

impl ServicePlan {
    /// All new connections will be refused although there are endpoints: their port is not the Service's.
    pub fn is_untranslatable(&self) -> bool {
        sctp::is_untranslatable(self)
    }
}

/// What happens to a new flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Choose one of these; sorted by address and port, never empty.
    Forward(Vec<PlannedBackend>),
    /// No eligible endpoint anywhere.
    Reject,
    /// Endpoints exist, but none the Local policy allows.
    Drop,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PlannedBackend {
    pub address: SocketAddr,
    /// The endpoint's nodeName is this node.
    pub local: bool,
    pub weight: Weight,
}

/// Plans of everything the Service of this name should have in the maps. What is not in the result must go; the result
/// is empty for a Service that does not exist.
pub fn plan_affected(index: &Index, name: &ObjectName) -> Vec<ServicePlan> {
    let Some(service) = index.service(name) else {
        return Vec::new();
    };
    let mut plans = plan_service(service, index.slices(name), index.node());
    let load_balancing = service.load_balancing.unwrap_or(index.load_balancing());
    plans.retain_mut(|plan| {
        plan.load_balancing = load_balancing;
        let frontend = Frontend { address: plan.frontend, transport: plan.id.transport };
        index.frontend_owner(&frontend) == Some(name)
    });
    plans
}

/// One plan per port and cluster IP, balanced at random unless the Service says otherwise. `slices` are those of the
/// service; where two disagree about an endpoint the order breaks the tie, so it must be stable.
pub fn plan_service<'a>(
    service: &Service,
    slices: impl Iterator<Item = &'a EndpointSlice> + Clone,
    node: &Node,
) -> Vec<ServicePlan> {
    let mut plans = Vec::with_capacity(service.cluster_ips.len() * service.ports.len());
    for &address in &service.cluster_ips {
        let family = IpFamily::from(address);
        for port in &service.ports {
            let mut candidates = merge::merge_slices(slices.clone(), family, port, node);
            sctp::keep_translatable(&mut candidates, port);
            let (decision, draining) = eligible::decide(&candidates, service.internal_traffic_policy, node);
            plans.push(ServicePlan {
                id: ServiceId {
                    service: service.name.clone(),
                    port_name: port.name.clone(),
                    transport: port.transport,
                    family,
                },
                frontend: SocketAddr::new(address, port.port),
                decision,
                draining,
                load_balancing: service.load_balancing.unwrap_or_default(),
                reset_when_gone: service.reset_when_gone,
                affinity_timeout_seconds: service.affinity_timeout_seconds,
            });
        }
    }
    plans
}
