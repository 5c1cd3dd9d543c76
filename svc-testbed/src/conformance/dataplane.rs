//! The agent under test on its node, and the objects it follows. Remembers what a scenario made, to take it away at its end.

use std::collections::BTreeSet;

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use super::{
    corpus::{Identity, Program},
    topology::{NODE, Topology},
};
use crate::{AgentOptions, AgentProcess, Manifests};

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

pub struct Dataplane {
    manifests: Manifests,
    agent: Option<AgentProcess>,
    /// The agent ought to run at this moment
    started: bool,
    nodes: Vec<Value>,
    made: BTreeSet<Identity>,
}

impl Dataplane {
    pub fn start(topology: &Topology, mode: Mode, nodes: &[Value]) -> Result<Self> {
        let lab = topology.lab();
        let manifests = Manifests::in_directory(lab.state_dir().join("manifests"))?;
        for object in nodes.iter().chain([&kubernetes_service()]) {
            manifests.apply(object)?;
        }
        let agent = match mode.socket_lb() {
            Some(socket_lb) => {
                let options = AgentOptions::new(manifests.directory())?.socket_lb(socket_lb);
                Some(AgentProcess::start(lab, NODE, options)?)
            }
            None => None,
        };
        Ok(Self { manifests, started: agent.is_some(), agent, nodes: nodes.to_vec(), made: BTreeSet::new() })
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
            self.manifests.delete(&object.kind, &object.namespace, &object.name)?;
        }
        for object in apply {
            let identity = Identity::of(object);
            if identity.kind == "Node" {
                self.manifests.apply(object)?;
                continue;
            }
            let mut object = object.clone();
            object["metadata"]["namespace"] = json!(identity.namespace);
            self.manifests.apply(&object)?;
            self.made.insert(identity);
        }
        Ok(())
    }

    /// Takes away what the scenario made, puts the nodes back, and starts an agent that was left stopped or died.
    pub fn reset(&mut self) -> Result<()> {
        for object in std::mem::take(&mut self.made) {
            self.manifests.delete(&object.kind, &object.namespace, &object.name)?;
        }
        for node in &self.nodes {
            self.manifests.apply(node)?;
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
