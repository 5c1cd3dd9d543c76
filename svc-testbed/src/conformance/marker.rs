//! How the runner knows that the agent has followed a change: a Service and a slice of the runner's own change last, and the
//! maps show them. Both kinds, since an API server tells about each of them by itself.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::{AgentProcess, wait};

/// No scenario uses them.
const NAMESPACE: &str = "conformance-runner";
const SERVICE_ADDRESS: &str = "10.111.255.254";
const ENDPOINT_ADDRESS: &str = "10.244.255.254";
/// Far more than any change takes.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
pub struct Marker {
    number: u16,
}

impl Marker {
    /// Objects that were never there before. Only both together make a backend of this number.
    pub fn next(&mut self) -> [Value; 2] {
        self.number += 1;
        let port = format!("m{}", self.number);
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "marker", "namespace": NAMESPACE},
            "spec": {
                "type": "ClusterIP", "clusterIP": SERVICE_ADDRESS, "clusterIPs": [SERVICE_ADDRESS],
                "ipFamilies": ["IPv4"], "ports": [{"name": port, "port": 1, "protocol": "TCP"}],
            },
        });
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": "marker-1", "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": "marker"},
            },
            "ports": [{"name": port, "port": self.number, "protocol": "TCP"}],
            "endpoints": [{"addresses": [ENDPOINT_ADDRESS]}],
        });
        [service, slice]
    }

    /// Waits until the agent's maps hold the latest of these objects.
    pub fn wait(&self, agent: &AgentProcess) -> Result<()> {
        let wanted = format!("{ENDPOINT_ADDRESS}:{}", self.number);
        wait::until("the agent follows a change", PATIENCE, || {
            let rows: Vec<Value> = serde_json::from_str(&agent.query(&["get", "backends", "-o", "json"])?)?;
            let found = rows.iter().any(|row| row["backend"] == wanted.as_str());
            ensure!(found, "svc-agent get backends does not show {wanted}");
            Ok(())
        })
    }
}
