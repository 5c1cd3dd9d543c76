//! Forwarding past the node's stack, with real sockets: everything arrives as it does through the stack, and the node's
//! FORWARD chain sees next to nothing of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod traffic_support;

use anyhow::{Context, Result, ensure};
use svc_testbed::{AgentProcess, Family, client::expect_replies_from};
use traffic_support::{AGENT_NODE, Kind, Mode, World, expect_pods, expect_seen_as, options, service, vip};

const SOCKETS: u32 = 16;

/// Puts a counter on the node's FORWARD hook.
fn watch_forward(world: &World) -> Result<()> {
    for words in [
        "add table inet watch",
        "add chain inet watch forward { type filter hook forward priority 0 ; }",
        "add rule inet watch forward counter",
    ] {
        let status = world.machine(AGENT_NODE)?.command("nft")?.arg(words).status()?;
        ensure!(status.success(), "nft {words}: {status}");
    }
    Ok(())
}

/// Packets the counter has seen.
fn forwarded(world: &World) -> Result<u64> {
    let output = world.machine(AGENT_NODE)?.command("nft")?.arg("list chain inet watch forward").output()?;
    let listing = String::from_utf8(output.stdout)?;
    let (_, rest) = listing.split_once("counter packets ").with_context(|| format!("no counter in: {listing}"))?;
    Ok(rest.split(' ').next().unwrap_or_default().parse()?)
}

/// Talks to the Service in every way; answers how many packets were forwarded by the stack meanwhile.
fn talk(world: &World, what: &str) -> Result<u64> {
    let web = service("web", 40);
    let before = forwarded(world)?;
    let client = world.client()?;
    for (family, kind) in Family::BOTH.into_iter().flat_map(|family| Kind::ALL.map(|kind| (family, kind))) {
        let to = vip(&web, family, kind.ports().0);
        let what = || format!("{what} {family:?} {kind:?}");
        let samples = kind.talk(&client, to, SOCKETS).with_context(what)?;
        expect_pods(&samples, &["near", "far"]).with_context(what)?;
        expect_replies_from(&samples, to).with_context(what)?;
        expect_seen_as(&samples, world.machine("client")?.ip(family)).with_context(what)?;
    }
    Ok(forwarded(world)? - before)
}

#[test]
fn packets_of_services_pass_by_the_stack() -> Result<()> {
    for mode in Mode::BOTH {
        World::routed(mode)?.check(|world| {
            let web = service("web", 40);
            world.publish(&web, &["near", "far"])?;
            watch_forward(world)?;
            let through = talk(world, "stack")?;
            world.agent.stop()?;
            let direct = options(&world.manifests, mode)?.extra(["--forwarding=direct"]);
            world.agent = AgentProcess::start(&world.lab, AGENT_NODE, direct)?;
            world.wait_for(&web, "forward", &world.endpoints(&["near", "far"])?)?;
            // Neighbours are known from before; what the kernel asks anew goes through the stack.
            let past = talk(world, "direct")?;
            ensure!(through > 500 && past < through / 20, "forwarded by the stack: {through}, with direct: {past}");
            ensure!(world.drops("rewrite_failed")? == 0);
            Ok(())
        })?;
    }
    Ok(())
}
