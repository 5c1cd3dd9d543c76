//! Hints: kube-proxy's `topologyModeFromHints`. `trafficDistribution` is the business of whoever writes the hints.

use std::sync::Arc;

use super::merge::Candidate;
use crate::model::Node;

/// Which ready endpoints this node uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Topology<'a> {
    Any,
    SameNode(&'a Arc<str>),
    SameZone(&'a Arc<str>),
}

impl Topology<'_> {
    pub fn allows(&self, candidate: &Candidate<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::SameNode(node) => candidate.endpoint.node_hints().contains(node),
            Self::SameZone(zone) => candidate.endpoint.zone_hints().contains(zone),
        }
    }
}

/// A kind of hint counts only if every ready endpoint has it and one of them names us: otherwise the hints are being
/// rolled out, or nobody thought of this node.
pub(super) fn read_topology<'a>(candidates: &[Candidate<'_>], node: &'a Node) -> Topology<'a> {
    let ready = || candidates.iter().filter(|candidate| candidate.endpoint.ready).map(|candidate| candidate.endpoint);
    if ready().all(|endpoint| !endpoint.node_hints().is_empty())
        && ready().any(|endpoint| endpoint.node_hints().contains(&node.name))
    {
        return Topology::SameNode(&node.name);
    }
    if let Some(zone) = &node.zone
        && ready().all(|endpoint| !endpoint.zone_hints().is_empty())
        && ready().any(|endpoint| endpoint.zone_hints().contains(zone))
    {
        return Topology::SameZone(zone);
    }
    Topology::Any
}
