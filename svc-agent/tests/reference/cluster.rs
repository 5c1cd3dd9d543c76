//! Random clusters as JSON, small enough that everything meets everything else: shared names, addresses and ports,
//! every condition and hint, both families, objects that are to be ignored.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};
use svc_agent::source::Kind;

use super::NODE;

const PORTS: [(&str, &str); 4] = [("", "TCP"), ("a", "TCP"), ("a", "UDP"), ("b", "UDP")];
const NAMES: [&str; 4] = ["default/web", "default/dns", "other/web", "other/api"];

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Change {
    Apply(Kind, String, Value),
    Delete(Kind, String),
    /// The source loses its watch and lists everything again; what happens meanwhile comes with the list.
    Relist(Vec<Change>),
    /// The agent ends and starts again; the same.
    Restart(Vec<Change>),
    /// Milliseconds.
    Pass(u64),
}

/// A value, or the field left out.
fn maybe(value: Option<impl Into<Value>>) -> Value {
    value.map_or(Value::Null, Into::into)
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key, without_nulls(value)))
            .collect(),
        Value::Array(values) => values.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

fn metadata(name: &str, labels: &Value) -> Value {
    let (namespace, name) = name.split_once('/').unwrap();
    json!({"name": name, "namespace": namespace, "labels": labels})
}

fn any_service() -> impl Strategy<Value = (String, Value)> {
    // Two ways to name one address: both fields, or clusterIP alone. Addresses are few, so that Services fight.
    let ips = select(vec![
        json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"]}),
        json!({"clusterIP": "10.96.0.2"}),
        json!({"clusterIP": "fd96::1", "clusterIPs": ["fd96::1"]}),
        json!({"clusterIP": "10.96.0.3", "clusterIPs": ["10.96.0.3", "fd96::3"]}),
        json!({"clusterIP": "fd96::4", "clusterIPs": ["fd96::4", "10.96.0.4"]}),
        json!({"clusterIP": "10.96.0.3", "clusterIPs": ["10.96.0.3", "fd96::1"]}),
        json!({"clusterIP": "None", "clusterIPs": ["None"]}),
        json!({"type": "ExternalName", "externalName": "example.com"}),
        json!({"type": "ExternalName", "externalName": "example.com", "clusterIP": "10.96.0.1"}),
    ]);
    let label = prop_oneof![
        8 => Just(json!({})),
        1 => Just(json!({"service.kubernetes.io/service-proxy-name": "mesh"})),
        1 => Just(json!({"service.kubernetes.io/headless": ""})),
    ];
    let ports = subsequence((0..PORTS.len()).collect::<Vec<_>>(), 1..=3);
    let policy = select(vec![None, Some("Cluster"), Some("Local")]);
    let affinity = select(vec![
        json!({}),
        json!({"sessionAffinity": "None"}),
        json!({"sessionAffinity": "ClientIP"}),
        json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 30}}}),
    ]);
    let extras = (any::<bool>(), any::<bool>(), 0..2u16);
    (select(NAMES.to_vec()), ips, label, ports, policy, affinity, extras).prop_map(
        |(name, ips, label, ports, policy, affinity, (unready, selector, shift))| {
            let mut spec = json!({
                "internalTrafficPolicy": maybe(policy),
                // Decided by whoever writes the slices: must change nothing here.
                "publishNotReadyAddresses": unready,
                "trafficDistribution": maybe(unready.then_some("PreferClose")),
                "selector": if selector { json!({"app": "web"}) } else { Value::Null },
                "ports": ports.iter().map(|&port| json!({
                    "name": maybe(Some(PORTS[port].0).filter(|name| !name.is_empty())),
                    "port": 80 + shift + port as u16 / 2,
                    "protocol": maybe(Some(PORTS[port].1).filter(|protocol| *protocol != "TCP")),
                    "targetPort": "web",
                })).collect::<Vec<_>>(),
            });
            for facts in [ips, affinity] {
                spec.as_object_mut().unwrap().extend(facts.as_object().unwrap().clone());
            }
            let service = json!({"metadata": metadata(name, &label), "spec": spec});
            (name.to_owned(), without_nulls(service))
        },
    )
}

fn any_endpoint(v4: bool) -> impl Strategy<Value = Value> {
    let address = (1..5u8, 0..20u8).prop_map(move |(number, kind)| match (kind, v4) {
        (0, _) => json!([]),
        // Not of the slice's family: must be ignored.
        (1, true) | (2.., false) => json!([format!("fd00::{number}"), "fd00::99"]),
        (1, false) | (2.., true) => json!([format!("10.0.0.{number}"), "10.0.0.99"]),
    });
    let condition = || option::weighted(0.7, any::<bool>());
    let conditions = option::weighted(0.9, (condition(), condition(), condition()));
    // Mostly with hints: they have an effect only if every ready endpoint has one.
    let zones = subsequence(vec!["za", "zb"], 0..=2);
    let nodes = subsequence(vec![NODE, "n2"], 0..=2);
    let hints = option::weighted(0.8, (zones, nodes));
    (address, conditions, option::of(select(vec![NODE, "n2"])), hints).prop_map(
        |(addresses, conditions, node, hints)| {
            let names = |names: Vec<&str>| names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>();
            json!({
                "addresses": addresses,
                "conditions": maybe(conditions.map(|(ready, serving, terminating)| {
                    json!({"ready": maybe(ready), "serving": maybe(serving), "terminating": maybe(terminating)})
                })),
                "nodeName": maybe(node),
                "zone": "za",
                "hints": maybe(hints.map(|(zones, nodes)| json!({"forZones": names(zones), "forNodes": names(nodes)}))),
            })
        },
    )
}

fn any_slice() -> impl Strategy<Value = (String, Value)> {
    let kind = prop_oneof![5 => Just("IPv4"), 5 => Just("IPv6"), 1 => Just("FQDN")];
    let port =
        (select(PORTS.to_vec()), prop_oneof![1 => Just(None), 1 => Just(Some(0)), 8 => (8080..8082).prop_map(Some)]);
    let labels = prop_oneof![
        9 => select(vec!["web", "dns", "api"]).prop_map(|owner| json!({"kubernetes.io/service-name": owner})),
        1 => Just(json!({"kubernetes.io/service-name": "web", "service.kubernetes.io/headless": ""})),
        1 => Just(json!({})),
    ];
    let name = (select(vec!["default", "other"]), 0..4u8)
        .prop_map(|(namespace, number)| format!("{namespace}/slice-{number}"));
    let endpoints = any::<bool>().prop_flat_map(|v4| vec(any_endpoint(v4), 0..5));
    let same_family = kind.prop_flat_map(move |kind| {
        let endpoints =
            if kind == "FQDN" { endpoints.clone().boxed() } else { vec(any_endpoint(kind == "IPv4"), 0..5).boxed() };
        (Just(kind), endpoints)
    });
    (name, same_family, labels, vec(port, 0..4)).prop_map(|(name, (kind, endpoints), labels, ports)| {
        let ports = ports.into_iter().map(|((port, protocol), number)| {
            // Absent as the API's defaults would have it, and spelled out.
            let name = maybe(Some(port).filter(|name| !name.is_empty() || number == Some(8080)));
            json!({"name": name, "protocol": maybe(Some(protocol).filter(|p| *p != "TCP")), "port": maybe(number)})
        });
        let slice = json!({
            "metadata": metadata(&name, &labels),
            "addressType": kind,
            "ports": ports.collect::<Vec<_>>(),
            "endpoints": endpoints,
        });
        (name, without_nulls(slice))
    })
}

fn any_node() -> impl Strategy<Value = (String, Value)> {
    option::of(select(vec!["za", "zb", "zc"])).prop_map(|zone| {
        let node = json!({"metadata": {"name": NODE, "labels": {"topology.kubernetes.io/zone": maybe(zone)}}});
        (format!("default/{NODE}"), without_nulls(node))
    })
}

/// A change of one object.
pub fn any_object_change() -> impl Strategy<Value = Change> {
    let apply = |kind| move |(name, value)| Change::Apply(kind, name, value);
    let slices = (select(vec!["default", "other"]), 0..4u8);
    prop_oneof![
        6 => any_slice().prop_map(apply(Kind::EndpointSlice)),
        4 => any_service().prop_map(apply(Kind::Service)),
        1 => any_node().prop_map(apply(Kind::Node)),
        2 => slices.prop_map(|(namespace, n)| Change::Delete(Kind::EndpointSlice, format!("{namespace}/slice-{n}"))),
        1 => select(NAMES.to_vec()).prop_map(|name| Change::Delete(Kind::Service, name.to_owned())),
        1 => Just(Change::Delete(Kind::Node, format!("default/{NODE}"))),
    ]
}

pub fn any_history() -> impl Strategy<Value = Vec<Change>> {
    let meanwhile = || vec(any_object_change(), 0..4);
    let change = prop_oneof![
        20 => any_object_change(),
        1 => meanwhile().prop_map(Change::Relist),
        1 => meanwhile().prop_map(Change::Restart),
        3 => (0..3_000u64).prop_map(Change::Pass),
    ];
    vec(change, 1..40)
}
