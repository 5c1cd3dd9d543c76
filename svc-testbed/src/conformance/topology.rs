//! The machines of the corpus: two nodes with four pods each, the outside client, the servers on all of them, one client process
//! per machine, and whose address is whose.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context, Result};

use crate::{Client, Kind, Lab, LabBuilder, NodeSpec, PodSpec, Ports, Server};

/// The node the dataplane under test runs on.
pub const NODE: &str = "n1";
/// The path to n2p4 is narrower than its interface.
const NARROW: u32 = 1300;

pub struct Topology {
    lab: Lab,
    _servers: Vec<Server>,
    clients: BTreeMap<String, Client>,
    names: HashMap<IpAddr, String>,
}

/// The machines and their links.
pub fn builder() -> LabBuilder {
    let n2 = NodeSpec::new("n2").number(2).pods(["n2p1", "n2p2", "n2p3"]);
    Lab::builder()
        .node(NodeSpec::new(NODE).number(1).pods(["n1p1", "n1p2", "n1p3", "n1p4"]))
        .node(n2.pod(PodSpec::new("n2p4").path_mtu(NARROW)))
        .outside("ext")
}

impl Topology {
    /// Builds the lab that [`builder`] describes, and starts its servers.
    pub fn build(builder: LabBuilder) -> Result<Self> {
        let lab = builder.build()?;
        let mut servers = Vec::new();
        let mut names = HashMap::new();
        for machine in lab.machines() {
            let ports = match machine.kind() {
                Kind::Pod => Ports::new().tcp([53, 80, 8080]).udp([53, 5353]),
                Kind::Node | Kind::Outside => Ports::new().tcp([9000]).udp([9000]),
            };
            servers.push(machine.serve(&ports)?);
            for address in [IpAddr::from(machine.ipv4()), IpAddr::from(machine.ipv6())] {
                names.insert(address, machine.name().to_owned());
            }
        }
        Ok(Self { lab, _servers: servers, clients: BTreeMap::new(), names })
    }

    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The machine's client process, started when it is first needed. It lives on from scenario to scenario, and so knows
    /// which UDP ports were used before.
    pub fn client(&mut self, machine: &str) -> Result<&Client> {
        if !self.clients.contains_key(machine) {
            let client = self.lab.machine(machine)?.client()?;
            self.clients.insert(machine.to_owned(), client);
        }
        self.clients.get(machine).context("the client was just started")
    }

    /// Name of the machine that has this address.
    pub fn name_of(&self, client: SocketAddr) -> String {
        let address = client.ip().to_canonical();
        self.names.get(&address).cloned().unwrap_or_else(|| format!("other:{address}"))
    }
}
