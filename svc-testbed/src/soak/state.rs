//! What the cluster looks like at one moment, as objects and as what a client may experience. The rules are written here
//! once more, apart from the agent's: the soak judges the agent by them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use serde_json::{Value, json};

use crate::Family;

/// A machine that serves: a pod, or a node's own network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub name: String,
    pub node: String,
    pub addresses: [IpAddr; 2],
}

impl Place {
    pub fn ip(&self, family: Family) -> IpAddr {
        self.addresses[usize::from(family == Family::V6)]
    }
}

/// One endpoint as a slice lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub place: usize,
    /// `None`: the condition is left out.
    pub ready: Option<bool>,
    pub serving: Option<bool>,
    pub terminating: Option<bool>,
    pub zone_hint: Option<&'static str>,
    pub node_hint: Option<&'static str>,
}

impl Endpoint {
    pub fn ready(place: usize) -> Self {
        Self { place, ready: Some(true), serving: None, terminating: None, zone_hint: None, node_hint: None }
    }

    fn is_ready(&self) -> bool {
        self.ready.unwrap_or(true)
    }

    fn serves(&self) -> bool {
        self.serving.unwrap_or(true)
    }

    fn is_terminating(&self) -> bool {
        self.terminating.unwrap_or(false)
    }
}

/// Endpoints of both families with target ports of their own; an object for each family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub web_target: u16,
    pub dns_target: u16,
    pub endpoints: Vec<Endpoint>,
    /// Labelled as belonging to a headless Service: counts for nothing.
    pub headless: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub number: u8,
    pub families: Vec<Family>,
    pub web_port: u16,
    pub local_policy: bool,
    pub affinity: bool,
    /// Annotated: connections to an endpoint that is gone are reset.
    pub resets: bool,
    /// Another proxy's.
    pub foreign: bool,
    pub exists: bool,
    pub slices: Vec<Slice>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    Forward,
    Reject,
    Drop,
}

/// What a client of one address, protocol and port may meet. Endpoints are `name:port`, as servers call themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub verdict: Verdict,
    /// For new connections.
    pub slots: BTreeSet<String>,
    /// Everything that serves: UDP flows stay there.
    pub serving: BTreeSet<String>,
    pub affinity: bool,
    /// New TCP connections will be reset once their endpoint is gone.
    pub resets: bool,
}

impl View {
    /// Whether an endpoint takes part in the Service in any way.
    pub fn knows(&self, endpoint: &str) -> bool {
        self.slots.contains(endpoint) || self.serving.contains(endpoint)
    }
}

/// What the agent's node is, as far as the objects say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeState {
    pub name: String,
    pub zone: Option<&'static str>,
}

pub(super) const DNS_PORT: u16 = 53;
pub(super) const MAX_SLICES: usize = 3;
const NAMESPACE: &str = "default";

impl Service {
    pub fn name(&self) -> String {
        format!("soak-{}", self.number)
    }

    pub fn ip(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::from([10, 96, 1, self.number + 1]),
            Family::V6 => IpAddr::from([0xfd96, 0, 0, 0, 0, 0, 0, 0x101 + u16::from(self.number)]),
        }
    }

    /// `None`: nothing answers for this address. A port that the address does not have is refused.
    pub fn view(&self, places: &[Place], node: &NodeState, family: Family, web: bool, port: u16) -> Option<View> {
        if !self.exists || self.foreign || !self.families.contains(&family) {
            return None;
        }
        let own_port = if web { self.web_port } else { DNS_PORT };
        if port != own_port {
            let none = BTreeSet::new();
            let (slots, serving) = (none.clone(), none);
            return Some(View { verdict: Verdict::Reject, slots, serving, affinity: false, resets: self.resets });
        }
        let endpoints = self.merged(places, web);
        let ready: Vec<_> = endpoints.values().filter(|endpoint| endpoint.is_ready()).collect();
        let here = |endpoint: &Endpoint| places[endpoint.place].node == node.name;
        let by_node = ready.iter().all(|endpoint| endpoint.node_hint.is_some())
            && ready.iter().any(|endpoint| endpoint.node_hint == Some(&node.name));
        let by_zone = ready.iter().all(|endpoint| endpoint.zone_hint.is_some())
            && node.zone.is_some_and(|zone| ready.iter().any(|endpoint| endpoint.zone_hint == Some(zone)));
        let ending = |endpoint: &Endpoint| endpoint.serves() && endpoint.is_terminating();
        let those = |wanted: &dyn Fn(&Endpoint) -> bool| -> BTreeSet<String> {
            let wanted = endpoints.iter().filter(|(_, endpoint)| wanted(endpoint));
            wanted.map(|((place, target), _)| format!("{}:{target}", places[*place].name)).collect()
        };
        let mut slots = those(&|endpoint| {
            endpoint.is_ready()
                && match (self.local_policy, by_node, by_zone) {
                    (true, _, _) => here(endpoint),
                    (false, true, _) => endpoint.node_hint == Some(&node.name),
                    (false, false, true) => endpoint.zone_hint == node.zone,
                    (false, false, false) => true,
                }
        });
        if slots.is_empty() {
            slots = those(&|endpoint| ending(endpoint) && (!self.local_policy || here(endpoint)));
        }
        let somewhere = !those(&|endpoint| endpoint.is_ready() || ending(endpoint)).is_empty();
        let verdict = match (slots.is_empty(), self.local_policy && somewhere) {
            (false, _) => Verdict::Forward,
            (true, true) => Verdict::Drop,
            (true, false) => Verdict::Reject,
        };
        let serving = those(&Endpoint::serves);
        Some(View { verdict, slots, serving, affinity: self.affinity, resets: self.resets })
    }

    /// By place and target port; of two that are alike one that is not terminating counts. The changes keep other
    /// differences between them away: the rules leave those open.
    fn merged(&self, places: &[Place], web: bool) -> BTreeMap<(usize, u16), &Endpoint> {
        let mut merged: BTreeMap<(usize, u16), &Endpoint> = BTreeMap::new();
        for slice in self.slices.iter().filter(|slice| !slice.headless) {
            let target = if web { slice.web_target } else { slice.dns_target };
            for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.place < places.len()) {
                let known = merged.entry((endpoint.place, target)).or_insert(endpoint);
                if known.is_terminating() && !endpoint.is_terminating() {
                    *known = endpoint;
                }
            }
        }
        merged
    }

    /// Addresses that `svc-agent get backends` must show with slots, over all ports and families; `None` if the Service is
    /// not to be seen at all.
    pub fn expected(&self, places: &[Place], node: &NodeState) -> BTreeMap<String, (Verdict, BTreeSet<SocketAddr>)> {
        let mut expected = BTreeMap::new();
        for family in Family::BOTH {
            for (web, port) in [(true, self.web_port), (false, DNS_PORT)] {
                let Some(view) = self.view(places, node, family, web, port) else { continue };
                let address = |slot: &String| {
                    let (name, port) = slot.rsplit_once(':')?;
                    let place = places.iter().find(|place| place.name == name)?;
                    Some(SocketAddr::new(place.ip(family), port.parse().ok()?))
                };
                let slots = view.slots.iter().filter_map(address).collect();
                let transport = if web { "TCP" } else { "UDP" };
                expected
                    .insert(format!("{} {transport}", SocketAddr::new(self.ip(family), port)), (view.verdict, slots));
            }
        }
        expected
    }

    /// The Service, or `None` where it should not exist.
    pub fn service_object(&self) -> Option<Value> {
        if !self.exists {
            return None;
        }
        let ips: Vec<_> = self.families.iter().map(|family| self.ip(*family)).collect();
        let mut labels = json!({});
        if self.foreign {
            labels["service.kubernetes.io/service-proxy-name"] = json!("another");
        }
        Some(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": self.name(),
                "namespace": NAMESPACE,
                "labels": labels,
                "annotations": {"svc-ebpf.io/reset-on-endpoint-removal": self.resets.to_string()},
            },
            "spec": {
                "type": "ClusterIP",
                "clusterIP": ips.first(),
                "clusterIPs": ips,
                "internalTrafficPolicy": if self.local_policy { "Local" } else { "Cluster" },
                "sessionAffinity": if self.affinity { "ClientIP" } else { "None" },
                "ports": [
                    {"name": "web", "protocol": "TCP", "port": self.web_port, "targetPort": "web"},
                    {"name": "dns", "protocol": "UDP", "port": DNS_PORT, "targetPort": "dns"},
                ],
            },
        }))
    }

    /// Name and content of every slice the Service ever has; `None` where it should not exist.
    pub fn slice_objects(&self, places: &[Place]) -> Vec<(String, Option<Value>)> {
        let mut objects = Vec::new();
        for number in 0..MAX_SLICES {
            for (family, kind) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
                let name = format!("{}-{number}-{}", self.name(), kind.to_lowercase());
                let object =
                    self.slices.get(number).map(|slice| slice.object(&name, &self.name(), family, kind, places));
                objects.push((name, object));
            }
        }
        objects
    }
}

impl Slice {
    fn object(&self, name: &str, service: &str, family: Family, kind: &str, places: &[Place]) -> Value {
        let mut labels = json!({"kubernetes.io/service-name": service});
        if self.headless {
            labels["service.kubernetes.io/headless"] = json!("");
        }
        let endpoints = self.endpoints.iter().map(|endpoint| {
            let place = &places[endpoint.place];
            let mut conditions = json!({});
            for (name, value) in
                [("ready", endpoint.ready), ("serving", endpoint.serving), ("terminating", endpoint.terminating)]
            {
                if let Some(value) = value {
                    conditions[name] = json!(value);
                }
            }
            let hint = |hint: Option<&str>| hint.map_or_else(|| json!([]), |name| json!([{"name": name}]));
            json!({
                "addresses": [place.ip(family)],
                "conditions": conditions,
                "nodeName": place.node,
                "hints": {"forZones": hint(endpoint.zone_hint), "forNodes": hint(endpoint.node_hint)},
            })
        });
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
            "addressType": kind,
            "ports": [
                {"name": "web", "protocol": "TCP", "port": self.web_target},
                {"name": "dns", "protocol": "UDP", "port": self.dns_target},
            ],
            "endpoints": endpoints.collect::<Vec<_>>(),
        })
    }
}
