//! A second, plain account of what kube-proxy 1.36 does with Services, EndpointSlices and a Node, read from their JSON.
//! Written from the rules (`pkg/proxy` `serviceport.go`, `endpointslicecache.go`, `topology.go`), slow and without any
//! cleverness; must not use anything of the agent's but the names of kinds.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

pub mod cluster;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;
use svc_agent::source::Kind;

use super::objects::Objects;

pub const NODE: &str = "n1";

/// Cluster IP, port and protocol (`tcp`).
pub type Address = (SocketAddr, String);

/// What a client of one address finds.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Outcome {
    /// `namespace/name:port`
    pub name: String,
    pub verdict: &'static str,
    /// Endpoints for new connections, and whether each is on this node.
    pub slots: BTreeSet<(SocketAddr, bool)>,
    /// Endpoints that only keep the UDP flows they have.
    pub draining: BTreeSet<(SocketAddr, bool)>,
    /// Seconds; 0: none.
    pub affinity: u64,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Endpoint {
    ready: bool,
    serving: bool,
    terminating: bool,
    local: bool,
    zone_hints: BTreeSet<String>,
    node_hints: BTreeSet<String>,
}

/// Everything that should be translated. More than one outcome where the rules leave it open: which of several
/// descriptions of one endpoint counts.
pub fn outcomes(objects: &Objects) -> BTreeMap<Address, BTreeSet<Outcome>> {
    let mut result = BTreeMap::new();
    // In the order of names: of two claimants of one address the first gets it.
    let mut services: Vec<_> = objects.iter().filter(|((kind, _), _)| *kind == Kind::Service).collect();
    services.sort_by_key(|((_, name), _)| {
        let (namespace, name) = name.split_once('/').unwrap();
        (namespace.to_owned(), name.to_owned())
    });
    for ((_, name), service) in services {
        for ip in cluster_ips(service) {
            for port in array(&service["spec"]["ports"]) {
                let protocol = text(&port["protocol"], "TCP").to_lowercase();
                let address = (SocketAddr::new(ip, port["port"].as_u64().unwrap() as u16), protocol);
                result.entry(address).or_insert_with(|| decide(objects, name, service, ip, port));
            }
        }
    }
    result
}

/// None for Services that are not for a proxy, or not for this one.
fn cluster_ips(service: &Value) -> Vec<IpAddr> {
    let spec = &service["spec"];
    let foreign = service["metadata"]["labels"].get("service.kubernetes.io/service-proxy-name").is_some();
    let headless = matches!(text(&spec["clusterIP"], ""), "" | "None");
    if foreign || headless || spec["type"] == "ExternalName" {
        return Vec::new();
    }
    let mut ips = array(&spec["clusterIPs"]);
    if ips.is_empty() {
        ips = std::slice::from_ref(&spec["clusterIP"]);
    }
    ips.iter().map(|ip| ip.as_str().unwrap().parse().unwrap()).collect()
}

fn decide(objects: &Objects, name: &str, service: &Value, ip: IpAddr, port: &Value) -> BTreeSet<Outcome> {
    let spec = &service["spec"];
    let port_name = text(&port["name"], "");
    let protocol = text(&port["protocol"], "TCP");
    let mut affinity = 0;
    if spec["sessionAffinity"] == "ClientIP" {
        affinity = spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"].as_u64().unwrap_or(10_800);
    }
    let zone = objects
        .get(&(Kind::Node, format!("default/{NODE}")))
        .and_then(|node| node["metadata"]["labels"]["topology.kubernetes.io/zone"].as_str())
        .unwrap_or("");
    let described = describe(objects, name, ip.is_ipv4(), port_name, protocol);
    let local_policy = spec["internalTrafficPolicy"] == "Local";
    choices(&described)
        .iter()
        .map(|endpoints| {
            let (verdict, slots, draining) = select(endpoints, local_policy, zone);
            let name = if port_name.is_empty() { name.to_owned() } else { format!("{name}:{port_name}") };
            Outcome { name, verdict, slots, draining, affinity }
        })
        .collect()
}

/// Every description of every endpoint of a port, from all slices of the Service.
fn describe(
    objects: &Objects,
    service: &str,
    v4: bool,
    port_name: &str,
    protocol: &str,
) -> BTreeMap<SocketAddr, BTreeSet<Endpoint>> {
    let mut described: BTreeMap<SocketAddr, BTreeSet<Endpoint>> = BTreeMap::new();
    for ((_, slice_name), slice) in objects.iter().filter(|((kind, _), _)| *kind == Kind::EndpointSlice) {
        let labels = &slice["metadata"]["labels"];
        let namespace = slice_name.split_once('/').unwrap().0;
        let owner = format!("{namespace}/{}", text(&labels["kubernetes.io/service-name"], ""));
        let family = if v4 { "IPv4" } else { "IPv6" };
        if owner != service
            || labels.get("service.kubernetes.io/headless").is_some()
            || text(&slice["addressType"], "") != family
        {
            continue;
        }
        for slice_port in array(&slice["ports"]) {
            let number = slice_port["port"].as_u64().unwrap_or(0) as u16;
            if number == 0
                || text(&slice_port["name"], "") != port_name
                || text(&slice_port["protocol"], "TCP") != protocol
            {
                continue;
            }
            for endpoint in array(&slice["endpoints"]) {
                let Some(first) = array(&endpoint["addresses"]).first() else { continue };
                let address: IpAddr = first.as_str().unwrap().parse().unwrap();
                if address.is_ipv4() == v4 {
                    described.entry(SocketAddr::new(address, number)).or_default().insert(read_endpoint(endpoint));
                }
            }
        }
    }
    described
}

fn read_endpoint(endpoint: &Value) -> Endpoint {
    let conditions = &endpoint["conditions"];
    let names = |hints: &Value| array(hints).iter().map(|hint| text(&hint["name"], "").to_owned()).collect();
    Endpoint {
        ready: conditions["ready"].as_bool().unwrap_or(true),
        serving: conditions["serving"].as_bool().unwrap_or(true),
        terminating: conditions["terminating"].as_bool().unwrap_or(false),
        local: endpoint["nodeName"] == NODE,
        zone_hints: names(&endpoint["hints"]["forZones"]),
        node_hints: names(&endpoint["hints"]["forNodes"]),
    }
}

/// One description for each endpoint: one that is not terminating if there is any; beyond that, any.
fn choices(described: &BTreeMap<SocketAddr, BTreeSet<Endpoint>>) -> Vec<BTreeMap<SocketAddr, Endpoint>> {
    let mut choices = vec![BTreeMap::new()];
    for (address, descriptions) in described {
        let running: Vec<_> = descriptions.iter().filter(|endpoint| !endpoint.terminating).collect();
        let usable = if running.is_empty() { descriptions.iter().collect() } else { running };
        let extend = |choice: &BTreeMap<SocketAddr, Endpoint>| {
            let with = |endpoint: &&Endpoint| {
                let mut choice = choice.clone();
                choice.insert(*address, (*endpoint).clone());
                choice
            };
            usable.iter().map(with).collect::<Vec<_>>()
        };
        choices = choices.iter().flat_map(extend).collect();
    }
    choices
}

type Addresses = BTreeSet<(SocketAddr, bool)>;

fn select(
    endpoints: &BTreeMap<SocketAddr, Endpoint>,
    local_policy: bool,
    zone: &str,
) -> (&'static str, Addresses, Addresses) {
    let those = |wanted: &dyn Fn(&Endpoint) -> bool| -> Addresses {
        let wanted = endpoints.iter().filter(|(_, endpoint)| wanted(endpoint));
        wanted.map(|(address, endpoint)| (*address, endpoint.local)).collect()
    };
    let ending = |endpoint: &Endpoint| endpoint.serving && endpoint.terminating;
    let mut slots;
    let any_endpoints;
    if local_policy {
        slots = those(&|endpoint| endpoint.local && endpoint.ready);
        if slots.is_empty() {
            slots = those(&|endpoint| endpoint.local && ending(endpoint));
        }
        any_endpoints = !those(&|endpoint| endpoint.ready || ending(endpoint)).is_empty();
    } else {
        let mode = topology(endpoints, zone);
        slots = those(&|endpoint| {
            endpoint.ready
                && match mode {
                    "node" => endpoint.node_hints.contains(NODE),
                    "zone" => endpoint.zone_hints.contains(zone),
                    _ => true,
                }
        });
        if slots.is_empty() {
            slots = those(&ending);
        }
        any_endpoints = !slots.is_empty();
    }
    let verdict = match (slots.is_empty(), any_endpoints) {
        (false, _) => "forward",
        (true, true) => "drop",
        (true, false) => "reject",
    };
    // Endpoints that serve keep the UDP flows they have, whether or not they get new ones.
    let draining = those(&|endpoint| endpoint.serving).difference(&slots).copied().collect();
    (verdict, slots, draining)
}

fn topology(endpoints: &BTreeMap<SocketAddr, Endpoint>, zone: &str) -> &'static str {
    let ready: Vec<_> = endpoints.values().filter(|endpoint| endpoint.ready).collect();
    let all_nodes = ready.iter().all(|endpoint| !endpoint.node_hints.is_empty());
    let all_zones = ready.iter().all(|endpoint| !endpoint.zone_hints.is_empty());
    if ready.is_empty() {
        ""
    } else if all_nodes && ready.iter().any(|endpoint| endpoint.node_hints.contains(NODE)) {
        "node"
    } else if all_zones && ready.iter().any(|endpoint| endpoint.zone_hints.contains(zone)) {
        "zone"
    } else {
        ""
    }
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, default: &'a str) -> &'a str {
    value.as_str().unwrap_or(default)
}
