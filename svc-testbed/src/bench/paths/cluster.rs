//! The lab with all paths in it: machines, servers, and on each path's nodes whoever translates, for any number of Services.

use std::{
    fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddrV4},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{Offer, Path, Place, Target, Translator, servers::Servers};
use crate::{
    AgentOptions, AgentProcess, Lab, Manifests, NodeSpec, agent,
    bench::{
        progress::Progress,
        rulesets::{self, ServicePort},
    },
    wait,
};

const PLACES: [Place; 2] = [Place::SameNode, Place::OtherNode];
/// Endpoints of each Service that only fills tables.
const FILLER_ENDPOINTS: u32 = 2;
const FILL_PATIENCE: Duration = Duration::from_secs(120);
/// Of pods: connections that wait in TIME_WAIT would be the measure of connections per second.
const POD_SYSCTLS: &[(&str, &str)] =
    &[("net/ipv4/tcp_max_tw_buckets", "0"), ("net/ipv4/ip_local_port_range", "10000 65535")];

pub struct Cluster {
    // Before the lab: processes end first.
    agents: Vec<AgentProcess>,
    _servers: Vec<Servers>,
    paths: Vec<Path>,
    manifests: Manifests,
    lab: Lab,
}

/// Paths this machine and this agent can offer; of the others, why not.
pub fn available(wanted: &[Path]) -> Result<(Vec<Path>, Vec<String>)> {
    let help = Command::new(agent::locate()?).args(["run", "--help"]).output().context("cannot start svc-agent")?;
    let knows_forwarding = String::from_utf8_lossy(&help.stdout).contains("--forwarding");
    let needs_it =
        |path: &Path| matches!(path.translator(), Translator::Agent { forwarding: "direct", .. }) && !knows_forwarding;
    let notes = wanted
        .iter()
        .filter(|path| needs_it(path))
        .map(|path| format!("{} was left out: this agent has no --forwarding", path.title()))
        .collect();
    Ok((wanted.iter().copied().filter(|path| !needs_it(path)).collect(), notes))
}

impl Cluster {
    pub fn build(paths: &[Path], progress: &Progress) -> Result<Self> {
        progress.say("building the lab");
        let mut builder = Lab::builder();
        for path in paths {
            let [first, second] = path.nodes();
            let near = path.server(Place::SameNode);
            builder = builder
                .node(NodeSpec::new(&first).pods([path.client().as_str(), near.as_str()]))
                .node(NodeSpec::new(&second).pods([path.server(Place::OtherNode).as_str()]));
        }
        let lab = builder.build()?;
        let manifests = Manifests::in_directory(lab.state_dir().join("manifests"))?;
        let mut servers = Vec::new();
        for path in paths {
            lab.machine(&path.client())?.namespace().write_sysctls(POD_SYSCTLS)?;
            for place in PLACES {
                let machine = lab.machine(&path.server(place))?;
                machine.namespace().write_sysctls(POD_SYSCTLS)?;
                servers.push(Servers::start(machine, &lab.state_dir())?);
            }
        }
        Ok(Self { agents: Vec::new(), _servers: servers, paths: paths.to_vec(), manifests, lab })
    }

    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    pub fn paths(&self) -> &[Path] {
        &self.paths
    }

    pub fn target(&self, path: Path, place: Place) -> Target<'_> {
        Target { cluster: self, path, place }
    }

    /// Makes `count` Services exist for everybody: those that are measured and as many more as it takes.
    pub fn set_services(&mut self, count: u32, progress: &Progress) -> Result<()> {
        progress.say(format!("programming {count} services"));
        self.write_manifests(count)?;
        if self.agents.is_empty() {
            for path in self.paths.clone() {
                let Translator::Agent { socket_lb, forwarding } = path.translator() else { continue };
                for node in path.nodes() {
                    progress.say(format!("programming {count} services: agent on {node}"));
                    let mut options = AgentOptions::new(self.manifests.directory())?.socket_lb(socket_lb);
                    if forwarding == "direct" {
                        options = options.extra(["--forwarding=direct"]);
                    }
                    self.agents.push(AgentProcess::start(&self.lab, &node, options)?);
                }
            }
        }
        let expected = frontends(&self.all_services(count)?);
        for agent in &self.agents {
            wait::until("the agent has all services", FILL_PATIENCE, || {
                let known = gauge(&agent.metrics()?, "svc_agent_services");
                ensure!(known >= expected, "{} has {known} of {expected} frontends", agent.node().name());
                Ok(())
            })?;
        }
        for path in &self.paths {
            // kube-proxy knows the cluster's Services, not those of the other paths.
            let services = self.services_of(*path, count)?;
            let cidr = self.lab.cluster_cidrs()[0];
            let (tool, arguments, rules) = match path.translator() {
                Translator::Nftables => ("nft", &["-f", "-"][..], rulesets::nftables(&services, cidr)),
                Translator::Iptables => ("iptables-restore", &[][..], rulesets::iptables(&services, cidr)),
                Translator::Nobody | Translator::Agent { .. } => continue,
            };
            progress.say(format!("programming {count} services: {tool}"));
            for node in path.nodes() {
                feed(self.lab.machine(&node)?.namespace().command(tool), arguments, &rules)?;
            }
        }
        Ok(())
    }

    /// What the path's own client asks for, in the middle of the others.
    fn services_of(&self, path: Path, count: u32) -> Result<Vec<ServicePort>> {
        let own = self.measured(path)?;
        let mut services = fillers(count.saturating_sub(1));
        let middle = services.len() / 2;
        services.splice(middle..middle, own);
        Ok(services)
    }

    fn all_services(&self, count: u32) -> Result<Vec<ServicePort>> {
        let mut services = fillers(count.saturating_sub(1));
        for path in &self.paths {
            services.extend(self.measured(*path)?);
        }
        Ok(services)
    }

    fn measured(&self, path: Path) -> Result<Vec<ServicePort>> {
        let mut services = Vec::new();
        for place in PLACES {
            let server = self.lab.machine(&path.server(place))?.ipv4();
            for offer in Offer::ALL {
                for protocol in offer.protocols() {
                    services.push(ServicePort {
                        name: format!("default/{}:{protocol}-{}", path.server(place), offer.service_port()),
                        protocol,
                        address: path.service_address(place),
                        port: offer.service_port(),
                        endpoints: vec![SocketAddrV4::new(server, offer.pod_port())],
                    });
                }
            }
        }
        Ok(services)
    }

    /// One file with everything: agents take it over whole.
    fn write_manifests(&self, count: u32) -> Result<()> {
        let items: Vec<Value> =
            self.all_services(count)?.chunk_by(|one, two| one.address == two.address).flat_map(objects).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        let path = self.manifests.directory().join("services.json");
        let temporary = path.with_file_name(".services.tmp");
        fs::write(&temporary, list.to_string()).with_context(|| format!("cannot write {}", temporary.display()))?;
        fs::rename(&temporary, &path).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Services nobody asks for.
fn fillers(count: u32) -> Vec<ServicePort> {
    let offset = |base: [u8; 4], number: u32| Ipv4Addr::from_bits(Ipv4Addr::from(base).to_bits() + number);
    let filler = |number: u32| ServicePort {
        name: format!("filler/service-{number}:http"),
        protocol: "tcp",
        address: offset([10, 100, 0, 0], number),
        port: 80,
        endpoints: (0..FILLER_ENDPOINTS)
            .map(|endpoint| SocketAddrV4::new(offset([10, 245, 0, 0], number * FILLER_ENDPOINTS + endpoint), 8080))
            .collect(),
    };
    (0..count).map(filler).collect()
}

fn frontends(services: &[ServicePort]) -> f64 {
    services.len() as f64
}

/// Service and EndpointSlice of the ports at one address.
fn objects(ports: &[ServicePort]) -> [Value; 2] {
    let first = &ports[0];
    let name = |port: &ServicePort| port.name.rsplit_once(':').map(|(_, name)| name.to_owned()).unwrap_or_default();
    let (namespace, service) = first.name.split_once('/').unwrap_or(("default", &first.name));
    let service = service.split(':').next().unwrap_or(service);
    let upper = |port: &ServicePort| port.protocol.to_uppercase();
    let target = |port: &ServicePort| port.endpoints.first().map_or(port.port, SocketAddrV4::port);
    let spec_ports = ports.iter().map(
        |port| json!({"name": name(port), "protocol": upper(port), "port": port.port, "targetPort": target(port)}),
    );
    let slice_ports =
        ports.iter().map(|port| json!({"name": name(port), "protocol": upper(port), "port": target(port)}));
    let endpoints =
        first.endpoints.iter().map(|endpoint| json!({"addresses": [endpoint.ip()], "conditions": {"ready": true}}));
    [
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": service, "namespace": namespace},
            "spec": {"type": "ClusterIP", "clusterIP": first.address, "clusterIPs": [first.address], "ipFamilies": ["IPv4"],
                     "ports": spec_ports.collect::<Vec<_>>()},
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": service, "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
            "ports": slice_ports.collect::<Vec<_>>(), "endpoints": endpoints.collect::<Vec<_>>(),
        }),
    ]
}

/// Sum of a metric's samples.
fn gauge(metrics: &str, name: &str) -> f64 {
    let lines = metrics.lines().filter(|line| line.starts_with(name) && line[name.len()..].starts_with(['{', ' ']));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn feed(mut command: Command, arguments: &[&str], rules: &str) -> Result<()> {
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let tool = command.get_program().display().to_string();
    let mut child = command.spawn().with_context(|| format!("cannot start {tool}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(rules.as_bytes()).with_context(|| format!("{tool} ended early"))?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{tool} does not take the rules: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
