//! Much at once and much in a row through a ClusterIP: a thousand connections that live at the same time, and gigabytes on one.
//! The datapath drops nothing, and nothing is sent twice because of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod traffic_support;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use svc_testbed::{
    Bulk, Client, Family, Outcome, Tcp,
    client::{Again, expect_replies_from},
};
use traffic_support::{Mode, STREAM, WEB, World, expect_pods, service, vip};

const CONNECTIONS: u32 = 1000;
const GIGABYTE: u64 = 1_000_000_000;
/// The whole ten where packets are translated; those of a translated socket are packets of a direct connection.
/// `SVC_TEST_BULK_GB` replaces both.
const TC_GIGABYTES: u64 = 10;
const SOCKET_GIGABYTES: u64 = 2;
/// With a tenth of the bytes each.
const TURNS: u64 = 5;
/// One in a hundred. Queues that overflow while the machine is busy cost up to a quarter of that on either way, so neither way's number
/// can be held against the other's; a datapath that spoils packets loses every other, or every one of a kind.
const TOLERATED: u64 = 100;

#[test]
fn a_thousand_connections_live_at_the_same_time() -> Result<()> {
    for mode in Mode::BOTH {
        World::routed(mode)?.check(|world| {
            let (web, client) = (service("web", 40), world.client()?);
            world.publish(&web, &["near", "far"])?;
            for (family, name) in [(Family::V4, "v4"), (Family::V6, "v6")] {
                let to = vip(&web, family, WEB);
                let opened = client.tcp(Tcp::to(to).count(CONNECTIONS).timeout(Duration::from_secs(20)).hold(name))?;
                expect_pods(&opened, &["near", "far"]).with_context(|| format!("opening {family:?}"))?;
                expect_replies_from(&opened, to)?;
                let again = Again::on(name).size(20_000).reply(20_000).timeout(Duration::from_secs(60));
                let samples = client.again(again)?;
                ensure!(samples.len() == CONNECTIONS as usize, "only {} connections were held", samples.len());
                expect_pods(&samples, &["near", "far"]).with_context(|| format!("all at once, {family:?}"))?;
                client.close(name)?;
            }
            let (counted, all) = (world.counters(&web)?, 2 * u64::from(CONNECTIONS));
            let expected = match mode {
                Mode::Tc | Mode::Host => (all, 0),
                Mode::Socket => (0, all),
            };
            ensure!((counted.connections_tc, counted.connections_socket) == expected, "{counted:?}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn gigabytes_pass_through_the_service_without_loss() -> Result<()> {
    for (mode, gigabytes) in [(Mode::Tc, TC_GIGABYTES), (Mode::Socket, SOCKET_GIGABYTES)] {
        let bytes = gigabytes_wanted()?.unwrap_or(gigabytes) * GIGABYTE;
        World::routed(mode)?.check(|world| {
            let (web, client) = (service("web", 41), world.client()?);
            world.publish(&web, &["near"])?;
            let to = vip(&web, Family::V4, STREAM);
            transfer(world, &client, to, bytes)?;
            // Several shorter ones: a busy machine loses packets in bursts, a loss of ours would be there in most of them.
            let mut shorter: Vec<Segments> =
                (0..TURNS).map(|_| transfer(world, &client, to, bytes / 10)).collect::<Result<_>>()?;
            shorter.sort_by_key(|segments| segments.again);
            let usual = shorter[shorter.len() / 2];
            ensure!(usual.again <= usual.sent / TOLERATED, "segments were sent again: {shorter:?}");
            for reason in ["malformed", "rewrite_failed", "fragment_unknown", "flow_table_full", "backend_changed"] {
                ensure!(world.drops(reason)? == 0, "packets were dropped: {reason}");
            }
            let counted = world.counters(&web)?;
            match mode {
                Mode::Tc | Mode::Host => {
                    ensure!(counted.connections_tc == TURNS + 1 && counted.packets > bytes / 70_000, "{counted:?}")
                }
                Mode::Socket => ensure!(counted.connections_socket == TURNS + 1 && counted.packets == 0, "{counted:?}"),
            }
            // Both directions at once and the other family, with less.
            for family in Family::BOTH {
                let bulk = Bulk::to(vip(&web, family, STREAM)).upload(GIGABYTE / 2).download(GIGABYTE / 2);
                let report = client.bulk(bulk)?;
                ensure!(report.outcome == Outcome::Ok && report.sent_intact && report.received.intact, "{report:?}");
                ensure!(report.received.bytes == GIGABYTE / 2, "{report:?}");
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn gigabytes_wanted() -> Result<Option<u64>> {
    let wanted = std::env::var("SVC_TEST_BULK_GB").ok();
    wanted.map(|text| text.parse().with_context(|| format!("SVC_TEST_BULK_GB={text} is no number"))).transpose()
}

/// Segments of the client's pod during one transfer.
#[derive(Clone, Copy, Debug)]
struct Segments {
    sent: u64,
    again: u64,
}

fn transfer(world: &World, client: &Client, to: SocketAddr, bytes: u64) -> Result<Segments> {
    let before = segments(world)?;
    let report = client.bulk(Bulk::to(to).upload(bytes))?;
    ensure!(report.outcome == Outcome::Ok && report.sent_intact, "{to}: {report:?}");
    let after = segments(world)?;
    let segments = Segments { sent: after.sent - before.sent, again: after.again - before.again };
    println!("{bytes} bytes to {to} in {:?}: {segments:?}", report.elapsed);
    Ok(segments)
}

fn segments(world: &World) -> Result<Segments> {
    // /proc/self is the process; only /proc/thread-self shows the namespace this thread entered.
    let path = "/proc/thread-self/net/snmp";
    let snmp = world.machine("client")?.run(|| std::fs::read_to_string(path))?.with_context(|| format!("no {path}"))?;
    let rows: Vec<Vec<&str>> = snmp
        .lines()
        .filter_map(|line| line.strip_prefix("Tcp: "))
        .map(|line| line.split_whitespace().collect())
        .collect();
    let [names, values] = rows.as_slice() else { anyhow::bail!("{path} reads {snmp}") };
    let value = |wanted: &str| {
        let at = names.iter().position(|name| *name == wanted).with_context(|| format!("no {wanted} in {path}"))?;
        values.get(at).and_then(|value| value.parse::<u64>().ok()).with_context(|| format!("{wanted} in {path}"))
    };
    Ok(Segments { sent: value("OutSegs")?, again: value("RetransSegs")? })
}
