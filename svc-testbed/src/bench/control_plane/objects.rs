//! The cluster of the control plane's measurements: Services with five endpoints each, in one slice.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

pub const ENDPOINTS: u32 = 5;
pub const PORT: u16 = 80;

pub fn address(service: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 0, 10).to_bits() + service)
}

pub fn service(number: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name(number), "namespace": "bench", "uid": format!("00000000-0000-0000-0000-{number:012}")},
        "spec": {"type": "ClusterIP", "clusterIP": address(number), "clusterIPs": [address(number)], "ipFamilies": ["IPv4"],
                 "selector": {"app": name(number)},
                 "ports": [{"name": "http", "protocol": "TCP", "port": PORT, "targetPort": 8080}]},
    })
}

/// The slice as it stands after so many changes: each change replaces one endpoint.
pub fn slice(number: u32, changes: u32) -> Value {
    let endpoint = |place: u32| {
        let moved = if place == 0 { changes % 200 } else { 0 };
        let address =
            Ipv4Addr::from_bits(Ipv4Addr::new(10, 128, 0, 1).to_bits() + number * 256 + place + moved * ENDPOINTS);
        json!({
            "addresses": [address], "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": format!("node-{}", place + 1),
            "targetRef": {"kind": "Pod", "namespace": "bench", "name": format!("{}-{place}", name(number))},
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name(number), "namespace": "bench", "labels": {"kubernetes.io/service-name": name(number)}},
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>(),
    })
}

fn name(number: u32) -> String {
    format!("service-{number}")
}
