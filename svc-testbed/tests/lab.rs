//! The lab itself, without any Service: pods reach each other in every shape and family, servers and clients tell the truth, and
//! nothing is left afterwards.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, TcpListener},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use svc_testbed::{
    Bulk, Family, Get, Helper, Kind, Lab, LabBuilder, LabId, Load, Machine, Manifests, NodeSpec, Outcome, Ping,
    PodSpec, Ports, Shape, Tcp, Udp,
    client::{Again, by_pod, expect_all, expect_replies_from},
    manifests::{Endpoint, Port, ServiceSpec},
    wait,
};

const QUICK: Duration = Duration::from_millis(300);

fn builder() -> LabBuilder {
    Lab::builder().helper(Helper::at(env!("CARGO_BIN_EXE_svc-testbed")))
}

fn two_nodes(shape: Shape) -> LabBuilder {
    builder()
        .shape(shape)
        .node(NodeSpec::new("n1").pods(["client", "near"]))
        .node(NodeSpec::new("n2").pods(["far"]))
        .outside("ext")
}

fn one_node() -> Result<Lab> {
    builder().node(NodeSpec::new("n1").pods(["client", "server"])).build()
}

fn web() -> Ports {
    Ports::new().tcp([80]).udp([53]).stream([5001])
}

#[test]
fn pods_nodes_and_the_outside_reach_each_other_in_every_shape_and_family() -> Result<()> {
    for shape in Shape::ALL {
        let lab = two_nodes(shape).build()?;
        let served = ["client", "near", "far", "n1", "n2", "ext"];
        let _servers = served.iter().map(|name| lab.machine(name)?.serve(&web())).collect::<Result<Vec<_>>>()?;
        for (from, to) in [
            ("client", "near"),
            ("client", "far"),
            ("client", "client"),
            ("client", "n2"),
            ("client", "ext"),
            ("n1", "far"),
            ("n1", "near"),
            ("ext", "n1"),
            ("far", "client"),
        ] {
            for family in Family::BOTH {
                reach(lab.machine(from)?, lab.machine(to)?, family)
                    .with_context(|| format!("{shape:?}: from {from} to {to}, {family:?}"))?;
            }
        }
    }
    Ok(())
}

fn reach(from: &Machine, to: &Machine, family: Family) -> Result<()> {
    let client = from.client()?;
    let samples = client.tcp(Tcp::to(to.address(family, 80)).count(2).body(20_000).reply(20_000))?;
    expect_all(&samples, Outcome::Ok)?;
    expect_replies_from(&samples, to.address(family, 80))?;
    assert_eq!(samples[0].backends, [format!("{}:80", to.name())]);
    // Between the overlay and the outside the MTU differs: the first large datagram is lost to path MTU discovery.
    let pods_only = [from, to].iter().all(|machine| machine.kind() == Kind::Pod);
    let size = if pods_only { 4000 } else { 1200 };
    if pods_only {
        assert_eq!(samples[0].client_seen.map(|seen| seen.ip()), Some(from.ip(family)), "no address translation");
    }
    let samples = client.udp(Udp::to(to.address(family, 53)).count(2).packets(2).payload(size).reply(size))?;
    expect_all(&samples, Outcome::Ok)?;
    expect_all(&client.ping(Ping::to(to.ip(family)))?, Outcome::Ok)
}

#[test]
fn every_kind_of_failure_has_its_own_class() -> Result<()> {
    let lab = one_node()?;
    let (client, server) = (lab.machine("client")?.client()?, lab.machine("server")?);
    let silent = "10.99.99.99:80".parse()?;
    for family in Family::BOTH {
        let closed = server.address(family, 81);
        expect_all(&client.tcp(Tcp::to(closed).count(3))?, Outcome::Refused)?;
        expect_all(&client.udp(Udp::to(closed))?, Outcome::Refused)?;
    }
    expect_all(&client.tcp(Tcp::to(silent).timeout(QUICK))?, Outcome::Timeout)?;
    expect_all(&client.udp(Udp::to(silent).timeout(QUICK))?, Outcome::Timeout)?;
    expect_all(&client.ping(Ping::to(silent.ip()).timeout(QUICK))?, Outcome::Timeout)?;
    // An unconnected socket is not told.
    expect_all(&client.udp(Udp::to(server.address(Family::V4, 81)).unconnected().timeout(QUICK))?, Outcome::Timeout)?;
    let listener = server.run(|| TcpListener::bind(server.address(Family::V4, 82)))??;
    let closing = std::thread::spawn(move || listener.accept().map(drop));
    let samples = client.tcp(Tcp::to(server.address(Family::V4, 82)))?;
    assert!(matches!(samples[0].outcome, Outcome::Closed | Outcome::Reset), "{samples:?}");
    closing.join().unwrap()?;
    Ok(())
}

#[test]
fn held_sockets_stay_open_and_their_source_ports_are_ours() -> Result<()> {
    let lab = one_node()?;
    let server = lab.machine("server")?;
    let mut served = server.serve(&web())?;
    let client = lab.machine("client")?.client()?;
    let (tcp, udp) = (server.address(Family::V4, 80), server.address(Family::V4, 53));

    expect_all(&client.tcp(Tcp::to(tcp).source_port(21_000).hold("t"))?, Outcome::Ok)?;
    expect_all(&client.udp(Udp::to(udp).source_port(21_000).hold("u"))?, Outcome::Ok)?;
    for name in ["t", "u"] {
        let samples = client.again(Again::on(name).size(600).reply(700).packets(3))?;
        expect_all(&samples, Outcome::Ok)?;
        assert_eq!(samples[0].client_seen, Some(lab.machine("client")?.address(Family::V4, 21_000)));
        assert_eq!(samples[0].path_mtu, Some(1500));
    }
    let seen = served.seen()?;
    assert_eq!((seen.connections, seen.requests, seen.datagrams), (1, 2, 4), "{seen:#?}");

    client.close("t")?;
    assert!(client.again(Again::on("t")).is_err(), "closed sockets are forgotten");
    drop(served);
    expect_all(&client.again(Again::on("u").timeout(QUICK))?, Outcome::Refused)?;
    let burst = client.udp(Udp::to(udp).burst(3).unconnected().timeout(QUICK))?;
    expect_all(&burst, Outcome::Timeout)?;
    Ok(())
}

#[test]
fn udp_sockets_never_reuse_a_source_port() -> Result<()> {
    let lab = one_node()?;
    let server = lab.machine("server")?;
    let _served = server.serve(&web())?;
    let client = lab.machine("client")?.client()?;
    let samples = client.udp(Udp::to(server.address(Family::V4, 53)).count(200))?;
    expect_all(&samples, Outcome::Ok)?;
    let ports: BTreeSet<u16> = samples.iter().filter_map(|sample| sample.local).map(|local| local.port()).collect();
    assert_eq!(ports.len(), 200);
    assert_eq!(by_pod(&samples)["server"], 200);
    Ok(())
}

#[test]
fn load_counts_what_was_lost_and_bulk_checks_every_byte() -> Result<()> {
    let lab = one_node()?;
    let server = lab.machine("server")?;
    let mut served = server.serve(&web())?;
    let client = lab.machine("client")?.client()?;
    let web_address = server.address(Family::V6, 80);

    let report = client.bulk(Bulk::to(server.address(Family::V6, 5001)).upload(30_000_000).download(20_000_001))?;
    assert_eq!(report.outcome, Outcome::Ok, "{report:?}");
    assert_eq!((report.received.bytes, report.received.intact, report.sent_intact), (20_000_001, true, true));

    let load = client.start_load(Load::to(web_address).keepalive(4).fresh(2).reply(500))?;
    wait::until_value(
        "the server is under load",
        Duration::from_secs(5),
        || served.seen(),
        |seen| seen.requests > 100,
    )?;
    let report = load.stop()?;
    assert_eq!(report.failed(), 0, "{report:?}");
    assert!(report.requests > 100 && report.connections > 4, "{report:?}");
    assert_eq!(report.backends.keys().collect::<Vec<_>>(), ["server"]);

    let load = client.start_load(Load::to(web_address).keepalive(2).fresh(1))?;
    let already = served.seen()?.requests;
    wait::until_value("load again", Duration::from_secs(5), || served.seen(), |seen| seen.requests > already + 10)?;
    drop(served);
    wait::until("the port is closed", Duration::from_secs(5), || {
        expect_all(&client.tcp(Tcp::to(web_address).timeout(QUICK))?, Outcome::Refused)
    })?;
    let report = load.stop()?;
    assert!(report.failed() > 0 && !report.first_failures.is_empty(), "{report:?}");
    Ok(())
}

#[test]
fn mtu_of_interfaces_and_paths_is_kept() -> Result<()> {
    let lab = builder()
        .node(NodeSpec::new("n1").pods(["client"]).pod(PodSpec::new("small").mtu(1400)))
        .node(NodeSpec::new("n2").pod(PodSpec::new("narrow").path_mtu(1300)))
        .build()?;
    let client = lab.machine("client")?.client()?;
    for (name, mtu) in [("small", 1400), ("narrow", 1300)] {
        let server = lab.machine(name)?;
        let _served = server.serve(&web())?;
        for family in Family::BOTH {
            let to = server.address(family, 53);
            let samples = client.udp(Udp::to(to).payload(1450).dont_fragment().timeout(QUICK))?;
            expect_all(&samples, Outcome::TooBig).with_context(|| format!("{name} {family:?}"))?;
            assert_eq!(samples[0].path_mtu, Some(mtu), "{samples:?}");
            expect_all(&client.udp(Udp::to(to).payload(1200).dont_fragment())?, Outcome::Ok)?;
            expect_all(&client.tcp(Tcp::to(server.address(family, 80)).body(300_000).reply(300_000))?, Outcome::Ok)?;
        }
    }
    Ok(())
}

#[test]
fn dns_follows_the_manifests() -> Result<()> {
    let lab = builder().node(NodeSpec::new("n1").pods(["client", "dns", "web"])).build()?;
    let manifests = Manifests::in_directory(lab.state_dir().join("manifests"))?;
    let (client, web) = (lab.machine("client")?, lab.machine("web")?);
    let service = ServiceSpec::new("web")
        .cluster_ip("10.96.7.7".parse::<IpAddr>()?)
        .cluster_ip("fd96::7".parse::<IpAddr>()?)
        .port(Port::tcp("http", 80, 80));
    let headless = ServiceSpec::new("pods").port(Port::tcp("http", 80, 80));
    manifests.service(&service)?;
    manifests.service(&headless)?;
    manifests.machines(&headless, [web])?;
    let _dns = lab.machine("dns")?.serve_dns(manifests.directory())?;
    client.use_dns(lab.machine("dns")?.ipv4().into(), "default")?;
    let lookup = |arguments: &[&str]| -> Result<(bool, String)> {
        let output = client.helper(&[&["lookup"], arguments].concat())?.output()?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
    };
    for arguments in [["web", "--tcp"].as_slice(), &["web.default.svc.cluster.local"]] {
        let (found, output) = lookup(arguments)?;
        assert!(found && output.contains("Address: 10.96.7.7") && output.contains("Address: fd96::7"), "{output}");
    }
    let (found, output) = lookup(&["pods"])?;
    assert!(found && output.contains(&web.ipv4().to_string()) && output.contains(&web.ipv6().to_string()), "{output}");
    let (found, output) = lookup(&["nobody"])?;
    assert!(!found && output.contains("NXDOMAIN"), "{output}");

    manifests.endpoints(&headless, &[Endpoint::at(web.ipv4()).terminating(true)])?;
    let (found, output) = lookup(&["pods"])?;
    assert!(found && !output.contains("Name:"), "a name without ready endpoints exists but has no address: {output}");

    let _served = web.serve(&Ports::new().tcp([80]).welcome("Welcome to web"))?;
    manifests.machines(&headless, [web])?;
    let page = client.helper(&["get", "pods"])?.output()?;
    assert_eq!(String::from_utf8_lossy(&page.stdout), "Welcome to web\n");
    let report = client.client()?.get(Get::to(SocketAddr::new(web.ipv6().into(), 80), "/healthz"))?;
    assert_eq!(report.status, 200);
    Ok(())
}

#[test]
fn a_pod_comes_and_goes() -> Result<()> {
    let mut lab = one_node()?;
    let address = lab.add_pod("n1", PodSpec::new("late"))?.address(Family::V4, 80);
    let _served = lab.machine("late")?.serve(&web())?;
    let client = lab.machine("client")?.client()?;
    expect_all(&client.tcp(Tcp::to(address))?, Outcome::Ok)?;
    lab.remove_pod("late")?;
    assert!(lab.machine("late").is_err());
    let samples = client.tcp(Tcp::to(address).timeout(QUICK))?;
    assert_ne!(samples[0].outcome, Outcome::Ok, "{samples:?}");
    Ok(())
}

#[test]
fn processes_run_in_the_cgroup_of_their_machine() -> Result<()> {
    let lab = one_node()?;
    let server = lab.machine("server")?;
    let mut served = server.serve(&web())?;
    let cgroups = std::fs::read_to_string(format!("/proc/{}/cgroup", served.process().id()))?;
    let own = cgroups.lines().find(|line| line.starts_with("0::")).context("no cgroup v2 line")?;
    assert!(own.ends_with("/n1/server"), "{own}");
    assert!(server.cgroup().path().starts_with(lab.cgroup_root("n1")));
    let inside = std::fs::metadata(format!("/proc/{}/ns/net", served.process().id()))?;
    assert_eq!(std::os::unix::fs::MetadataExt::ino(&inside), server.namespace().inode()?);
    Ok(())
}

#[test]
fn a_dropped_lab_leaves_nothing_behind() -> Result<()> {
    let lab = two_nodes(Shape::Overlay).build()?;
    let id = lab.id();
    std::fs::create_dir_all(lab.bpf_root("n1").join("svc-agent/maps"))?;
    let mut served = lab.machine("near")?.serve(&web())?;
    let pid = served.process().id();
    assert!(!id.remains()?.is_empty());
    drop(lab);
    assert_eq!(id.remains()?, Vec::<String>::new());
    assert!(!served.process().is_running(), "process {pid} survived its lab");
    Ok(())
}

/// Entered by the next test in a process of its own, which is then killed.
#[test]
#[ignore = "run by the_janitor_cleans_up_after_a_killed_owner"]
fn owner_to_be_killed() -> Result<()> {
    let lab = one_node()?;
    let _served = lab.machine("server")?.serve(&web())?;
    println!("\nlab {}", lab.id());
    std::thread::sleep(Duration::from_secs(60));
    Ok(())
}

#[test]
fn the_janitor_cleans_up_after_a_killed_owner() -> Result<()> {
    let mut owner = Command::new(std::env::current_exe()?)
        .args(["--ignored", "--exact", "--nocapture", "owner_to_be_killed"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut output = std::io::BufReader::new(owner.stdout.take().context("no stdout")?);
    let mut line = String::new();
    while !line.starts_with("lab ") {
        line.clear();
        assert_ne!(std::io::BufRead::read_line(&mut output, &mut line)?, 0, "the owner ended early");
    }
    let id = LabId::all().into_iter().find(|id| id.owner == owner.id()).context("no lab of that owner")?;
    assert!(id.remains()?.len() > 3, "{:?}", id.remains()?);
    owner.kill()?;
    owner.wait()?;
    wait::until_value("nothing remains", Duration::from_secs(15), || id.remains(), Vec::is_empty)?;
    Ok(())
}
