//! What happens to new connections by the rules of Services: refused, dropped, left alone, brought back to the client itself,
//! masqueraded, kept at one pod. What happens to connections that exist is `traffic_flows`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod traffic_support;

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use svc_testbed::{
    Client, Family, Outcome, Sample,
    client::{by_pod, expect_all, expect_replies_from},
    manifests::Port,
};
use traffic_support::{
    AT_ONCE, Kind, Mode, POD_DNS, POD_WEB, SILENCE, World, expect_pods, expect_seen_as, lab, service, vip,
};

/// Ports nobody listens on.
const CLOSED: u16 = 9;

/// Sockets that are told when nobody is there.
const CONNECTED: [Kind; 2] = [Kind::Tcp, Kind::UdpConnected];

/// Two attempts with so much patience each.
fn attempt(kind: Kind, client: &Client, to: SocketAddr, patience: Duration) -> Result<Vec<Sample>> {
    kind.probe(client, to, |tcp| tcp.count(2).timeout(patience), |udp| udp.count(2).timeout(patience))
}

#[test]
fn a_service_without_endpoints_refuses_at_once() -> Result<()> {
    for mode in Mode::BOTH {
        World::routed(mode)?.check(|world| {
            let (empty, client) = (service("empty", 20), world.client()?);
            world.publish(&empty, &[])?;
            for (family, kind) in Family::BOTH.into_iter().flat_map(|family| Kind::ALL.map(|kind| (family, kind))) {
                let what = || format!("{family:?} {kind:?}");
                let (before, drops) = (world.counters(&empty)?, world.drops("no_endpoint")?);
                let samples = attempt(kind, &client, vip(&empty, family, kind.ports().0), AT_ONCE)?;
                // The kernel tells an unconnected socket of an ICMP error only if it asked for that.
                let expected = if kind == Kind::UdpUnconnected { Outcome::Timeout } else { Outcome::Refused };
                expect_all(&samples, expected).with_context(what)?;
                let counted = world.counters(&empty)? - before;
                ensure!(counted.rejected >= 2, "{}: refusals are counted: {counted:?}", what());
                ensure!(counted.connections_tc + counted.connections_socket == 0, "{}: {counted:?}", what());
                ensure!(world.drops("no_endpoint")? >= drops + 2, "{}: the reason is counted", what());
            }
            // It works as soon as there is somebody.
            world.scale(&empty, &["far"])?;
            expect_pods(&Kind::Tcp.talk(&client, vip(&empty, Family::V4, 80), 2)?, &["far"])
        })?;
    }
    Ok(())
}

#[test]
fn local_policy_without_local_endpoints_drops_and_counts() -> Result<()> {
    for mode in Mode::BOTH {
        World::routed(mode)?.check(|world| {
            let local = service("local", 21).extra(json!({"internalTrafficPolicy": "Local"}));
            let client = world.client()?;
            world.manifests.service(&local)?;
            world.manifests.endpoints(&local, &world.endpoints(&["far"])?)?;
            world.wait_for(&local, "drop", &[])?;
            for (family, kind) in Family::BOTH.into_iter().flat_map(|family| Kind::ALL.map(|kind| (family, kind))) {
                let what = || format!("{family:?} {kind:?}");
                let (before, drops) = (world.counters(&local)?, world.drops("no_local_endpoint")?);
                let samples = attempt(kind, &client, vip(&local, family, kind.ports().0), SILENCE)?;
                expect_all(&samples, Outcome::Timeout).with_context(what)?;
                let counted = world.counters(&local)? - before;
                ensure!(counted.rejected >= 2 && counted.connections_tc == 0, "{}: {counted:?}", what());
                ensure!(world.drops("no_local_endpoint")? >= drops + 2, "{}: the reason is counted", what());
            }
            world.manifests.endpoints(&local, &world.endpoints(&["far", "near"])?)?;
            world.wait_for(&local, "forward", &world.endpoints(&["near"])?)?;
            for kind in Kind::ALL {
                let samples = kind.talk(&client, vip(&local, Family::V6, kind.ports().0), 16)?;
                expect_pods(&samples, &["near"]).with_context(|| format!("{kind:?}"))?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_closed_port_of_the_pod_is_refused_through_the_service() -> Result<()> {
    for mode in Mode::BOTH {
        World::routed(mode)?.check(|world| {
            let client = world.client()?;
            for (number, pod) in [(22, "near"), (23, "far")] {
                let mut closed = service(&format!("closed-{pod}"), number);
                closed.ports = vec![Port::tcp("web", 80, CLOSED), Port::udp("dns", 53, CLOSED)];
                world.publish(&closed, &[pod])?;
                for (family, kind) in Family::BOTH.into_iter().flat_map(|family| CONNECTED.map(|kind| (family, kind))) {
                    let samples = attempt(kind, &client, vip(&closed, family, kind.ports().0), AT_ONCE)?;
                    expect_all(&samples, Outcome::Refused).with_context(|| format!("{family:?} {kind:?} {pod}"))?;
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_port_that_the_address_does_not_have_is_refused() -> Result<()> {
    const UNKNOWN: u16 = 81;
    for mode in Mode::BOTH {
        World::routed(mode)?.check(|world| {
            let (web, client) = (service("web", 29), world.client()?);
            world.publish(&web, &["near"])?;
            for (family, kind) in Family::BOTH.into_iter().flat_map(|family| CONNECTED.map(|kind| (family, kind))) {
                let drops = world.drops("no_such_port")?;
                let samples = attempt(kind, &client, vip(&web, family, UNKNOWN), AT_ONCE)?;
                expect_all(&samples, Outcome::Refused).with_context(|| format!("{family:?} {kind:?}"))?;
                ensure!(world.drops("no_such_port")? >= drops + 2, "{family:?} {kind:?}: the reason is counted");
                // TCP and UDP ports have nothing to do with each other.
                let other = vip(&web, family, if kind == Kind::Tcp { 53 } else { 80 });
                expect_all(&attempt(kind, &client, other, AT_ONCE)?, Outcome::Refused)
                    .with_context(|| format!("{family:?} {kind:?} on the other protocol's port"))?;
            }
            // Without the Service the address is nobody's: no answer of ours.
            world.manifests.delete_service(&web)?;
            world.wait_until_gone(&web)?;
            let samples = attempt(Kind::Tcp, &client, vip(&web, Family::V4, UNKNOWN), AT_ONCE)?;
            ensure!(samples.iter().all(|sample| sample.outcome != Outcome::Refused), "{samples:#?}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn traffic_that_is_not_for_a_service_is_left_alone() -> Result<()> {
    for mode in Mode::BOTH {
        World::start(lab().outside("ext"), mode)?.check(|world| {
            let web = service("web", 24);
            world.publish(&web, &["near", "far"])?;
            let before = world.traces()?;
            for (from, to) in [
                ("client", "near"),
                ("client", "far"),
                ("client", "client"),
                ("n1", "near"),
                ("n1", "far"),
                ("n2", "near"),
                ("ext", "near"),
                ("far", "near"),
            ] {
                if to == "client" {
                    world.serve("client")?;
                }
                let client = world.machine(from)?.client()?;
                for (family, kind) in Family::BOTH.into_iter().flat_map(|family| Kind::ALL.map(|kind| (family, kind))) {
                    let what = || format!("{from} to {to} {family:?} {kind:?}");
                    let address = world.machine(to)?.address(family, kind.ports().1);
                    let samples = kind.talk(&client, address, 2)?;
                    expect_pods(&samples, &[to]).with_context(what)?;
                    expect_replies_from(&samples, address).with_context(what)?;
                    // Ports that only the Service has stay closed on the pod.
                    let samples = attempt(Kind::Tcp, &client, world.machine(to)?.address(family, 80), AT_ONCE)?;
                    expect_all(&samples, Outcome::Refused).with_context(what)?;
                }
            }
            let after = world.traces()?;
            ensure!(before == after, "no Service should have been touched; before:\n{before}\nafter:\n{after}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_pod_reaches_itself_through_its_service() -> Result<()> {
    for mode in Mode::BOTH {
        World::routed(mode)?.check(|world| {
            world.serve("client")?;
            let (own, client) = (service("own", 25), world.client()?);
            world.publish(&own, &["client"])?;
            for (family, kind) in Family::BOTH.into_iter().flat_map(|family| Kind::ALL.map(|kind| (family, kind))) {
                let to = vip(&own, family, kind.ports().0);
                let samples = kind.talk(&client, to, 4)?;
                expect_pods(&samples, &["client"])
                    .and_then(|()| expect_replies_from(&samples, to))
                    // Its own address would make it answer itself directly.
                    .and_then(|()| expect_seen_as(&samples, world.machine("n1")?.ip(family)))
                    .with_context(|| format!("{family:?} {kind:?}"))?;
            }
            // With others it comes to itself as often as to them.
            world.scale(&own, &["client", "near", "far"])?;
            for (family, kind) in Family::BOTH.into_iter().flat_map(|family| Kind::ALL.map(|kind| (family, kind))) {
                let what = || format!("{family:?} {kind:?}");
                let samples =
                    kind.probe(&client, vip(&own, family, kind.ports().0), |tcp| tcp.count(90), |udp| udp.count(90))?;
                expect_pods(&samples, &["client", "near", "far"]).with_context(what)?;
                ensure!(by_pod(&samples).values().all(|count| *count >= 12), "{}: {:?}", what(), by_pod(&samples));
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_client_outside_the_cluster_is_masqueraded_as_the_node() -> Result<()> {
    for mode in Mode::BOTH {
        World::start(lab().outside("ext"), mode)?.check(|world| {
            let (web, client) = (service("web", 26), world.machine("ext")?.client()?);
            world.publish(&web, &["near", "far"])?;
            for (family, kind) in Family::BOTH.into_iter().flat_map(|family| Kind::ALL.map(|kind| (family, kind))) {
                let to = vip(&web, family, kind.ports().0);
                let samples = kind.talk(&client, to, 24)?;
                expect_pods(&samples, &["near", "far"])
                    .and_then(|()| expect_replies_from(&samples, to))
                    .and_then(|()| expect_seen_as(&samples, world.machine("n1")?.ip(family)))
                    .with_context(|| format!("{family:?} {kind:?}"))?;
            }
            let counted = world.counters(&web)?;
            ensure!(counted.connections_socket == 0 && counted.connections_tc > 0, "{counted:?}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn session_affinity_keeps_a_client_at_one_pod() -> Result<()> {
    for mode in Mode::BOTH {
        World::routed(mode)?.check(|world| {
            let sticky = service("sticky", 27).extra(json!({"sessionAffinity": "ClientIP"}));
            world.publish(&sticky, &["near", "far"])?;
            for family in Family::BOTH {
                for (name, kind) in [("client", Kind::Tcp), ("client", Kind::UdpConnected), ("spare", Kind::Tcp)] {
                    let client = world.machine(name)?.client()?;
                    let samples = kind.talk(&client, vip(&sticky, family, kind.ports().0), 20)?;
                    expect_all(&samples, Outcome::Ok)?;
                    ensure!(by_pod(&samples).len() == 1, "{family:?} {name} {kind:?}: {:?}", by_pod(&samples));
                }
            }
            // A pod that left loses its clients, and they stay with the next one.
            let client = world.client()?;
            let to = vip(&sticky, Family::V4, 80);
            let first = by_pod(&Kind::Tcp.talk(&client, to, 4)?);
            let left = if first.contains_key("near") { "far" } else { "near" };
            world.scale(&sticky, &[left])?;
            expect_pods(&Kind::Tcp.talk(&client, to, 8)?, &[left])?;
            world.scale(&sticky, &["near", "far"])?;
            expect_pods(&Kind::Tcp.talk(&client, to, 20)?, &[left])
        })?;
    }
    Ok(())
}

#[test]
fn ports_of_a_service_lead_to_their_own_target_ports() -> Result<()> {
    World::routed(Mode::Tc)?.check(|world| {
        let (mut ports, client) = (service("ports", 28), world.client()?);
        // The same number as TCP and as UDP, and a port that looks like the pods' own.
        ports.ports =
            vec![Port::tcp("web", 53, POD_WEB), Port::udp("dns", 53, POD_DNS), Port::tcp("odd", POD_WEB, CLOSED)];
        world.publish(&ports, &["near"])?;
        for family in Family::BOTH {
            let answered: BTreeSet<String> = [Kind::Tcp, Kind::UdpConnected]
                .into_iter()
                .map(|kind| kind.talk(&client, vip(&ports, family, 53), 2))
                .collect::<Result<Vec<_>>>()?
                .concat()
                .into_iter()
                .flat_map(|sample| sample.backends)
                .collect();
            ensure!(answered.iter().eq(["near:5353", "near:8080"]), "{answered:?}");
            expect_all(&attempt(Kind::Tcp, &client, vip(&ports, family, POD_WEB), AT_ONCE)?, Outcome::Refused)?;
        }
        Ok(())
    })
}
