//! Builds a lab from its description: Ethernet segment, nodes, pods, and the routes of the chosen shape.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, atomic::AtomicU32},
};

use anyhow::{Context, Result, bail};

use super::{
    Lab, LabBuilder,
    id::{LabId, mount_bpffs},
    janitor,
    links::Batch,
    machine::{Helper, Kind, Machine, Shared},
    spec::{PodSpec, Shape, plan},
};
use crate::{cgroup::Cgroup, netns::Namespace};

/// Hosts 11, 12, ... of a pod network, like the nodes of a cluster whose first addresses are taken.
const FIRST_POD: u8 = 11;

const COMMON_SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/conf/default/accept_redirects", "0"),
    ("net/ipv4/icmp_ratelimit", "0"),
    ("net/ipv4/icmp_msgs_per_sec", "1000000"),
    ("net/ipv4/icmp_msgs_burst", "1000000"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/dad_transmits", "0"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/all/accept_redirects", "0"),
    ("net/ipv6/conf/default/accept_redirects", "0"),
    ("net/ipv6/icmp/ratelimit", "0"),
];

const FORWARDING_SYSCTLS: &[(&str, &str)] =
    &[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1"), ("net/ipv6/conf/default/forwarding", "1")];

pub(super) fn build(builder: LabBuilder) -> Result<Lab> {
    if !rustix::process::geteuid().is_root() {
        bail!("the lab makes network namespaces and cgroups: run it as root");
    }
    let helper = match builder.helper {
        Some(helper) => helper,
        None => Helper::locate()?,
    };
    let id = LabId::next();
    // An earlier process with our number may have died together with its janitor.
    id.remove()?;
    janitor::start(&helper)?;
    mount_bpffs()?;
    fs::create_dir_all(id.state_dir()).with_context(|| format!("cannot create {}", id.state_dir().display()))?;
    let cgroup = Cgroup::create(id.cgroup()?)?;
    let mut lab = Lab {
        shared: Arc::new(Shared { id, helper, logs: AtomicU32::new(0) }),
        shape: builder.shape,
        uplink_mtu: builder.uplink_mtu,
        cgroup,
        node_numbers: number_nodes(&builder.nodes)?,
        machines: BTreeMap::new(),
        ethernet: new_namespace(id, "ethernet")?,
    };
    Batch::new(&lab.ethernet)
        .line(format!(
            "link add name segment mtu {} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            lab.uplink_mtu
        ))
        .line("link set segment up")
        .run()?;
    let router = new_namespace(id, "router")?;
    plug_in(&lab, &router, "router", plan::ROUTER)?;
    // Without a route IPv6 would answer that there is none, even where nothing is forwarded.
    Batch::new(&router).line("route add blackhole 0.0.0.0/0").line("route add blackhole ::/0").run()?;
    if let Some(name) = &builder.outside {
        let first = builder.nodes.first().and_then(|node| lab.node_numbers.get(&node.name)).copied();
        add_outside(&mut lab, name, first)?;
    }
    for node in &builder.nodes {
        add_node(&mut lab, &node.name)?;
    }
    for node in builder.nodes {
        for pod in node.pods {
            add_pod(&mut lab, &node.name, pod)?;
        }
    }
    Ok(lab)
}

fn number_nodes(nodes: &[super::NodeSpec]) -> Result<BTreeMap<String, u8>> {
    let mut numbers = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for node in nodes {
        let free = (1..=99).find(|number| !taken.contains(number));
        let number = node.number.or(free).context("too many nodes")?;
        if !(1..=99).contains(&number) || !taken.insert(number) {
            bail!("node number {number} of {} is taken or not in 1..=99", node.name);
        }
        if numbers.insert(node.name.clone(), number).is_some() {
            bail!("two nodes are called {}", node.name);
        }
    }
    Ok(numbers)
}

fn new_namespace(id: LabId, machine: &str) -> Result<Namespace> {
    let namespace = Namespace::create(&id.namespace(machine))?;
    namespace.write_sysctls(COMMON_SYSCTLS)?;
    Batch::new(&namespace).line("link set lo up").run()?;
    Ok(namespace)
}

/// Connects a namespace to the Ethernet with an interface `eth0`.
fn plug_in(lab: &Lab, namespace: &Namespace, port: &str, addresses: [IpAddr; 2]) -> Result<()> {
    let (target, mtu) = (namespace.name(), lab.uplink_mtu);
    Batch::new(&lab.ethernet)
        .line(format!("link add name {port} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {target}"))
        .line(format!("link set {port} master segment up"))
        .run()?;
    Batch::new(namespace)
        .line(format!("address add {}/24 dev eth0", addresses[0]))
        .line(format!("address add {}/64 dev eth0 nodad", addresses[1]))
        .line("link set eth0 up")
        .run()
}

fn default_routes(namespace: &Namespace) -> Result<()> {
    let [router4, router6] = plan::ROUTER;
    Batch::new(namespace)
        .line(format!("route add default via {router4} dev eth0"))
        .line(format!("route add ::/0 via {router6} dev eth0"))
        .run()
}

fn add_outside(lab: &mut Lab, name: &str, service_node: Option<u8>) -> Result<()> {
    let namespace = new_namespace(lab.id(), name)?;
    plug_in(lab, &namespace, name, plan::OUTSIDE)?;
    default_routes(&namespace)?;
    let route = |range: &str, node: u8| -> Result<String> {
        let gateway: IpAddr =
            if range.contains(':') { plan::node_v6(node)?.into() } else { plan::node_v4(node).into() };
        Ok(format!("route add {range} via {gateway}"))
    };
    let mut routes = Vec::new();
    for number in lab.node_numbers.values() {
        for network in plan::pod_networks(*number) {
            routes.push(route(&network, *number)?);
        }
    }
    if let Some(first) = service_node {
        for range in plan::SERVICE_RANGES {
            routes.push(route(range, first)?);
        }
    }
    Batch::new(&namespace).lines(routes).run()?;
    let [IpAddr::V4(ipv4), IpAddr::V6(ipv6)] = plan::OUTSIDE else { bail!("the address plan has no outside client") };
    let cgroup = lab.cgroup.child(name)?;
    insert(
        lab,
        Machine { node: None, interface: None, ..machine(lab, name, Kind::Outside, (ipv4, ipv6), namespace, cgroup) },
    )
}

fn add_node(lab: &mut Lab, name: &str) -> Result<()> {
    let number = *lab.node_numbers.get(name).with_context(|| format!("no node {name}"))?;
    let namespace = new_namespace(lab.id(), name)?;
    namespace.write_sysctls(FORWARDING_SYSCTLS)?;
    let (ipv4, ipv6) = (plan::node_v4(number), plan::node_v6(number)?);
    plug_in(lab, &namespace, name, [ipv4.into(), ipv6.into()])?;
    default_routes(&namespace)?;
    let mut batch = Batch::new(&namespace);
    if lab.shape != Shape::Routed {
        let [network4, network6] = plan::pod_networks(number);
        let mtu = lab.shape.default_pod_mtu(lab.uplink_mtu);
        batch = batch
            .line(format!("link add name cni0 mtu {mtu} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"))
            .line(format!("address add {} dev cni0", network4.replace(".0/", ".1/")))
            .line(format!("address add {} dev cni0 nodad", network6.replace("::/", "::1/")))
            .line("link set cni0 up");
    }
    if lab.shape == Shape::Overlay {
        let mtu = lab.shape.default_pod_mtu(lab.uplink_mtu);
        batch = batch
            .line(format!(
                "link add name flannel.1 address {} mtu {mtu} type vxlan id 1 dstport 8472 local {ipv4} dev eth0 nolearning",
                vtep_mac(number)
            ))
            .line(format!("address add 10.244.{number}.0/32 dev flannel.1"))
            .line("link set flannel.1 up");
    }
    for (_, other) in lab.node_numbers.iter().filter(|(other, _)| other.as_str() != name) {
        let [network4, network6] = plan::pod_networks(*other);
        let (via4, via6) = (plan::node_v4(*other), plan::node_v6(*other)?);
        batch = match lab.shape {
            Shape::Routed | Shape::Bridge => batch
                .line(format!("route add {network4} via {via4} dev eth0"))
                .line(format!("route add {network6} via {via6} dev eth0")),
            Shape::Overlay => {
                let mac = vtep_mac(*other);
                let (hop4, hop6) = (network4.replace("/24", ""), format!("fe80::{other}"));
                batch
                    .line(format!("neighbour add {hop4} lladdr {mac} dev flannel.1 nud permanent"))
                    .line(format!("neighbour add {hop6} lladdr {mac} dev flannel.1 nud permanent"))
                    .line(format!("route add {network4} via {hop4} dev flannel.1 onlink"))
                    .line(format!("route add {network6} via {hop6} dev flannel.1 onlink"))
            }
        };
    }
    batch.run()?;
    if lab.shape == Shape::Overlay {
        Batch::bridge(&namespace)
            .lines(lab.node_numbers.iter().filter(|(other, _)| other.as_str() != name).map(|(_, other)| {
                format!("fdb append {} dev flannel.1 dst {}", vtep_mac(*other), plan::node_v4(*other))
            }))
            .run()?;
    }
    let cgroup = lab.cgroup.child(&format!("{name}/host"))?;
    let node = machine(lab, name, Kind::Node, (ipv4, ipv6), namespace, cgroup);
    insert(lab, Machine { node: Some(name.to_owned()), ..node })
}

fn vtep_mac(node: u8) -> String {
    format!("02:00:00:00:fa:{node:02x}")
}

pub(super) fn add_pod(lab: &mut Lab, node: &str, pod: PodSpec) -> Result<()> {
    let number = *lab.node_numbers.get(node).with_context(|| format!("no node {node}"))?;
    let host = free_host(lab, node, &pod, number)?;
    let ipv4 = pod.ipv4.unwrap_or(plan::pod_v4(number, host));
    let ipv6 = match pod.ipv6 {
        Some(address) => address,
        None => plan::pod_v6(number, host)?,
    };
    let interface = pod.interface.clone().unwrap_or(format!("veth{host}"));
    let node_namespace = lab.machine(node)?.namespace().clone();
    let namespace = new_namespace(lab.id(), &pod.name)?;
    let mtu = pod.mtu.unwrap_or(lab.shape.default_pod_mtu(lab.uplink_mtu));
    let path_mtu = pod.path_mtu.map(|mtu| format!(" mtu {mtu}")).unwrap_or_default();
    let (node_v4, node_v6) = (plan::node_v4(number), plan::node_v6(number)?);
    let (gateway4, gateway6) = (plan::GATEWAY_V4, plan::GATEWAY_V6);
    let on_node = Batch::new(&node_namespace).line(format!(
        "link add name {interface} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}",
        namespace.name()
    ));
    let in_pod = Batch::new(&namespace);
    let (on_node, in_pod) = match lab.shape {
        Shape::Routed => (
            on_node
                .line(format!("address add {gateway4}/32 dev {interface} scope link"))
                .line(format!("address add {gateway6}/64 dev {interface} nodad"))
                .line(format!("link set {interface} up"))
                .line(format!("route add {ipv4}/32 dev {interface} src {node_v4}{path_mtu}"))
                .line(format!("route add {ipv6}/128 dev {interface} src {node_v6}{path_mtu}")),
            in_pod
                .line(format!("address add {ipv4}/32 dev eth0"))
                .line(format!("address add {ipv6}/128 dev eth0 nodad"))
                .line("link set eth0 up")
                .line(format!("route add {gateway4} dev eth0 scope link"))
                .line(format!("route add default via {gateway4} dev eth0"))
                .line(format!("route add ::/0 via {gateway6} dev eth0")),
        ),
        Shape::Bridge | Shape::Overlay => {
            if pod.path_mtu.is_some() {
                bail!("pod {}: a path MTU needs a route of its own, which only the routed shape has", pod.name);
            }
            let [network4, network6] = plan::pod_networks(number);
            (
                on_node
                    .line(format!("link set {interface} master cni0 up"))
                    .line(format!("link set {interface} type bridge_slave hairpin on")),
                in_pod
                    .line(format!("address add {ipv4}/24 dev eth0"))
                    .line(format!("address add {ipv6}/64 dev eth0 nodad"))
                    .line("link set eth0 up")
                    .line(format!("route add default via {}", network4.replace(".0/24", ".1")))
                    .line(format!("route add ::/0 via {}", network6.replace("::/64", "::1"))),
            )
        }
    };
    on_node.run()?;
    in_pod.run()?;
    let cgroup = lab.cgroup.child(&format!("{node}/{}", pod.name))?;
    let machine = machine(lab, &pod.name, Kind::Pod, (ipv4, ipv6), namespace, cgroup);
    insert(lab, Machine { node: Some(node.to_owned()), interface: Some(interface), ..machine })
}

/// The last number of the pod's addresses: its own if it came with one, else the next free.
fn free_host(lab: &Lab, node: &str, pod: &PodSpec, number: u8) -> Result<u8> {
    if let Some(address) = pod.ipv4 {
        let [.., third, host] = address.octets();
        if lab.shape != Shape::Routed && third != number {
            bail!("{address} of pod {} is not in the network of node {node}", pod.name);
        }
        return Ok(host);
    }
    let taken: BTreeSet<u8> = lab.pods_of(node).map(|pod| pod.ipv4.octets()[3]).collect();
    (FIRST_POD..=254).find(|host| !taken.contains(host)).context("the node is full")
}

fn machine(
    lab: &Lab,
    name: &str,
    kind: Kind,
    (ipv4, ipv6): (Ipv4Addr, Ipv6Addr),
    namespace: Namespace,
    cgroup: Cgroup,
) -> Machine {
    let shared = Arc::clone(&lab.shared);
    Machine { shared, name: name.to_owned(), kind, node: None, interface: None, ipv4, ipv6, namespace, cgroup }
}

fn insert(lab: &mut Lab, machine: Machine) -> Result<()> {
    let name = machine.name.clone();
    match lab.machines.insert(name.clone(), machine) {
        None => Ok(()),
        Some(_) => bail!("two machines are called {name}"),
    }
}
