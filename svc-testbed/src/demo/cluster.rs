//! The scene of the demo: one node, three pods with a web server each, a DNS pod, a client pod, and their Services as manifests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::{
    Family, Helper, Lab, LabId, Machine, Manifests, NodeSpec, PodSpec, Ports, Server,
    manifests::{Endpoint, Port, ServiceSpec},
};

pub(super) const NODE: &str = "node";
const WEB_PORT: u16 = 80;
/// The pods' own port; the Service names it, and the slices say which number that is.
const TARGET: &str = "http";

pub(super) struct Cluster {
    pub lab: Lab,
    pub manifests: Manifests,
    pub family: Family,
    pub web: ServiceSpec,
    pub headless: ServiceSpec,
    pub dns: ServiceSpec,
    servers: Vec<(String, Server)>,
}

impl Cluster {
    pub const WEB_PODS: [&str; 3] = ["nginx-1", "nginx-2", "nginx-3"];

    pub fn build(helper: Helper, family: Family) -> Result<Self> {
        let mut node = NodeSpec::new(NODE).number(3).pod(pod("kube-dns", 10)).pod(pod("client", 50));
        for name in Self::WEB_PODS {
            node = node.pod(web_pod(name));
        }
        let lab = Lab::builder().helper(helper).node(node).build()?;
        let manifests = Manifests::in_directory(lab.state_dir().join("manifests"))?;
        let (web_ip, dns_ip) = service_ips(family);
        let mut cluster = Self {
            lab,
            manifests,
            family,
            web: ServiceSpec::new("nginx-service").cluster_ip(web_ip).port(Port::tcp(TARGET, 80, WEB_PORT)),
            headless: ServiceSpec::new("nginx-headless-service").port(Port::tcp(TARGET, 80, WEB_PORT)),
            dns: ServiceSpec::new("kube-dns")
                .namespace("kube-system")
                .cluster_ip(dns_ip)
                .port(Port::udp("dns", 53, 53))
                .port(Port::tcp("dns-tcp", 53, 53)),
            servers: Vec::new(),
        };
        cluster.start()?;
        Ok(cluster)
    }

    fn start(&mut self) -> Result<()> {
        self.manifests.node(self.lab.machine(NODE)?, &serde_json::json!({}))?;
        for service in [&self.web, &self.headless, &self.dns] {
            self.manifests.service(service)?;
        }
        self.scale(&Self::WEB_PODS)?;
        let dns_pod = self.lab.machine("kube-dns")?;
        self.manifests.endpoints(&self.dns, &self.endpoints(&[dns_pod]))?;
        let server = dns_pod.serve_dns(self.manifests.directory())?;
        self.servers.push(("kube-dns".to_owned(), server));
        for name in Self::WEB_PODS {
            self.serve(name)?;
        }
        self.client()?.use_dns(service_ips(self.family).1, "default")
    }

    fn serve(&mut self, name: &str) -> Result<()> {
        let pod = self.lab.machine(name)?;
        let page = format!("Welcome to {name} ({})", pod.ip(self.family));
        let server = pod.serve(&Ports::new().tcp([WEB_PORT]).welcome(&page))?;
        self.servers.push((name.to_owned(), server));
        Ok(())
    }

    pub fn client(&self) -> Result<&Machine> {
        self.lab.machine("client")
    }

    pub fn web_address(&self) -> IpAddr {
        service_ips(self.family).0
    }

    pub fn dns_address(&self) -> IpAddr {
        service_ips(self.family).1
    }

    pub fn pod_address(&self, name: &str) -> Result<IpAddr> {
        Ok(self.lab.machine(name)?.ip(self.family))
    }

    /// Makes these pods the endpoints of both web Services, in the manifests.
    pub fn scale(&self, pods: &[&str]) -> Result<()> {
        let pods = pods.iter().map(|name| self.lab.machine(name)).collect::<Result<Vec<_>>>()?;
        let endpoints = self.endpoints(&pods);
        self.manifests.endpoints(&self.web, &endpoints)?;
        self.manifests.endpoints(&self.headless, &endpoints)
    }

    fn endpoints(&self, pods: &[&Machine]) -> Vec<Endpoint> {
        let both = pods.iter().flat_map(|pod| Endpoint::both(pod));
        both.filter(|endpoint| endpoint.address.is_ipv4() == (self.family == Family::V4)).collect()
    }

    pub fn remove_pod(&mut self, name: &str) -> Result<()> {
        self.servers.retain(|(pod, _)| pod != name);
        self.lab.remove_pod(name)
    }

    /// Starts a web pod again, with the addresses it had.
    pub fn restore_pod(&mut self, name: &str) -> Result<()> {
        self.lab.add_pod(NODE, web_pod(name))?;
        self.serve(name)
    }

    /// Leaves everything running when this process ends.
    pub fn leave(self) -> Result<LabId> {
        for (_, server) in self.servers {
            server.leave();
        }
        self.lab.keep()
    }
}

fn web_pod(name: &str) -> PodSpec {
    let index = Cluster::WEB_PODS.iter().position(|pod| *pod == name).unwrap_or_default();
    pod(name, 46 + index as u8)
}

/// 10.244.3.46 and fd44:3::2e: the same number in both families.
fn pod(name: &str, host: u8) -> PodSpec {
    PodSpec::new(name).ipv4(Ipv4Addr::new(10, 244, 3, host)).ipv6(Ipv6Addr::new(0xfd44, 3, 0, 0, 0, 0, 0, host.into()))
}

/// ClusterIPs of the web Service and of DNS.
fn service_ips(family: Family) -> (IpAddr, IpAddr) {
    match family {
        Family::V4 => (Ipv4Addr::new(10, 110, 110, 219).into(), Ipv4Addr::new(10, 96, 0, 10).into()),
        Family::V6 => (
            Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0x6e, 0xdb).into(),
            Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0xa).into(),
        ),
    }
}
