//! The socket hooks' logic as ordinary code: what they translate, what they refuse, and what they leave to the packet path.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use svc_common::{AddrV4, AddrV6, Config, DropReason, Port, Protocol, feature};
use svc_datapath::socket::{Resolution, Socket, bind, connect, peer};
use svc_testbed::packets::tables::MemoryTables;
use svc_testbed::packets::world::{Change, World};

const VIP_V4: AddrV4 = AddrV4::from_octets([10, 96, 0, 20]);
const POD_V4: AddrV4 = AddrV4::from_octets([10, 244, 3, 46]);
const HTTP: Port = Port::from_host(80);
const TARGET: Port = Port::from_host(8080);

#[derive(Clone, Copy)]
struct Fake {
    cookie: u64,
    protocol: Protocol,
    host: bool,
    local_port: Port,
}

impl Socket for Fake {
    fn protocol(&self) -> Protocol {
        self.protocol
    }

    fn cookie(&self) -> u64 {
        self.cookie
    }

    fn is_host(&self) -> bool {
        self.host
    }

    fn local_port(&self) -> Port {
        self.local_port
    }
}

const POD_SOCKET: Fake = Fake { cookie: 7, protocol: Protocol::TCP, host: false, local_port: Port(0) };
const HOST_SOCKET: Fake = Fake { host: true, ..POD_SOCKET };

fn address_v6(text: &str) -> AddrV6 {
    AddrV6::from_octets(text.parse::<std::net::Ipv6Addr>().unwrap().octets())
}

fn web() -> World {
    web_of(&["10.244.3.46:8080"])
}

fn web_of(backends: &[&str]) -> World {
    World::new().forward(Protocol::TCP, "10.96.0.20:80", backends)
}

fn tables(world: &World, features: u32) -> MemoryTables {
    tables_with(world, features, &[])
}

fn tables_with(world: &World, features: u32, random: &[u32]) -> MemoryTables {
    let mut tables = MemoryTables::new(world.changes(), random);
    let Some(Change::Config(config)) = world.changes().iter().find(|change| matches!(change, Change::Config(_))) else {
        panic!("the world has no configuration");
    };
    tables.apply(&Change::Config(Config { features, ..*config }));
    tables
}

fn all(world: &World) -> MemoryTables {
    tables(world, feature::SOCKET_LB_ALL)
}

fn all_with(world: &World, random: &[u32]) -> MemoryTables {
    tables_with(world, feature::SOCKET_LB_ALL, random)
}

/// connect() in a network namespace where nobody listens.
fn connect_v4(tables: &MemoryTables, socket: &Fake) -> Resolution<AddrV4> {
    connect(tables, socket, VIP_V4, HTTP, |_, _| false)
}

#[test]
fn a_connection_is_translated_and_shown_as_asked_for() {
    let tables = all(&web());
    let before = tables.state();
    assert_eq!(connect_v4(&tables, &POD_SOCKET), Resolution::Replace(POD_V4, TARGET));
    assert_eq!(before.changes(&tables.state()), ["service 1: connections_socket +1"]);
    assert_eq!(peer(&tables, &POD_SOCKET, POD_V4, TARGET), Some((VIP_V4, HTTP)));
    // Another socket that is connected to the pod itself, and this one after it was connected anew.
    assert_eq!(peer(&tables, &Fake { cookie: 8, ..POD_SOCKET }, POD_V4, TARGET), None);
    assert_eq!(peer(&tables, &POD_SOCKET, POD_V4, Port::from_host(8081)), None);
    assert_eq!(peer(&tables, &POD_SOCKET, VIP_V4, TARGET), None);
}

#[test]
fn both_families_are_translated() {
    let tables = all(&World::new().forward(Protocol::TCP, "[fd96::20]:80", &["[fd00:10:244:3::46]:8080"]));
    let (vip, pod) = (address_v6("fd96::20"), address_v6("fd00:10:244:3::46"));
    assert_eq!(connect(&tables, &POD_SOCKET, vip, HTTP, |_, _| false), Resolution::Replace(pod, TARGET));
    assert_eq!(peer(&tables, &POD_SOCKET, pod, TARGET), Some((vip, HTTP)));
}

#[test]
fn datagrams_are_left_to_the_packet_path() {
    let tables = all(&World::new().forward(Protocol::UDP, "10.96.0.20:80", &["10.244.3.46:8080"]));
    let before = tables.state();
    for socket in [POD_SOCKET, HOST_SOCKET] {
        let socket = Fake { protocol: Protocol::UDP, ..socket };
        bind(&tables, &socket);
        assert_eq!(connect_v4(&tables, &socket), Resolution::Unchanged);
        assert_eq!(peer(&tables, &socket, POD_V4, TARGET), None);
    }
    assert!(before.changes(&tables.state()).is_empty());
}

#[test]
fn a_pod_that_may_reach_itself_is_left_to_the_packet_path() {
    let listens = |address: AddrV4, port: Port| (address, port) == (POD_V4, TARGET);
    let local = all(&web().with_local());
    let before = local.state();
    assert_eq!(connect(&local, &POD_SOCKET, VIP_V4, HTTP, listens), Resolution::Unchanged);
    assert!(before.changes(&local.state()).is_empty(), "the packet path counts it");
    // The same when another endpoint was chosen.
    let two = web_of(&["10.244.3.46:8080", "10.244.4.1:8080"]).with_local();
    for offset in [0, u32::MAX] {
        let tables = all_with(&two, &[offset]);
        assert_eq!(connect(&tables, &POD_SOCKET, VIP_V4, HTTP, listens), Resolution::Unchanged);
    }
    // It listens on something else; the node may reach itself by its own address; no endpoint is on this node.
    assert_eq!(connect_v4(&local, &POD_SOCKET), Resolution::Replace(POD_V4, TARGET));
    assert_eq!(connect(&local, &HOST_SOCKET, VIP_V4, HTTP, listens), Resolution::Replace(POD_V4, TARGET));
    assert_eq!(connect(&all(&web()), &POD_SOCKET, VIP_V4, HTTP, listens), Resolution::Replace(POD_V4, TARGET));
}

#[test]
fn affinity_of_pods_is_left_to_the_packet_path() {
    let world = World::new()
        .forward(Protocol::TCP, "10.96.0.20:80", &["10.244.3.46:8080", "10.244.3.47:8080", "10.244.3.48:8080"])
        .affinity(60);
    let tables = all(&world);
    assert_eq!(connect_v4(&tables, &POD_SOCKET), Resolution::Unchanged);
    let first = connect_v4(&tables, &HOST_SOCKET);
    assert!(matches!(first, Resolution::Replace(..)), "the node itself is the client: {first:?}");
    for cookie in 100..150 {
        assert_eq!(connect_v4(&tables, &Fake { cookie, ..HOST_SOCKET }), first);
    }
}

#[test]
fn a_port_the_program_chose_is_left_to_the_packet_path() {
    let tables = all(&web());
    let bound = Fake { local_port: Port::from_host(4000), ..POD_SOCKET };
    assert_eq!(connect_v4(&tables, &bound), Resolution::Replace(POD_V4, TARGET), "bound by the kernel");
    bind(&tables, &bound);
    assert_eq!(connect_v4(&tables, &bound), Resolution::Unchanged);
    assert_eq!(connect_v4(&tables, &Fake { host: true, ..bound }), Resolution::Replace(POD_V4, TARGET));
}

#[test]
fn nobody_there_is_refused_and_counted() {
    let tables = all(&World::new().reject(Protocol::TCP, "10.96.0.20:80"));
    let before = tables.state();
    assert_eq!(connect_v4(&tables, &POD_SOCKET), Resolution::Refuse);
    let reason = format!("drops: {} +1", DropReason::NoEndpoint.label());
    assert_eq!(before.changes(&tables.state()), [reason, "service 1: rejected +1".to_owned()]);
}

#[test]
fn silence_unknown_ports_and_other_addresses_are_left_to_the_packet_path() {
    let drop = all(&World::new().local_drop(Protocol::TCP, "10.96.0.20:80"));
    let none = all(&web());
    let before = (drop.state(), none.state());
    assert_eq!(connect_v4(&drop, &POD_SOCKET), Resolution::Unchanged);
    assert_eq!(connect(&none, &POD_SOCKET, VIP_V4, TARGET, |_, _| false), Resolution::Unchanged);
    assert_eq!(connect(&none, &POD_SOCKET, POD_V4, TARGET, |_, _| false), Resolution::Unchanged);
    assert!(before.0.changes(&drop.state()).is_empty() && before.1.changes(&none.state()).is_empty());
}

#[test]
fn the_mode_says_whose_sockets_are_translated() {
    let translated = Resolution::Replace(POD_V4, TARGET);
    for (features, pod, host) in [
        (feature::SOCKET_LB_ALL, translated, translated),
        (feature::SOCKET_LB_HOST, Resolution::Unchanged, translated),
        (0, Resolution::Unchanged, Resolution::Unchanged),
    ] {
        let tables = tables(&web(), features);
        assert_eq!(connect_v4(&tables, &POD_SOCKET), pod);
        assert_eq!(connect_v4(&tables, &HOST_SOCKET), host);
    }
}
