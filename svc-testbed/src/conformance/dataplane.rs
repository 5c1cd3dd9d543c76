//! The agent under test on its node, and the objects it follows. Remembers what a scenario made, to take it away at its end.

use std::{collections::BTreeSet, fmt};

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use super::{
    corpus::{Identity, Program},
    marker::Marker,
    objects::{Objects, Source},
    topology::{NODE, Topology},
};
use crate::AgentProcess;

/// Which part of the agent translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Packets, at the pods' interfaces
    Tc,
    /// Sockets where there are some, packets for the rest
    Socket,
    /// No agent: shows what passes by itself
    None,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Self::Tc => "tc",
            Self::Socket => "socket",
            Self::None => "none",
        }
    }

    fn socket_lb(self) -> Option<&'static str> {
        match self {
            Self::Tc => Some("off"),
            Self::Socket => Some("all"),
            Self::None => None,
        }
    }
}

/// One way to run the agent: a column of the results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Variant {
    pub mode: Mode,
    pub source: Source,
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mode {
            Mode::None => f.write_str("none"),
            mode => write!(f, "{} {}", mode.name(), self.source.name()),
        }
    }
}

/// What a change asks of whoever probes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    /// The agent is known to have followed.
    Surely,
    /// Nothing shows when it has: give it time.
    InTime,
}

pub struct Dataplane {
    objects: Objects,
    agent: Option<AgentProcess>,
    marker: Marker,
    /// The agent ought to run at this moment
    started: bool,
    nodes: Vec<Value>,
    made: BTreeSet<Identity>,
}

impl Dataplane {
    pub fn start(topology: &Topology, variant: Variant, nodes: &[Value]) -> Result<Self> {
        let lab = topology.lab();
        let objects = Objects::start(lab, NODE, variant.source)?;
        for object in nodes.iter().chain([&kubernetes_service()]) {
            objects.apply(object)?;
        }
        let agent = match variant.mode.socket_lb() {
            Some(socket_lb) => {
                let options = objects.agent_options()?.socket_lb(socket_lb);
                Some(AgentProcess::start(lab, NODE, options)?)
            }
            None => None,
        };
        let (nodes, marker) = (nodes.to_vec(), Marker::default());
        Ok(Self { objects, started: agent.is_some(), agent, marker, nodes, made: BTreeSet::new() })
    }

    pub fn program(&mut self, program: Program) -> Result<()> {
        let Some(agent) = &mut self.agent else { return Ok(()) };
        self.started = program == Program::Start;
        match program {
            Program::Stop => agent.stop(),
            Program::Start => agent.restart(),
        }
    }

    /// Deletes, then creates or replaces.
    pub fn change(&mut self, delete: &[Identity], apply: &[Value]) -> Result<()> {
        for object in delete {
            ensure!(self.made.remove(object), "{object:?} is to be deleted, but the scenario has not made it");
            self.objects.delete(object)?;
        }
        for object in apply {
            let identity = Identity::of(object);
            if identity.kind == "Node" {
                self.objects.apply(object)?;
                continue;
            }
            let mut object = object.clone();
            object["metadata"]["namespace"] = json!(identity.namespace);
            self.objects.apply(&object)?;
            self.made.insert(identity);
        }
        Ok(())
    }

    /// Waits until a running agent has followed all changes so far, as far as that can be seen.
    pub fn follow(&mut self, apply: &[Value]) -> Result<Followed> {
        let Some(agent) = self.agent.as_ref().filter(|_| self.started) else { return Ok(Followed::Surely) };
        for object in self.marker.next() {
            self.objects.apply(&object)?;
        }
        self.marker.wait(agent)?;
        let nodes_changed = apply.iter().any(|object| Identity::of(object).kind == "Node");
        Ok(if nodes_changed { Followed::InTime } else { Followed::Surely })
    }

    /// Takes away what the scenario made, puts the nodes back, and starts an agent that was left stopped or died.
    pub fn reset(&mut self) -> Result<()> {
        for object in std::mem::take(&mut self.made) {
            self.objects.delete(&object)?;
        }
        for node in &self.nodes {
            self.objects.apply(node)?;
        }
        if self.agent.as_mut().is_some_and(|agent| !agent.is_running()) {
            self.program(Program::Start)?;
        }
        Ok(())
    }

    /// Fails, with the agent's last words, if the agent ended by itself.
    pub fn check(&mut self) -> Result<()> {
        let Some(agent) = self.agent.as_mut().filter(|_| self.started) else { return Ok(()) };
        if agent.is_running() {
            return Ok(());
        }
        let log = agent.log();
        let lines: Vec<&str> = log.lines().collect();
        bail!("the agent ended by itself; its log ends with:\n{}", lines[lines.len().saturating_sub(15)..].join("\n"))
    }
}

fn kubernetes_service() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default"},
        "spec": {
            "type": "ClusterIP", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}],
        },
    })
}
