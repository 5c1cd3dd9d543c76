//! The agent's life as the lab controls it: traffic flows while it runs, after SIGTERM and after SIGKILL, until cleanup.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use svc_testbed::{
    AgentOptions, AgentProcess, Helper, Lab, Load, Manifests, NodeSpec, Outcome, Ports, Tcp, Udp,
    client::{by_pod, expect_all, expect_replies_from},
    manifests::{Port, ServiceSpec},
    wait,
};

#[test]
fn services_work_with_without_and_after_the_agent() -> Result<()> {
    for mode in ["all", "off"] {
        let lab = Lab::builder()
            .helper(Helper::at(env!("CARGO_BIN_EXE_svc-testbed")))
            .node(NodeSpec::new("n1").pods(["client", "a", "b"]))
            .build()?;
        let manifests = Manifests::in_directory(lab.state_dir().join("manifests"))?;
        let service = ServiceSpec::new("web")
            .cluster_ip("10.96.7.7".parse::<IpAddr>()?)
            .port(Port::tcp("http", 80, 8080))
            .port(Port::udp("dns", 53, 53));
        manifests.node(lab.machine("n1")?, &serde_json::json!({}))?;
        manifests.service(&service)?;
        manifests.machines(&service, [lab.machine("a")?, lab.machine("b")?])?;
        let ports = Ports::new().tcp([8080]).udp([53]);
        let _servers = [lab.machine("a")?.serve(&ports)?, lab.machine("b")?.serve(&ports)?];
        let client = lab.machine("client")?.client()?;
        let (tcp, udp): (SocketAddr, SocketAddr) = ("10.96.7.7:80".parse()?, "10.96.7.7:53".parse()?);
        let works = || -> Result<()> {
            for samples in [client.tcp(Tcp::to(tcp).count(40))?, client.udp(Udp::to(udp).count(40).packets(2))?] {
                expect_all(&samples, Outcome::Ok)?;
                assert_eq!(by_pod(&samples).into_keys().collect::<Vec<_>>(), ["a", "b"], "{mode}");
            }
            expect_replies_from(&client.udp(Udp::to(udp).count(5).unconnected())?, udp)
        };

        let mut agent = AgentProcess::start(&lab, "n1", AgentOptions::new(manifests.directory())?.socket_lb(mode))?;
        works()?;
        let load = client.start_load(Load::to(tcp).keepalive(4).fresh(2).pause(Duration::from_millis(1)))?;
        agent.stop()?;
        works()?;
        agent.restart()?;
        agent.kill()?;
        works()?;
        agent.restart()?;
        let report = load.stop()?;
        assert!(report.failed() == 0 && report.requests > 100, "{mode}: {report:#?}");
        assert!(agent.query(&["get", "services"])?.contains("default/web"));
        assert!(agent.metrics()?.contains("# TYPE"));

        agent.stop()?;
        agent.cleanup()?;
        assert_eq!(fs::read_dir(agent.bpf_root())?.count(), 0, "cleanup left pins");
        // The kernel detaches a link some time after its last pin has gone.
        wait::until("nobody knows the service any more", Duration::from_secs(5), || {
            expect_all(&client.tcp(Tcp::to(tcp).timeout(Duration::from_millis(300)))?, Outcome::Timeout)
        })
        .with_context(|| mode)?;
    }
    Ok(())
}
