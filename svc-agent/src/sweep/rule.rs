//! When something that programs remember is not needed any more. Pure: entries, facts and the time in, a decision out.
//! Times are seconds of CLOCK_MONOTONIC in 32 bits, which wrap around; what lies in the future is a packet newer than `now`.

use svc_common::{Flow, FlowKey, Protocol, flow_op, flow_stage, flow_state};
use svc_datapath::{UDP_IDLE_SECONDS, has_ended, peer_key, reversed};

/// After RST, or FIN from both sides, late packets may still come: nf_conntrack_tcp_timeout_time_wait.
pub const ENDED_SECONDS: u32 = 120;
/// Retransmitted SYNs are at most 64 s apart: nf_conntrack_tcp_timeout_syn_sent.
pub const UNANSWERED_SECONDS: u32 = 120;

/// How long connections may be silent, in seconds. `None`: for ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    pub established: Option<u32>,
    /// One side has sent its FIN.
    pub half_closed: Option<u32>,
}

/// As kube-proxy configures connection tracking.
impl Default for Timeouts {
    fn default() -> Self {
        Self { established: Some(24 * 3600), half_closed: Some(3600) }
    }
}

/// What one or both directions of a connection say about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Life {
    pub protocol: Protocol,
    /// Bits of [`flow_state`].
    pub state: u8,
    pub last_seen: u32,
}

impl Life {
    pub fn of<A>(key: &FlowKey<A>, flow: &Flow<A>) -> Self {
        Self { protocol: key.protocol, state: flow.state, last_seen: flow.last_seen }
    }

    /// Both directions are marked by a packet of either, but one after the other: the newer one counts.
    pub fn and<A>(self, other: &Flow<A>, now: u32) -> Self {
        let newer = idle(other.last_seen, now) < idle(self.last_seen, now);
        Self {
            state: self.state | other.state,
            last_seen: if newer { other.last_seen } else { self.last_seen },
            ..self
        }
    }

    /// Nothing will come that needs the flow.
    pub fn is_over(self, timeouts: &Timeouts, now: u32) -> bool {
        let has = |bits| self.state & bits != 0;
        let limit = match self.protocol {
            _ if has_ended(self.state) => Some(ENDED_SECONDS),
            Protocol::UDP => Some(UDP_IDLE_SECONDS),
            _ if !has(flow_state::REPLIED) => Some(UNANSWERED_SECONDS),
            _ if has(flow_state::FIN_CLIENT | flow_state::FIN_BACKEND) => timeouts.half_closed,
            _ => timeouts.established,
        };
        limit.is_some_and(|limit| idle(self.last_seen, now) > limit)
    }

    /// Of a masquerade without the connection that it belonged to: no packet leads there.
    pub fn is_left_over(self, now: u32) -> bool {
        idle(self.last_seen, now) > ENDED_SECONDS
    }
}

/// A client's last connection is longer ago than its service remembers; `None`: no service remembers anything.
pub fn is_forgotten(last_seen: u32, timeout: Option<u32>, now: u32) -> bool {
    timeout.is_none_or(|timeout| idle(last_seen, now) > timeout)
}

fn idle(last_seen: u32, now: u32) -> u32 {
    let idle = now.wrapping_sub(last_seen);
    if idle > i32::MAX as u32 { 0 } else { idle }
}

/// A client that is masqueraded has two pairs of flows, and packets of the second one pass the first one before or after.
/// For a flow of a second pair the key of the first pair's replies; they say how the connection is.
pub fn first_pair<A: Copy>(key: &FlowKey<A>, flow: &Flow<A>) -> Option<FlowKey<A>> {
    if flow.service != Flow::<A>::NO_SERVICE || flow.ops & flow_op::DIRECT != 0 {
        return None;
    }
    let to_backend = if flow.ops & flow_op::TO_BACKEND != 0 { *key } else { peer_key(key, flow) };
    Some(FlowKey { stage: flow_stage::EGRESS, ..reversed(&to_backend) })
}

#[cfg(test)]
mod tests {
    use svc_common::{AddrV4, FlowKeyV4, FlowV4, Port};

    use super::*;

    const FIN_CLIENT: u8 = flow_state::FIN_CLIENT;
    const FIN_BACKEND: u8 = flow_state::FIN_BACKEND;
    const CLOSED: u8 = flow_state::CLOSED;
    const REPLIED: u8 = flow_state::REPLIED;

    fn over(protocol: Protocol, state: u8, idle: u32, timeouts: Timeouts) -> bool {
        // Before, at and after the clock's wrap.
        let answers = [5_000_000, 100, 0u32, u32::MAX]
            .map(|now| Life { protocol, state, last_seen: now.wrapping_sub(idle) }.is_over(&timeouts, now));
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
        answers[0]
    }

    #[test]
    fn each_kind_of_flow_has_its_last_second() {
        let hour = 3600;
        let cases = [
            (Protocol::TCP, 0, UNANSWERED_SECONDS),
            (Protocol::TCP, FIN_CLIENT, UNANSWERED_SECONDS),
            (Protocol::TCP, REPLIED, 24 * hour),
            (Protocol::TCP, REPLIED | FIN_CLIENT, hour),
            (Protocol::TCP, REPLIED | FIN_BACKEND, hour),
            (Protocol::TCP, REPLIED | FIN_CLIENT | FIN_BACKEND, ENDED_SECONDS),
            (Protocol::TCP, REPLIED | CLOSED, ENDED_SECONDS),
            (Protocol::TCP, CLOSED, ENDED_SECONDS),
            (Protocol::SCTP, 0, UNANSWERED_SECONDS),
            (Protocol::SCTP, REPLIED, 24 * hour),
            (Protocol::SCTP, REPLIED | CLOSED, ENDED_SECONDS),
            (Protocol::UDP, 0, UDP_IDLE_SECONDS),
            (Protocol::UDP, REPLIED, UDP_IDLE_SECONDS),
            (Protocol::UDP, CLOSED, ENDED_SECONDS),
        ];
        for (protocol, state, last) in cases {
            assert!(!over(protocol, state, 0, Timeouts::default()));
            assert!(!over(protocol, state, last, Timeouts::default()), "{protocol:?} {state} at {last}");
            assert!(over(protocol, state, last + 1, Timeouts::default()), "{protocol:?} {state} after {last}");
            // Packets that came after the clock was read.
            assert!(!over(protocol, state, 0u32.wrapping_sub(1), Timeouts::default()));
            assert!(!over(protocol, state, 0u32.wrapping_sub(100_000), Timeouts::default()));
        }
    }

    #[test]
    fn established_connections_last_as_long_as_they_are_told_to() {
        let never = Timeouts { established: None, half_closed: None };
        assert!(!over(Protocol::TCP, REPLIED, i32::MAX as u32, never));
        assert!(!over(Protocol::TCP, REPLIED | FIN_CLIENT, i32::MAX as u32, never));
        assert!(over(Protocol::TCP, REPLIED | CLOSED, ENDED_SECONDS + 1, never));
        let short = Timeouts { established: Some(10), half_closed: Some(5) };
        assert!(!over(Protocol::TCP, REPLIED, 10, short) && over(Protocol::TCP, REPLIED, 11, short));
        assert!(!over(Protocol::TCP, REPLIED | FIN_BACKEND, 5, short));
        assert!(over(Protocol::TCP, REPLIED | FIN_BACKEND, 6, short));
    }

    #[test]
    fn the_direction_that_was_heard_last_speaks_for_both() {
        for now in [1_000u32, 3, 1] {
            let old = now.wrapping_sub(UDP_IDLE_SECONDS + 1);
            let life = Life { protocol: Protocol::UDP, state: 0, last_seen: old };
            let other = |last_seen, state| FlowV4 { last_seen, state, ..FlowV4::default() };
            assert!(life.and(&other(old, 0), now).is_over(&Timeouts::default(), now));
            assert!(!life.and(&other(now, 0), now).is_over(&Timeouts::default(), now));
            // Marked while this was looked at.
            assert!(!life.and(&other(now.wrapping_add(1), 0), now).is_over(&Timeouts::default(), now));
            let young = Life { last_seen: now, ..life };
            assert_eq!(young.and(&other(old, CLOSED), now), Life { state: CLOSED, ..young });
        }
    }

    #[test]
    fn affinity_ends_with_its_time_and_with_its_service() {
        for now in [1_000u32, 20] {
            assert!(!is_forgotten(now.wrapping_sub(30), Some(30), now));
            assert!(is_forgotten(now.wrapping_sub(31), Some(30), now));
            assert!(!is_forgotten(now.wrapping_add(1), Some(30), now));
            assert!(is_forgotten(now, None, now));
        }
    }

    #[test]
    fn both_halves_of_a_second_pair_know_the_first_one() {
        let [client, pod, node] = [1, 2, 3].map(AddrV4);
        let [from, masqueraded, at] = [10, 20, 30].map(Port::from_host);
        let key = FlowKeyV4 {
            source: client,
            destination: pod,
            source_port: from,
            destination_port: at,
            protocol: Protocol::UDP,
            stage: flow_stage::EGRESS,
            zero: 0,
        };
        let flow = FlowV4 {
            source: node,
            destination: pod,
            source_port: masqueraded,
            destination_port: at,
            service: FlowV4::NO_SERVICE,
            ops: flow_op::TO_BACKEND | flow_op::ADDRESSES,
            peer_stage: flow_stage::INGRESS,
            ..FlowV4::default()
        };
        let reply_key = peer_key(&key, &flow);
        let reply = FlowV4 {
            source: pod,
            destination: client,
            source_port: at,
            destination_port: from,
            ops: flow_op::ADDRESSES,
            peer_stage: flow_stage::EGRESS,
            ..flow
        };
        let first = FlowKeyV4 { source: pod, destination: client, source_port: at, destination_port: from, ..key };
        assert_eq!(first_pair(&key, &flow), Some(first));
        assert_eq!(first_pair(&reply_key, &reply), Some(first));
        assert_eq!(first_pair(&key, &FlowV4 { service: 7, ..flow }), None);
        assert_eq!(first_pair(&key, &FlowV4 { ops: flow.ops | flow_op::DIRECT, ..flow }), None);
    }
}
