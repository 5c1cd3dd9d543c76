//! A pod reaches a ClusterIP: every way pods hang on their node, both families, all kinds of sockets, packets and sockets
//! translated, backends on the same node and on one without an agent. The counters say who translated.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod traffic_support;

use anyhow::{Context, Result, ensure};
use svc_testbed::{Family, Shape, client::expect_replies_from};
use traffic_support::{AGENT_NODE, Counters, Kind, Mode, World, expect_pods, expect_seen_as, lab, service, vip};

/// Enough sockets that two backends are practically never missed.
const SOCKETS: u32 = 32;
/// A client port that talked straight to the same pod minutes ago is not used for a Service: few of the sockets above can
/// have met one of those of the other mode.
const COINCIDENCES: u32 = 3;

#[test]
fn pods_on_host_routes_reach_their_services() -> Result<()> {
    reach(Shape::Routed)
}

#[test]
fn pods_on_a_bridge_reach_their_services() -> Result<()> {
    reach(Shape::Bridge)
}

#[test]
fn pods_on_an_overlay_reach_their_services() -> Result<()> {
    reach(Shape::Overlay)
}

fn reach(shape: Shape) -> Result<()> {
    World::start(lab().shape(shape), Mode::Socket)?.check(|world| {
        let web = service("web", 10);
        world.publish(&web, &["near", "far"])?;
        for mode in Mode::BOTH {
            if world.mode != mode {
                world.switch(mode)?;
                world.wait_for(&web, "forward", &world.endpoints(&["near", "far"])?)?;
            }
            let client = world.client()?;
            for (family, kind) in Family::BOTH.into_iter().flat_map(|family| Kind::ALL.map(|kind| (family, kind))) {
                let what = || format!("{shape:?} {mode:?} {family:?} {kind:?}");
                let before = world.counters(&web)?;
                let (port, target) = kind.ports();
                let to = vip(&web, family, port);
                let samples = kind.talk(&client, to, SOCKETS)?;
                expect_pods(&samples, &["near", "far"]).with_context(what)?;
                expect_replies_from(&samples, to).with_context(what)?;
                expect_seen_as(&samples, world.machine("client")?.ip(family)).with_context(what)?;
                let kept = samples.iter().filter(|sample| {
                    sample.client_seen.map(|seen| seen.port()) == sample.local.map(|local| local.port())
                });
                ensure!(kept.count() as u32 >= SOCKETS - COINCIDENCES, "{}: ports changed: {samples:#?}", what());
                let mut targets = samples.iter().flat_map(|sample| &sample.backends);
                ensure!(targets.all(|backend| backend.ends_with(&format!(":{target}"))), "{}: {samples:#?}", what());
                let counted = world.counters(&web)? - before;
                expect_translated(mode.of(kind), counted).with_context(what)?;
            }
        }
        ensure!(world.drops("flow_table_full")? == 0 && world.drops("rewrite_failed")? == 0);
        Ok(())
    })
}

#[test]
fn the_node_itself_reaches_services() -> Result<()> {
    for (mode, nodes) in [(Mode::Socket, Mode::Socket), (Mode::Host, Mode::Socket), (Mode::Tc, Mode::Tc)] {
        node_reaches(Shape::Routed, mode, nodes)?;
    }
    Ok(())
}

#[test]
fn a_node_with_its_pods_on_a_bridge_reaches_services() -> Result<()> {
    node_reaches(Shape::Bridge, Mode::Tc, Mode::Tc)
}

#[test]
fn a_node_with_an_overlay_reaches_services() -> Result<()> {
    node_reaches(Shape::Overlay, Mode::Tc, Mode::Tc)
}

/// A bridge has the address of one of its ports, and only what comes in there looks as if it were for the node: two pods near by.
fn node_reaches(shape: Shape, mode: Mode, nodes: Mode) -> Result<()> {
    World::start(lab().shape(shape), mode)?.check(|world| {
        let web = service("web", 11);
        world.publish(&web, &["near", "spare", "far"])?;
        let (node, pod) = (world.machine(AGENT_NODE)?.client()?, world.client()?);
        for (family, kind) in Family::BOTH.into_iter().flat_map(|family| Kind::ALL.map(|kind| (family, kind))) {
            let to = vip(&web, family, kind.ports().0);
            for (client, name, translated) in [(&node, "node", nodes.of(kind)), (&pod, "pod", mode.of(kind))] {
                let what = || format!("{shape:?} {name} {family:?} {kind:?}");
                let before = world.counters(&web)?;
                let samples = kind.talk(client, to, SOCKETS)?;
                expect_pods(&samples, &["near", "spare", "far"]).with_context(what)?;
                expect_replies_from(&samples, to).with_context(what)?;
                expect_translated(translated, world.counters(&web)? - before).with_context(what)?;
            }
        }
        Ok(())
    })
}

/// Its own servers are endpoints, as those of a pod with the host's network are. The kernel takes no packet with one of its
/// own addresses as the source from any interface but loopback; whether it checks sources by their routes, too, must
/// not matter.
#[test]
fn the_node_reaches_itself_through_services() -> Result<()> {
    for mode in [Mode::Tc, Mode::Socket] {
        World::routed(mode)?.check(|world| {
            world.serve(AGENT_NODE)?;
            let web = service("web", 12);
            world.publish(&web, &[AGENT_NODE, "near"])?;
            let (node, pod) = (world.machine(AGENT_NODE)?.client()?, world.client()?);
            for strict in ["0", "1"] {
                for interface in ["all", "eth0", "lo"] {
                    let file = format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter");
                    world.machine(AGENT_NODE)?.run(|| std::fs::write(file, strict))??;
                }
                for (family, kind) in Family::BOTH.into_iter().flat_map(|family| Kind::ALL.map(|kind| (family, kind))) {
                    let to = vip(&web, family, kind.ports().0);
                    for (name, client) in [(AGENT_NODE, &node), ("client", &pod)] {
                        let what = || format!("{name} {family:?} {kind:?}, rp_filter={strict}");
                        let samples = kind.talk(client, to, SOCKETS)?;
                        expect_pods(&samples, &[AGENT_NODE, "near"]).with_context(what)?;
                        expect_replies_from(&samples, to).with_context(what)?;
                        expect_seen_as(&samples, world.machine(name)?.ip(family)).with_context(what)?;
                    }
                    // What it sends itself without a Service is as it was.
                    let direct = world.machine(AGENT_NODE)?.address(family, kind.ports().1);
                    let samples = kind.talk(&node, direct, 4)?;
                    expect_pods(&samples, &[AGENT_NODE])?;
                    expect_replies_from(&samples, direct)?;
                }
            }
            ensure!(world.drops("no_route")? == 0);
            Ok(())
        })?;
    }
    Ok(())
}

/// Either packets or sockets were translated, and each exactly once.
fn expect_translated(mode: Mode, counted: Counters) -> Result<()> {
    let sockets = u64::from(SOCKETS);
    // A UDP socket that happens to get the port of an earlier one goes on with its flow.
    let begun = sockets - u64::from(COINCIDENCES)..=sockets;
    match mode {
        Mode::Tc | Mode::Host => ensure!(
            begun.contains(&counted.connections_tc)
                && counted.connections_socket == 0
                && counted.packets >= 6 * sockets,
            "packets should be translated: {counted:?}"
        ),
        Mode::Socket => ensure!(
            counted.connections_tc == 0 && counted.connections_socket == sockets && counted.packets == 0,
            "sockets should be translated: {counted:?}"
        ),
    }
    ensure!(counted.rejected == 0, "{counted:?}");
    Ok(())
}
