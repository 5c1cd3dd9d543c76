//! What a lab should look like: shape, nodes, pods and their addresses. Pure values with good defaults; building them is
//! `build.rs`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};

/// How pods hang on their node, and nodes on each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Calico, AWS, Azure: /32 and /128 in the pod, next hop 169.254.1.1 / fe80::1, a host route per pod, no bridge.
    Routed,
    /// kindnet, flannel host-gw: pods on the bridge `cni0`, other nodes by routes.
    Bridge,
    /// flannel: pods on the bridge `cni0`, other nodes behind the VXLAN device `flannel.1`.
    Overlay,
}

impl Shape {
    pub const ALL: [Self; 3] = [Self::Routed, Self::Bridge, Self::Overlay];

    /// VXLAN needs 50 bytes of every packet between nodes.
    pub(super) fn default_pod_mtu(self, uplink: u32) -> u32 {
        match self {
            Self::Routed | Self::Bridge => uplink,
            Self::Overlay => uplink.saturating_sub(50),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];
}

#[derive(Clone, Debug)]
pub struct NodeSpec {
    pub(super) name: String,
    pub(super) number: Option<u8>,
    pub(super) pods: Vec<PodSpec>,
}

impl NodeSpec {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), number: None, pods: Vec::new() }
    }

    /// The number in the node's addresses: 192.168.50.N, fd50::N, 10.244.N.0/24, fd44:N::/64.
    pub fn number(mut self, number: u8) -> Self {
        self.number = Some(number);
        self
    }

    pub fn pod(mut self, pod: impl Into<PodSpec>) -> Self {
        self.pods.push(pod.into());
        self
    }

    pub fn pods<const N: usize>(mut self, names: [&str; N]) -> Self {
        self.pods.extend(names.map(PodSpec::new));
        self
    }
}

#[derive(Clone, Debug)]
pub struct PodSpec {
    pub(super) name: String,
    pub(super) ipv4: Option<Ipv4Addr>,
    pub(super) ipv6: Option<Ipv6Addr>,
    pub(super) interface: Option<String>,
    pub(super) mtu: Option<u32>,
    pub(super) path_mtu: Option<u32>,
}

impl PodSpec {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ipv4: None, ipv6: None, interface: None, mtu: None, path_mtu: None }
    }

    pub fn ipv4(mut self, address: Ipv4Addr) -> Self {
        self.ipv4 = Some(address);
        self
    }

    pub fn ipv6(mut self, address: Ipv6Addr) -> Self {
        self.ipv6 = Some(address);
        self
    }

    /// Name of the interface pair's end on the node. Default: `veth` and the pod's number.
    pub fn interface(mut self, name: &str) -> Self {
        self.interface = Some(name.to_owned());
        self
    }

    /// MTU of both ends of the interface pair.
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// MTU of the node's route to the pod, smaller than the interface's: the node then answers "fragmentation needed".
    pub fn path_mtu(mut self, mtu: u32) -> Self {
        self.path_mtu = Some(mtu);
        self
    }
}

impl From<&str> for PodSpec {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

/// The address plan. IPv6 repeats the decimal digits of IPv4, so that people recognise the same machine in both.
pub(super) mod plan {
    use super::*;

    pub fn node_v4(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 50, number)
    }

    pub fn node_v6(number: u8) -> Result<Ipv6Addr> {
        format!("fd50::{number}").parse().context("node number")
    }

    pub fn pod_v4(node: u8, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, node, host)
    }

    pub fn pod_v6(node: u8, host: u8) -> Result<Ipv6Addr> {
        format!("fd44:{node}::{host}").parse().context("pod number")
    }

    pub fn pod_networks(node: u8) -> [String; 2] {
        [format!("10.244.{node}.0/24"), format!("fd44:{node}::/64")]
    }

    pub const OUTSIDE: [IpAddr; 2] =
        [IpAddr::V4(Ipv4Addr::new(192, 168, 50, 100)), IpAddr::V6(Ipv6Addr::new(0xfd50, 0, 0, 0, 0, 0, 0, 0x100))];
    pub const ROUTER: [IpAddr; 2] =
        [IpAddr::V4(Ipv4Addr::new(192, 168, 50, 254)), IpAddr::V6(Ipv6Addr::new(0xfd50, 0, 0, 0, 0, 0, 0, 0xfe))];
    /// Service, load-balancer and external ranges: the outside client reaches them through the first node.
    pub const SERVICE_RANGES: [&str; 4] = ["10.96.0.0/12", "fd96::/112", "203.0.113.0/24", "2001:db8:ffff::/64"];
    pub const CLUSTER_RANGES: [&str; 2] = ["10.244.0.0/16", "fd44::/16"];
    pub const GATEWAY_V4: &str = "169.254.1.1";
    pub const GATEWAY_V6: &str = "fe80::1";
}
