//! Which pods real connections reach: shares of random and Maglev services and of weights, by packets and by sockets, and
//! that a Maglev service has the same pod for the same client again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod traffic_support;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use svc_testbed::client::{by_pod, expect_all};
use svc_testbed::manifests::ServiceSpec;
use svc_testbed::{Client, Family, Outcome, Tcp};
use traffic_support::{Mode, POD_WEB, WEB, World, service, vip};

const PODS: [&str; 3] = ["far", "near", "spare"];
const CONNECTIONS: u32 = 150;
/// Six standard deviations around fifty: a fair choice leaves it once in a billion runs.
const FAIR: std::ops::RangeInclusive<usize> = 16..=84;

fn reached(client: &Client, service: &ServiceSpec, family: Family) -> Result<BTreeMap<String, usize>> {
    let samples = client.tcp(Tcp::to(vip(service, family, WEB)).count(CONNECTIONS))?;
    expect_all(&samples, Outcome::Ok)?;
    Ok(by_pod(&samples))
}

#[test]
fn connections_spread_over_all_pods() -> Result<()> {
    World::routed(Mode::Socket)?.check(|world| {
        let random = service("random", 10).annotation("svc-ebpf.io/load-balancing", "random");
        let maglev = service("maglev", 11).annotation("svc-ebpf.io/load-balancing", "maglev");
        for service in [&random, &maglev] {
            world.publish(service, &PODS)?;
        }
        for mode in Mode::BOTH {
            if world.mode != mode {
                world.switch(mode)?;
            }
            let client = world.client()?;
            for (service, algorithm) in [(&random, "random"), (&maglev, "maglev")] {
                world.wait_for(service, "forward", &world.endpoints(&PODS)?)?;
                let rows = world.rows("services", service)?;
                ensure!(rows.iter().all(|row| row["load_balancing"] == algorithm), "{algorithm}: {rows:#?}");
                for family in Family::BOTH {
                    let pods = reached(&client, service, family)?;
                    let fair = pods.len() == PODS.len() && pods.values().all(|count| FAIR.contains(count));
                    ensure!(fair, "{mode:?} {family:?} {algorithm}: {pods:?}");
                }
            }
        }
        Ok(())
    })
}

/// By packets, as a socket that is about to connect has no port: twice from one port, to one pod, also after another went.
#[test]
fn a_client_reaches_its_maglev_pod_again() -> Result<()> {
    const PORTS: std::ops::Range<u16> = 20_000..20_024;
    World::routed(Mode::Tc)?.check(|world| {
        let maglev = service("maglev", 11).annotation("svc-ebpf.io/load-balancing", "maglev");
        world.publish(&maglev, &PODS)?;
        let client = world.client()?;
        let attempt = |port: u16| -> Result<String> {
            let samples = client.tcp(Tcp::to(vip(&maglev, Family::V4, WEB)).source_port(port))?;
            expect_all(&samples, Outcome::Ok)?;
            by_pod(&samples).into_keys().next().context("nobody answered")
        };
        let before: Vec<String> = PORTS.map(attempt).collect::<Result<_>>()?;
        world.scale(&maglev, &["near", "far"])?;
        let after: Vec<String> = PORTS.map(attempt).collect::<Result<_>>()?;
        let moved = before.iter().zip(&after).filter(|(before, after)| *before != "spare" && before != after).count();
        // One in a hundred may move although its pod is still there.
        ensure!(moved <= 3, "{before:?}\n{after:?}");
        world.scale(&maglev, &PODS)?;
        let again: Vec<String> = PORTS.map(attempt).collect::<Result<_>>()?;
        ensure!(again == before, "{before:?}\n{again:?}");
        Ok(())
    })
}

#[test]
fn weights_of_slices_are_shares() -> Result<()> {
    World::routed(Mode::Tc)?.check(|world| {
        let weighted = service("weighted", 12);
        world.manifests.service(&weighted)?;
        world.manifests.endpoints(&weighted, &world.endpoints(&["near"])?)?;
        let heavy = weighted.clone().slices("heavy", ("svc-ebpf.io/weight", "4"));
        world.manifests.endpoints(&heavy, &world.endpoints(&["far"])?)?;
        world.wait_for(&weighted, "forward", &world.endpoints(&["near", "far"])?)?;
        let rows = world.rows("backends", &weighted)?;
        let far = format!(":{POD_WEB}");
        let mut slots: Vec<_> = rows
            .iter()
            .filter(|row| row["backend"].as_str().is_some_and(|backend| backend.ends_with(&far)))
            .map(|row| row["slots"].as_u64().unwrap_or_default())
            .collect();
        slots.sort_unstable();
        ensure!(slots == [1, 1, 4, 4], "{rows:#?}");
        let pods = reached(&world.client()?, &weighted, Family::V6)?;
        // 120 expected; six standard deviations.
        ensure!(pods.get("far").is_some_and(|count| (90..150).contains(count)), "{pods:?}");
        Ok(())
    })
}
