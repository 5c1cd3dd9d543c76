//! Conversion of whole objects, written as they stand in manifests.

use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use serde_json::{Value, json};

use super::*;
use crate::model::{EndpointPort, EndpointSlice, IpFamily, LoadBalancing, Service, ServicePort, TrafficPolicy};

fn service(value: Value) -> Result<Parsed<Service>, ParseError> {
    let service: core::Service = serde_json::from_value(value).unwrap();
    parse_service(&mut Interner::default(), &service)
}

fn slice(value: Value) -> Result<Parsed<EndpointSlice>, ParseError> {
    let slice: discovery::EndpointSlice = serde_json::from_value(value).unwrap();
    parse_endpoint_slice(&mut Interner::default(), &slice)
}

fn labels(rejected: &[Rejection]) -> Vec<&'static str> {
    rejected.iter().map(|rejection| rejection.reason.label()).collect()
}

fn slice_of(endpoints: Value) -> Value {
    json!({
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": endpoints,
    })
}

#[test]
fn service_with_defaults_left_out() {
    let parsed = service(json!({
        "metadata": {"name": "web"},
        "spec": {"clusterIP": "10.96.0.10", "sessionAffinity": "ClientIP", "ports": [{"port": 80}]},
    }))
    .unwrap();
    assert_eq!(
        parsed,
        Parsed {
            object: Service {
                name: ObjectName { namespace: "default".into(), name: "web".into() },
                cluster_ips: vec!["10.96.0.10".parse().unwrap()],
                ports: vec![ServicePort { name: "".into(), transport: Transport::Tcp, port: 80 }],
                internal_traffic_policy: TrafficPolicy::Cluster,
                affinity_timeout_seconds: Some(10_800),
                load_balancing: None,
                reset_when_gone: false,
            },
            rejected: vec![],
        }
    );
}

#[test]
fn service_with_everything() {
    let parsed = service(json!({
        "metadata": {"name": "dns", "namespace": "kube-system"},
        "spec": {
            "type": "LoadBalancer",
            "clusterIP": "fd96::a", "clusterIPs": ["fd96::a", "10.96.0.10"],
            "internalTrafficPolicy": "Local",
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
            "ports": [{"name": "dns", "protocol": "UDP", "port": 53}, {"name": "dns-tcp", "protocol": "TCP", "port": 53},
                      {"name": "sig", "protocol": "SCTP", "port": 53}],
        },
    }))
    .unwrap();
    assert_eq!(labels(&parsed.rejected), [""; 0]);
    let service = parsed.object;
    assert_eq!(service.cluster_ips, ["fd96::a".parse::<IpAddr>().unwrap(), "10.96.0.10".parse().unwrap()]);
    assert_eq!(service.internal_traffic_policy, TrafficPolicy::Local);
    assert_eq!(service.affinity_timeout_seconds, Some(60));
    assert_eq!(
        service.ports.iter().map(|port| (&*port.name, port.transport)).collect::<Vec<_>>(),
        [("dns", Transport::Udp), ("dns-tcp", Transport::Tcp), ("sig", Transport::Sctp)]
    );
}

#[test]
fn services_that_are_not_ours() {
    let spec = json!({"clusterIP": "10.96.0.10", "ports": [{"port": 80}]});
    for (expected, metadata, spec) in [
        (
            Ignored::OtherProxy,
            json!({"name": "a", "labels": {"service.kubernetes.io/service-proxy-name": ""}}),
            spec.clone(),
        ),
        (Ignored::NoClusterIp, json!({"name": "a"}), json!({"clusterIP": "None"})),
        (Ignored::NoClusterIp, json!({"name": "a"}), json!({"clusterIP": ""})),
        (Ignored::NoClusterIp, json!({"name": "a"}), json!({})),
        (
            Ignored::ExternalName,
            json!({"name": "a"}),
            json!({"type": "ExternalName", "externalName": "example.com", "clusterIP": "10.96.0.10"}),
        ),
    ] {
        let result = service(json!({"metadata": metadata, "spec": spec}));
        assert_eq!(result, Err(ParseError::Ignored(expected)));
    }
    // On a Service the headless label means nothing.
    let labelled = json!({"name": "a", "labels": {"service.kubernetes.io/headless": ""}});
    assert!(service(json!({"metadata": labelled, "spec": spec})).is_ok());
}

#[test]
fn faulty_parts_of_a_service_are_left_out() {
    let parsed = service(json!({
        "metadata": {"name": "web"},
        "spec": {
            "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "10.96.0.11", "nonsense"],
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": -1}},
            "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}, {"name": "a", "port": 81},
                      {"name": "c", "port": 0}, {"name": "d", "port": 70000}, {"name": "e", "port": 1, "protocol": "ICMP"},
                      {"name": "a", "port": 80, "protocol": "UDP"}],
        },
    }))
    .unwrap();
    assert_eq!(
        labels(&parsed.rejected),
        ["family", "address", "duplicate_port", "duplicate_port", "port", "port", "protocol", "affinity_timeout"]
    );
    assert_eq!(parsed.object.cluster_ips.len(), 1);
    assert_eq!(
        parsed.object.ports.iter().map(|port| (port.port, port.transport)).collect::<Vec<_>>(),
        [(80, Transport::Tcp), (80, Transport::Udp)]
    );
    assert_eq!(parsed.object.affinity_timeout_seconds, Some(10_800));
}

#[test]
fn a_service_without_any_usable_address_is_rejected() {
    let result = service(json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "300.1.1.1", "ports": []}}));
    assert!(matches!(result, Err(ParseError::Rejected(Rejection { reason: RejectReason::Address, .. }))));
    let result = service(json!({"metadata": {}, "spec": {"clusterIP": "10.0.0.1"}}));
    assert!(matches!(result, Err(ParseError::Rejected(Rejection { reason: RejectReason::Name, .. }))));
}

#[test]
fn absent_conditions_are_defaulted_one_by_one() {
    let parsed = slice(slice_of(json!([
        {"addresses": ["10.0.0.1"]},
        {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
        {"addresses": ["10.0.0.3"], "conditions": {"ready": true, "serving": false}},
        {"addresses": ["10.0.0.4"], "conditions": {"ready": false, "terminating": true}},
    ])))
    .unwrap();
    let conditions =
        parsed.object.endpoints.iter().map(|endpoint| (endpoint.ready, endpoint.serving, endpoint.terminating));
    assert_eq!(
        conditions.collect::<Vec<_>>(),
        [(true, true, false), (false, true, false), (true, false, false), (false, true, true)]
    );
}

#[test]
fn slice_with_everything() {
    let mut value = slice_of(json!([
        {"addresses": ["10.0.0.1", "10.0.0.9"], "nodeName": "n1",
         "hints": {"forZones": [{"name": "b"}, {"name": "a"}, {"name": "b"}], "forNodes": [{"name": "n1"}]}},
        {"addresses": ["10.0.0.2"], "nodeName": "n2", "hints": {"forZones": []}},
    ]));
    value["ports"] = json!([{"port": 53, "protocol": "UDP"}, {"name": "all"}, {"name": "zero", "port": 0}]);
    value["metadata"]["annotations"] =
        json!({"endpoints.kubernetes.io/last-change-trigger-time": "1970-01-01T00:00:10.5Z"});
    let parsed = slice(value).unwrap();
    assert_eq!(labels(&parsed.rejected), [""; 0]);
    let slice = parsed.object;
    assert_eq!(slice.name.to_string(), "shop/web-1");
    assert_eq!((&*slice.service, slice.family), ("web", IpFamily::V4));
    assert_eq!(slice.ports, [EndpointPort { name: "".into(), transport: Transport::Udp, port: 53 }]);
    assert_eq!(slice.last_change_trigger, Some(SystemTime::UNIX_EPOCH + Duration::from_millis(10_500)));
    let first = &slice.endpoints[0];
    assert_eq!(first.address, "10.0.0.1".parse::<IpAddr>().unwrap());
    assert_eq!(first.node.as_deref(), Some("n1"));
    assert_eq!(first.zone_hints(), ["a".into(), "b".into()]);
    assert_eq!(first.node_hints(), ["n1".into()]);
    assert_eq!(slice.endpoints[1].hints, None);
}

#[test]
fn slices_that_are_not_ours() {
    let label = |key: &str| json!({"name": "s", "labels": {"kubernetes.io/service-name": "web", (key): ""}});
    for (expected, metadata, address_type) in [
        (Ignored::HeadlessSlice, label("service.kubernetes.io/headless"), "IPv4"),
        (Ignored::NoServiceName, json!({"name": "s"}), "IPv4"),
        (Ignored::FqdnSlice, label("x"), "FQDN"),
    ] {
        let result = slice(json!({"metadata": metadata, "addressType": address_type, "endpoints": []}));
        assert_eq!(result, Err(ParseError::Ignored(expected)));
    }
    let result = slice(json!({"metadata": label("x"), "addressType": "IPX", "endpoints": null}));
    assert!(matches!(result, Err(ParseError::Rejected(Rejection { reason: RejectReason::AddressType, .. }))));
}

#[test]
fn faulty_endpoints_are_left_out_one_by_one() {
    let parsed = slice(slice_of(json!([
        {"addresses": []},
        {"addresses": ["nonsense"]},
        {"addresses": ["fd00::1"]},
        {"addresses": ["0.0.0.0"]},
        {"addresses": ["224.0.0.1"]},
        {"addresses": ["10.0.0.1"]},
        {"addresses": ["010.000.000.009"]},
        {"addresses": ["::ffff:10.0.0.3"]},
    ])))
    .unwrap();
    assert_eq!(labels(&parsed.rejected), ["address", "address", "family", "address", "address"]);
    let addresses = parsed.object.endpoints.iter().map(|endpoint| endpoint.address.to_string());
    assert_eq!(addresses.collect::<Vec<_>>(), ["10.0.0.1", "10.0.0.9", "10.0.0.3"]);
}

#[test]
fn node_facts() {
    let node: core::Node = serde_json::from_value(json!({
        "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "zone-a"}},
        "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd44:1::/64", "10.244.1.0/33"],
                 "taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.50.1"}, {"type": "Hostname", "address": "n1"},
                                 {"type": "InternalIP", "address": "fd50::1"}, {"type": "InternalIP", "address": "?"}]},
    }))
    .unwrap();
    let parsed = parse_node(&mut Interner::default(), &node).unwrap();
    assert_eq!(labels(&parsed.rejected), ["address", "address"]);
    assert_eq!(
        parsed.object,
        Node {
            name: "n1".into(),
            zone: Some("zone-a".into()),
            addresses: vec!["192.168.50.1".parse().unwrap(), "fd50::1".parse().unwrap()],
            pod_cidrs: vec!["10.244.1.0/24".parse().unwrap(), "fd44:1::/64".parse().unwrap()],
            leaving: true,
        }
    );
    let old: core::Node =
        serde_json::from_value(json!({"metadata": {"name": "n1"}, "spec": {"podCIDR": "10.244.1.0/24"}})).unwrap();
    let parsed = parse_node(&mut Interner::default(), &old).unwrap();
    assert_eq!(parsed.object.pod_cidrs, ["10.244.1.0/24".parse().unwrap()]);
}

#[test]
fn annotations_of_this_project() {
    let balanced = |text: &str| {
        service(json!({
            "metadata": {"name": "web", "annotations": {"svc-ebpf.io/load-balancing": text, "load-balancing": "maglev"}},
            "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 80}]},
        }))
        .unwrap()
    };
    assert_eq!(balanced("maglev").object.load_balancing, Some(LoadBalancing::Maglev));
    assert_eq!(balanced("random").object.load_balancing, Some(LoadBalancing::Random));
    let parsed = balanced("Fastest");
    assert_eq!((parsed.object.load_balancing, labels(&parsed.rejected)), (None, vec!["annotation"]));
    assert_eq!(
        parsed.rejected[0].to_string(),
        "annotation svc-ebpf.io/load-balancing is \"Fastest\", not random or maglev; it is ignored"
    );

    let resets = |text: &str| {
        service(json!({
            "metadata": {"name": "web", "annotations": {"svc-ebpf.io/reset-on-endpoint-removal": text}},
            "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 80}]},
        }))
        .unwrap()
    };
    assert!(resets("true").object.reset_when_gone);
    assert!(!resets("false").object.reset_when_gone);
    let parsed = resets("yes");
    assert_eq!((parsed.object.reset_when_gone, labels(&parsed.rejected)), (false, vec!["annotation"]));

    let weighted = |text: &str| {
        let mut value = slice_of(json!([{"addresses": ["10.244.0.1"]}]));
        value["metadata"]["annotations"] = json!({"svc-ebpf.io/weight": text});
        slice(value).unwrap()
    };
    for (text, weight) in [("1", 1), ("1000", 1000), (" 7 ", 7)] {
        assert_eq!(weighted(text).object.weight.get(), weight);
    }
    for text in ["0", "1001", "-1", "1.5", "", "99999999999"] {
        let parsed = weighted(text);
        assert_eq!((parsed.object.weight.get(), labels(&parsed.rejected)), (1, vec!["annotation"]), "{text}");
        assert_eq!(parsed.object.endpoints.len(), 1, "the slice itself is used");
    }
}
