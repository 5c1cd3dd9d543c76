//! What clients get beside connections: answers to pings, fragments in any order, and resets where they are asked for.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod traffic_support;

use std::{
    net::{SocketAddr, UdpSocket},
    os::fd::OwnedFd,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with};
use svc_testbed::{
    Client, Family, Machine, Outcome, Ping, Tcp,
    client::{Again, expect_all, expect_replies_from},
    manifests::ServiceSpec,
    packets::frame::{Checksums, raw, udp},
};
use traffic_support::{AGENT_NODE, AT_ONCE, DNS, Mode, POD_DNS, WEB, World, expect_pods, lab, service, vip};

fn ping(client: &Client, web: &ServiceSpec, outcome: Outcome) -> Result<()> {
    for family in Family::BOTH {
        let to = vip(web, family, 0);
        let samples = client.ping(Ping::to(to.ip()).count(3).timeout(AT_ONCE))?;
        expect_all(&samples, outcome).with_context(|| format!("{to}"))?;
        if outcome == Outcome::Ok {
            expect_replies_from(&samples, to)?;
        }
    }
    Ok(())
}

#[test]
fn a_ping_is_answered_while_the_service_has_an_endpoint() -> Result<()> {
    for mode in Mode::BOTH {
        World::start(lab().outside("ext"), mode)?.check(|world| {
            let web = service("web", 60);
            world.publish(&web, &["far"])?;
            let clients = ["client", AGENT_NODE, "ext"];
            let all = |outcome| {
                clients.iter().try_for_each(|name| {
                    let client = world.machine(name)?.client()?;
                    ping(&client, &web, outcome).with_context(|| format!("{outcome:?} from {name}"))
                })
            };
            all(Outcome::Ok)?;
            world.scale(&web, &[])?;
            all(Outcome::Unreachable)?;
            world.scale(&web, &["near"])?;
            all(Outcome::Ok)
        })?;
    }
    Ok(())
}

/// In both modes: a connection that was translated at the socket could not be reset.
#[test]
fn connections_are_reset_when_their_endpoint_is_gone_and_the_service_asks_for_it() -> Result<()> {
    for mode in Mode::BOTH {
        World::routed(mode)?.check(|world| {
            let asking = service("asking", 62).annotation("svc-ebpf.io/reset-on-endpoint-removal", "true");
            let (patient, client) = (service("patient", 63), world.client()?);
            for web in [&asking, &patient] {
                world.publish(web, &["near"])?;
            }
            let held = |web: &ServiceSpec, family: Family| format!("{} {family:?}", web.name);
            for (web, family) in
                [&asking, &patient].into_iter().flat_map(|web| Family::BOTH.map(|family| (web, family)))
            {
                let samples = client.tcp(Tcp::to(vip(web, family, WEB)).hold(&held(web, family)))?;
                expect_pods(&samples, &["near"])?;
            }
            for web in [&asking, &patient] {
                world.scale(web, &["spare"])?;
            }
            for family in Family::BOTH {
                let samples = client.again(Again::on(&held(&asking, family)))?;
                expect_all(&samples, Outcome::Reset).with_context(|| format!("{family:?}"))?;
                let samples = client.tcp(Tcp::to(vip(&asking, family, WEB)))?;
                expect_pods(&samples, &["spare"]).context("a new connection")?;
                let samples = client.again(Again::on(&held(&patient, family)))?;
                expect_pods(&samples, &["near"]).context("without the annotation")?;
            }
            ensure!(world.drops("endpoint_gone")? >= 2);
            Ok(())
        })?;
    }
    Ok(())
}

/// A socket that sends network packets as they are.
fn raw_socket(machine: &Machine, family: Family) -> Result<OwnedFd> {
    let domain = if family == Family::V4 { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = machine.run(|| socket_with(domain, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::RAW)))??;
    Ok(socket)
}

/// Bytes of payload in each fragment but the last; a multiple of eight.
const PIECE: usize = 1200;

/// The fragments of one datagram, first one first.
fn fragments(from: SocketAddr, to: SocketAddr, payload: &[u8], id: u32) -> Vec<Vec<u8>> {
    let (from, to) = (from.to_string(), to.to_string());
    let datagram = udp(&from, &to).payload(payload).ip_bytes(Checksums::Complete);
    let datagram = &datagram[if from.starts_with('[') { 40 } else { 20 }..];
    let last = datagram.len().div_ceil(PIECE) - 1;
    let fragment = |(number, piece): (usize, &[u8])| {
        let offset = u16::try_from(number * PIECE / 8).expect("an offset in a datagram");
        raw(17, &from, &to, piece).fragment(id, offset, number < last).ip_bytes(Checksums::Complete)
    };
    datagram.chunks(PIECE).enumerate().map(fragment).collect()
}

fn send(socket: &OwnedFd, packets: &[Vec<u8>], order: &[usize], to: SocketAddr, pause: Duration) -> Result<()> {
    // A raw IPv6 socket takes a port for a protocol.
    let to = SocketAddr::new(to.ip(), 0);
    for at in order {
        sendto(socket, &packets[*at], SendFlags::empty(), &to)?;
        std::thread::sleep(pause);
    }
    Ok(())
}

/// Five fragments: backwards, shuffled, the first one last or in the middle, in order, and with time between them.
const ORDERS: [([usize; 5], u64); 6] = [
    ([4, 3, 2, 1, 0], 0),
    ([2, 4, 0, 3, 1], 0),
    ([1, 2, 3, 4, 0], 0),
    ([1, 0, 2, 3, 4], 0),
    ([0, 1, 2, 3, 4], 0),
    ([3, 1, 0, 4, 2], 30),
];

#[test]
fn fragments_arrive_in_any_order_both_ways() -> Result<()> {
    World::start(lab().outside("ext"), Mode::Tc)?.check(|world| {
        let dns = service("dns", 61);
        world.publish(&dns, &["near"])?;
        for (client, family) in ["client", "ext"].into_iter().flat_map(|name| Family::BOTH.map(|family| (name, family)))
        {
            exchange(world.machine(client)?, world.machine("near")?, vip(&dns, family, DNS), family)
                .with_context(|| format!("{client} {family:?}"))?;
        }
        ensure!(world.drops("fragment_unknown")? == 0, "no fragment was given up");
        Ok(())
    })
}

/// Questions in fragments of one client, each answered by the server; then answers in fragments of the server's machine.
fn exchange(client: &Machine, server: &Machine, to: SocketAddr, family: Family) -> Result<()> {
    let socket: UdpSocket = client.run(|| UdpSocket::bind(client.address(family, 0)))??;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let own = socket.local_addr()?;
    let sender = raw_socket(client, family)?;
    let mut buffer = vec![0; 65_536];
    let mut seen_as = own;
    for (number, (order, pause)) in ORDERS.iter().enumerate() {
        let payload: Vec<u8> = (0..5500_u32).map(|at| (at * 7 + number as u32) as u8).collect();
        let packets = fragments(own, to, &payload, 100 + number as u32);
        send(&sender, &packets, order, to, Duration::from_millis(*pause))?;
        let (length, from) =
            socket.recv_from(&mut buffer).with_context(|| format!("question in the order {order:?}"))?;
        ensure!(from == to, "the answer comes from {from}, not from {to}");
        let answer: serde_json::Value =
            serde_json::from_slice(buffer[..length].split(|byte| *byte == b'\n').next().unwrap_or_default())?;
        ensure!(answer["length"] == 5500, "{answer}");
        seen_as = answer["client"].as_str().context("no client in the answer")?.parse()?;
    }
    // An answer of the server's address and port, as the server's kernel would send it, but out of order.
    let sender = raw_socket(server, family)?;
    for (number, (order, pause)) in ORDERS.iter().enumerate() {
        let payload: Vec<u8> = (0..5500_u32).map(|at| (at * 3 + number as u32) as u8).collect();
        let packets = fragments(server.address(family, POD_DNS), seen_as, &payload, 200 + number as u32);
        send(&sender, &packets, order, seen_as, Duration::from_millis(*pause))?;
        let (length, from) = socket.recv_from(&mut buffer).with_context(|| format!("answer in the order {order:?}"))?;
        ensure!(from == to && buffer[..length] == payload, "{length} bytes from {from}");
    }
    Ok(())
}
