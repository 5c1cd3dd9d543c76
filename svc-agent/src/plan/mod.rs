//! What the maps should hold for one service: pure functions from model to plan. No I/O, clock or randomness.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::model::{IpFamily, ObjectName, Transport};

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
    pub affinity_timeout_seconds: Option<u32>,
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
}
