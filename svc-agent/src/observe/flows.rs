//! `get flows`: one row for each connection that TC translates. A connection is a pair of map entries, one for each
//! direction; either may have been evicted. Connections of the socket hooks have no flow: connect() translated them.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::SocketAddr;

use serde::Serialize;
use svc_common::{BackendRef, Flow, FlowKey, flow_op, flow_state};
use svc_datapath::{has_ended, peer_key};

use super::label::{Filter, Labels, ProtocolLabel, ServiceLabel, ToIp, socket_address};
use super::print::{Row, Width, age};
use super::reader::{MapReader, ReadError};

/// JSON: `service`, `namespace`, `name`, `port_name`, `protocol`, `client`, `frontend`, `backend` ("address:port"),
/// `state` ("new" | "established" | "closing" | "closed"), `idle_seconds`, `backend_lives` (false: the endpoint is
/// gone, an established TCP connection goes on), `directions` ("both" | "to_backend" | "to_client").
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FlowRow {
    #[serde(flatten)]
    pub label: ServiceLabel,
    pub protocol: ProtocolLabel,
    pub client: SocketAddr,
    pub frontend: SocketAddr,
    pub backend: SocketAddr,
    pub state: &'static str,
    /// Since the last packet, of either direction.
    pub idle_seconds: u32,
    pub backend_lives: bool,
    /// Which map entries there are.
    pub directions: &'static str,
}

impl Row for FlowRow {
    const COLUMNS: &'static [(&'static str, Width)] = &[
        ("SERVICE", Width::Always),
        ("PROTOCOL", Width::Always),
        ("CLIENT", Width::Always),
        ("FRONTEND", Width::Always),
        ("BACKEND", Width::Always),
        ("STATE", Width::Always),
        ("IDLE", Width::Always),
        ("BACKEND-LIVES", Width::Wide),
        ("DIRECTIONS", Width::Wide),
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.label.to_string(),
            self.protocol.to_string(),
            self.client.to_string(),
            self.frontend.to_string(),
            self.backend.to_string(),
            self.state.to_owned(),
            age(self.idle_seconds),
            if self.backend_lives { "yes" } else { "no" }.to_owned(),
            self.directions.to_owned(),
        ]
    }
}

/// Sorted by service, client, frontend and backend.
pub fn flow_rows(reader: &dyn MapReader, filter: &Filter) -> Result<Vec<FlowRow>, ReadError> {
    let mut generations = HashMap::new();
    reader.backends(&mut |index, entry| {
        generations.insert(index, entry.generation);
    })?;
    let mut collector =
        Collector { filter, labels: Labels::new(reader), generations, now: reader.now(), rows: Vec::new() };
    collector.add(reader.flows_v4()?)?;
    collector.add(reader.flows_v6()?)?;
    let mut rows = collector.rows;
    rows.sort_by(|a, b| {
        let key = |row: &FlowRow| (row.protocol.0, row.client, row.frontend, row.backend);
        a.label.cmp(&b.label).then_with(|| key(a).cmp(&key(b)))
    });
    Ok(rows)
}

struct Collector<'a> {
    filter: &'a Filter,
    labels: Labels<'a>,
    generations: HashMap<u32, u32>,
    now: u32,
    rows: Vec<FlowRow>,
}

/// A connection by its own addresses, whichever map entry they came from.
struct Connection<'f, A> {
    client: SocketAddr,
    frontend: SocketAddr,
    backend: SocketAddr,
    flow: &'f Flow<A>,
    other: Option<&'f Flow<A>>,
    directions: &'static str,
}

impl Collector<'_> {
    fn add<A: ToIp + Eq + Hash>(&mut self, entries: Vec<(FlowKey<A>, Flow<A>)>) -> Result<(), ReadError> {
        let flows: HashMap<FlowKey<A>, Flow<A>> = entries.into_iter().collect();
        for (key, flow) in &flows {
            if flow.ops & flow_op::DIRECT != 0 || flow.service == Flow::<A>::NO_SERVICE {
                continue;
            }
            let other = flows.get(&peer_key(key, flow));
            let [source, destination] = [(key.source, key.source_port), (key.destination, key.destination_port)]
                .map(|(address, port)| socket_address(address.to_ip(), port));
            let [new_source, new_destination] =
                [(flow.source, flow.source_port), (flow.destination, flow.destination_port)]
                    .map(|(address, port)| socket_address(address.to_ip(), port));
            let connection = match (flow.ops & flow_op::TO_BACKEND != 0, other) {
                (true, _) => Connection {
                    client: source,
                    frontend: destination,
                    backend: new_destination,
                    flow,
                    other,
                    directions: if other.is_some() { "both" } else { "to_backend" },
                },
                (false, None) => Connection {
                    client: new_destination,
                    frontend: new_source,
                    backend: source,
                    flow,
                    other,
                    directions: "to_client",
                },
                // Shown with its other half.
                (false, Some(_)) => continue,
            };
            self.push(ProtocolLabel(key.protocol), &connection)?;
        }
        Ok(())
    }

    fn push<A>(&mut self, protocol: ProtocolLabel, connection: &Connection<'_, A>) -> Result<(), ReadError> {
        let Connection { client, frontend, backend, flow, other, directions } = *connection;
        let label = self.labels.get(flow.service)?;
        if !self.filter.wants_service(label) || !self.filter.wants_client(client.ip()) {
            return Ok(());
        }
        let last_seen = other.map_or(flow.last_seen, |other| other.last_seen.max(flow.last_seen));
        self.rows.push(FlowRow {
            label: label.clone(),
            protocol,
            client,
            frontend,
            backend,
            state: state_label(flow.state | other.map_or(0, |other| other.state)),
            // The clock may have been read before the packet came.
            idle_seconds: self.now.saturating_sub(last_seen),
            backend_lives: self.lives(flow.backend),
            directions,
        });
        Ok(())
    }

    fn lives(&self, backend: BackendRef) -> bool {
        self.generations.get(&backend.index()) == Some(&backend.generation())
    }
}

fn state_label(state: u8) -> &'static str {
    if has_ended(state) {
        "closed"
    } else if state & (flow_state::FIN_CLIENT | flow_state::FIN_BACKEND) != 0 {
        "closing"
    } else if state & flow_state::REPLIED != 0 {
        "established"
    } else {
        "new"
    }
}
