//! `get services`: one row for each frontend, with its verdict and what it did on this node.

use std::collections::HashMap;
use std::net::SocketAddr;

use serde::Serialize;
use svc_common::{ServiceCounters, Verdict, service_flag};

use super::label::{Filter, Labels, ProtocolLabel, ServiceLabel, ip_of, socket_address};
use super::print::{Row, Width, bytes};
use super::reader::{MapReader, ReadError, all_services};

/// JSON: `service`, `namespace`, `name`, `port_name`, `protocol`, `frontend` ("address:port"),
/// `verdict` ("forward" | "reject" | "drop"), `backends`, `connections_tc`, `connections_socket`,
/// `packets_to_backend`, `bytes_to_backend`, `packets_to_client`, `bytes_to_client`, `rejected`,
/// `load_balancing` ("random" | "maglev"), `affinity_timeout_seconds` (null: no affinity), `index`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ServiceRow {
    #[serde(flatten)]
    pub label: ServiceLabel,
    pub protocol: ProtocolLabel,
    pub frontend: SocketAddr,
    pub verdict: &'static str,
    /// Different backends among the slots.
    pub backends: u32,
    pub connections_tc: u64,
    pub connections_socket: u64,
    pub packets_to_backend: u64,
    pub bytes_to_backend: u64,
    pub packets_to_client: u64,
    pub bytes_to_client: u64,
    pub rejected: u64,
    pub load_balancing: &'static str,
    pub affinity_timeout_seconds: Option<u32>,
    pub index: u32,
}

impl Row for ServiceRow {
    const COLUMNS: &'static [(&'static str, Width)] = &[
        ("SERVICE", Width::Always),
        ("PROTOCOL", Width::Always),
        ("FRONTEND", Width::Always),
        ("VERDICT", Width::Always),
        ("BACKENDS", Width::Always),
        ("CONN-TC", Width::Always),
        ("CONN-SOCKET", Width::Always),
        ("PACKETS", Width::Always),
        ("BYTES", Width::Always),
        ("REJECTED", Width::Always),
        ("PACKETS-IN", Width::Wide),
        ("BYTES-IN", Width::Wide),
        ("PACKETS-OUT", Width::Wide),
        ("BYTES-OUT", Width::Wide),
        ("BALANCING", Width::Wide),
        ("AFFINITY", Width::Wide),
        ("INDEX", Width::Wide),
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.label.to_string(),
            self.protocol.to_string(),
            self.frontend.to_string(),
            self.verdict.to_owned(),
            self.backends.to_string(),
            self.connections_tc.to_string(),
            self.connections_socket.to_string(),
            (self.packets_to_backend + self.packets_to_client).to_string(),
            bytes(self.bytes_to_backend + self.bytes_to_client),
            self.rejected.to_string(),
            self.packets_to_backend.to_string(),
            bytes(self.bytes_to_backend),
            self.packets_to_client.to_string(),
            bytes(self.bytes_to_client),
            self.load_balancing.to_owned(),
            self.affinity_timeout_seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds}s")),
            self.index.to_string(),
        ]
    }
}

/// Sorted by name, protocol and frontend.
pub fn service_rows(reader: &dyn MapReader, filter: &Filter) -> Result<Vec<ServiceRow>, ReadError> {
    let mut labels = Labels::new(reader);
    let counters: HashMap<u32, ServiceCounters> = reader.service_counters()?.into_iter().collect();
    let mut rows = Vec::new();
    for (index, entry) in all_services(reader)? {
        let label = labels.get(index)?;
        if !filter.wants_service(label) {
            continue;
        }
        let mut slots = reader.slots(entry.publication)?;
        slots.sort_unstable_by_key(|slot| slot.0);
        slots.dedup();
        let counters = counters.get(&index).copied().unwrap_or_default();
        rows.push(ServiceRow {
            label: label.clone(),
            protocol: ProtocolLabel(entry.protocol),
            frontend: socket_address(ip_of(entry.family, entry.address), entry.port),
            verdict: verdict_label(entry.publication.verdict()),
            backends: slots.len() as u32,
            connections_tc: counters.connections_tc,
            connections_socket: counters.connections_socket,
            packets_to_backend: counters.packets_to_backend,
            bytes_to_backend: counters.bytes_to_backend,
            packets_to_client: counters.packets_to_client,
            bytes_to_client: counters.bytes_to_client,
            rejected: counters.rejected,
            load_balancing: if entry.flags & service_flag::HASH == 0 { "random" } else { "maglev" },
            affinity_timeout_seconds: (entry.affinity_timeout != 0).then_some(entry.affinity_timeout),
            index,
        });
    }
    rows.sort_by(|a, b| {
        (&a.label, a.protocol.0, a.frontend, a.index).cmp(&(&b.label, b.protocol.0, b.frontend, b.index))
    });
    Ok(rows)
}

pub fn verdict_label(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::FORWARD => "forward",
        Verdict::REJECT => "reject",
        Verdict::DROP => "drop",
        _ => "none",
    }
}
