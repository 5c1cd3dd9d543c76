//! What the maps hold, by names and addresses instead of indexes, and its canonical text: the same state always reads
//! the same, whatever the history. For tests, the commands and bug reports. Must not write.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;

use svc_common::{BackendEntry, BackendRef, Family, ServiceEntry, ServiceName, Verdict, backend_flag, service_flag};

use super::maps::{Frontend, Maps, MapsError, ip_of};

/// Everything a client could be translated with.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MapsSnapshot {
    /// Sorted by frontend.
    pub services: Vec<ServiceView>,
}

/// One frontend and what stands behind it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceView {
    pub frontend: Frontend,
    pub index: u32,
    /// `namespace/name:port`; `None` if the map of names lacks it.
    pub name: Option<String>,
    pub verdict: Verdict,
    /// Slots are chosen by a hash of the client.
    pub hashed: bool,
    /// Connections to an endpoint that is gone are reset.
    pub reset_when_gone: bool,
    /// Seconds; 0: no affinity.
    pub affinity_timeout: u32,
    pub affinity_id: u32,
    /// Sorted by address.
    pub backends: Vec<BackendView>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct BackendView {
    pub address: SocketAddr,
    pub index: u32,
    pub local: bool,
    /// Slots that lead here: 0 while it drains.
    pub slots: u32,
}

impl MapsSnapshot {
    /// Reads all maps. A service that changes meanwhile may show a mixture; nothing is locked.
    pub fn read(maps: &impl Maps) -> Result<Self, MapsError> {
        let names: HashMap<u32, ServiceName> = maps.read_names()?.into_iter().collect();
        let mut services = HashMap::new();
        maps.read_services(&mut |index, entry| {
            if entry.publication.verdict() != Verdict::NONE {
                services.insert(index, (*entry, Vec::new()));
            }
        })?;
        maps.read_backends(&mut |index, backend| {
            if backend.generation % 2 == 1
                && let Some((_, backends)) = services.get_mut(&backend.service)
            {
                backends.push((index, *backend));
            }
        })?;
        let mut snapshot = Self::default();
        for (frontend, index) in maps.read_frontends()? {
            if let Some((entry, backends)) = services.get(&index)
                && Frontend::of_entry(entry) == frontend
            {
                snapshot.services.push(ServiceView {
                    frontend,
                    index,
                    name: names.get(&index).map(text_of),
                    verdict: entry.publication.verdict(),
                    hashed: entry.flags & service_flag::HASH != 0,
                    reset_when_gone: entry.flags & service_flag::RESET_WHEN_GONE != 0,
                    affinity_timeout: entry.affinity_timeout,
                    affinity_id: entry.affinity_id,
                    backends: read_backends(maps, entry, backends)?,
                });
            }
        }
        snapshot.services.sort_by_key(|service| {
            let address = service.frontend.socket_address();
            (address.is_ipv6(), address, service.frontend.protocol)
        });
        Ok(snapshot)
    }
}

fn read_backends(
    maps: &impl Maps,
    entry: &ServiceEntry,
    live: &[(u32, BackendEntry)],
) -> Result<Vec<BackendView>, MapsError> {
    let mut slots: HashMap<BackendRef, u32> = HashMap::new();
    if entry.publication.verdict() == Verdict::FORWARD {
        let first = entry.publication.first_slot();
        for slot in first..first.saturating_add(entry.publication.slot_count()) {
            *slots.entry(maps.read_slot(slot)?).or_default() += 1;
        }
    }
    let mut backends: Vec<_> =
        live.iter().map(|(index, backend)| view(entry.family, *index, backend, &slots)).collect();
    backends.sort();
    Ok(backends)
}

fn view(family: Family, index: u32, backend: &BackendEntry, slots: &HashMap<BackendRef, u32>) -> BackendView {
    BackendView {
        address: SocketAddr::new(ip_of(backend.address, family), backend.port.to_host()),
        index,
        local: backend.flags & backend_flag::LOCAL != 0,
        slots: slots.get(&BackendRef::new(index, backend.generation)).copied().unwrap_or(0),
    }
}

/// One line for each frontend, followed by an indented line for each backend.
impl fmt::Display for MapsSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for service in &self.services {
            let name = service.name.as_deref().unwrap_or("(unnamed)");
            write!(f, "{} {name} {}", service.frontend, verdict_text(service.verdict))?;
            if service.hashed {
                write!(f, " maglev")?;
            }
            if service.reset_when_gone {
                write!(f, " reset")?;
            }
            if service.affinity_timeout > 0 {
                write!(f, " affinity={}s", service.affinity_timeout)?;
            }
            writeln!(f)?;
            for backend in &service.backends {
                write!(f, "  {}", backend.address)?;
                if backend.slots > 1 {
                    write!(f, " slots={}", backend.slots)?;
                }
                let local = if backend.local { " local" } else { "" };
                let draining = if backend.slots == 0 { " draining" } else { "" };
                writeln!(f, "{local}{draining}")?;
            }
        }
        Ok(())
    }
}

/// As shown to people.
pub const fn verdict_text(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::NONE => "none",
        Verdict::FORWARD => "forward",
        Verdict::REJECT => "reject",
        Verdict::DROP => "drop",
        _ => "unknown",
    }
}

/// The text without its padding.
pub fn text_of(name: &ServiceName) -> String {
    let length = name.bytes.iter().position(|byte| *byte == 0).unwrap_or(name.bytes.len());
    String::from_utf8_lossy(&name.bytes[..length]).into_owned()
}
