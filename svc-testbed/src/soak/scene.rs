//! The lab of the soak and the agent in it: writes states as objects, sees when the kernel has them, audits the maps and
//! counts descriptors.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{
    change::{DNS_TARGETS, WEB_TARGETS},
    state::{NodeState, Place, Service, Verdict},
    timeline::Timeline,
    visitor::Identity,
};
use crate::{AgentOptions, AgentProcess, Family, Helper, Lab, Manifests, NodeSpec, Ports, Server, Shape, wait};

pub(super) const NODE: &str = "n1";
const SERVING: [&str; 6] = ["near", "spare", "far", "away", "n2", NODE];
/// Generous: that the agent is slow is not what this is about, and the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(90);

/// All that maps hold of Services. None of it may be left when they are gone.
const PUBLISHED: [&str; 6] = ["services", "frontends", "markers", "names", "slots", "backends"];

/// What traffic leaves in the maps once its clients have closed everything, and until the agent sweeps it away.
const LEFT_BY_TRAFFIC: [&str; 6] =
    ["flows_v4", "flows_v6", "half_flows", "superseded_flows", "affinities", "counters_of_nobody"];
/// UDP flows last three minutes, those of their masquerade until the pass after that; the rest is for a busy machine.
const MEMORY: Duration = Duration::from_secs(400);
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);

pub(super) struct Scene {
    pub lab: Lab,
    pub agent: AgentProcess,
    pub node: NodeState,
    manifests: Manifests,
    /// What stands in the files.
    services: Vec<Service>,
    descriptors: usize,
    _servers: Vec<Server>,
}

impl Scene {
    pub fn build(helper: Helper, shape: Shape, socket_lb: &str) -> Result<Self> {
        let lab = Lab::builder()
            .helper(helper)
            .shape(shape)
            .node(NodeSpec::new(NODE).pods(["client", "near", "spare"]))
            .node(NodeSpec::new("n2").pods(["far", "away"]))
            .outside("outside")
            .build()?;
        let manifests = Manifests::in_directory(lab.state_dir().join("manifests"))?;
        let node = NodeState { name: NODE.to_owned(), zone: None };
        write_node(&lab, &manifests, &node)?;
        let ports = Ports::new().tcp(WEB_TARGETS).udp(DNS_TARGETS);
        let servers = SERVING.iter().map(|name| lab.machine(name)?.serve(&ports)).collect::<Result<_>>()?;
        let options = AgentOptions::new(manifests.directory())?.socket_lb(socket_lb);
        let agent = AgentProcess::start(&lab, NODE, options)?;
        let mut scene = Self { lab, agent, node, manifests, services: Vec::new(), descriptors: 0, _servers: servers };
        scene.descriptors = scene.count_descriptors()?;
        Ok(scene)
    }

    pub fn places(&self) -> Result<Vec<Place>> {
        let place = |name: &&str| {
            let machine = self.lab.machine(name)?;
            let node = machine.node().unwrap_or(name).to_owned();
            let addresses = Family::BOTH.map(|family| machine.ip(family));
            Ok(Place { name: (*name).to_owned(), node, addresses })
        };
        SERVING.iter().map(place).collect()
    }

    /// Everybody who uses the Services: pods with and without a server of their own, the node, a machine outside.
    pub fn identities(&self, socket_lb: &str) -> Result<Vec<Identity>> {
        let identity = |name: &str, seen_as: Option<&str>| {
            let seen_as = seen_as.map(|name| self.addresses(name)).transpose()?;
            // What the node's own sockets were translated to, the packet path does not see.
            let can_be_reset = name != NODE || socket_lb == "off";
            anyhow::Ok(Identity { name: name.to_owned(), addresses: self.addresses(name)?, seen_as, can_be_reset })
        };
        Ok(vec![
            identity("client", Some("client"))?,
            identity("near", Some("near"))?,
            identity("spare", Some("spare"))?,
            identity(NODE, None)?,
            identity("outside", Some(NODE))?,
        ])
    }

    fn addresses(&self, name: &str) -> Result<[IpAddr; 2]> {
        let machine = self.lab.machine(name)?;
        Ok(Family::BOTH.map(|family| machine.ip(family)))
    }

    /// Writes the way from the state in the files to `wanted`, one object after the other; every step is a state that a
    /// client may meet. Returns before the agent has seen it.
    pub fn write(&mut self, timeline: &Timeline, index: usize, wanted: &Service) -> Result<()> {
        if self.services.len() <= index {
            // Not there yet: as if it had been deleted.
            self.services.push(Service { exists: false, slices: Vec::new(), ..wanted.clone() });
            timeline.write(index, &self.services[index], &self.node);
        }
        let mut steps = Vec::new();
        let mut step = self.services[index].clone();
        while step.slices.len() > wanted.slices.len() {
            step.slices.pop();
            steps.push(step.clone());
        }
        for (number, slice) in wanted.slices.iter().enumerate() {
            match step.slices.get_mut(number) {
                Some(known) => *known = slice.clone(),
                None => step.slices.push(slice.clone()),
            }
            steps.push(step.clone());
        }
        steps.push(wanted.clone());
        for step in steps {
            if step == self.services[index] {
                continue;
            }
            timeline.write(index, &step, &self.node);
            self.replace(index, step, timeline.places())?;
        }
        Ok(())
    }

    fn replace(&mut self, index: usize, step: Service, places: &[Place]) -> Result<()> {
        let before = std::mem::replace(&mut self.services[index], step);
        let after = &self.services[index];
        if before.service_object() != after.service_object() {
            self.put("Service", &after.name(), after.service_object())?;
        }
        let pairs = before.slice_objects(places).into_iter().zip(after.slice_objects(places));
        for ((_, old), (name, new)) in pairs {
            if old != new {
                self.put("EndpointSlice", &name, new)?;
            }
        }
        Ok(())
    }

    fn put(&self, kind: &str, name: &str, object: Option<Value>) -> Result<()> {
        match object {
            Some(object) => self.manifests.apply(&object),
            None => self.manifests.delete(kind, "default", name),
        }
    }

    pub fn write_node(&mut self, timeline: &Timeline, node: NodeState) -> Result<()> {
        self.node = node;
        for (index, service) in self.services.iter().enumerate() {
            timeline.write(index, service, &self.node);
        }
        write_node(&self.lab, &self.manifests, &self.node)
    }

    /// Waits until the kernel has exactly what the files say, by the rules of `state`.
    pub fn wait_until_applied(&self, timeline: &Timeline) -> Result<()> {
        let expected = |service: &Service| service.expected(timeline.places(), &self.node);
        let expected: BTreeMap<_, _> = self.services.iter().flat_map(expected).collect();
        wait::until("the kernel has what the objects say", PATIENCE, || {
            let found = self.read()?;
            for (frontend, wanted) in &expected {
                let found = found.get(frontend);
                ensure!(found == Some(wanted), "{frontend} should be {wanted:?}, is {found:?}");
            }
            let more = found.keys().find(|frontend| !expected.contains_key(*frontend));
            ensure!(more.is_none(), "{more:?} should not be there");
            Ok(())
        })?;
        (0..self.services.len()).for_each(|index| timeline.apply(index));
        Ok(())
    }

    /// Verdict and targets of new connections, by frontend and protocol, as the maps say.
    fn read(&self) -> Result<BTreeMap<String, (Verdict, BTreeSet<SocketAddr>)>> {
        let rows = |what: &str| -> Result<Vec<Value>> {
            let output = self.agent.query(&["get", what, "-o", "json"])?;
            serde_json::from_str(&output).with_context(|| format!("get {what} printed {output}"))
        };
        let text = |row: &Value, field: &str| {
            row[field].as_str().map(str::to_owned).with_context(|| format!("no {field} in {row}"))
        };
        let mut found = BTreeMap::new();
        // Backends have no frontend of their own in the list: service, protocol and family lead to it.
        let mut frontends = BTreeMap::new();
        for row in rows("services")? {
            let verdict = match text(&row, "verdict")?.as_str() {
                "forward" => Verdict::Forward,
                "reject" => Verdict::Reject,
                _ => Verdict::Drop,
            };
            let (frontend, protocol) = (text(&row, "frontend")?, text(&row, "protocol")?);
            let address: SocketAddr = frontend.parse()?;
            let name = format!("{frontend} {protocol}");
            frontends.insert((text(&row, "service")?, protocol, address.is_ipv4()), name.clone());
            found.insert(name, (verdict, BTreeSet::new()));
        }
        for row in rows("backends")?.iter().filter(|row| row["slots"].as_u64() > Some(0)) {
            let backend: SocketAddr = text(row, "backend")?.parse()?;
            let service = (text(row, "service")?, text(row, "protocol")?, backend.is_ipv4());
            if let Some((_, slots)) = frontends.get(&service).and_then(|frontend| found.get_mut(frontend)) {
                slots.insert(backend);
            }
        }
        Ok(found)
    }

    /// Everything the maps hold, held against itself.
    pub fn audit(&self) -> Result<Value> {
        let mut command = self.agent.query_command(&["audit", "-o", "json"])?;
        let output = command.output().context("cannot start svc-agent audit")?;
        let printed = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "audit: {}\n{printed}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_str(&printed).with_context(|| format!("audit printed {printed}"))?;
        Ok(report["counts"].clone())
    }

    /// Takes every Service away; nothing of them may stay in the maps. Returns what traffic has left there.
    pub fn empty(&mut self, timeline: &Timeline) -> Result<Value> {
        for index in 0..self.services.len() {
            let gone = Service { exists: false, slices: Vec::new(), ..self.services[index].clone() };
            self.write(timeline, index, &gone)?;
        }
        self.wait_until_applied(timeline)?;
        wait::until("the maps are empty", PATIENCE, || {
            let counts = self.audit()?;
            let left = PUBLISHED.iter().find(|what| counts[**what] != 0);
            ensure!(left.is_none(), "{left:?} are left: {counts}");
            Ok(counts)
        })
    }

    /// Waits until nothing is left of the connections of clients that are gone.
    pub fn wait_until_forgotten(&self) -> Result<Value> {
        wait::until("all traffic is forgotten", MEMORY, || {
            thread::sleep(BETWEEN_LOOKS);
            let counts = self.audit()?;
            let left: Vec<_> = LEFT_BY_TRAFFIC.iter().filter(|what| counts[**what] != 0).collect();
            ensure!(left.is_empty(), "{left:?} are left: {counts}");
            Ok(counts)
        })
    }

    /// No more descriptors than at the start.
    pub fn check_descriptors(&self) -> Result<usize> {
        wait::until("the agent has closed what it opened", PATIENCE, || {
            let count = self.count_descriptors()?;
            ensure!(count <= self.descriptors, "{count} descriptors are open, {} were at the start", self.descriptors);
            Ok(count)
        })
    }

    fn count_descriptors(&self) -> Result<usize> {
        let Some(pid) = self.agent.pid() else { bail!("the agent does not run") };
        let directory = format!("/proc/{pid}/fd");
        Ok(fs::read_dir(&directory).with_context(|| format!("cannot list {directory}"))?.count())
    }
}

fn write_node(lab: &Lab, manifests: &Manifests, node: &NodeState) -> Result<()> {
    let labels = node.zone.map_or_else(|| json!({}), |zone| json!({"topology.kubernetes.io/zone": zone}));
    manifests.node(lab.machine(&node.name)?, &labels)
}
