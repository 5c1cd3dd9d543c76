//! A pod reaches a ClusterIP: every way pods hang on their node, both families, all kinds of sockets, packets and sockets
//! translated, backends on the same node and on one without an agent. The counters say who translated.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod traffic_support;

use anyhow::{Context, Result, ensure};
use svc_testbed::{Family, Shape, client::expect_replies_from};
use traffic_support::{Counters, Kind, Mode, World, expect_pods, expect_seen_as, lab, service, vip};

/// Enough sockets that two backends are practically never missed.
const SOCKETS: u32 = 32;

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
                for sample in &samples {
                    let port_seen = sample.client_seen.map(|seen| seen.port());
                    ensure!(port_seen == sample.local.map(|local| local.port()), "{}: {sample:#?}", what());
                    ensure!(
                        sample.backends.iter().all(|backend| backend.ends_with(&format!(":{target}"))),
                        "{sample:?}"
                    );
                }
                let counted = world.counters(&web)? - before;
                expect_translated(mode, counted).with_context(what)?;
            }
        }
        ensure!(world.drops("flow_table_full")? == 0 && world.drops("rewrite_failed")? == 0);
        Ok(())
    })
}

/// Either packets or sockets were translated, and each exactly once.
fn expect_translated(mode: Mode, counted: Counters) -> Result<()> {
    let sockets = u64::from(SOCKETS);
    match mode {
        Mode::Tc => ensure!(
            counted.connections_tc == sockets && counted.connections_socket == 0 && counted.packets >= 6 * sockets,
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
