//! What the programs write: flows, affinities, sockets, counters. Entries may outlive what they refer to, and LRU maps
//! forget; what they say must be possible, and flows must come in pairs.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::SocketAddr;

use svc_common::{
    AddrV6, AffinityKey, AffinityValue, BackendRef, Flow, FlowKey, FlowKeyV4, FlowKeyV6, FlowV4, FlowV6, Port,
    SocketKey, SocketValue, flow_op, flow_stage, map, socket_fact,
};
use svc_datapath::{Address, has_ended, peer_key};

use super::published::Published;
use super::report::Report;
use crate::observe::label::{ToIp, socket_address};
use crate::publish::maps::transport_of;

/// Of a table that is less full than this nothing has been forgotten: 1 / 2.
const FULL_ENOUGH_TO_FORGET: u32 = 2;

/// Everything in the maps that programs write.
#[derive(Clone, Default, Debug)]
pub struct Entries {
    pub flows_v4: Vec<(FlowKeyV4, FlowV4)>,
    pub flows_v6: Vec<(FlowKeyV6, FlowV6)>,
    /// Entries that each flow table can hold.
    pub flow_capacities: [u32; 2],
    pub affinity: Vec<(AffinityKey, AffinityValue)>,
    pub sockets: Vec<(SocketKey, SocketValue)>,
    /// Indexes in SERVICE_COUNTERS.
    pub counters: Vec<u32>,
}

pub(super) fn check(published: &Published, entries: &Entries, report: &mut Report) {
    let [capacity_v4, capacity_v6] = entries.flow_capacities;
    report.counts.flows_v4 = entries.flows_v4.len() as u32;
    report.counts.flows_v6 = entries.flows_v6.len() as u32;
    check_flows(published, &entries.flows_v4, capacity_v4, map::FLOWS_V4, report);
    check_flows(published, &entries.flows_v6, capacity_v6, map::FLOWS_V6, report);
    check_affinity(published, &entries.affinity, report);
    check_sockets(&entries.sockets, report);
    let of_nobody = entries.counters.iter().filter(|index| !published.services.contains_key(index));
    report.counts.counters_of_nobody = of_nobody.count() as u32;
}

fn check_flows<A: Address + ToIp + Eq + Hash>(
    published: &Published,
    entries: &[(FlowKey<A>, Flow<A>)],
    capacity: u32,
    map: &'static str,
    report: &mut Report,
) {
    let flows: HashMap<FlowKey<A>, Flow<A>> = entries.iter().copied().collect();
    let forgets = entries.len() as u32 >= capacity / FULL_ENOUGH_TO_FORGET;
    for (key, flow) in entries {
        let name = || describe(published, key, flow);
        if let Some(wrong) = wrong_flow(published, key, flow) {
            report.note("flow", name(), wrong);
        }
        match flows.get(&peer_key(key, flow)) {
            Some(peer) if peer_key(&peer_key(key, flow), peer) == *key => {
                let to_backend = |flow: &Flow<A>| flow.ops & flow_op::TO_BACKEND != 0;
                if to_backend(flow) == to_backend(peer) {
                    report.note("flow-pair", name(), "both flows of its pair have one direction");
                }
            }
            // What it belonged to has another pair by now; late packets may still come.
            Some(_) if may_be_superseded(published, key, flow) => report.counts.superseded_flows += 1,
            Some(_) => report.note("flow-pair", name(), "its other direction belongs to another connection"),
            None if forgets => report.counts.half_flows += 1,
            // What took its place was swept first: they end at the same time, but not in the order of the sweep.
            None if has_ended(flow.state) || is_reply(flow) && may_be_left(published, key, flow) => {
                report.counts.superseded_flows += 1;
            }
            None => {
                let detail = format!("has no other direction, though {map} never was full");
                report.note("flow-pair", name(), detail);
            }
        }
    }
}

/// A reply that came before its client moved, or a connection that is over.
fn may_be_superseded<A>(published: &Published, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
    is_reply(flow) || may_be_left(published, key, flow)
}

/// The connection may have been over before its client began another one.
fn may_be_left<A>(published: &Published, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
    has_ended(flow.state) || key.protocol != svc_common::Protocol::TCP || published.live(flow.backend).is_none()
}

fn is_reply<A>(flow: &Flow<A>) -> bool {
    flow.ops & flow_op::TO_BACKEND == 0
}

fn wrong_flow<A: Address + ToIp>(published: &Published, key: &FlowKey<A>, flow: &Flow<A>) -> Option<String> {
    if key.stage > flow_stage::EGRESS || flow.peer_stage > flow_stage::EGRESS || key.zero != 0 {
        return Some("its key has a stage that does not exist".to_owned());
    }
    if flow.service == Flow::<A>::NO_SERVICE {
        return None;
    }
    if flow.service >= published.service_capacity {
        return Some(format!("belongs to service {}, there are {}", flow.service, published.service_capacity));
    }
    if flow.backend == BackendRef::NONE {
        return None;
    }
    if let Some(wrong) = published.impossible(flow.backend) {
        return Some(wrong);
    }
    let backend = published.live(flow.backend)?;
    let far = match flow.ops & flow_op::TO_BACKEND != 0 {
        true => (flow.destination.wide(), flow.destination_port),
        false => (key.source.wide(), key.source_port),
    };
    if backend.service != flow.service {
        return Some(format!("its backend belongs to {}", published.name(backend.service)));
    }
    (far != (backend.address, backend.port)).then(|| "its endpoint has another address than its backend".to_owned())
}

fn describe<A: ToIp>(published: &Published, key: &FlowKey<A>, flow: &Flow<A>) -> String {
    let address = |address: A, port: Port| -> SocketAddr { socket_address(address.to_ip(), port) };
    let stage = if key.stage == flow_stage::INGRESS { "ingress" } else { "egress" };
    let service = match flow.service {
        Flow::<A>::NO_SERVICE => "no service".to_owned(),
        index => published.name(index),
    };
    format!(
        "{} {} > {} at {stage} ({service})",
        transport_of(key.protocol),
        address(key.source, key.source_port),
        address(key.destination, key.destination_port)
    )
}

fn check_affinity(published: &Published, entries: &[(AffinityKey, AffinityValue)], report: &mut Report) {
    report.counts.affinities = entries.len() as u32;
    for (key, value) in entries {
        let name = || format!("affinity {} of client {:?}", key.affinity_id, key.client.octets());
        if key.affinity_id == 0 || key.affinity_id > published.last_affinity_id {
            let detail = format!("the last id given to a service is {}", published.last_affinity_id);
            report.note("affinity", name(), detail);
        }
        if let Some(wrong) = published.impossible(value.backend) {
            report.note("affinity", name(), wrong);
        }
        if let Some(backend) = published.live(value.backend)
            && let Some(service) = published.services.get(&backend.service)
            && service.affinity_id != key.affinity_id
        {
            let detail = format!("leads to a backend of {}", published.name(backend.service));
            report.note("affinity", name(), detail);
        }
    }
}

fn check_sockets(entries: &[(SocketKey, SocketValue)], report: &mut Report) {
    report.counts.sockets = entries.len() as u32;
    for (key, value) in entries {
        let name = || format!("socket {:#x}", key.cookie);
        if key.cookie == 0 {
            report.note("socket", name(), "has no cookie");
        }
        let nobody = AddrV6::default();
        match key.fact {
            socket_fact::TRANSLATED if value.backend == nobody || value.frontend == nobody => {
                report.note("socket", name(), "is said to be translated, but not from what to what");
            }
            socket_fact::BOUND if *value != SocketValue::default() => {
                report.note("socket", name(), "is said to be bound only, but has addresses");
            }
            socket_fact::TRANSLATED | socket_fact::BOUND => {}
            other => report.note("socket", name(), format!("says something unknown ({other})")),
        }
    }
}
