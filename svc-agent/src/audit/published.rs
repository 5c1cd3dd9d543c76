//! What the agent writes: frontends, markers, services, slots, backends, names, filter bits, configuration.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use svc_common::{
    ABI_VERSION, AddrV4, AddrV6, BackendEntry, BackendRef, Family, ServiceEntry, Verdict, address_class,
    address_marker, backend_flag,
};

use super::report::Report;
use crate::publish::maps::{Frontend, Maps, MapsError, ip_of};
use crate::publish::snapshot::{text_of, verdict_text};

/// What the second half of the audit needs of the first.
#[derive(Default)]
pub(super) struct Published {
    pub services: BTreeMap<u32, ServiceEntry>,
    /// Every element ever used.
    pub backends: HashMap<u32, BackendEntry>,
    pub names: BTreeMap<u32, String>,
    pub service_capacity: u32,
    pub last_affinity_id: u32,
}

impl Published {
    pub fn name(&self, index: u32) -> String {
        let service = self.services.get(&index).map(|entry| format!(" at {}", Frontend::of_entry(entry)));
        match self.names.get(&index) {
            Some(name) => format!("{name}{}", service.unwrap_or_default()),
            None => format!("service #{index}{}", service.unwrap_or_default()),
        }
    }

    /// The backend a reference names, as long as it lives.
    pub fn live(&self, reference: BackendRef) -> Option<&BackendEntry> {
        let entry = self.backends.get(&reference.index())?;
        (entry.generation == reference.generation() && lives(entry)).then_some(entry)
    }

    /// What is wrong with a reference that may have outlived its backend.
    pub fn impossible(&self, reference: BackendRef) -> Option<String> {
        let (index, generation) = (reference.index(), reference.generation());
        let current = self.backends.get(&index).map_or(0, |entry| entry.generation);
        if generation.is_multiple_of(2) {
            Some(format!("its reference to backend {index} has the even generation {generation}"))
        } else if (current.wrapping_sub(generation) as i32) < 0 {
            Some(format!("its reference to backend {index} has generation {generation}, the backend only {current}"))
        } else {
            None
        }
    }
}

fn lives(entry: &BackendEntry) -> bool {
    !entry.generation.is_multiple_of(2)
}

pub(super) fn check(maps: &impl Maps, report: &mut Report) -> Result<Published, MapsError> {
    let mut published = Published { service_capacity: maps.capacities().services, ..Published::default() };
    maps.read_services(&mut |index, entry| {
        published.last_affinity_id = published.last_affinity_id.max(entry.affinity_id);
        if entry.publication.verdict() != Verdict::NONE {
            published.services.insert(index, *entry);
        }
    })?;
    maps.read_backends(&mut |index, entry| {
        if *entry != BackendEntry::default() {
            published.backends.insert(index, *entry);
        }
    })?;
    published.names = maps.read_names()?.iter().map(|(index, name)| (*index, text_of(name))).collect();
    let frontends = maps.read_frontends()?;
    report.counts.services = published.services.len() as u32;
    report.counts.names = published.names.len() as u32;
    check_frontends(&published, &frontends, report);
    check_names(&published, report);
    let slotted = check_slots(maps, &published, report)?;
    check_backends(&published, &slotted, report);
    check_filter(maps, &published, &frontends, report)?;
    Ok(published)
}

/// Every frontend leads to the service that repeats it, every service has its frontend, every address its marker.
fn check_frontends(published: &Published, frontends: &[(Frontend, u32)], report: &mut Report) {
    let mut markers = BTreeMap::new();
    let mut addresses: BTreeMap<Frontend, BTreeSet<u8>> = BTreeMap::new();
    let mut owners = HashMap::new();
    for (frontend, index) in frontends {
        if frontend.is_marker() {
            markers.insert(*frontend, *index);
            continue;
        }
        let verdicts = addresses.entry(frontend.marker()).or_default();
        verdicts.extend(published.services.get(index).map(|entry| entry.publication.verdict().0));
        owners.insert(*frontend, *index);
        match published.services.get(index) {
            Some(entry) if Frontend::of_entry(entry) == *frontend => {}
            Some(entry) => {
                let other = Frontend::of_entry(entry);
                report.note("frontend", frontend, format!("leads to service {index}, which is that of {other}"));
            }
            None => report.note("frontend", frontend, format!("leads to service {index}, which is not in use")),
        }
    }
    for (index, entry) in &published.services {
        let frontend = Frontend::of_entry(entry);
        if owners.get(&frontend) != Some(index) {
            report.note("leaked-service", published.name(*index), format!("no frontend leads to service {index}"));
        }
    }
    for (marker, verdicts) in &addresses {
        let address = marker.socket_address().ip();
        // What all services of the address together do with a ping.
        let wanted = [(Verdict::FORWARD, address_marker::ANSWERS), (Verdict::DROP, address_marker::DROPS)];
        let wanted = wanted.into_iter().find(|(verdict, _)| verdicts.contains(&verdict.0));
        let wanted = wanted.map_or(address_marker::REFUSES, |(_, value)| value);
        match markers.remove(marker) {
            None => report.note("marker", address, "has frontends but no marker: its other ports are not refused"),
            Some(found) if found != wanted => {
                report.note(
                    "marker",
                    address,
                    format!("answers pings as {found:#x} says, its services want {wanted:#x}"),
                );
            }
            Some(_) => {}
        }
    }
    for marker in markers.keys() {
        report.note("marker", marker.socket_address().ip(), "has a marker but no frontend: all its ports are refused");
    }
    report.counts.frontends = owners.len() as u32;
    report.counts.markers = frontends.len() as u32 - owners.len() as u32;
}

fn check_names(published: &Published, report: &mut Report) {
    for index in published.services.keys().filter(|index| !published.names.contains_key(index)) {
        report.note("name", published.name(*index), "is in use and has no name");
    }
    for (index, name) in published.names.iter().filter(|(index, _)| !published.services.contains_key(index)) {
        report.note("leaked-name", name, format!("is the name of service {index}, which is not in use"));
    }
    // One Service port has one id in both families, and no other one has it.
    let mut ids: BTreeMap<u32, (String, u8)> = BTreeMap::new();
    let mut ports: BTreeMap<(String, u8), u32> = BTreeMap::new();
    for (index, entry) in &published.services {
        let Some(name) = published.names.get(index) else { continue };
        let port = (name.clone(), entry.protocol.0);
        let id = *ports.entry(port.clone()).or_insert(entry.affinity_id);
        let owner = ids.entry(entry.affinity_id).or_insert_with(|| port.clone());
        if entry.affinity_id == 0 || id != entry.affinity_id || *owner != port {
            let detail = format!("affinity id {} is not its own and one (also: {}, {id})", entry.affinity_id, owner.0);
            report.note("affinity-id", published.name(*index), detail);
        }
    }
}

/// Publication words and the slots they name. Returns the references that have a slot.
fn check_slots(maps: &impl Maps, published: &Published, report: &mut Report) -> Result<HashSet<BackendRef>, MapsError> {
    let capacity = maps.capacities().slots;
    let mut slotted = HashSet::new();
    let mut ranges = Vec::new();
    for (index, entry) in &published.services {
        let (verdict, first, count) =
            (entry.publication.verdict(), entry.publication.first_slot(), entry.publication.slot_count());
        let forwards = verdict == Verdict::FORWARD;
        if verdict_text(verdict) == "unknown" || forwards == (count == 0) {
            let detail = format!("verdict {} ({}) with {count} slots", verdict.0, verdict_text(verdict));
            report.note("publication", published.name(*index), detail);
        }
        if !forwards {
            continue;
        }
        if first.checked_add(count).is_none_or(|end| end > capacity) {
            let detail = format!("names slots {first} to {first}+{count}, there are {capacity}");
            report.note("publication", published.name(*index), detail);
            continue;
        }
        ranges.push((first, count, *index));
        report.counts.slots += count;
        for slot in first..first + count {
            let reference = maps.read_slot(slot)?;
            if let Some(wrong) = wrong_slot(published, *index, reference) {
                report.note("slot", published.name(*index), format!("slot {slot} {wrong}"));
            }
            slotted.insert(reference);
        }
    }
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        if let [(first, count, one), (second, _, other)] = pair
            && first + count > *second
        {
            let detail = format!("shares slots from {second} on with {}", published.name(*other));
            report.note("slot-range", published.name(*one), detail);
        }
    }
    Ok(slotted)
}

fn wrong_slot(published: &Published, service: u32, reference: BackendRef) -> Option<String> {
    let (index, generation) = (reference.index(), reference.generation());
    match published.backends.get(&index) {
        Some(entry) if entry.generation != generation || !lives(entry) => {
            Some(format!("refers to generation {generation} of backend {index}, which has {}", entry.generation))
        }
        Some(entry) if entry.service != service => {
            Some(format!("refers to backend {index}, which belongs to {}", published.name(entry.service)))
        }
        Some(entry) if entry.flags & backend_flag::ELIGIBLE == 0 => {
            Some(format!("refers to backend {index}, which is marked as draining"))
        }
        Some(_) => None,
        None => Some(format!("refers to backend {index}, which was never used")),
    }
}

/// Every living backend belongs to a service, once, and says rightly whether it has a slot.
fn check_backends(published: &Published, slotted: &HashSet<BackendRef>, report: &mut Report) {
    let mut targets = BTreeMap::new();
    let mut living: Vec<_> = published.backends.iter().filter(|(_, entry)| lives(entry)).collect();
    living.sort_unstable_by_key(|(index, _)| **index);
    for (index, entry) in living {
        report.counts.backends += 1;
        let Some(service) = published.services.get(&entry.service) else {
            let detail = format!("lives, but service {} is not in use", entry.service);
            report.note("leaked-backend", format!("backend {index}"), detail);
            continue;
        };
        let name = || published.name(entry.service);
        let address = ip_of(entry.address, service.family);
        let has_slot = slotted.contains(&BackendRef::new(*index, entry.generation));
        report.counts.draining += u32::from(!has_slot);
        if !has_slot && entry.flags & backend_flag::ELIGIBLE != 0 {
            report.note(
                "leaked-backend",
                name(),
                format!("{address} (backend {index}) lives without slot, and not to drain"),
            );
        }
        let wide = service.family == Family::V4 && entry.address.0[1..] != [0; 3];
        if wide || entry.address == AddrV6::default() || entry.port.0 == 0 {
            report.note(
                "backend",
                name(),
                format!("backend {index} has no address of the service's family, or no port"),
            );
        }
        if let Some(other) = targets.insert((entry.service, entry.address, entry.port), *index) {
            report.note("backend", name(), format!("{address} lives twice, as backends {other} and {index}"));
        }
    }
}

/// A clear bit would lose translations; a set one that nobody needs only costs a lookup.
fn check_filter(
    maps: &impl Maps,
    published: &Published,
    frontends: &[(Frontend, u32)],
    report: &mut Report,
) -> Result<(), MapsError> {
    let config = maps.read_config()?;
    if config.abi_version != ABI_VERSION {
        let detail = format!("says layout version {}, the maps are those of {ABI_VERSION}", config.abi_version);
        report.note("config", "CONFIG", detail);
    }
    let mut wanted: BTreeMap<IpAddr, u8> = BTreeMap::new();
    for (frontend, _) in frontends {
        *wanted.entry(frontend.socket_address().ip()).or_default() |= address_class::FRONTEND;
    }
    for entry in published.backends.values().filter(|entry| lives(entry)) {
        if let Some(service) = published.services.get(&entry.service) {
            *wanted.entry(ip_of(entry.address, service.family)).or_default() |= address_class::BACKEND;
        }
    }
    if config.node_v4 != AddrV4::default() {
        *wanted.entry(config.node_v4.octets().into()).or_default() |= address_class::NODE;
    }
    if config.node_v6 != AddrV6::default() {
        *wanted.entry(config.node_v6.octets().into()).or_default() |= address_class::NODE;
    }
    for (address, class) in wanted {
        let missing = class & !maps.read_address_class(address)?;
        if missing != 0 {
            report.note("filter", address, format!("bits {missing:#05b} are not set in ADDRESS_FILTER"));
        }
    }
    Ok(())
}
