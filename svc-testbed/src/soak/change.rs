//! Random changes of Services, slices, conditions, hints and the node: one at a time, each with a line that says what it was.

use super::{
    random::Random,
    state::{Endpoint, MAX_SLICES, NodeState, Place, Service, Slice},
};
use crate::Family;

pub(super) const WEB_PORTS: [u16; 2] = [80, 81];
pub(super) const WEB_TARGETS: [u16; 2] = [8080, 8081];
pub(super) const DNS_TARGETS: [u16; 2] = [5353, 5354];
const ZONES: [&str; 2] = ["za", "zb"];
const NODES: [&str; 2] = ["n1", "n2"];

/// A Service as it begins: dual-stack, everything ready.
pub(super) fn fresh(number: u8, places: &[Place], random: &mut Random) -> Service {
    Service {
        number,
        families: Family::BOTH.to_vec(),
        web_port: WEB_PORTS[0],
        local_policy: false,
        affinity: random.one_in(3),
        resets: random.one_in(3),
        foreign: false,
        exists: true,
        slices: vec![Slice {
            web_target: WEB_TARGETS[0],
            dns_target: DNS_TARGETS[0],
            endpoints: (0..places.len()).filter(|_| !random.one_in(3)).map(Endpoint::ready).collect(),
            headless: false,
        }],
    }
}

/// Changes the Service into another one; says how.
pub(super) fn change(service: &mut Service, places: &[Place], random: &mut Random) -> String {
    let before = service.clone();
    loop {
        let what = attempt(service, places, random);
        settle_differences(service);
        if *service != before {
            return format!("{}: {what}", service.name());
        }
    }
}

fn attempt(service: &mut Service, places: &[Place], random: &mut Random) -> String {
    if !service.exists {
        service.exists = true;
        return "created again".to_owned();
    }
    if service.foreign {
        service.foreign = false;
        return "ours again".to_owned();
    }
    match random.below(25) {
        0 => {
            service.exists = false;
            "deleted".to_owned()
        }
        1 => {
            service.foreign = true;
            "given to another proxy".to_owned()
        }
        2 => {
            service.families = match random.below(4) {
                0 => vec![Family::V4],
                1 => vec![Family::V6],
                _ => Family::BOTH.to_vec(),
            };
            format!("families {:?}", service.families)
        }
        3 => {
            service.web_port = WEB_PORTS[random.below(WEB_PORTS.len())];
            format!("port {}", service.web_port)
        }
        4 | 5 => {
            service.local_policy = !service.local_policy;
            format!("local policy {}", service.local_policy)
        }
        6 => {
            service.affinity = !service.affinity;
            format!("affinity {}", service.affinity)
        }
        7 | 8 => {
            service.slices.iter_mut().for_each(|slice| slice.endpoints.clear());
            "no endpoints".to_owned()
        }
        9 | 10 => {
            let all: Vec<Endpoint> = (0..places.len()).map(Endpoint::ready).collect();
            service.slices = vec![slice(random, all)];
            "all endpoints, ready, in one slice".to_owned()
        }
        11 => change_slices(service, random),
        12 => change_hints(service, random),
        13 => {
            service.resets = !service.resets;
            format!("resets {}", service.resets)
        }
        _ => change_endpoint(service, places, random),
    }
}

fn slice(random: &mut Random, endpoints: Vec<Endpoint>) -> Slice {
    Slice {
        web_target: WEB_TARGETS[random.below(WEB_TARGETS.len())],
        dns_target: DNS_TARGETS[random.below(DNS_TARGETS.len())],
        endpoints,
        headless: false,
    }
}

fn change_slices(service: &mut Service, random: &mut Random) -> String {
    match random.below(4) {
        // Half of the endpoints move to a slice of their own; one may be in both for a while.
        0 | 1 if service.slices.len() < MAX_SLICES => {
            let Some(from) = service.slices.iter_mut().max_by_key(|slice| slice.endpoints.len()) else {
                service.slices.push(slice(random, Vec::new()));
                return "an empty slice".to_owned();
            };
            let moved = from.endpoints.split_off(from.endpoints.len() / 2);
            if let (Some(first), true) = (moved.first(), random.one_in(2)) {
                from.endpoints.push(first.clone());
            }
            service.slices.push(slice(random, moved));
            format!("{} slices", service.slices.len())
        }
        2 if !service.slices.is_empty() => {
            let at = random.below(service.slices.len());
            let changed = &mut service.slices[at];
            changed.headless = !changed.headless;
            format!("slice {at} headless {}", changed.headless)
        }
        _ => {
            service.slices.pop();
            format!("{} slices", service.slices.len())
        }
    }
}

fn change_hints(service: &mut Service, random: &mut Random) -> String {
    let kind = random.below(4);
    for endpoint in service.slices.iter_mut().flat_map(|slice| &mut slice.endpoints) {
        endpoint.zone_hint = (kind == 1 || kind == 2).then(|| ZONES[random.below(2)]);
        endpoint.node_hint = (kind == 2 || kind == 3).then(|| NODES[random.below(2)]);
    }
    format!("hints {}", ["none", "zones", "zones and nodes", "nodes"][kind])
}

fn change_endpoint(service: &mut Service, places: &[Place], random: &mut Random) -> String {
    if service.slices.is_empty() {
        service.slices.push(slice(random, Vec::new()));
    }
    let number = service.slices.len();
    let slice = &mut service.slices[random.below(number)];
    let place = random.below(places.len());
    let name = &places[place].name;
    let Some(position) = slice.endpoints.iter().position(|endpoint| endpoint.place == place) else {
        slice.endpoints.push(Endpoint::ready(place));
        return format!("+{name}");
    };
    if random.one_in(3) {
        slice.endpoints.remove(position);
        return format!("-{name}");
    }
    let endpoint = &mut slice.endpoints[position];
    let (ready, serving, terminating) = match random.below(8) {
        0 => (None, None, None),
        1 => (Some(false), Some(false), None),
        2 | 3 => (Some(false), Some(true), Some(true)),
        4 => (Some(false), Some(false), Some(true)),
        5 => (Some(true), Some(false), None),
        _ => (Some(true), Some(true), Some(false)),
    };
    (endpoint.ready, endpoint.serving, endpoint.terminating) = (ready, serving, terminating);
    format!("{name} ready {ready:?}, serving {serving:?}, terminating {terminating:?}")
}

/// What two slices say of one endpoint must agree, or nobody could say who is right.
fn settle_differences(service: &mut Service) {
    let mut known: Vec<Endpoint> = Vec::new();
    for endpoint in service.slices.iter_mut().flat_map(|slice| &mut slice.endpoints) {
        match known.iter().find(|other| other.place == endpoint.place) {
            Some(other) => *endpoint = other.clone(),
            None => known.push(endpoint.clone()),
        }
    }
}

pub(super) fn change_node(node: &mut NodeState, random: &mut Random) -> String {
    let zones = [None, Some(ZONES[0]), Some(ZONES[1])];
    let others: Vec<_> = zones.into_iter().filter(|zone| *zone != node.zone).collect();
    node.zone = random.choose(&others).copied().flatten();
    format!("node {} in zone {:?}", node.name, node.zone)
}
