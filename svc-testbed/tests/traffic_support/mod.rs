//! The cluster of the traffic tests: node `n1` with an agent, a client and two servers, node `n2` without an agent, and a client
//! outside. A test that fails says what every side saw: samples, the agent's log, its lists of services, flows and drops.

#![allow(dead_code, reason = "every test file uses its own part of it")]

use std::{
    cell::RefCell,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use svc_testbed::{
    AgentOptions, AgentProcess, Client, Family, Helper, Lab, LabBuilder, Machine, Manifests, NodeSpec, Outcome, Ports,
    Sample, Server, Shape, Tcp, Udp,
    client::{by_pod, expect_all},
    manifests::{Endpoint, Port, ServiceSpec},
    wait,
};

pub const AGENT_NODE: &str = "n1";
pub const PATIENCE: Duration = Duration::from_secs(15);
/// Less than the first retransmission of a SYN: an answer within it is an answer to the first packet.
pub const AT_ONCE: Duration = Duration::from_millis(900);
/// For what should never be answered.
pub const SILENCE: Duration = Duration::from_millis(1200);

/// Ports of every Service made by [`service`], and of the pods behind it.
pub const WEB: u16 = 80;
pub const DNS: u16 = 53;
pub const STREAM: u16 = 5001;
pub const POD_WEB: u16 = 8080;
pub const POD_DNS: u16 = 5353;
pub const POD_STREAM: u16 = 15001;

const LOG_TAIL: usize = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Packets only
    Tc,
    /// Sockets where that is possible
    Socket,
    /// Sockets of the node itself, packets of its pods
    Host,
}

impl Mode {
    pub const BOTH: [Self; 2] = [Self::Socket, Self::Tc];

    /// Who translates such sockets: datagrams are the packets' business in every mode.
    pub fn of(self, kind: Kind) -> Self {
        if kind == Kind::Tcp { self } else { Self::Tc }
    }

    pub fn socket_lb(self) -> &'static str {
        match self {
            Self::Tc => "off",
            Self::Socket => "all",
            Self::Host => "host",
        }
    }
}

pub struct World {
    pub lab: Lab,
    pub manifests: Manifests,
    pub agent: AgentProcess,
    pub mode: Mode,
    servers: RefCell<Vec<(String, Server)>>,
}

/// Client `client`, servers `near` and `spare` on the agent's node, server `far` on the other.
pub fn lab() -> LabBuilder {
    Lab::builder()
        .helper(Helper::at(env!("CARGO_BIN_EXE_svc-testbed")))
        .node(NodeSpec::new(AGENT_NODE).pods(["client", "near", "spare"]))
        .node(NodeSpec::new("n2").pods(["far"]))
}

pub fn options(manifests: &Manifests, mode: Mode) -> Result<AgentOptions> {
    let options = AgentOptions::new(manifests.directory())?.socket_lb(mode.socket_lb());
    ensure!(
        options.binary.is_file(),
        "there is no program {}: build it (cargo build -p svc-agent) or set SVC_AGENT_BIN",
        options.binary.display()
    );
    Ok(options)
}

impl World {
    /// The lab with servers everywhere and the agent ready, no Service yet.
    pub fn start(builder: LabBuilder, mode: Mode) -> Result<Self> {
        Self::start_with(builder, mode, [])
    }

    /// The same, with more arguments for the agent.
    pub fn start_with<const N: usize>(builder: LabBuilder, mode: Mode, extra: [&str; N]) -> Result<Self> {
        let lab = builder.build()?;
        let manifests = Manifests::in_directory(lab.state_dir().join("manifests"))?;
        manifests.node(lab.machine(AGENT_NODE)?, &serde_json::json!({}))?;
        let agent = AgentProcess::start(&lab, AGENT_NODE, options(&manifests, mode)?.extra(extra))?;
        let world = Self { lab, manifests, agent, mode, servers: RefCell::default() };
        for name in ["near", "spare", "far"] {
            world.serve(name)?;
        }
        Ok(world)
    }

    pub fn routed(mode: Mode) -> Result<Self> {
        Self::start(lab().shape(Shape::Routed), mode)
    }

    /// Runs `test` on a fresh world and, if it fails, adds what the world looks like.
    pub fn check(self, test: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let mut world = self;
        let mode = world.mode;
        let result = test(&mut world).with_context(|| format!("{mode:?}"));
        world.explain(result)
    }

    pub fn explain(&mut self, result: Result<()>) -> Result<()> {
        result.map_err(|error| {
            let alive = if self.agent.is_running() { "runs" } else { "does not run" };
            let mut text = format!("{error:#}\n--- the agent {alive}; its log ends with:\n{}", tail(&self.agent.log()));
            for what in ["services", "backends", "flows", "drops"] {
                let listing =
                    self.agent.query(&["get", what, "-o", "wide"]).unwrap_or_else(|error| format!("{error:#}"));
                text.push_str(&format!("--- get {what}:\n{listing}\n"));
            }
            anyhow!(text)
        })
    }

    /// Stops the agent in good order and starts it with other socket hooks, on the same pins.
    pub fn switch(&mut self, mode: Mode) -> Result<()> {
        self.agent.stop()?;
        self.agent = AgentProcess::start(&self.lab, AGENT_NODE, options(&self.manifests, mode)?)?;
        self.mode = mode;
        Ok(())
    }

    pub fn machine(&self, name: &str) -> Result<&Machine> {
        self.lab.machine(name)
    }

    pub fn client(&self) -> Result<Client> {
        self.machine("client")?.client()
    }

    /// Starts the usual server on a machine.
    pub fn serve(&self, name: &str) -> Result<()> {
        let ports = Ports::new().tcp([POD_WEB]).udp([POD_DNS]).stream([POD_STREAM]);
        let server = self.machine(name)?.serve(&ports)?;
        self.servers.borrow_mut().push((name.to_owned(), server));
        Ok(())
    }

    /// Makes a Service with these pods behind it and waits until it works that way.
    pub fn publish(&self, service: &ServiceSpec, pods: &[&str]) -> Result<()> {
        self.manifests.service(service)?;
        self.scale(service, pods)
    }

    /// Makes these pods the endpoints and waits until the kernel has them.
    pub fn scale(&self, service: &ServiceSpec, pods: &[&str]) -> Result<()> {
        let endpoints = self.endpoints(pods)?;
        self.manifests.endpoints(service, &endpoints)?;
        let verdict = if pods.is_empty() { "reject" } else { "forward" };
        self.wait_for(service, verdict, &endpoints)
    }

    pub fn endpoints(&self, pods: &[&str]) -> Result<Vec<Endpoint>> {
        let machines = pods.iter().map(|name| self.machine(name)).collect::<Result<Vec<_>>>()?;
        Ok(machines.into_iter().flat_map(Endpoint::both).collect())
    }

    /// Waits until every frontend of the Service has this verdict and exactly these backends are new connections' targets.
    pub fn wait_for(&self, service: &ServiceSpec, verdict: &str, endpoints: &[Endpoint]) -> Result<()> {
        let frontends = service.ports.len() * service.cluster_ips.len();
        let mut expected = Vec::new();
        for port in &service.ports {
            // Endpoints of a family the Service has no address in are nobody's target.
            let wanted = |endpoint: &&Endpoint| {
                service.cluster_ips.iter().any(|address| address.is_ipv4() == endpoint.address.is_ipv4())
            };
            expected
                .extend(endpoints.iter().filter(wanted).map(|endpoint| SocketAddr::new(endpoint.address, port.target)));
        }
        expected.sort();
        expected.dedup();
        wait::until(&format!("{} has verdict {verdict} and {expected:?}", service.name), PATIENCE, || {
            let rows = self.rows("services", service)?;
            ensure!(rows.len() == frontends && rows.iter().all(|row| row["verdict"] == verdict), "services: {rows:#?}");
            if verdict == "forward" {
                let rows = self.rows("backends", service)?;
                let used = rows.iter().filter(|row| row["slots"].as_u64().unwrap_or_default() > 0);
                let addresses = used.map(|row| Ok(row["backend"].as_str().context("no backend")?.parse()?));
                let mut found = addresses.collect::<Result<Vec<SocketAddr>>>()?;
                found.sort();
                found.dedup();
                ensure!(found == expected, "backends: {rows:#?}");
            }
            Ok(())
        })
    }

    pub fn wait_until_gone(&self, service: &ServiceSpec) -> Result<()> {
        wait::until(&format!("{} is gone", service.name), PATIENCE, || {
            let rows = self.rows("services", service)?;
            ensure!(rows.is_empty(), "services: {rows:#?}");
            Ok(())
        })
    }

    /// Rows of `svc-agent get <what> --service …`.
    pub fn rows(&self, what: &str, service: &ServiceSpec) -> Result<Vec<Value>> {
        let name = format!("--service={}/{}", service.namespace, service.name);
        let output = self.agent.query(&["get", what, "-o", "json", &name])?;
        serde_json::from_str(&output).with_context(|| format!("get {what} printed {output}"))
    }

    /// What the datapath counted for all frontends of a Service together.
    pub fn counters(&self, service: &ServiceSpec) -> Result<Counters> {
        let mut sum = Counters::default();
        for row in self.rows("services", service)? {
            let field = |name: &str| row[name].as_u64().with_context(|| format!("no {name} in {row}"));
            sum.connections_tc += field("connections_tc")?;
            sum.connections_socket += field("connections_socket")?;
            sum.packets += field("packets_to_backend")? + field("packets_to_client")?;
            sum.rejected += field("rejected")?;
        }
        Ok(sum)
    }

    /// How often something was dropped or refused for this reason.
    pub fn drops(&self, reason: &str) -> Result<u64> {
        let rows: Vec<Value> = serde_json::from_str(&self.agent.query(&["get", "drops", "-o", "json"])?)?;
        let row =
            rows.iter().find(|row| row["reason"] == reason).with_context(|| format!("no {reason} in {rows:?}"))?;
        row["count"].as_u64().context("no count")
    }

    /// Everything the datapath knows that traffic changes, as text to compare.
    pub fn traces(&self) -> Result<String> {
        let lists = ["services", "flows", "drops"].map(|what| self.agent.query(&["get", what, "-o", "json"]));
        Ok(lists.into_iter().collect::<Result<Vec<_>>>()?.concat())
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub connections_tc: u64,
    pub connections_socket: u64,
    /// In both directions
    pub packets: u64,
    pub rejected: u64,
}

impl std::ops::Sub for Counters {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            connections_tc: self.connections_tc - before.connections_tc,
            connections_socket: self.connections_socket - before.connections_socket,
            packets: self.packets - before.packets,
            rejected: self.rejected - before.rejected,
        }
    }
}

/// A Service with addresses in both families, 10.96.0.N and fd96::N, and ports for HTTP, datagrams and transfers.
pub fn service(name: &str, number: u8) -> ServiceSpec {
    ServiceSpec::new(name)
        .cluster_ip(Ipv4Addr::new(10, 96, 0, number))
        .cluster_ip(Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, number.into()))
        .port(Port::tcp("web", WEB, POD_WEB))
        .port(Port::udp("dns", DNS, POD_DNS))
        .port(Port::tcp("stream", STREAM, POD_STREAM))
}

pub fn vip(service: &ServiceSpec, family: Family, port: u16) -> SocketAddr {
    let own = service.cluster_ips.iter().find(|address| address.is_ipv4() == (family == Family::V4));
    SocketAddr::new(*own.expect("the Service has addresses in both families"), port)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tcp,
    UdpConnected,
    UdpUnconnected,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Tcp, Self::UdpConnected, Self::UdpUnconnected];

    /// Port of the Service and of the pods.
    pub fn ports(self) -> (u16, u16) {
        match self {
            Self::Tcp => (WEB, POD_WEB),
            Self::UdpConnected | Self::UdpUnconnected => (DNS, POD_DNS),
        }
    }

    /// One exchange on each of `count` sockets, with bodies that need more than one segment, or nearly a full packet.
    pub fn talk(self, client: &Client, to: SocketAddr, count: u32) -> Result<Vec<Sample>> {
        self.probe(
            client,
            to,
            |tcp| tcp.count(count).body(20_000).reply(20_000),
            |udp| udp.count(count).packets(3).payload(1200).reply(1200),
        )
    }

    pub fn probe(
        self,
        client: &Client,
        to: SocketAddr,
        tcp: impl FnOnce(Tcp) -> Tcp,
        udp: impl FnOnce(Udp) -> Udp,
    ) -> Result<Vec<Sample>> {
        match self {
            Self::Tcp => client.tcp(tcp(Tcp::to(to))),
            Self::UdpConnected => client.udp(udp(Udp::to(to))),
            Self::UdpUnconnected => client.udp(udp(Udp::to(to).unconnected())),
        }
    }
}

/// All worked, and exactly these pods answered.
pub fn expect_pods(samples: &[Sample], pods: &[&str]) -> Result<()> {
    expect_all(samples, Outcome::Ok)?;
    let answered = by_pod(samples);
    let mut expected = pods.to_vec();
    expected.sort_unstable();
    ensure!(answered.keys().collect::<Vec<_>>() == expected, "answers should come from {expected:?}: {samples:#?}");
    Ok(())
}

/// Every server saw this address as its client.
pub fn expect_seen_as(samples: &[Sample], address: IpAddr) -> Result<()> {
    match samples.iter().find(|sample| sample.client_seen.map(|seen| seen.ip()) != Some(address)) {
        None => Ok(()),
        Some(sample) => Err(anyhow!("the server should have seen {address}: {sample:#?}")),
    }
}

pub fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
}
