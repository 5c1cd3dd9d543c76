//! Which endpoints get new flows: kube-proxy's `CategorizeEndpoints`, and what its proxiers do with the result.

use super::merge::Candidate;
use super::topology::read_topology;
use super::{Decision, PlannedBackend};
use crate::model::{Node, TrafficPolicy};

/// The decision, and the endpoints that get no new flows but may keep the UDP flows they have.
pub(super) fn decide(
    candidates: &[Candidate<'_>],
    policy: TrafficPolicy,
    node: &Node,
) -> (Decision, Vec<PlannedBackend>) {
    let slots = match policy {
        TrafficPolicy::Cluster => select_cluster(candidates, node),
        TrafficPolicy::Local => select_local(candidates),
    };
    // kube-proxy forgets the UDP flows of an endpoint only when it stops serving, whatever else it thinks of it.
    let serving = candidates.iter().filter(|candidate| candidate.endpoint.serving).map(|candidate| candidate.backend);
    let draining = serving.filter(|backend| slots.binary_search(backend).is_err()).collect();
    let usable_somewhere = || candidates.iter().any(|candidate| candidate.endpoint.ready || candidate.is_fallback());
    let decision = match policy {
        _ if !slots.is_empty() => Decision::Forward(slots),
        TrafficPolicy::Local if usable_somewhere() => Decision::Drop,
        _ => Decision::Reject,
    };
    (decision, draining)
}

/// Ready endpoints the topology allows; without any ready one, all that still serve while they terminate.
fn select_cluster(candidates: &[Candidate<'_>], node: &Node) -> Vec<PlannedBackend> {
    let topology = read_topology(candidates, node);
    let ready = select(candidates, |candidate| candidate.endpoint.ready && topology.allows(candidate));
    if ready.is_empty() { select(candidates, |candidate| candidate.is_fallback()) } else { ready }
}

/// Local policy knows no topology: it is stricter than any hint.
fn select_local(candidates: &[Candidate<'_>]) -> Vec<PlannedBackend> {
    let ready = select(candidates, |candidate| candidate.backend.local && candidate.endpoint.ready);
    let fallback = || select(candidates, |candidate| candidate.backend.local && candidate.is_fallback());
    if ready.is_empty() { fallback() } else { ready }
}

fn select(candidates: &[Candidate<'_>], usable: impl Fn(&Candidate<'_>) -> bool) -> Vec<PlannedBackend> {
    candidates.iter().filter(|candidate| usable(candidate)).map(|candidate| candidate.backend).collect()
}
