//! What the agent does not claim to do yet. Scenarios about it are not run, single probes at it are not judged; everything
//! else counts.

use std::net::IpAddr;

use super::corpus::{Probe, Scenario};

const FEATURES: &[&str] =
    &["nodeport", "loadbalancer", "external-ips", "external-policy", "source-ranges", "ip-mode", "health-check"];

/// kube-apiserver's default range for node ports.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// The feature that keeps the scenario from being run.
pub fn not_yet(scenario: &Scenario) -> Option<&str> {
    scenario.features.iter().map(String::as_str).find(|feature| FEATURES.contains(feature))
}

/// A node port within a scenario about something else. `held` sockets were opened there.
pub fn is_node_port(probe: &Probe) -> bool {
    let is_node = match probe.to {
        IpAddr::V4(address) => address.octets()[..3] == [192, 168, 50],
        IpAddr::V6(address) => address.segments()[0] == 0xfd50,
    };
    is_node && NODE_PORTS.contains(&probe.port)
}
