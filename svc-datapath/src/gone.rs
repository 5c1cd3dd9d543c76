//! Connections whose Service asks for it are reset once their endpoint is gone. The flow alone knows: it outlives endpoint
//! and Service. Neighbours: `select` marks the flow, `tc` and `fast` ask before they forward.

use svc_common::{DropReason, Flow, flow_op, flow_state};

use crate::flow::{ended_backend, mark_pair};
use crate::parse::{Fragment, Headers, tcp_flag};
use crate::refuse::Refuse;
use crate::tables::{Action, FamilyTables, Packet, Tables};
use crate::verdict::answer;

/// Whether a client's packet must be answered instead of forwarded. One test of a bit for all other services.
#[inline(always)]
pub fn is_to_be_reset<A, T: Tables>(tables: &T, flow: &Flow<A>) -> bool {
    flow.ops & flow_op::RESET_WHEN_GONE != 0 && ended_backend(tables, flow.backend)
}

/// The answer to a packet for which [`is_to_be_reset`] holds. A reset is never answered: the client's own, which its
/// kernel sends to whatever still comes from the endpoint, ends the connection there. Out of line: it happens seldom.
#[inline(never)]
pub fn reset_client<A: Refuse, P: Packet, T: Tables + FamilyTables<A>>(
    packet: &mut P,
    tables: &T,
    headers: &Headers<A>,
    flow: &Flow<A>,
    now: u32,
) -> Option<Action> {
    if headers.fragment == Fragment::Later || headers.tcp_flags & tcp_flag::RST != 0 {
        return None;
    }
    mark_pair(tables, &headers.key, flow_state::CLOSED, now);
    Some(answer(packet, tables, headers, flow.service, DropReason::EndpointGone))
}
