//! Endpoints that change while clients connect: a change touches its own Service only, and no client ever notices one, however many
//! there are.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod traffic_support;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use svc_testbed::{
    Family, Load,
    manifests::{Endpoint, ServiceSpec},
};
use traffic_support::{Mode, WEB, World, service, vip};

/// Endpoints that came or went under load.
const CHANGES: u64 = 2000;
/// Services that change beside the one under load, and endpoints each of them gains and loses at a time.
const CROWD: u8 = 10;
const CROWD_ENDPOINTS: u8 = 10;
/// Leaves the agent time on a small machine: it is the changes that should be many.
const PAUSE: Duration = Duration::from_millis(1);

/// What the maps hold about a Service, without its counters.
fn dump(world: &World, service: &ServiceSpec) -> Result<Vec<Value>> {
    let kept = [
        "service",
        "protocol",
        "frontend",
        "verdict",
        "backends",
        "backend",
        "local",
        "state",
        "slots",
        "index",
        "generation",
    ];
    let mut rows = world.rows("services", service)?;
    rows.extend(world.rows("backends", service)?);
    for row in &mut rows {
        row.as_object_mut().context("a row is an object")?.retain(|name, _| kept.contains(&name.as_str()));
    }
    Ok(rows)
}

#[test]
fn an_endpoint_change_leaves_other_services_as_they_are() -> Result<()> {
    World::routed(Mode::Tc)?.check(|world| {
        let (changing, other, empty) = (service("changing", 50), service("other", 51), service("empty", 52));
        world.publish(&changing, &["near"])?;
        world.publish(&other, &["near", "far"])?;
        world.publish(&empty, &[])?;
        let before = [dump(world, &other)?, dump(world, &empty)?];
        ensure!(before[0].len() > 6, "services and backends are listed: {before:#?}");
        let pods: [&[&str]; 4] = [&["far"], &["near", "far", "spare"], &[], &["spare"]];
        for pods in pods {
            world.scale(&changing, pods)?;
            let after = [dump(world, &other)?, dump(world, &empty)?];
            ensure!(before == after, "{pods:?}: before {before:#?}\nafter {after:#?}");
        }
        world.manifests.delete_service(&changing)?;
        world.wait_until_gone(&changing)?;
        ensure!(before == [dump(world, &other)?, dump(world, &empty)?], "after the Service was deleted");
        Ok(())
    })
}

#[test]
fn clients_notice_nothing_of_thousands_of_changes() -> Result<()> {
    for mode in Mode::BOTH {
        World::routed(mode)?.check(|world| {
            let (web, foreign) = (service("web", 53), service("foreign", 54));
            // `spare` answers for another Service only: whoever meets it was misled.
            world.publish(&foreign, &["spare"])?;
            world.publish(&web, &["near", "far"])?;
            let crowd: Vec<ServiceSpec> =
                (0..CROWD).map(|number| service(&format!("crowd-{number}"), 100 + number)).collect();
            for service in &crowd {
                world.manifests.service(service)?;
            }
            let (client, strangers) = (world.client()?, world.client()?);
            let load = client.start_load(Load::to(vip(&web, Family::V4, WEB)).keepalive(0).fresh(4).pause(PAUSE))?;
            let other_load =
                strangers.start_load(Load::to(vip(&foreign, Family::V6, WEB)).keepalive(0).fresh(2).pause(PAUSE))?;
            let (changes, rounds) = churn(world, &web, &crowd)?;
            let (report, other) = (load.stop()?, other_load.stop()?);
            println!(
                "{mode:?}: {changes} changes in {rounds} rounds, {} and {} requests",
                report.requests, other.requests
            );
            ensure!(report.failed() == 0, "{report:#?}");
            ensure!(other.failed() == 0, "{other:#?}");
            ensure!(report.requests > 100 && other.requests > 100, "{report:#?} {other:#?}");
            let answered: BTreeSet<&str> = report.backends.keys().map(String::as_str).collect();
            ensure!(answered == BTreeSet::from(["far", "near"]), "{report:#?}");
            ensure!(other.backends.keys().eq(["spare"]), "{other:#?}");
            // All that churn left nothing behind.
            for service in &crowd {
                world.scale(service, &[])?;
            }
            world.scale(&web, &["near"])
        })?;
    }
    Ok(())
}

/// Changes the Service under load and the crowd, as fast as the agent follows. Returns endpoints changed, and rounds.
fn churn(world: &World, web: &ServiceSpec, crowd: &[ServiceSpec]) -> Result<(u64, u64)> {
    let stay = world.endpoints(&["near"])?;
    let leaves = world.endpoints(&["far"])?;
    let leaving: Vec<Endpoint> = leaves.iter().map(|endpoint| endpoint.clone().terminating(true)).collect();
    let (mut changes, mut rounds) = (0, 0);
    let start = Instant::now();
    while changes < CHANGES {
        rounds += 1;
        ensure!(start.elapsed() < Duration::from_secs(120), "only {changes} changes in {:?}", start.elapsed());
        // One endpoint stays; the other comes, drains, goes, and comes back. Its pod never stops serving.
        let endpoints = match rounds % 3 {
            0 => [stay.clone(), leaves.clone()].concat(),
            1 => [stay.clone(), leaving.clone()].concat(),
            _ => stay.clone(),
        };
        // Endpoints nobody asks for, changing in the same maps: indexes and slots are used again and again.
        let filler: Vec<Endpoint> =
            (0..CROWD_ENDPOINTS).filter(|number| (u64::from(*number) + rounds) % 2 == 0).map(nobody).collect();
        for service in crowd {
            world.manifests.endpoints(service, &filler)?;
        }
        world.manifests.endpoints(web, &endpoints)?;
        let shown = endpoints.iter().filter(|endpoint| endpoint.ready).cloned().collect::<Vec<_>>();
        world.wait_for(web, "forward", &shown)?;
        changes += crowd.len() as u64 * u64::from(CROWD_ENDPOINTS) + 2;
    }
    Ok((changes, rounds))
}

/// An address in a node's range where no pod is.
fn nobody(number: u8) -> Endpoint {
    Endpoint::at([10, 244, 2, 100 + number])
}
