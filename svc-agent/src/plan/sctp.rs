//! SCTP ports cannot be translated (see `svc_datapath`): only endpoints with the Service's own port are of use. Where there
//! are others only, the programs refuse new connections with a reason of its own.

use super::merge::Candidate;
use super::{Decision, ServicePlan};
use crate::model::{ServicePort, Transport};

/// Leaves out endpoints that packets cannot be translated to, unless nothing would be left.
pub(super) fn keep_translatable(candidates: &mut Vec<Candidate<'_>>, port: &ServicePort) {
    let same = |candidate: &Candidate<'_>| candidate.backend.address.port() == port.port;
    if port.transport == Transport::Sctp && candidates.iter().any(same) {
        candidates.retain(same);
    }
}

pub(super) fn is_untranslatable(plan: &ServicePlan) -> bool {
    match &plan.decision {
        Decision::Forward(slots) if plan.id.transport == Transport::Sctp => {
            slots.iter().all(|slot| slot.address.port() != plan.frontend.port())
        }
        _ => false,
    }
}
