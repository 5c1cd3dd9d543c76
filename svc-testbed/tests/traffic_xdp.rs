//! XDP on the uplink, with real sockets: a client outside reaches a pod of another node by way of this one's Service address, in
//! native and in generic mode, and most of its packets never see the node's stack.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod traffic_support;

use std::os::fd::OwnedFd;

use anyhow::{Context, Result, ensure};
use svc_testbed::{
    AgentProcess, Family,
    client::{Again, expect_replies_from},
    wire,
};
use traffic_support::{AGENT_NODE, Kind, Mode, World, expect_pods, expect_seen_as, lab, options, service, vip};

const SOCKETS: u32 = 16;

/// Makes the node's uplink look like a wire, as long as the value lives.
fn lay_wires(world: &World) -> Result<OwnedFd> {
    for name in ["ext", "far"] {
        world.machine(name)?.run(|| wire::complete_checksums("eth0"))??;
    }
    world.lab.ethernet().run(|| wire::take_frames(AGENT_NODE))?
}

/// The value of one series.
fn metric(world: &World, series: &str) -> Result<u64> {
    let page = world.agent.metrics()?;
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).with_context(|| format!("no {series} in {page}"))
}

/// Talks to the Service in every way; answers how many packets there were, and how many XDP carried.
fn talk(world: &World, what: &str) -> Result<(u64, u64)> {
    let web = service("web", 40);
    let before = (world.counters(&web)?, metric(world, "svc_agent_xdp_packets_total")?);
    let client = world.machine("ext")?.client()?;
    for (family, kind) in Family::BOTH.into_iter().flat_map(|family| Kind::ALL.map(|kind| (family, kind))) {
        let to = vip(&web, family, kind.ports().0);
        let what = || format!("{what} {family:?} {kind:?}");
        let samples = kind.talk(&client, to, SOCKETS).with_context(what)?;
        expect_pods(&samples, &["far"]).with_context(what)?;
        expect_replies_from(&samples, to).with_context(what)?;
        expect_seen_as(&samples, world.machine(AGENT_NODE)?.ip(family)).with_context(what)?;
    }
    let packets = (world.counters(&web)? - before.0).packets;
    Ok((packets, metric(world, "svc_agent_xdp_packets_total")? - before.1))
}

/// Beginnings and ends, one second in 32, and what a busy machine makes late go through the stack.
fn expect_most_past_the_stack(world: &World, mode: &str) -> Result<()> {
    ensure!(metric(world, &format!("svc_agent_xdp_interfaces{{mode=\"{mode}\"}}"))? == 1, "{mode}");
    let (packets, express) = talk(world, mode)?;
    ensure!(express > packets / 2, "{mode}: of {packets} packets XDP carried {express}");
    Ok(())
}

#[test]
fn packets_from_uplink_to_uplink_pass_by_the_stack() -> Result<()> {
    World::start_with(lab().outside("ext"), Mode::Tc, ["--xdp=native"])?.check(|world| {
        let web = service("web", 40);
        let _wires = lay_wires(world)?;
        world.publish(&web, &["far"])?;
        expect_most_past_the_stack(world, "native")?;
        // Connections go on when the agent is killed, while it is gone, and when another one has taken over.
        let client = world.machine("ext")?.client()?;
        let name = |family: Family| format!("{family:?}");
        for family in Family::BOTH {
            let to = vip(&web, family, Kind::Tcp.ports().0);
            let opened = Kind::Tcp.probe(&client, to, |tcp| tcp.count(SOCKETS).hold(&name(family)), |udp| udp)?;
            expect_pods(&opened, &["far"])?;
        }
        let go_on = |what: &str| -> Result<()> {
            Family::BOTH.into_iter().try_for_each(|family| {
                let samples = client.again(Again::on(&name(family)).size(5_000).reply(5_000))?;
                expect_pods(&samples, &["far"]).with_context(|| format!("{family:?}, {what}"))
            })
        };
        world.agent.kill()?;
        go_on("no agent")?;
        let generic = options(&world.manifests, Mode::Tc)?.extra(["--xdp=generic"]);
        world.agent = AgentProcess::start(&world.lab, AGENT_NODE, generic)?;
        go_on("another agent")?;
        expect_most_past_the_stack(world, "generic")?;
        for reason in ["rewrite_failed", "malformed"] {
            ensure!(world.drops(reason)? == 0, "{reason}");
        }
        Ok(())
    })
}
