//! The lab of the conformance corpus is what conformance/README.md says, and its runner tells right from wrong, both without an
//! agent: what concerns no Service passes, and what needs one fails.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{net::SocketAddr, process::Command, time::Duration};

use anyhow::{Context, Result};
use svc_testbed::{
    Family, Helper, Lab, Outcome, Ping, Tcp, Udp,
    client::expect_all,
    conformance::{Topology, builder},
};

fn topology() -> Result<Topology> {
    Topology::build(builder().helper(Helper::at(env!("CARGO_BIN_EXE_svc-testbed"))))
}

/// What `ip` says on a machine, white space folded.
fn ip(lab: &Lab, machine: &str, arguments: &str) -> Result<String> {
    let mut command = lab.machine(machine)?.command("ip")?;
    let output = command.args(arguments.split(' ')).output().context("cannot start ip")?;
    Ok(String::from_utf8(output.stdout)?.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn sysctl(lab: &Lab, machine: &str, knob: &str) -> Result<String> {
    lab.machine(machine)?.run(|| Ok(std::fs::read_to_string(format!("/proc/sys/net/{knob}"))?.trim().to_owned()))?
}

#[test]
fn the_machines_have_the_addresses_routes_and_settings_of_the_corpus() -> Result<()> {
    let topology = topology()?;
    let lab = topology.lab();
    for (machine, ipv4, ipv6) in [
        ("n1", "192.168.50.1", "fd50::1"),
        ("n2", "192.168.50.2", "fd50::2"),
        ("ext", "192.168.50.100", "fd50::100"),
        ("n1p1", "10.244.1.11", "fd44:1::11"),
        ("n1p4", "10.244.1.14", "fd44:1::14"),
        ("n2p1", "10.244.2.11", "fd44:2::11"),
        ("n2p4", "10.244.2.14", "fd44:2::14"),
    ] {
        let found = lab.machine(machine)?;
        assert_eq!((found.ipv4().to_string().as_str(), found.ipv6().to_string().as_str()), (ipv4, ipv6), "{machine}");
        for knob in ["ipv4/conf/all/rp_filter", "ipv4/conf/eth0/rp_filter", "ipv4/icmp_ratelimit"] {
            assert_eq!(sysctl(lab, machine, knob)?, "0", "{knob} of {machine}");
        }
        for knob in ["ipv4/conf/all/send_redirects", "ipv4/conf/eth0/send_redirects", "ipv6/icmp/ratelimit"] {
            assert_eq!(sysctl(lab, machine, knob)?, "0", "{knob} of {machine}");
        }
        let forwards = if ["n1", "n2"].contains(&machine) { "1" } else { "0" };
        assert_eq!(sysctl(lab, machine, "ipv4/ip_forward")?, forwards, "{machine}");
        assert_eq!(sysctl(lab, machine, "ipv6/conf/all/forwarding")?, forwards, "{machine}");
        assert!(ip(lab, machine, "link show eth0")?.contains(" mtu 1500 "), "{machine}");
    }
    for number in 11..=14 {
        let route = ip(lab, "n1", &format!("route show 10.244.1.{number}"))?;
        assert!(route.contains(&format!("dev veth{number}")) && route.contains("src 192.168.50.1"), "{route}");
        let route = ip(lab, "n1", &format!("-6 route show fd44:1::{number}"))?;
        assert!(route.contains(&format!("dev veth{number}")) && route.contains("src fd50::1"), "{route}");
    }
    assert!(ip(lab, "n1p1", "route show default")?.contains("via 169.254.1.1"));
    assert!(ip(lab, "n1p1", "-6 route show default")?.contains("via fe80::1"));
    assert!(ip(lab, "n1p1", "address show eth0")?.contains("10.244.1.11/32"));
    for (machine, destination, via) in [
        ("n1", "10.244.2.11", "192.168.50.2"),
        ("n2", "fd44:1::11", "fd50::1"),
        ("ext", "10.96.0.1", "192.168.50.1"),
        ("ext", "fd96::1", "fd50::1"),
        ("ext", "203.0.113.7", "192.168.50.1"),
        ("ext", "2001:db8:ffff::7", "fd50::1"),
        ("ext", "10.244.2.11", "192.168.50.2"),
        ("n2", "10.96.0.1", "192.168.50.254"),
        ("n2", "fd96::1", "fd50::fe"),
        ("ext", "8.8.8.8", "192.168.50.254"),
    ] {
        let route = ip(lab, machine, &format!("route get {destination}"))?;
        assert!(route.contains(&format!("via {via} ")), "{machine}: {route}");
    }
    Ok(())
}

#[test]
fn the_router_is_silent_and_the_path_to_n2p4_is_narrow() -> Result<()> {
    let mut topology = topology()?;
    let narrow = topology.lab().machine("n2p4")?.clone();
    for family in Family::BOTH {
        let client = topology.client("n1p1")?;
        let nowhere = SocketAddr::new(if family == Family::V4 { "10.97.1.1" } else { "fd96::1" }.parse()?, 80);
        // Long enough for the second attempt to connect.
        let patience = Duration::from_millis(1500);
        expect_all(&client.tcp(Tcp::to(nowhere).timeout(patience))?, Outcome::Timeout)?;
        expect_all(&client.ping(Ping::to(nowhere.ip()).timeout(patience))?, Outcome::Timeout)?;
        let large = Udp::to(narrow.address(family, 53)).payload(1400);
        expect_all(&client.udp(large.clone().dont_fragment())?, Outcome::TooBig)?;
        expect_all(&client.udp(large)?, Outcome::Ok)?;
        let samples = client.tcp(Tcp::to(narrow.address(family, 80)).body(100_000))?;
        expect_all(&samples, Outcome::Ok)?;
        assert_eq!(samples[0].path_mtu, Some(1300), "{family:?}");
    }
    topology.lab().forget_paths()?;
    // What was learned is forgotten: the first large datagram is sent again, and lost again.
    let samples = topology.client("n1p1")?.udp(Udp::to(narrow.address(Family::V4, 53)))?;
    assert_eq!(samples[0].path_mtu, Some(1500));
    Ok(())
}

fn conformance(arguments: &[&str]) -> Result<(bool, String)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_svc-testbed"));
    command.args(["conformance", "--mode", "none"]).args(arguments);
    let output = command.env("SVC_TESTBED_BIN", env!("CARGO_BIN_EXE_svc-testbed")).output()?;
    Ok((output.status.success(), String::from_utf8(output.stdout)?))
}

#[test]
fn without_an_agent_the_runner_passes_direct_traffic_and_nothing_else() -> Result<()> {
    let (passed, output) = conformance(&["--scenario", "direct-traffic-untouched"])?;
    assert!(passed && output.ends_with("\n1 passed, 0 failed, 0 skipped\n"), "{output}");
    let (passed, output) = conformance(&["--scenario", "fqdn-slice", "--scenario", "nodeport"])?;
    assert!(!passed && output.ends_with("\n0 passed, 1 failed, 1 skipped\n"), "{output}");
    assert!(output.contains("not yet: nodeport") && output.contains("result: expected \"ok\""), "{output}");
    let (passed, output) = conformance(&["--scenario", "nodeport"])?;
    assert!(!passed, "nothing ran: {output}");
    Ok(())
}
