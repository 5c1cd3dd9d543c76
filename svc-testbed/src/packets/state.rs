//! Everything a program may change, as text a person can read, and the difference between two moments.
//! Neighbours: [`super::tables`] and [`super::kernel`] fill it from their maps.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use svc_common::{
    AffinityKey, AffinityValue, BackendRef, DropReason, Event, Flow, FlowKey, HeldKey, Port, Protocol, ServiceCounters,
    event_kind, event_path, flow_op, flow_stage, flow_state,
};

use super::world::{Narrow, narrow_to};

#[derive(Clone, PartialEq, Debug)]
struct Entry {
    value: String,
    /// Bits of the flow's life, empty for affinities.
    life: String,
    age: u32,
}

#[derive(Clone, Default, PartialEq, Debug)]
pub struct State {
    entries: BTreeMap<String, Entry>,
    /// Keys of flows whose other half is missing.
    halves: Vec<String>,
    counters: BTreeMap<u32, [u64; 7]>,
    drops: BTreeMap<&'static str, u64>,
    events: Vec<String>,
}

const COUNTERS: [&str; 7] = [
    "connections_tc",
    "connections_socket",
    "packets_to_backend",
    "bytes_to_backend",
    "packets_to_client",
    "bytes_to_client",
    "rejected",
];

pub fn protocol_name(protocol: Protocol) -> String {
    match protocol {
        Protocol::TCP => "tcp".to_owned(),
        Protocol::UDP => "udp".to_owned(),
        Protocol::SCTP => "sctp".to_owned(),
        Protocol::ICMP => "icmp".to_owned(),
        Protocol::ICMPV6 => "icmpv6".to_owned(),
        Protocol(number) => format!("protocol-{number}"),
    }
}

fn end<A: Narrow>(address: A, port: Port) -> SocketAddr {
    SocketAddr::new(address.widen(), port.to_host())
}

fn names(bits: u8, names: &[(u8, &str)]) -> String {
    let known = names.iter().fold(0, |all, (bit, _)| all | bit);
    let mut words: Vec<String> =
        names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| (*name).to_owned()).collect();
    if bits & !known != 0 {
        words.push(format!("unknown-bits-{:#x}", bits & !known));
    }
    words.join(" ")
}

fn reference(backend: BackendRef) -> String {
    match backend.generation() {
        _ if backend == BackendRef::NONE => "no backend".to_owned(),
        1 => format!("backend {}", backend.index()),
        generation => format!("backend {}#{generation}", backend.index()),
    }
}

fn stage_name(stage: u8) -> String {
    match stage {
        flow_stage::INGRESS => "ingress".to_owned(),
        flow_stage::EGRESS => "egress".to_owned(),
        other => format!("stage-{other}"),
    }
}

fn key_text<A: Narrow>(key: &FlowKey<A>) -> String {
    let (from, to) = (end(key.source, key.source_port), end(key.destination, key.destination_port));
    format!("flow {} {} {from} > {to}", stage_name(key.stage), protocol_name(key.protocol))
}

/// The key of the other half of a translated connection.
fn peer_key<A: Narrow>(key: &FlowKey<A>, flow: &Flow<A>) -> FlowKey<A> {
    FlowKey {
        source: flow.destination,
        destination: flow.source,
        source_port: flow.destination_port,
        destination_port: flow.source_port,
        protocol: key.protocol,
        stage: flow.peer_stage,
        zero: 0,
    }
}

impl State {
    /// Adds all flows of one family; `age` is the time since the entry was last written.
    pub fn add_flows<A: Narrow>(&mut self, flows: &[(FlowKey<A>, Flow<A>)], age: impl Fn(u32) -> u32) {
        for (key, flow) in flows {
            let (from, to) = (end(flow.source, flow.source_port), end(flow.destination, flow.destination_port));
            let ops = [
                (flow_op::TO_BACKEND, "to_backend"),
                (flow_op::DIRECT, "direct"),
                (flow_op::TURN_BACK, "turn_back"),
                (flow_op::REROUTE, "reroute"),
                (flow_op::ADDRESSES, "addresses"),
                (flow_op::RESET_WHEN_GONE, "reset_when_gone"),
            ];
            let service = match flow.service {
                u32::MAX => "no service".to_owned(),
                index => format!("service {index}"),
            };
            let (backend, ops) = (reference(flow.backend), names(flow.ops, &ops));
            let peer = stage_name(flow.peer_stage);
            let value = format!("=> {from} > {to}, {backend}, {service}, {ops}, peer {peer}");
            let states = [
                (flow_state::REPLIED, "replied"),
                (flow_state::FIN_CLIENT, "fin_client"),
                (flow_state::FIN_BACKEND, "fin_backend"),
                (flow_state::CLOSED, "closed"),
            ];
            let life = format!("[{}]", names(flow.state, &states));
            self.entries.insert(key_text(key), Entry { value, life, age: age(flow.last_seen) });
            let whole = flow.ops & flow_op::DIRECT != 0
                || flows.iter().any(|(other, half)| *other == peer_key(key, flow) && peer_key(other, half) == *key);
            if !whole {
                self.halves.push(key_text(key));
            }
        }
    }

    pub fn add_affinity(&mut self, key: &AffinityKey, value: &AffinityValue, age: u32) {
        let family = if key.client.0[1..] == [0, 0, 0] { svc_common::Family::V4 } else { svc_common::Family::V6 };
        let text = format!("affinity {} id {}", narrow_to(family, key.client), key.affinity_id);
        let value = format!("=> {}", reference(value.backend));
        self.entries.insert(text, Entry { value, life: String::new(), age });
    }

    pub fn add_held(&mut self, key: &HeldKey, length: usize, age: u32) {
        let datagram = &key.datagram;
        let family = if datagram.source.0[1..] == [0, 0, 0] { svc_common::Family::V4 } else { svc_common::Family::V6 };
        let [from, to] = [datagram.source, datagram.destination].map(|address| narrow_to(family, address));
        let (stage, protocol) = (stage_name(datagram.stage), protocol_name(datagram.protocol));
        let id = u32::from_be(datagram.id);
        let text = format!("held {stage} {protocol} {from} > {to} id {id} number {}", key.number);
        self.entries.insert(text, Entry { value: format!("=> {length} bytes"), life: String::new(), age });
    }

    pub fn add_counters(&mut self, service: u32, c: &ServiceCounters) {
        let values = [
            c.connections_tc,
            c.connections_socket,
            c.packets_to_backend,
            c.bytes_to_backend,
            c.packets_to_client,
            c.bytes_to_client,
            c.rejected,
        ];
        for (sum, value) in self.counters.entry(service).or_default().iter_mut().zip(values) {
            *sum += value;
        }
    }

    pub fn add_drops(&mut self, reason: DropReason, count: u64) {
        *self.drops.entry(reason.label()).or_default() += count;
    }

    pub fn add_event(&mut self, event: &Event) {
        let address = |address, port: Port| SocketAddr::new(narrow_to(event.family, address), port.to_host());
        let kind = match event.kind {
            event_kind::TRANSLATED => "translated",
            event_kind::REFUSED => "refused",
            event_kind::DROPPED => "dropped",
            _ => "unknown-kind",
        };
        let path = match event.path {
            event_path::TC => "tc",
            event_path::SOCKET => "socket",
            event_path::XDP => "xdp",
            _ => "unknown-path",
        };
        let client = address(event.client, event.client_port);
        let frontend = address(event.frontend, event.frontend_port);
        let backend = address(event.backend, event.backend_port);
        let protocol = protocol_name(event.protocol);
        let mut text = format!("event {kind} {path} {protocol} {client} > {frontend} > {backend}");
        if event.service == u32::MAX {
            text.push_str(" no service");
        } else {
            let _ = write!(text, " service {}", event.service);
        }
        if event.kind != event_kind::TRANSLATED {
            let reason = DropReason::from_index(event.reason).map_or("unknown reason", DropReason::label);
            let _ = write!(text, " {reason}");
        }
        self.events.push(text);
    }

    /// Flows without their other half, against the rule of `svc_common::flow`.
    pub fn halves(&self) -> &[String] {
        &self.halves
    }

    pub fn flow_count(&self) -> usize {
        self.entries.keys().filter(|key| key.starts_with("flow")).count()
    }

    /// Everything that differs in `after`, one line each, sorted. Events of `after` are new by definition.
    pub fn changes(&self, after: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for (key, new) in &after.entries {
            let space = if new.life.is_empty() { "" } else { " " };
            match self.entries.get(key) {
                None => lines.push(format!("+ {key} {}{space}{}", new.value, new.life)),
                Some(old) if old.value != new.value => {
                    lines.push(format!("~ {key} {}{space}{}", new.value, new.life));
                }
                Some(old) if old.life != new.life => lines.push(format!("~ {key} {}", new.life)),
                Some(old) if old.age != new.age => lines.push(format!("~ {key} seen")),
                Some(_) => {}
            }
        }
        for key in self.entries.keys().filter(|key| !after.entries.contains_key(*key)) {
            lines.push(format!("- {key}"));
        }
        for (service, new) in &after.counters {
            let old = self.counters.get(service).copied().unwrap_or_default();
            let parts: Vec<String> = COUNTERS
                .iter()
                .zip(new.iter().zip(old))
                .filter(|(_, (new, old))| **new != *old)
                .map(|(name, (new, old))| format!("{name} +{}", new.wrapping_sub(old)))
                .collect();
            if !parts.is_empty() {
                lines.push(format!("service {service}: {}", parts.join(", ")));
            }
        }
        for (reason, new) in &after.drops {
            let old = self.drops.get(reason).copied().unwrap_or_default();
            if *new != old {
                lines.push(format!("drops: {reason} +{}", new.wrapping_sub(old)));
            }
        }
        lines.extend(after.events.iter().cloned());
        lines.sort();
        lines
    }
}
