//! The slices of a service become one list of endpoints per port: kube-proxy's `endpointInfoByServicePort`.

use std::cmp::Reverse;
use std::net::SocketAddr;

use super::PlannedBackend;
use crate::model::{Endpoint, EndpointSlice, IpFamily, Node, ServicePort};

/// One endpoint of one port, after duplicates are gone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    pub backend: PlannedBackend,
    pub endpoint: &'a Endpoint,
}

impl Candidate<'_> {
    /// Still serves although it is on its way out: used when nothing is ready.
    pub fn is_fallback(&self) -> bool {
        self.endpoint.serving && self.endpoint.terminating
    }
}

/// Endpoints of `port` in `family`, sorted by address and port, each once.
pub(super) fn merge_slices<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
    family: IpFamily,
    port: &ServicePort,
    node: &Node,
) -> Vec<Candidate<'a>> {
    let mut candidates = Vec::new();
    for slice in slices.filter(|slice| slice.family == family) {
        let ports = slice.ports.iter().filter(|p| p.transport == port.transport && p.name == port.name);
        for target in ports {
            candidates.extend(slice.endpoints.iter().map(|endpoint| Candidate {
                backend: PlannedBackend {
                    address: SocketAddr::new(endpoint.address, target.port),
                    local: endpoint.node.as_ref() == Some(&node.name),
                    weight: slice.weight,
                },
                endpoint,
            }));
        }
    }
    // While an address moves to a new pod, the old one may still be listed as terminating: the running one counts.
    // Beyond that kube-proxy's choice is arbitrary; ours is stable and prefers the endpoint that can be used.
    let preference = |candidate: &Candidate<'_>| {
        let endpoint = candidate.endpoint;
        (!endpoint.terminating, endpoint.ready, endpoint.serving)
    };
    candidates.sort_by_key(|candidate| (candidate.backend.address, Reverse(preference(candidate))));
    candidates.dedup_by_key(|candidate| candidate.backend.address);
    candidates
}
