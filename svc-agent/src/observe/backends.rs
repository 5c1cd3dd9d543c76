//! `get backends`: one row for each living backend, whether it gets new connections or only serves old ones.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use svc_common::{BackendEntry, BackendRef, Family, ServiceEntry, backend_flag};

use super::label::{Filter, Labels, ProtocolLabel, ServiceLabel, ip_of, socket_address};
use super::print::{Row, Width};
use super::reader::{MapReader, ReadError, all_services};

/// JSON: `service`, `namespace`, `name`, `port_name`, `protocol`, `backend` ("address:port"), `local`,
/// `state` ("active": gets new connections | "draining": only keeps those it has), `slots`, `index`, `generation`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct BackendRow {
    #[serde(flatten)]
    pub label: ServiceLabel,
    pub protocol: Option<ProtocolLabel>,
    pub backend: SocketAddr,
    /// The endpoint is on this node.
    pub local: bool,
    pub state: &'static str,
    /// Positions it has in the list of its service.
    pub slots: u32,
    pub index: u32,
    pub generation: u32,
}

impl Row for BackendRow {
    const COLUMNS: &'static [(&'static str, Width)] = &[
        ("SERVICE", Width::Always),
        ("PROTOCOL", Width::Always),
        ("BACKEND", Width::Always),
        ("LOCAL", Width::Always),
        ("STATE", Width::Always),
        ("SLOTS", Width::Always),
        ("INDEX", Width::Wide),
        ("GENERATION", Width::Wide),
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.label.to_string(),
            self.protocol.map_or_else(|| "-".to_owned(), |protocol| protocol.to_string()),
            self.backend.to_string(),
            if self.local { "yes" } else { "no" }.to_owned(),
            self.state.to_owned(),
            self.slots.to_string(),
            self.index.to_string(),
            self.generation.to_string(),
        ]
    }
}

/// Sorted by service, protocol and address.
pub fn backend_rows(reader: &dyn MapReader, filter: &Filter) -> Result<Vec<BackendRow>, ReadError> {
    let services: HashMap<u32, ServiceEntry> = all_services(reader)?.into_iter().collect();
    let mut slot_counts: HashMap<BackendRef, u32> = HashMap::new();
    for entry in unique_publications(&services) {
        for slot in reader.slots(entry.publication)? {
            *slot_counts.entry(slot).or_default() += 1;
        }
    }

    let mut labels = Labels::new(reader);
    let mut rows = Vec::new();
    let mut backends = Vec::new();
    reader.backends(&mut |index, entry| backends.push((index, *entry)))?;
    for (index, entry) in backends {
        let label = labels.get(entry.service)?;
        if !filter.wants_service(label) {
            continue;
        }
        let service = services.get(&entry.service);
        let slots = slot_counts.get(&BackendRef::new(index, entry.generation)).copied().unwrap_or(0);
        rows.push(BackendRow {
            label: label.clone(),
            protocol: service.map(|service| ProtocolLabel(service.protocol)),
            backend: socket_address(backend_ip(&entry, service), entry.port),
            local: entry.flags & backend_flag::LOCAL != 0,
            state: if slots > 0 { "active" } else { "draining" },
            slots,
            index,
            generation: entry.generation,
        });
    }
    rows.sort_by(|a, b| {
        let key = |row: &BackendRow| (row.protocol.map(|protocol| protocol.0), row.backend, row.index);
        a.label.cmp(&b.label).then_with(|| key(a).cmp(&key(b)))
    });
    Ok(rows)
}

/// Frontends of one Service port share their slots; each list counts once.
fn unique_publications(services: &HashMap<u32, ServiceEntry>) -> Vec<ServiceEntry> {
    let mut entries: Vec<ServiceEntry> = services.values().copied().collect();
    entries.sort_unstable_by_key(|entry| entry.publication.0);
    entries.dedup_by_key(|entry| entry.publication.0);
    entries
}

/// The entry itself does not say its family; its service does. Without one, an address in the first word alone
/// is an IPv4 address: no IPv6 endpoint looks like that (`::/96` is not routable).
fn backend_ip(entry: &BackendEntry, service: Option<&ServiceEntry>) -> IpAddr {
    let family = service.map(|service| service.family).unwrap_or_else(|| {
        let [_, rest @ ..] = entry.address.0;
        if rest == [0; 3] { Family::V4 } else { Family::V6 }
    });
    ip_of(family, entry.address)
}
