//! A lab: nodes, pods, an outside client and a router in network namespaces, on one Ethernet segment that is a bridge in a
//! namespace of its own. Nothing touches the machine's own network. A lab is gone when the value is dropped; when its process
//! dies first, the janitor does it.

mod build;
mod id;
pub mod janitor;
mod links;
mod machine;
mod spec;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use anyhow::{Context, Result, bail};
pub use id::LabId;
pub use machine::{Helper, Kind, Machine};
pub use spec::{Family, NodeSpec, PodSpec, Shape};

use crate::{cgroup::Cgroup, netns::Namespace};

/// What to build. See [`Lab::builder`].
#[derive(Clone, Debug)]
pub struct LabBuilder {
    shape: Shape,
    nodes: Vec<NodeSpec>,
    outside: Option<String>,
    uplink_mtu: u32,
    helper: Option<Helper>,
}

impl LabBuilder {
    pub fn shape(mut self, shape: Shape) -> Self {
        self.shape = shape;
        self
    }

    pub fn node(mut self, node: NodeSpec) -> Self {
        self.nodes.push(node);
        self
    }

    /// Adds a client outside the cluster, with routes to the service ranges through the first node.
    pub fn outside(mut self, name: &str) -> Self {
        self.outside = Some(name.to_owned());
        self
    }

    /// MTU of the Ethernet between the machines. Default 1500.
    pub fn uplink_mtu(mut self, mtu: u32) -> Self {
        self.uplink_mtu = mtu;
        self
    }

    /// The helper program. Default: [`Helper::locate`].
    pub fn helper(mut self, helper: Helper) -> Self {
        self.helper = Some(helper);
        self
    }

    pub fn build(self) -> Result<Lab> {
        build::build(self)
    }
}

#[derive(Debug)]
pub struct Lab {
    shared: Arc<machine::Shared>,
    shape: Shape,
    uplink_mtu: u32,
    cgroup: Cgroup,
    node_numbers: BTreeMap<String, u8>,
    machines: BTreeMap<String, Machine>,
    ethernet: Namespace,
}

impl Lab {
    pub fn builder() -> LabBuilder {
        LabBuilder { shape: Shape::Routed, nodes: Vec::new(), outside: None, uplink_mtu: 1500, helper: None }
    }

    pub fn id(&self) -> LabId {
        self.shared.id
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    pub fn machine(&self, name: &str) -> Result<&Machine> {
        let known = || self.machines.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        self.machines.get(name).with_context(|| format!("the lab has no machine {name}; it has {}", known()))
    }

    pub fn machines(&self) -> impl Iterator<Item = &Machine> {
        self.machines.values()
    }

    pub fn pods_of(&self, node: &str) -> impl Iterator<Item = &Machine> {
        self.machines.values().filter(move |machine| machine.kind == Kind::Pod && machine.node.as_deref() == Some(node))
    }

    /// Adds a pod to a running node.
    pub fn add_pod(&mut self, node: &str, pod: impl Into<PodSpec>) -> Result<&Machine> {
        let pod = pod.into();
        let name = pod.name.clone();
        build::add_pod(self, node, pod)?;
        self.machine(&name)
    }

    /// Ends a pod: its processes, its interface and its addresses are gone when this returns.
    pub fn remove_pod(&mut self, name: &str) -> Result<()> {
        let pod = self.machine(name)?.clone();
        let (Kind::Pod, Some(node), Some(interface)) = (pod.kind, &pod.node, &pod.interface) else {
            bail!("{name} is not a pod");
        };
        Cgroup::remove(pod.cgroup.path())?;
        links::Batch::new(self.machine(node)?.namespace()).line(format!("link delete dev {interface}")).run()?;
        Namespace::delete(pod.namespace.name());
        self.machines.remove(name);
        Ok(())
    }

    /// Makes every machine forget the path MTUs it has learned.
    pub fn forget_paths(&self) -> Result<()> {
        let flush = [("net/ipv4/route/flush", "1"), ("net/ipv6/route/flush", "1")];
        self.machines.values().try_for_each(|machine| machine.namespace().write_sysctls(&flush))
    }

    /// Directory for files of this lab; removed with it.
    pub fn state_dir(&self) -> PathBuf {
        self.id().state_dir()
    }

    /// bpffs directory for what an agent on `node` pins; removed with the lab.
    pub fn bpf_root(&self, node: &str) -> PathBuf {
        self.id().bpf_root().join(node)
    }

    /// cgroup below which everything on `node` runs: its host processes and its pods, not its agent.
    pub fn cgroup_root(&self, node: &str) -> PathBuf {
        self.cgroup.path().join(node)
    }

    /// cgroup for what must not be translated: agents.
    pub fn agent_cgroup(&self, node: &str) -> Result<Cgroup> {
        self.cgroup.child(&format!("agent-{node}"))
    }

    /// The Ethernet segment between the machines; its ports have their names.
    pub fn ethernet(&self) -> &Namespace {
        &self.ethernet
    }

    /// All pods' addresses are in these.
    pub fn cluster_cidrs(&self) -> [&'static str; 2] {
        spec::plan::CLUSTER_RANGES
    }

    /// The pattern of the node's ends of pod interfaces.
    pub fn pod_interfaces(&self) -> &'static str {
        "veth*"
    }

    /// The node's interfaces to other machines.
    pub fn uplinks(&self) -> &'static str {
        match self.shape {
            Shape::Routed | Shape::Bridge => "eth0",
            Shape::Overlay => "eth0,flannel.1",
        }
    }

    /// Leaves the lab and its processes running when this process ends; `LabId::remove` is the way to end it then.
    pub fn keep(self) -> Result<LabId> {
        let id = self.id();
        id.keep()?;
        std::mem::forget(self);
        Ok(id)
    }

    /// Removes what labs of dead processes left on this machine, except those kept on purpose.
    pub fn cleanup_stale() -> Result<()> {
        for lab in LabId::all() {
            if !lab.owner_is_alive() && !lab.is_kept() {
                lab.remove()?;
            }
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.id().remove() {
            eprintln!("lab {}: {error:#}", self.id());
        }
    }
}
